# ruff: noqa: D102 - tests read as sentences
"""What every store must do, as tests to inherit: one promise of `forebay.stores.base` is one test.

Give a fixture `store` (an empty store), and set the class attributes to what the store's server allows.
Errors must be of one of Forebay's kinds, and name the key.  A store that takes no writes inherits `ReadingContract`,
and says in `fill` how its server gets objects.
"""

import asyncio
import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import pytest

from forebay.errors import AlreadyExists, Corrupt, FsError, Invalid, NotFound, StaleVersion, Unsupported
from forebay.stores.base import ListPage, Store, VersionCopyingStore
from forebay.types import Buffer, ByteRange, ObjectMeta
from forebay.units import MIB

PAGE_KEYS_MAX = 1_000
NAMES = (
    *("sp ace", "plus+", "per%41cent", "new\nline", "tab\t", "quote'\"", "a&b<c>", "#?*[]{}|^`~", "=;:@,$!()"),
    *("\u00fc\U0001f600", "e\u0301", "..a", "a..", "...", "-", "x" * 255, "\x7f"),
)


async def pages_of(store: Store, prefix: str, *, recursive: bool = False, start_after: str = "") -> list[ListPage]:
    """Every page of a listing."""
    return [page async for page in store.list(prefix, recursive=recursive, start_after=start_after)]


async def keys_of(store: Store, prefix: str, *, recursive: bool = False, start_after: str = "") -> list[str]:
    """Keys and folders of a listing, in the order of the pages."""
    pages = await pages_of(store, prefix, recursive=recursive, start_after=start_after)
    return [key for page in pages for key in sorted([*(meta.key for meta in page.objects), *page.folders], key=_raw)]


async def chunks_of(*chunks: Buffer, then: Exception | None = None) -> AsyncIterator[Buffer]:
    """Chunks to upload, and perhaps a failure after them."""
    for chunk in chunks:
        yield chunk
    if then is not None:
        raise then


async def put_many(put: Callable[[str], Awaitable[ObjectMeta]], keys: list[str]) -> None:
    """Put many objects, a few at a time."""
    for start in range(0, len(keys), 32):
        await asyncio.gather(*(put(key) for key in keys[start : start + 32]))


def pattern(size: int) -> bytes:
    """Bytes of which no two parts are alike; of any two sizes, the shorter is how the longer begins."""
    return hashlib.shake_128().digest(size)  # and not by a loop: many tests want 20 MiB


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


