"""A store whose attributes Forebay keeps passes what a store passes that keeps them itself."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.stores.base import Store
from forebay.stores.local import LocalStore
from forebay.stores.memory import MemoryStore
from forebay.testing.attributes_contract import AttributesContract
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.parts_contract import PartsContract
from forebay.testing.renaming_contract import RenamingContract
from forebay.testing.store_contract import StoreContract
from forebay.types import Attributes
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.attributes import KeptAttributes


@pytest.fixture
async def kept(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeptAttributes]:
    kept = KeptAttributes(tmp_path_factory.mktemp("home") / "attributes.db")
    yield kept
    await kept.close()


async def keep_something(store: Store, kept: KeptAttributes) -> Store:
    """Have every call look into the database, as it does where anything is kept of the store at all."""
    await kept.set(store.location, "of/nothing/that/is", Attributes(uid=1))
    return store


class TestAttributedMemoryStore(StoreContract, FreshnessContract, AttributesContract, PartsContract):
    @pytest.fixture
    async def store(self, kept: KeptAttributes) -> Store:
        return await keep_something(AttributedStore(MemoryStore("contract"), kept), kept)


class TestAttributedMemoryStoreOfWhichNothingIsKept(StoreContract, AttributesContract):
    @pytest.fixture
    async def store(self, kept: KeptAttributes) -> Store:
        return AttributedStore(MemoryStore("contract"), kept)


class TestAttributedFolder(StoreContract, FolderStoreContract, FreshnessContract, AttributesContract, RenamingContract):
    odd_keys = ()
    names_of_files_and_folders_meet = False

    @pytest.fixture
    async def store(self, tmp_path: Path, kept: KeptAttributes) -> AsyncIterator[Store]:
        inner = LocalStore(tmp_path)
        inner.capabilities = replace(inner.capabilities, attributes=False, listed_attributes=False)
        store = AttributedStore(inner, kept)
        yield await keep_something(store, kept)
        await store.close()

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path
