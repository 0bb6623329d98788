"""CephFS against a real cluster."""

import itertools
from collections.abc import AsyncIterator

import pytest

from forebay.stores.base import FolderStore
from forebay.stores.cephfs import CephFsStore
from forebay.stores.cephfs_options import parse
from forebay.testing.ceph import Ceph
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.store_contract import StoreContract

_numbers = itertools.count()


async def empty_folder(ceph: Ceph) -> str:
    """A new folder of the cluster's file system."""
    path = f"/contract-{next(_numbers)}"
    root = CephFsStore(parse(f"{ceph.monitor}/", {"cephfs.secret": ceph.secret()}), deadline_s=20)
    await root.put(path[1:] + "/", b"")
    await root.close()
    return path


class TestCephFsStore(StoreContract, FolderStoreContract):
    odd_keys = ()
    names_of_files_and_folders_meet = False

    @pytest.fixture
    async def store(self, ceph: Ceph) -> AsyncIterator[FolderStore]:
        path = await empty_folder(ceph)
        store = CephFsStore(parse(ceph.monitor + path, {"cephfs.secret": ceph.secret()}), deadline_s=20)
        yield store
        await store.close()