class ReadingContract:
    """What holds of every store, one that takes no writes too."""

    in_key_order = True  # listings go by the bytes of the whole key, as S3 says; not every server does
    odd_keys: tuple[str, ...] = ("a//b", "a/../b", "/a", "./a", "a/.")  # keys that no POSIX path can say
    missing_keys: tuple[str, ...] = ("nothing", "there", "there/is/not", "no/such/folder/key", "there/")  # but there/is
    names_of_files_and_folders_meet = True  # an object `a` beside `a/b`
    names: tuple[str, ...] = NAMES  # that a file can have
    filling = b"x"  # of each of many objects; b"" where a server takes long to store a byte
    folders_are_paged = True  # folders count in a page of a listing; not every server cuts after them

    async def fill(self, store: Store, key: str, data: Buffer) -> ObjectMeta:
        """Make an object; to be overridden where that is not done by `put`."""
        return await store.put(key, data)

    # ------------------------------------------------------------------ reading

    async def test_probe_of_a_store_that_answers_is_silent(self, store: Store) -> None:
        await store.probe("")
        await store.probe("no/such/prefix/")

    async def test_a_whole_object_comes_back_as_it_was_put(self, store: Store) -> None:
        await self.fill(store, "a/b.bin", b"some bytes")
        assert bytes(memoryview(await store.get("a/b.bin"))) == b"some bytes"

    async def test_an_empty_object_is_an_object(self, store: Store) -> None:
        meta = await self.fill(store, "empty", b"")
        assert meta.size == 0
        assert len(await store.get("empty")) == 0
        assert len(await store.get("empty", version=meta.version)) == 0
        assert await store.head("empty") == meta

    async def test_put_head_and_listing_tell_the_same_of_an_object(self, store: Store) -> None:
        put = await self.fill(store, "folder/key", b"12345")
        assert (put.key, put.size) == ("folder/key", 5)
        assert put.version
        assert '"' not in put.version
        head = await store.head("folder/key")
        [page] = await pages_of(store, "folder/")
        [listed] = page.objects
        assert (head.key, head.size, head.version) == (put.key, put.size, put.version)
        assert (listed.key, listed.size, listed.version) == (put.key, put.size, put.version)
        assert abs(head.mtime_ns - listed.mtime_ns) < 1_000_000_000  # headers have whole seconds
        assert abs(head.mtime_ns - put.mtime_ns) < 1_000_000_000

    async def test_a_range_is_exactly_its_bytes(self, store: Store) -> None:
        data = pattern(10_000)
        meta = await self.fill(store, "k", data)
        for span in (ByteRange(0, 1), ByteRange(1, 9_999), ByteRange(9_999, 10_000), ByteRange(0, 10_000)):
            for version in (None, meta.version):
                got = await store.get("k", span, version=version)
                assert len(got) == span.size
                assert bytes(memoryview(got)) == data[span.start : span.stop]

    async def test_a_range_that_is_none_is_invalid(self, store: Store) -> None:
        await self.fill(store, "k", b"12345")
        for span in (ByteRange(2, 2), ByteRange(3, 2), ByteRange(-1, 2), ByteRange(5, 6), ByteRange(900, 1_000)):
            with pytest.raises(Invalid):
                await store.get("k", span)

    async def test_a_range_past_the_end_is_never_answered_short(self, store: Store) -> None:
        meta = await self.fill(store, "k", b"12345")
        with pytest.raises((Corrupt, Invalid)):
            await store.get("k", ByteRange(3, 9), version=meta.version)

    async def test_a_key_without_an_object_is_not_found(self, store: Store) -> None:
        await self.fill(store, "there/is", b"x")
        for key in self.missing_keys:
            with pytest.raises(NotFound) as failed:
                await store.head(key)
            assert key in str(failed.value)
            with pytest.raises(NotFound):
                await store.get(key)
            with pytest.raises((NotFound, StaleVersion)):  # either way that version is gone
                await store.get(key, ByteRange(0, 1), version="1")

    async def test_get_of_an_older_version_is_stale(self, store: Store) -> None:
        old = await self.fill(store, "k", b"one")
        new = await self.fill(store, "k", b"two!")
        assert old.version != new.version
        for span in (None, ByteRange(0, 3)):
            with pytest.raises(StaleVersion):
                await store.get("k", span, version=old.version)
        assert bytes(memoryview(await store.get("k", version=new.version))) == b"two!"

    async def test_a_change_that_keeps_the_size_is_another_version(self, store: Store) -> None:
        old = await self.fill(store, "k", b"one")
        new = await self.fill(store, "k", b"two")
        assert old.version != new.version
        with pytest.raises(StaleVersion):
            await store.get("k", version=old.version)

    # ------------------------------------------------------------------ streams

    async def test_a_stream_brings_the_range_in_order(self, store: Store) -> None:
        data = pattern(5 * MIB + 17)
        meta = await self.fill(store, "k", data)
        for span in (ByteRange(0, len(data)), ByteRange(MIB - 1, 3 * MIB + 5)):
            chunks = [
                bytes(memoryview(chunk))
                async for chunk in store.stream("k", span, version=meta.version, chunk_bytes=MIB)
            ]
            assert len(chunks) > 1
            assert b"".join(chunks) == data[span.start : span.stop]

    async def test_a_stream_of_an_older_version_is_stale(self, store: Store) -> None:
        old = await self.fill(store, "k", pattern(3 * MIB))
        await self.fill(store, "k", b"new")
        with pytest.raises(StaleVersion):
            await anext(store.stream("k", ByteRange(0, 3 * MIB), version=old.version, chunk_bytes=MIB))

    async def test_a_stream_refuses_what_get_refuses(self, store: Store) -> None:
        meta = await self.fill(store, "k", b"12345")
        with pytest.raises((NotFound, StaleVersion)):  # either way that version is gone
            await anext(store.stream("nothing", ByteRange(0, 1), version="1", chunk_bytes=MIB))
        for span in (ByteRange(2, 2), ByteRange(-1, 2), ByteRange(5, 6)):
            with pytest.raises(Invalid):
                await anext(store.stream("k", span, version=meta.version, chunk_bytes=MIB))

    async def test_a_stream_may_be_left_early(self, store: Store) -> None:
        meta = await self.fill(store, "k", pattern(8 * MIB))
        chunks = store.stream("k", ByteRange(0, 8 * MIB), version=meta.version, chunk_bytes=MIB)
        first = await anext(chunks)
        assert bytes(memoryview(first))[:8] == pattern(8)
        await chunks.aclose()  # type: ignore[attr-defined]  # every adapter's stream is a generator
        assert len(await store.get("k", ByteRange(0, 10))) == 10

    # ------------------------------------------------------------------ listing

    async def test_a_prefix_without_keys_lists_nothing(self, store: Store) -> None:
        await self.fill(store, "aa/b", b"x")
        assert await keys_of(store, "a/") == []
        assert await keys_of(store, "a/", recursive=True) == []
        assert await keys_of(store, "aa/b/") == []

    async def test_a_folder_shows_its_objects_and_each_folder_once(self, store: Store) -> None:
        for key in ("a/1", "a/2", "a/d/1", "a/d/2", "a/d/e/f", "aa/x", "b"):
            await self.fill(store, key, b"x")
        assert await keys_of(store, "a/") == ["a/1", "a/2", "a/d/"]
        assert sorted(await keys_of(store, "")) == ["a/", "aa/", "b"]

    async def test_a_recursive_listing_has_every_object_and_no_folder(self, store: Store) -> None:
        keys = ["a/1", "a/d/1", "a/d/e/f", "aa/x", "b"]
        await put_many(lambda key: self.fill(store, key, b"x"), keys)
        assert sorted(await keys_of(store, "", recursive=True)) == keys
        assert sorted(await keys_of(store, "a/", recursive=True)) == ["a/1", "a/d/1", "a/d/e/f"]

    async def test_keys_come_in_the_order_of_their_bytes(self, store: Store) -> None:
        if not self.in_key_order:
            pytest.skip("this server orders by path, not by key")
        keys = ["a-/x", "a-", "a", "a/b", "a/b-", "a0", "ab", "B", "\u00e9", "z", "\U0001f600", "\uff5a"]
        if not self.names_of_files_and_folders_meet:
            keys = [key for key in keys if key not in ("a-", "a")]
        await put_many(lambda key: self.fill(store, key, b"x"), keys)
        assert await keys_of(store, "", recursive=True) == sorted(keys, key=_raw)
        top = {key if "/" not in key else key.partition("/")[0] + "/" for key in keys}
        assert await keys_of(store, "") == sorted(top, key=_raw)

    async def test_a_large_listing_comes_in_pages(self, store: Store) -> None:
        keys = [f"big/{number:05}" for number in range(2_001)]
        await put_many(lambda key: self.fill(store, key, self.filling), keys)
        for recursive in (False, True):
            pages = await pages_of(store, "big/", recursive=recursive)
            assert len(pages) == 3
            assert all(len(page.objects) + len(page.folders) <= PAGE_KEYS_MAX for page in pages)
            assert [meta.key for page in pages for meta in page.objects] == keys
        assert await keys_of(store, "big/", start_after="big/01234") == keys[1_235:]

    async def test_many_folders_come_in_pages(self, store: Store) -> None:
        folders = [f"top/{number:04}/" for number in range(1_001)]
        await put_many(lambda folder: self.fill(store, folder + "x", self.filling), folders)
        pages = await pages_of(store, "top/")
        assert len(pages) == (2 if self.folders_are_paged else 1)
        assert [folder for page in pages for folder in page.folders] == folders

    async def test_a_listing_may_start_after_a_key(self, store: Store) -> None:
        for key in ("p/a", "p/b", "p/c/1", "p/c/2", "p/d"):
            await self.fill(store, key, b"x")
        assert await keys_of(store, "p/", start_after="p/a") == ["p/b", "p/c/", "p/d"]
        assert await keys_of(store, "p/", start_after="p/aa") == ["p/b", "p/c/", "p/d"]
        assert await keys_of(store, "p/", start_after="p/b", recursive=True) == ["p/c/1", "p/c/2", "p/d"]
        assert await keys_of(store, "p/", start_after="p/c/1", recursive=True) == ["p/c/2", "p/d"]
        assert await keys_of(store, "p/", start_after="p/d") == []

    async def test_a_listing_may_begin_within_a_name(self, store: Store) -> None:
        if not store.capabilities.any_prefix:
            pytest.skip("a prefix is a folder there")
        await put_many(lambda key: store.put(key, b"x"), ["p/tr-1", "p/tr-2/x", "p/tr-2/y", "p/va-1", "p/tr"])
        assert await keys_of(store, "p/tr-") == ["p/tr-1", "p/tr-2/"]
        assert await keys_of(store, "p/tr-", recursive=True) == ["p/tr-1", "p/tr-2/x", "p/tr-2/y"]

    async def test_a_listing_may_be_left_early(self, store: Store) -> None:
        await self.fill(store, "a", b"x")
        pages = store.list("")
        assert len((await anext(pages)).objects) == 1
        await pages.aclose()  # type: ignore[attr-defined]  # every adapter's listing is a generator

    # ------------------------------------------------------------------ keys

    async def test_any_name_that_a_file_can_have_is_a_key(self, store: Store) -> None:
        for key in self.names:
            await self.fill(store, "odd/" + key, _raw(key))
        for key in self.names:
            assert bytes(memoryview(await store.get("odd/" + key))) == _raw(key)
            assert (await store.head("odd/" + key)).size == len(_raw(key))
        assert sorted(await keys_of(store, "odd/")) == sorted("odd/" + key for key in self.names)

    async def test_keys_that_no_path_can_say_come_whole(self, store: Store) -> None:
        for key in self.odd_keys:
            meta = await self.fill(store, key, _raw(key))
            assert (await store.head(key)).version == meta.version
            assert bytes(memoryview(await store.get(key, version=meta.version))) == _raw(key)
            assert bytes(memoryview(await store.get(key, ByteRange(1, 2), version=meta.version))) == _raw(key)[1:2]
            chunks = store.stream(key, ByteRange(0, meta.size), version=meta.version, chunk_bytes=MIB)
            assert b"".join([bytes(memoryview(chunk)) async for chunk in chunks]) == _raw(key)
        assert sorted(await keys_of(store, "", recursive=True)) == sorted(self.odd_keys)

    async def test_an_object_and_a_prefix_may_have_one_name(self, store: Store) -> None:
        if not self.names_of_files_and_folders_meet:
            pytest.skip("a file and a folder cannot have one name there")
        await self.fill(store, "n", b"object")
        await self.fill(store, "n/x", b"below")
        assert sorted(await keys_of(store, "")) == ["n", "n/"]
        assert bytes(memoryview(await store.get("n"))) == b"object"
        assert bytes(memoryview(await store.get("n/x"))) == b"below"

    async def test_names_that_are_not_utf_8_are_kept(self, store: Store) -> None:
        if not store.capabilities.undecodable_keys:
            pytest.skip("keys are Unicode there")
        await self.fill(store, "f/\udcff\udcfe", b"bytes")
        assert await keys_of(store, "f/") == ["f/\udcff\udcfe"]
        assert bytes(memoryview(await store.get("f/\udcff\udcfe"))) == b"bytes"

    # ------------------------------------------------------------------ many at once

    async def test_many_calls_at_once_do_not_meet(self, store: Store) -> None:
        bodies = {f"k{number}": pattern(4_000 + number) for number in range(64)}
        await asyncio.gather(*(self.fill(store, key, body) for key, body in bodies.items()))
        got = await asyncio.gather(*(store.get(key) for key in bodies))
        assert [bytes(memoryview(one)) for one in got] == list(bodies.values())

    async def test_a_cancelled_read_does_not_disturb_the_next(self, store: Store) -> None:
        await self.fill(store, "k", pattern(4 * MIB))
        for _ in range(5):
            reading = asyncio.ensure_future(store.get("k"))
            await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
        assert bytes(memoryview(await store.get("k"))) == pattern(4 * MIB)

    async def test_every_error_is_of_a_known_kind(self, store: Store) -> None:
        with pytest.raises(FsError):
            await store.get("x" * 5_000)


