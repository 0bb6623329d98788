# ruff: noqa: D102 - tests read as sentences
"""What stores that keep modes, owners and times promise beside `StoreContract`; inherit both."""

import os
import stat

import pytest

from forebay.errors import NotFound, Unsupported
from forebay.stores.base import AttributesStore, FolderStore, Store
from forebay.testing.store_contract import chunks_of, pages_of
from forebay.types import Attributes, FolderMeta, ObjectMeta
from forebay.units import MIB

TIME_NS = 1_234_567_890_123_456_789


class AttributesContract:
    """See the module; give a fixture `store`, as for `StoreContract`."""

    time_step_ns = 1  # times are kept as multiples of this
    mode_bits = 0o7777  # that are kept
    folders_have_attributes = True  # not every server keeps metadata of an empty object `folder/`
    owner = (os.geteuid(), os.getegid())  # one that the store's server lets us give files to

    def assert_kept(self, meta: ObjectMeta | FolderMeta, asked: Attributes) -> None:
        assert meta.posix is not None
        assert asked.mode is None or meta.posix.mode == asked.mode & (self.mode_bits | ~0o7777)
        assert asked.uid is None or meta.posix.uid == asked.uid
        assert asked.gid is None or meta.posix.gid == asked.gid
        if asked.mtime_ns is not None:
            assert meta.mtime_ns == asked.mtime_ns - asked.mtime_ns % self.time_step_ns

    async def test_a_put_keeps_the_attributes_that_it_is_given(self, store: Store) -> None:
        assert store.capabilities.attributes
        asked = Attributes(0o751, *self.owner, TIME_NS)
        put = await store.put("a/put", b"bytes", attributes=asked)
        streamed = await store.put_stream("a/streamed", chunks_of(b"some", b"thing"), attributes=asked)
        for meta in (put, streamed):
            self.assert_kept(meta, asked)
            found = await store.head(meta.key)
            self.assert_kept(found, asked)
            assert found.version == meta.version
        assert bytes(memoryview(await store.get("a/put", version=put.version))) == b"bytes"

    async def test_an_upload_keeps_the_attributes_that_it_is_given(self, store: Store) -> None:
        if not store.capabilities.parts:
            pytest.skip("this store takes no parts")
        asked = Attributes(0o640, *self.owner, TIME_NS)
        upload = await store.upload("k", attributes=asked)  # type: ignore[attr-defined]  # see `parts`
        await upload.send(1, b"x" * (6 * MIB))
        self.assert_kept(await upload.complete(), asked)
        self.assert_kept(await store.head("k"), asked)

    async def test_only_what_is_told_changes(self, store: AttributesStore) -> None:
        await store.put("k", b"bytes", attributes=Attributes(0o644, *self.owner, TIME_NS))
        for asked in (
            Attributes(mode=0o1600),
            Attributes(mtime_ns=0),
            Attributes(*[None] * 4),
            Attributes(mode=0o4711),
        ):
            before = await store.head("k")
            await store.set_attributes("k", asked)
            after = await store.head("k")
            assert before.posix is not None
            self.assert_kept(after, asked)
            others = Attributes(before.posix.mode, before.posix.uid, before.posix.gid, before.mtime_ns)
            kept = [now if now is not None else old for now, old in zip(asked, others, strict=True)]
            self.assert_kept(after, Attributes(*kept))
            assert bytes(memoryview(await store.get("k", version=after.version))) == b"bytes"

    async def test_an_owner_can_be_told(self, store: AttributesStore) -> None:
        await store.put("k", b"bytes")
        uid, gid = self.owner
        for asked in (Attributes(uid=uid), Attributes(gid=gid), Attributes(uid=uid, gid=gid)):
            await store.set_attributes("k", asked)
            self.assert_kept(await store.head("k"), asked)

    async def test_attributes_of_a_folder_are_kept(self, store: AttributesStore) -> None:
        if not self.folders_have_attributes:
            pytest.skip("this server keeps nothing of a folder but that it is there")
        asked = Attributes(0o1777, *self.owner, TIME_NS)
        made = await store.put("a/d/", b"", attributes=asked)
        self.assert_kept(made, asked)
        self.assert_kept(await store.head("a/d/"), asked)
        await store.set_attributes("a/d/", Attributes(mode=0o750))
        self.assert_kept(await store.head("a/d/"), asked._replace(mode=0o750))

    async def test_a_folder_without_an_object_of_its_own_takes_attributes(self, store: AttributesStore) -> None:
        await store.put("d/k", b"x")
        await store.set_attributes("d/", Attributes(mode=0o710, mtime_ns=TIME_NS))
        assert bytes(memoryview(await store.get("d/k"))) == b"x"

    async def test_a_listing_tells_them_where_it_says_so(self, store: AttributesStore) -> None:
        if not store.capabilities.listed_attributes:
            pytest.skip("listings tell no attributes there")
        asked = Attributes(0o604, *self.owner, TIME_NS)
        await store.put("a/k", b"x", attributes=asked)
        await store.put("a/d/below", b"x")
        await store.set_attributes("a/d/", asked)
        await store.set_attributes("", Attributes(mode=0o711))
        [page] = await pages_of(store, "a/")
        self.assert_kept(page.objects[0], asked)
        self.assert_kept(page.folder_metas["a/d/"], asked)
        if store.capabilities.folders:
            folders: FolderStore = store  # type: ignore[assignment]  # see `folders`
            self.assert_kept(await folders.stat(""), Attributes(mode=0o711))
            self.assert_kept(await folders.stat("a/d"), asked)

    async def test_a_symbolic_link_is_kept_or_refused(self, store: AttributesStore) -> None:
        link = Attributes(mode=stat.S_IFLNK | 0o777)
        await store.put("k", b"bytes", attributes=Attributes(mode=0o644))
        if store.capabilities.links:
            await store.put("link", b"../some/where", attributes=link)
            self.assert_kept(await store.head("link"), link)
            assert bytes(memoryview(await store.get("link"))) == b"../some/where"
            await store.set_attributes("k", link)
            self.assert_kept(await store.head("k"), link)
            return
        with pytest.raises(Unsupported, match="symbolic link"):
            await store.put("link", b"../some/where", attributes=link)
        with pytest.raises(Unsupported, match="symbolic link"):
            await store.set_attributes("k", link)
        with pytest.raises(NotFound):
            await store.head("link")
        self.assert_kept(await store.head("k"), Attributes(mode=0o644))

    async def test_a_symbolic_link_stays_one_until_it_is_replaced(self, store: AttributesStore) -> None:
        if not store.capabilities.links:
            pytest.skip("no links there")
        link = Attributes(mode=stat.S_IFLNK | 0o777)
        await store.put("a/link", b"../some/where", attributes=link)
        await store.set_attributes("a/link", Attributes(mtime_ns=TIME_NS))
        self.assert_kept(await store.head("a/link"), link._replace(mtime_ns=TIME_NS))
        if store.capabilities.listed_attributes:
            [page] = await pages_of(store, "a/")
            self.assert_kept(page.objects[0], link)
        name = "a/link"
        if store.capabilities.renames:
            name = "a/renamed"
            await store.rename("a/link", name)  # type: ignore[attr-defined]  # see `renames`
            self.assert_kept(await store.head(name), link)
        await store.put(name, b"a file", attributes=Attributes(mode=0o640))
        self.assert_kept(await store.head(name), Attributes(mode=0o640))

    async def test_other_file_types_in_a_mode_are_ignored(self, store: AttributesStore) -> None:
        meta = await store.put("k", b"x", attributes=Attributes(mode=stat.S_IFREG | 0o640))
        assert meta.posix is not None
        assert meta.posix.mode == 0o640

    async def test_attributes_of_nothing_are_not_found(self, store: AttributesStore) -> None:
        await store.put("a/b", b"x")
        for key in ("nothing", "a/c", "no/such/key"):
            with pytest.raises(NotFound):
                await store.set_attributes(key, Attributes(mode=0o600))
            with pytest.raises(NotFound):
                await store.set_attributes(key, Attributes(mtime_ns=TIME_NS))
