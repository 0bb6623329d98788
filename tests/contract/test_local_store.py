"""A folder as a store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.errors import Unavailable
from forebay.stores.base import Store
from forebay.stores.local import LocalStore
from forebay.testing.attributes_contract import AttributesContract
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.renaming_contract import RenamingContract
from forebay.testing.store_contract import StoreContract


class TestLocalStore(StoreContract, FolderStoreContract, RenamingContract, AttributesContract, FreshnessContract):
    odd_keys = ()
    names_of_files_and_folders_meet = False
    empty_folders_go = False

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = LocalStore(tmp_path)
        yield store
        await store.close()

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path


async def test_a_folder_that_has_gone_is_a_store_that_is_away_not_an_empty_one(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "a").write_bytes(b"one")
    store = LocalStore(root)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="has gone; is its disk, or its network file system, mounted"):
        await store.head("a")
    with pytest.raises(Unavailable):
        await anext(store.list(""))
    (tmp_path / "elsewhere").rename(root)
    assert (await store.head("a")).size == 3
    await store.close()