class StoreContract(ReadingContract):
    """See the module."""

    streams_have_conditions = True  # not every emulator heeds those of an upload in parts
    empty_folders_go = True  # with their last object, as they do in S3; False where they exist by themselves

    async def assert_nothing_is_left(self, store: Store) -> None:
        """No objects, and no folders either but those that may stay."""
        left = await keys_of(store, "", recursive=True)
        assert [key for key in left if self.empty_folders_go or not key.endswith("/")] == []

    # ------------------------------------------------------------------ writing

    async def test_put_replaces_the_whole_object(self, store: Store) -> None:
        await store.put("k", b"a long first version")
        await store.put("k", b"short")
        assert bytes(memoryview(await store.get("k"))) == b"short"
        assert (await store.head("k")).size == 5

    async def test_an_object_of_any_name_can_be_put_and_deleted(self, store: Store) -> None:
        for name in self.names:
            await store.put("odd/" + name, _raw(name))
            assert bytes(memoryview(await store.get("odd/" + name))) == _raw(name)
        for name in self.names:
            await store.delete("odd/" + name)
        await self.assert_nothing_is_left(store)

    async def test_an_empty_folder_is_an_empty_object_whose_key_ends_in_a_slash(self, store: Store) -> None:
        await store.put("a/b/", b"")
        assert await keys_of(store, "a/") == ["a/b/"]
        assert await keys_of(store, "a/b/") == ["a/b/"]
        assert await keys_of(store, "a/", recursive=True) == ["a/b/"]
        assert (await store.head("a/b/")).size == 0
        with pytest.raises(NotFound):
            await store.head("a/b")
        await store.delete("a/b/")
        assert await keys_of(store, "a/b/") == []
        await self.assert_nothing_is_left(store)

    async def test_put_takes_any_buffer(self, store: Store) -> None:
        data = pattern(300_000)
        for buffer in (bytearray(data), memoryview(data)):
            await store.put("k", buffer)
            assert bytes(memoryview(await store.get("k"))) == data

    async def test_put_if_absent_keeps_what_is_there(self, store: Store) -> None:
        if not store.capabilities.conditional_put:
            pytest.skip("this store has no conditional writes")
        await store.put("k", b"first", if_absent=True)
        with pytest.raises(AlreadyExists):
            await store.put("k", b"second", if_absent=True)
        assert bytes(memoryview(await store.get("k"))) == b"first"

    async def test_put_if_version_replaces_that_version_only(self, store: Store) -> None:
        if not store.capabilities.conditional_put:
            pytest.skip("this store has no conditional writes")
        first = await store.put("k", b"first")
        second = await store.put("k", b"second", if_version=first.version)
        with pytest.raises(StaleVersion):
            await store.put("k", b"third", if_version=first.version)
        assert bytes(memoryview(await store.get("k", version=second.version))) == b"second"

    async def test_a_stream_of_unknown_size_is_stored_whole(self, store: Store) -> None:
        data = pattern(20 * MIB + 3)
        cuts = [0, 1, 100, 5 * MIB, 5 * MIB + 1, 19 * MIB, len(data)]
        chunks = [data[start:stop] for start, stop in itertools.pairwise(cuts)]
        meta = await store.put_stream("big", chunks_of(*chunks))
        assert meta.size == len(data)
        assert bytes(memoryview(await store.get("big", version=meta.version))) == data
        [page] = await pages_of(store, "")
        assert [(one.key, one.version) for one in page.objects] == [("big", meta.version)]

    async def test_an_empty_stream_is_an_empty_object(self, store: Store) -> None:
        assert (await store.put_stream("k", chunks_of())).size == 0
        assert len(await store.get("k")) == 0

    async def test_a_stream_that_fails_leaves_nothing(self, store: Store) -> None:
        await store.put("kept", b"before")
        for key in ("new", "kept"):
            chunks = chunks_of(pattern(9 * MIB), pattern(9 * MIB), then=ConnectionResetError("the writer is gone"))
            with pytest.raises(ConnectionResetError, match="the writer is gone"):
                await store.put_stream(key, chunks)
        assert await keys_of(store, "", recursive=True) == ["kept"]
        assert bytes(memoryview(await store.get("kept"))) == b"before"
        assert await self.leftovers(store) == []

    async def test_a_stream_is_stored_only_if_its_condition_holds(self, store: Store) -> None:
        if not (store.capabilities.conditional_put and self.streams_have_conditions):
            pytest.skip("this store, or its emulator, has no conditional streams")
        first = await store.put_stream("k", chunks_of(b"first"), if_absent=True)
        with pytest.raises(AlreadyExists):
            await store.put_stream("k", chunks_of(b"again"), if_absent=True)
        await store.put_stream("k", chunks_of(b"second"), if_version=first.version)
        with pytest.raises(StaleVersion):
            await store.put_stream("k", chunks_of(b"third"), if_version=first.version)
        assert bytes(memoryview(await store.get("k"))) == b"second"
        assert await self.leftovers(store) == []

    async def test_a_version_that_has_gone_is_not_replaced(self, store: Store) -> None:
        if not store.capabilities.conditional_put:
            pytest.skip("this store has no conditional writes")
        gone = await store.put("k", b"first")
        await store.delete("k")
        with pytest.raises(StaleVersion):
            await store.put("k", b"second", if_version=gone.version)
        if self.streams_have_conditions:
            with pytest.raises(StaleVersion):
                await store.put_stream("k", chunks_of(b"third"), if_version=gone.version)
        assert await keys_of(store, "", recursive=True) == []

    async def test_a_condition_that_the_store_cannot_check_is_refused(self, store: Store) -> None:
        if store.capabilities.conditional_put:
            pytest.skip("this store has conditional writes")
        meta = await store.put("kept", b"first")
        with pytest.raises(Unsupported):
            await store.put("kept", b"second", if_version=meta.version)
        with pytest.raises(Unsupported):
            await store.put_stream("kept", chunks_of(b"third"), if_version=meta.version)
        assert bytes(memoryview(await store.get("kept"))) == b"first"
        assert await keys_of(store, "", recursive=True) == ["kept"]
        assert await self.leftovers(store) == []

    async def leftovers(self, store: Store) -> list[str]:
        """What a failed upload has left at the server; to be overridden where it can be seen."""
        return []

    async def test_delete_removes_one_object(self, store: Store) -> None:
        await store.put("a/1", b"x")
        await store.put("a/2", b"x")
        await store.delete("a/1")
        with pytest.raises(NotFound):
            await store.head("a/1")
        assert await keys_of(store, "a/") == ["a/2"]

    async def test_delete_of_what_does_not_exist_is_no_error(self, store: Store) -> None:
        await store.put("a/1", b"x")
        for key in ("nothing", "no/such", "a/1/x", "a/2", "none/"):
            await store.delete(key)
        assert await keys_of(store, "", recursive=True) == ["a/1"]

    async def test_folders_go_with_their_last_object_or_stay_by_themselves(self, store: Store) -> None:
        await store.put("a/b/c", b"x")
        await store.put("a/d/", b"")
        await store.delete("a/d/")
        await store.delete("a/b/c")
        assert await keys_of(store, "", recursive=True) == ([] if self.empty_folders_go else ["a/b/"])
        await store.delete("a/b/")
        assert await keys_of(store, "", recursive=True) == ([] if self.empty_folders_go else ["a/"])

    async def test_copy_has_the_same_bytes(self, store: Store) -> None:
        await store.put("from/a b+c", pattern(100_000))
        meta = await store.copy("from/a b+c", "to/copy")
        assert (meta.key, meta.size) == ("to/copy", 100_000)
        assert bytes(memoryview(await store.get("to/copy", version=meta.version))) == pattern(100_000)
        assert (await store.head("from/a b+c")).size == 100_000

    async def test_a_version_that_is_known_is_copied_and_told_as_it_is_there(self, store: Store) -> None:
        if not store.capabilities.copy_versions:
            return
        copying = cast(VersionCopyingStore, store)
        for key, data in (("from", pattern(100_000)), ("empty", b"")):
            known = await store.put(key, data)
            meta = await copying.copy_version(known, "to")
            assert meta == await store.head("to")
            assert bytes(memoryview(await store.get(key, version=known.version))) == data
        older = await store.put("from", b"older")
        await store.put("from", b"newer")
        with contextlib.suppress(StaleVersion):
            await copying.copy_version(older, "to")
            assert bytes(memoryview(await store.get("to"))) == b"newer"
        with pytest.raises(NotFound):
            await copying.copy_version(older._replace(key="nothing"), "target")

    async def test_copy_of_what_does_not_exist_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound):
            await store.copy("nothing", "target")
        assert await keys_of(store, "", recursive=True) == []
