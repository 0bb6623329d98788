# ruff: noqa: D102 - tests read as sentences
"""What stores that rename by themselves promise beside `FolderStoreContract`; inherit both."""

import asyncio

import pytest

from forebay.errors import FsError, Invalid, IsADirectory, NotADirectory, NotEmpty, NotFound
from forebay.stores.base import RenamingStore
from forebay.testing.store_contract import keys_of, pattern
from forebay.units import MIB


class RenamingContract:
    """See the module; give a fixture `store`, as for `StoreContract`."""

    renaming_keeps_versions = True  # not where a rename counts as a change

    async def test_a_file_that_is_renamed_is_the_same_elsewhere(self, store: RenamingStore) -> None:
        assert store.capabilities.renames
        before = await store.put("a/old name", b"bytes")
        await store.put("b/other", b"x")
        await store.rename("a/old name", "b/new+name")
        after = await store.head("b/new+name")
        assert (after.size, after.mtime_ns) == (5, before.mtime_ns)
        assert (after.version == before.version) == self.renaming_keeps_versions
        assert bytes(memoryview(await store.get("b/new+name", version=after.version))) == b"bytes"
        with pytest.raises(NotFound):
            await store.head("a/old name")

    async def test_the_folder_that_the_last_file_left_stays(self, store: RenamingStore) -> None:
        await store.put("a/only", b"x")
        await store.rename("a/only", "only")
        assert await keys_of(store, "", recursive=True) == ["a/", "only"]

    async def test_a_file_replaces_another(self, store: RenamingStore) -> None:
        await store.put("new", pattern(MIB))
        await store.put("old", b"old bytes")
        await store.rename("new", "old")
        assert bytes(memoryview(await store.get("old"))) == pattern(MIB)
        assert await keys_of(store, "", recursive=True) == ["old"]

    async def test_a_folder_is_renamed_with_all_below_it(self, store: RenamingStore) -> None:
        for key in ("from/1", "from/d/2", "from/d/e/3", "to/x"):
            await store.put(key, key.encode())
        await store.put("from/empty/", b"")
        await store.rename("from", "to/there")
        below = ["1", "d/2", "d/e/3", "empty/"]
        assert await keys_of(store, "", recursive=True) == [*("to/there/" + key for key in below), "to/x"]
        assert bytes(memoryview(await store.get("to/there/d/e/3"))) == b"from/d/e/3"

    async def test_a_folder_replaces_an_empty_one_only(self, store: RenamingStore) -> None:
        await store.put("from/1", b"x")
        await store.put("full/2", b"x")
        await store.put("empty/", b"")
        with pytest.raises(NotEmpty, match="full"):
            await store.rename("from", "full")
        assert await keys_of(store, "", recursive=True) == ["empty/", "from/1", "full/2"]
        await store.rename("from", "empty")
        assert await keys_of(store, "", recursive=True) == ["empty/1", "full/2"]

    async def test_files_and_folders_do_not_replace_each_other(self, store: RenamingStore) -> None:
        await store.put("file", b"x")
        await store.put("folder/1", b"x")
        await store.put("empty/", b"")
        for folder in ("folder", "empty"):
            with pytest.raises(IsADirectory, match=folder):
                await store.rename("file", folder)
            with pytest.raises(NotADirectory, match="file"):
                await store.rename(folder, "file")
        assert await keys_of(store, "", recursive=True) == ["empty/", "file", "folder/1"]

    async def test_what_is_not_there_cannot_be_renamed(self, store: RenamingStore) -> None:
        await store.put("there/is", b"x")
        await store.put("file", b"x")
        for key in ("nothing", "there/not", "no/such/key", ""):
            with pytest.raises(NotFound):
                await store.rename(key, "target")
        with pytest.raises(NotFound, match="no/such"):
            await store.rename("there/is", "no/such/folder")
        with pytest.raises(NotADirectory):
            await store.rename("file", "there/is/below")
        assert await keys_of(store, "", recursive=True) == ["file", "there/is"]

    async def test_a_folder_cannot_be_renamed_to_a_place_below_itself(self, store: RenamingStore) -> None:
        await store.put("a/b/c", b"x")
        for target in ("a/d", "a/b/d"):
            with pytest.raises(Invalid):
                await store.rename("a", target)
        assert await keys_of(store, "", recursive=True) == ["a/b/c"]

    async def test_a_rename_to_the_same_key_changes_nothing(self, store: RenamingStore) -> None:
        await store.put("a/b", b"bytes")
        await store.rename("a/b", "a/b")
        await store.rename("a", "a")
        assert bytes(memoryview(await store.get("a/b"))) == b"bytes"
        with pytest.raises(NotFound):
            await store.rename("nothing", "nothing")

    async def test_a_key_that_nothing_can_have_is_no_target(self, store: RenamingStore) -> None:
        await store.put("a", b"x")
        for target in ("", "b/", "../b", "b//c"):
            with pytest.raises(Invalid):
                await store.rename("a", target)
        assert await keys_of(store, "", recursive=True) == ["a"]

    async def test_who_reads_a_key_that_others_replace_always_finds_it(self, store: RenamingStore) -> None:
        await store.put("k", b"first")
        is_over = False

        async def replace() -> None:
            nonlocal is_over
            for number in range(20):
                await store.put(f"new-{number}", b"a later one")
                await store.rename(f"new-{number}", "k")
            is_over = True

        async def read() -> int:
            count = 0
            while not is_over:
                assert (await store.head("k")).size in (5, 11)
                count += 1
            return count

        _, *counts = await asyncio.gather(replace(), read(), read())
        assert all(counts)

    async def test_of_two_who_rename_one_file_one_fails(self, store: RenamingStore) -> None:
        await store.put("k", b"x")
        said = await asyncio.gather(store.rename("k", "a"), store.rename("k", "b"), return_exceptions=True)
        assert sorted(isinstance(one, FsError) for one in said) == [False, True]
        assert len(await keys_of(store, "", recursive=True)) == 1
