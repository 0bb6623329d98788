"""A store whose attributes Forebay keeps passes what a store passes that keeps them itself."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.stores import local
from forebay.stores.base import Store
from forebay.stores.local import LocalStore
from forebay.stores.memory import MemoryStore
from forebay.testing.attributes_contract import AttributesContract
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.parts_contract import PartsContract
from forebay.testing.renaming_contract import RenamingContract
from forebay.testing.store_contract import StoreContract
from forebay.types import Attributes, ObjectMeta
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
    empty_folders_go = False

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


class TestFolderOfWhichLinksAreKept(
    StoreContract, FolderStoreContract, FreshnessContract, AttributesContract, RenamingContract
):
    odd_keys = ()
    names_of_files_and_folders_meet = False
    empty_folders_go = False

    @pytest.fixture
    async def store(self, tmp_path: Path, kept: KeptAttributes) -> AsyncIterator[Store]:
        store = AttributedStore(LocalStore(tmp_path), kept)
        yield await keep_something(store, kept)
        await store.close()

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path


class TestFolderWhoseVersionsChangeWithARename(AttributesContract):
    """As those of CephFS, which are made of the time of the last change of attributes."""

    @pytest.fixture
    async def store(
        self, tmp_path: Path, kept: KeptAttributes, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[Store]:
        meta_of = local._meta

        def meta(key: str, found: os.stat_result) -> ObjectMeta:
            meta = meta_of(key, found)
            return meta._replace(version=f"{meta.version}-{found.st_ctime_ns}")

        monkeypatch.setattr(local, "_meta", meta)
        store = AttributedStore(LocalStore(tmp_path), kept)
        yield await keep_something(store, kept)
        await store.close()
