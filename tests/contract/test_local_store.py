"""A folder as a store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.stores.base import Store
from forebay.stores.local import LocalStore
from forebay.testing.store_contract import StoreContract


class TestLocalStore(StoreContract):
    odd_keys = ()
    names_of_files_and_folders_meet = False

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = LocalStore(tmp_path)
        yield store
        await store.close()

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path
