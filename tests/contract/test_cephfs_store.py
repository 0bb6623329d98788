"""CephFS against a real cluster, changed by another client behind the store's back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from forebay.errors import Denied, NotFound, StaleVersion, TimedOut, Unavailable
from forebay.stores.base import Store
from forebay.stores.cephfs import CephFsStore
from forebay.stores.cephfs_options import parse
from forebay.testing.attributes_contract import AttributesContract
from forebay.testing.ceph import Ceph
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.renaming_contract import RenamingContract
from forebay.testing.store_contract import StoreContract, keys_of, pages_of
from forebay.types import Attributes, ByteRange
from forebay.units import MIB
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.attributes import KeptAttributes

FOLDER = "/contract"


def store_of(ceph: Ceph, path: str, *, deadline_s: float = 20, **options: str) -> CephFsStore:
    return CephFsStore(parse(ceph.monitor + path, {"cephfs.secret": ceph.secret(), **options}), deadline_s=deadline_s)


@pytest.fixture(scope="module")
def connected(ceph: Ceph) -> Iterator[CephFsStore]:
    """One client for all tests: to take leave of the cluster takes the library a second."""
    ceph.make_folder(FOLDER)
    store = store_of(ceph, FOLDER)
    yield store
    asyncio.run(store.close())


@pytest.fixture
def store(ceph: Ceph, connected: CephFsStore) -> CephFsStore:
    """An empty store."""
    ceph.make_folder(FOLDER)
    return connected


class TestCephFsStore(StoreContract, FolderStoreContract, RenamingContract, AttributesContract, FreshnessContract):
    odd_keys = ()
    names_of_files_and_folders_meet = False
    empty_folders_go = False
    renaming_keeps_versions = False  # they are made of ctime, which a rename changes
    owner = (12_345, 54_321)

    @pytest.fixture(autouse=True)
    def look(self, ceph: Ceph) -> None:
        self.ceph = ceph

    async def leftovers(self, store: Store) -> list[str]:
        return [name.decode() for name, _ in self.ceph.files.scan(FOLDER.encode()) if b"part" in name]

    async def test_a_file_that_is_being_written_is_hidden(self, store: Store) -> None:
        """Else the test of what a failed one leaves behind would prove nothing."""
        seen: list[str] = []

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            seen.extend(await self.leftovers(store))
            assert await keys_of(store, "") == []

        await store.put_stream("k", chunks())
        assert len(seen) == 1
        assert await self.leftovers(store) == []


async def test_a_write_in_place_that_keeps_size_and_time_is_another_version(ceph: Ceph, store: CephFsStore) -> None:
    ceph.write_file(f"{FOLDER}/k", b"one")
    before = await store.head("k")
    ceph.write_file(f"{FOLDER}/k", b"two")
    ceph.files.set_attributes(f"{FOLDER}/k".encode(), Attributes(mtime_ns=before.mtime_ns))
    after = await store.head("k")
    assert (after.size, after.mtime_ns) == (before.size, before.mtime_ns)
    with pytest.raises(StaleVersion):
        await store.get("k", ByteRange(0, 1), version=before.version)
    assert bytes(memoryview(await store.get("k", version=after.version))) == b"two"


async def test_what_another_client_is_still_writing_is_seen(ceph: Ceph, store: CephFsStore) -> None:
    fd = ceph.files.open(f"{FOLDER}/log".encode(), os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        ceph.files.write(fd, b"first", 0)
        first = await store.head("log")
        assert bytes(memoryview(await store.get("log", version=first.version))) == b"first"
        ceph.files.write(fd, b"FIRST", 0)
        with pytest.raises(StaleVersion):
            await store.get("log", version=first.version)
    finally:
        ceph.files.close_file(fd)


async def test_a_listing_knows_the_size_of_what_another_client_has_just_written(ceph: Ceph) -> None:
    ceph.make_folder("/fresh")
    for number in range(5):
        ceph.write_file(f"/fresh/{number}", b"x" * 20_000)
    store = store_of(ceph, "/fresh")
    [page] = await pages_of(store, "")
    assert page.objects == [await store.head(str(number)) for number in range(5)]
    assert {meta.size for meta in page.objects} == {20_000}
    await store.close()


async def test_modes_and_owners_are_shown(ceph: Ceph, store: CephFsStore) -> None:
    fd = ceph.files.open(f"{FOLDER}/k".encode(), os.O_WRONLY | os.O_CREAT, 0o640)
    ceph.files.close_file(fd)
    posix = (await store.head("k")).posix
    assert posix is not None
    assert (posix.mode, posix.uid, posix.gid) == (0o640, os.getuid(), os.getgid())


async def test_what_is_written_is_its_owner_s_alone(store: CephFsStore) -> None:
    put = await store.put("d/k", b"x")
    folder = await store.stat("d")
    assert put.posix is not None
    assert folder.posix is not None
    assert (put.posix.mode, put.posix.uid, folder.posix.mode) == (0o600, os.getuid(), 0o700)


async def test_a_link_is_followed_within_the_folder_and_never_out_of_it(ceph: Ceph, store: CephFsStore) -> None:
    ceph.write_file("/outside", b"not for this mount")
    ceph.make_folder(f"{FOLDER}/d")
    ceph.write_file(f"{FOLDER}/d/file", b"within")
    targets = {
        "in": b"d/file", "d/up": b"../d/file", "chain": b"in", "out": b"../outside", "d/out": b"../../outside",
        "absolute": b"/outside", "folder": b"d", "above": b"..", "loop": b"loop", "nowhere": b"none", "self": b".",
    }  # fmt: skip
    for name, target in targets.items():
        ceph.files.make_link(target, f"{FOLDER}/{name}".encode())
    for key in ("in", "d/up", "chain"):
        assert bytes(memoryview(await store.get(key))) == b"within"
    for key in ("out", "d/out", "absolute", "above", "self"):
        with pytest.raises(Denied, match="leads out of the folder"):
            await store.get(key)
    for key in ("folder", "folder/file", "loop", "nowhere", "out/x", "above/outside"):
        with pytest.raises(NotFound):
            await store.stat(key)
    assert await keys_of(store, "", recursive=True) == ["chain", "d/file", "d/up", "in"]
    assert await keys_of(store, "folder/") == []
    with pytest.raises(Denied, match="leads out of the folder"):
        await keys_of(store, "above/")
    await store.delete("in")
    assert bytes(memoryview(await store.get("d/file"))) == b"within"


async def test_a_folder_that_is_removed_and_made_again_is_found_again(ceph: Ceph) -> None:
    ceph.make_folder("/again")
    ceph.write_file("/again/old", b"old")
    store = store_of(ceph, "/again")
    assert await keys_of(store, "") == ["old"]
    ceph.make_folder("/again")
    ceph.files.remove_folder(b"/again")
    with pytest.raises(Unavailable, match="no such folder: /again"):  # an absence would be believed
        await store.head("old")
    ceph.make_folder("/again")
    ceph.write_file("/again/new", b"new")
    assert (await store.head("new")).size == 3
    ceph.make_folder("/again")
    ceph.files.remove_folder(b"/again")
    ceph.make_folder("/again")
    assert await keys_of(store, "") == []
    await store.close()


async def test_a_client_that_the_cluster_has_evicted_comes_back_by_itself(ceph: Ceph) -> None:
    ceph.make_folder("/evicted")
    store = store_of(ceph, "/evicted")
    meta = await store.put("k", b"bytes")
    ceph.evict_clients()
    assert bytes(memoryview(await store.get("k", version=meta.version))) == b"bytes"
    ceph.evict_clients()
    assert (await store.put("l", b"more")).size == 4
    await store.close()


async def test_a_disk_that_is_silent_costs_the_deadline_and_no_wrong_byte(ceph: Ceph, tmp_path: Path) -> None:
    """With the OSD time limit that this ceph.conf sets, libcephfs would give zeros for the bytes that did not come."""
    conf = tmp_path / "ceph.conf"
    conf.write_text("[global]\nrados osd op timeout = 1\n")
    data = os.urandom(8 * MIB)  # two objects of the cluster
    ceph.make_folder("/disk")
    ceph.write_file("/disk/k", data)
    store = store_of(ceph, "/disk", deadline_s=3, **{"cephfs.conf": str(conf)})
    assert bytes(memoryview(await store.get("k"))) == data  # what was written is on the disk then
    os.kill(ceph.pid("osd"), signal.SIGSTOP)
    try:
        with pytest.raises(TimedOut, match="no answer within 3 s"):
            await store.get("k")
    finally:
        os.kill(ceph.pid("osd"), signal.SIGCONT)
    assert bytes(memoryview(await store.get("k"))) == data
    await store.close()


async def test_a_metadata_server_that_is_silent_costs_the_deadline(ceph: Ceph) -> None:
    ceph.make_folder("/names")
    ceph.make_folder("/names/d")
    ceph.write_file("/names/d/k", b"bytes")
    store = store_of(ceph, "/names", deadline_s=3)
    await store.stat("")  # and nothing else, for what it knows it need not ask
    os.kill(ceph.pid("mds"), signal.SIGSTOP)
    try:
        with pytest.raises(TimedOut, match="no answer within 3 s"):
            await store.get("d/k")
    finally:
        os.kill(ceph.pid("mds"), signal.SIGCONT)
    assert bytes(memoryview(await store.get("d/k"))) == b"bytes"
    await store.close()


async def test_a_store_closes_though_its_cluster_is_silent(ceph: Ceph) -> None:
    ceph.make_folder("/silent")
    ceph.make_folder("/silent/d")
    store = store_of(ceph, "/silent", deadline_s=1)
    await store.stat("")
    threads = store._threads
    os.kill(ceph.pid("mds"), signal.SIGSTOP)
    try:
        with pytest.raises(TimedOut):
            await store.head("d/k")
        async with asyncio.timeout(15):
            await store.close()
    finally:
        os.kill(ceph.pid("mds"), signal.SIGCONT)
    await asyncio.to_thread(threads.shutdown)  # the threads that it left behind end with the silence


class TestCephFsStoreWithLinks(AttributesContract, RenamingContract):
    """Of which Forebay keeps that a file is a symbolic link."""

    names_of_files_and_folders_meet = False
    renaming_keeps_versions = False
    owner = TestCephFsStore.owner

    @pytest.fixture
    async def store(self, ceph: Ceph, connected: CephFsStore, tmp_path: Path) -> AsyncIterator[AttributedStore]:
        ceph.make_folder(FOLDER)
        kept = KeptAttributes(tmp_path / "attributes.db")
        yield AttributedStore(connected, kept)
        await kept.close()
