# ruff: noqa: D102 - tests read as sentences
"""What stores whose folders exist by themselves promise beside `StoreContract`; inherit both."""

import pytest

from forebay.errors import NotFound
from forebay.stores.base import FolderStore, Store
from forebay.testing.store_contract import keys_of, pages_of, put_many
from forebay.types import Buffer, FolderMeta, ObjectMeta


class FolderStoreContract:
    """See the module; give a fixture `store`, as for `StoreContract`."""

    tells_modes = True  # of files and folders, and whose they are
    tells_times_of_folders = True

    async def fill(self, store: Store, key: str, data: Buffer) -> ObjectMeta:
        """See `ReadingContract.fill`."""
        return await store.put(key, data)

    async def test_stat_of_a_file_says_what_head_says(self, store: FolderStore) -> None:
        assert store.capabilities.folders
        await self.fill(store, "a/b", b"12345")
        found = await store.stat("a/b")
        assert isinstance(found, ObjectMeta)
        assert found == await store.head("a/b")

    async def test_files_put_at_once_into_folders_that_are_not_there_yet_all_arrive(self, store: Store) -> None:
        keys = [f"{turn}/{folder}/{name}" for turn in range(4) for folder in ("a/b", "a/b/c") for name in range(8)]
        for start in range(0, len(keys), 16):
            await put_many(lambda key: self.fill(store, key, b"x"), keys[start : start + 16])
        assert sorted(await keys_of(store, "", recursive=True)) == sorted(keys)

    async def test_stat_of_a_folder_says_whose_it_is(self, store: FolderStore) -> None:
        await self.fill(store, "a/b/c", b"x")
        for key in ("", "a", "a/b"):
            found = await store.stat(key)
            assert isinstance(found, FolderMeta)
            assert (found.mtime_ns > 0) == self.tells_times_of_folders
            assert (found.posix is not None) == self.tells_modes
            if found.posix is not None:
                assert 0 < found.posix.mode <= 0o7777
                assert found.posix.owner
                assert found.posix.group

    async def test_stat_of_nothing_is_not_found(self, store: FolderStore) -> None:
        await self.fill(store, "a/b", b"x")
        for key in ("a/c", "c", "a/b/c", "no/such/folder/key"):
            with pytest.raises(NotFound):
                await store.stat(key)

    async def test_a_listing_says_of_folders_and_files_what_stat_says(self, store: FolderStore) -> None:
        for key in ("a/1", "a/d/2", "a/e/f/3"):
            await self.fill(store, key, b"x")
        [page] = await pages_of(store, "a/")
        assert page.folders == ["a/d/", "a/e/"]
        assert dict(page.folder_metas) == {"a/d/": await store.stat("a/d"), "a/e/": await store.stat("a/e")}
        assert page.objects == [await store.stat("a/1")]
        assert (page.objects[0].posix is not None) == self.tells_modes

    async def test_a_recursive_listing_says_of_every_folder_what_stat_says(self, store: FolderStore) -> None:
        for key in ("a/1", "a/d/2", "a/e/f/3"):
            await self.fill(store, key, b"x")
        pages = await pages_of(store, "", recursive=True)
        told = {folder: meta for page in pages for folder, meta in page.folder_metas.items()}
        assert told == {key + "/": await store.stat(key) for key in ("a", "a/d", "a/e", "a/e/f")}
        assert not any(page.folders for page in pages)
