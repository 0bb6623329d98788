"""A real HDFS as a store."""

import asyncio
import grp
import itertools
import os
import pwd
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from forebay.config.settings import Settings
from forebay.errors import Busy, Denied, Invalid, NoSpace, NotFound, StaleVersion, Unavailable, Unsupported
from forebay.stores.base import AttributesStore, FolderStore
from forebay.stores.hdfs import NOBODY
from forebay.stores.registry import open_store
from forebay.testing.attributes_contract import AttributesContract
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.hdfs import Hdfs
from forebay.testing.renaming_contract import RenamingContract
from forebay.testing.store_contract import NAMES, StoreContract, keys_of, pattern
from forebay.types import Attributes, ByteRange, FolderMeta, ObjectMeta, Posix
from forebay.units import MIB
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.attributes import KeptAttributes

CHILD_WAIT_S = 30
_numbers = itertools.count()


@pytest.fixture
def folder(hdfs: Hdfs) -> str:
    """A new folder in HDFS."""
    folder = f"/contract/{next(_numbers)}"
    hdfs.web("PUT", folder, "MKDIRS")
    return folder


@pytest.fixture
async def store(hdfs: Hdfs, folder: str, settings: Settings) -> AsyncIterator[FolderStore]:
    store = open_folder(hdfs, folder, settings)
    yield store
    await store.close()


def open_folder(hdfs: Hdfs, folder: str, settings: Settings, **options: str) -> FolderStore:
    store, prefix = open_store(hdfs.url + folder, options, settings=settings)
    assert prefix == ""
    return store  # type: ignore[return-value]  # the registry knows stores only


class TestHdfsStore(StoreContract, FolderStoreContract, RenamingContract, AttributesContract, FreshnessContract):
    odd_keys = ()
    time_step_ns = 1_000_000
    mode_bits = 0o1777
    owner = (pwd.getpwnam("daemon").pw_uid, grp.getgrnam("daemon").gr_gid)
    names_of_files_and_folders_meet = False
    empty_folders_go = False
    names = tuple(name.replace(":", "") for name in NAMES)  # HDFS knows no colons
    filling = b""  # a block costs the DataNode a hundredth of a second

    @pytest.fixture(autouse=True)
    def _seen_from_beside(self, hdfs: Hdfs, folder: str) -> None:
        self.hdfs, self.folder = hdfs, folder

    async def leftovers(self, store: object) -> list[str]:
        listed = self.hdfs.web("GET", self.folder, "LISTSTATUS")["FileStatuses"]["FileStatus"]
        return [one["pathSuffix"] for one in listed if one["pathSuffix"] != "kept"]


# ---------------------------------------------------------------------- whose it is


async def test_modes_owners_and_times_are_those_of_hdfs(hdfs: Hdfs, folder: str, store: FolderStore) -> None:
    await store.put("d/f", b"x")
    hdfs.web("PUT", f"{folder}/d/f", "SETPERMISSION", permission="640")
    hdfs.web("PUT", f"{folder}/d/f", "SETOWNER", owner="daemon", group="daemon")
    hdfs.web("PUT", f"{folder}/d/f", "SETTIMES", modificationtime="1234567890123")
    hdfs.web("PUT", f"{folder}/d", "SETPERMISSION", permission="1777")
    hdfs.web("PUT", f"{folder}/d", "SETOWNER", owner="nobody-here-knows", group="no-such-group")
    file, above = await store.stat("d/f"), await store.stat("d")
    number = pwd.getpwnam("daemon")
    assert isinstance(file, ObjectMeta)
    assert isinstance(above, FolderMeta)
    assert file.posix == Posix(0o640, number.pw_uid, number.pw_gid, "daemon", "daemon")
    assert file.mtime_ns == 1_234_567_890_123_000_000
    assert above.posix == Posix(0o1777, NOBODY, NOBODY, "nobody-here-knows", "no-such-group")


async def test_what_the_user_owns_that_the_daemon_is_belongs_to_the_daemon(
    hdfs: Hdfs, folder: str, settings: Settings
) -> None:
    hdfs.web("PUT", folder, "SETOWNER", owner="alice")
    store = open_folder(hdfs, folder, settings, **{"hdfs.user": "alice"})
    meta = await store.put("f", b"x")
    assert meta.posix is not None
    assert (meta.posix.owner, meta.posix.uid) == ("alice", os.geteuid())
    await store.close()


async def test_what_a_user_may_not_do_is_denied_and_the_message_names_the_user(
    hdfs: Hdfs, folder: str, settings: Settings
) -> None:
    hdfs.web("PUT", f"{folder}/secret", "MKDIRS", permission="700")
    store = open_folder(hdfs, folder, settings, hadoop_user_name="alice")
    with pytest.raises(Denied, match="does not grant WRITE to user 'alice'"):
        await store.put("f", b"x")
    with pytest.raises(Denied, match="'secret/': permission denied"):
        await keys_of(store, "secret/")
    await store.close()


async def test_a_process_is_one_hdfs_user_at_a_time(hdfs: Hdfs, folder: str, settings: Settings) -> None:
    alice = open_folder(hdfs, folder, settings, **{"hdfs.user": "alice"})
    with pytest.raises(Busy, match="is the HDFS user 'alice' already, and cannot be 'bob'"):
        open_folder(hdfs, folder, settings, **{"hdfs.user": "bob"})
    await alice.close()
    bob = open_folder(hdfs, folder, settings, **{"hdfs.user": "bob"})
    with pytest.raises(Denied, match="'bob'"):
        await bob.put("f", b"x")
    await bob.close()


# ---------------------------------------------------------------------- versions


async def test_a_stream_whose_file_is_replaced_midway_is_stale(store: FolderStore) -> None:
    meta = await store.put("k", pattern(6 * MIB))
    chunks = store.stream("k", ByteRange(0, 6 * MIB), version=meta.version, chunk_bytes=MIB)
    assert bytes(memoryview(await anext(chunks))) == pattern(6 * MIB)[:MIB]
    await store.put("k", b"new" * MIB)
    with pytest.raises(StaleVersion):
        await anext(chunks)


async def test_readers_of_a_file_that_is_replaced_all_the_time_get_one_version_whole(store: FolderStore) -> None:
    def body(number: int) -> bytes:
        return bytes([number]) * (2 * MIB)

    versions = {(await store.put("k", body(0))).version: 0}
    is_over = False

    async def write() -> None:
        nonlocal is_over
        for number in range(1, 8):
            versions[(await store.put("k", body(number))).version] = number
        is_over = True

    async def read() -> int:
        whole = 0
        while not is_over:
            version = (await store.head("k")).version
            try:
                data = await store.get("k", ByteRange(MIB // 2, 2 * MIB), version=version)
            except StaleVersion:
                continue
            seen.append((version, bytes(memoryview(data))))
            whole += 1
        return whole

    seen: list[tuple[str, bytes]] = []
    _, *counts = await asyncio.gather(write(), read(), read(), read())
    assert sum(counts) > 0
    for version, data in seen:
        assert data == body(versions[version])[MIB // 2 :]


# ---------------------------------------------------------------------- names and folders


async def test_a_name_that_hdfs_does_not_take_is_refused_with_the_reason(store: FolderStore) -> None:
    with pytest.raises(Invalid, match="a colon"):
        await store.put("a:b", b"x")
    for key in ("a:b", "nul\0", "\udcff", ".forebay-part-x"):
        with pytest.raises(NotFound):
            await store.head(key)
        with pytest.raises(Invalid):
            await store.put(key, b"x")


async def test_the_folder_of_the_url_stays_when_it_becomes_empty(hdfs: Hdfs, folder: str, store: FolderStore) -> None:
    await store.put("a/b", b"x")
    await store.delete("a/b")
    await store.delete("a/")
    assert hdfs.web("GET", folder, "LISTSTATUS")["FileStatuses"]["FileStatus"] == []


async def test_a_file_is_no_folder_and_a_folder_no_file(store: FolderStore) -> None:
    await store.put("f", b"x")
    await store.put("d/x", b"x")
    assert await keys_of(store, "f/") == []
    for key in ("f/x", "d", "d/x/y/z"):
        with pytest.raises(NotFound):
            await store.get(key)
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        await store.put("f/x", b"x")
    with pytest.raises(IsADirectoryError):
        await store.put("d", b"x")


async def test_names_come_in_key_order_where_hdfs_has_another(store: FolderStore) -> None:
    keys = ["a/x", "a-", "a0", "b\u00e9", "bz", "b", "\u00e9", "\U0001f600"]
    await asyncio.gather(*(store.put(key, b"") for key in keys))
    assert await keys_of(store, "") == sorted(["a/", *keys[1:]], key=str.encode)


# ---------------------------------------------------------------------- the cluster's moods


@pytest.fixture
def safe_mode(hdfs: Hdfs) -> Iterator[None]:
    hdfs.admin("-safemode", "enter")
    yield
    hdfs.admin("-safemode", "leave")


async def test_safe_mode_reads_and_says_why_it_does_not_write(
    hdfs: Hdfs, store: FolderStore, request: pytest.FixtureRequest
) -> None:
    await store.put("k", b"bytes")
    request.getfixturevalue("safe_mode")
    assert bytes(memoryview(await store.get("k"))) == b"bytes"
    for change in (store.put("k", b"x"), store.delete("k"), store.put("folder/", b"")):
        with pytest.raises(Unavailable, match="safe mode"):
            await change


async def test_a_quota_that_is_used_up_is_no_space(hdfs: Hdfs, folder: str, store: FolderStore) -> None:
    hdfs.admin("-setQuota", "2", folder)
    await store.put("a", b"x")
    with pytest.raises(NoSpace, match="quota of names"):
        await store.put("b", b"x")


# ---------------------------------------------------------------------- the process

READ_AND_GO = """
import asyncio, sys
from pathlib import Path
from forebay.config.settings import Settings
from forebay.errors import TimedOut
from forebay.stores.registry import open_store
async def main():
    store, _ = open_store(sys.argv[1], {}, settings=Settings(home=Path("/"), store_deadline_s=float(sys.argv[2])))
    try:
        print(bytes(await store.get("k")).decode())
    except TimedOut:
        print("timed out")
    if sys.argv[3:]:
        await store.close()
asyncio.run(main())
"""
Leave = Callable[..., str]


@pytest.fixture
def leave() -> Leave:
    """Run a process that reads `k` and ends; what it printed."""

    def run(*words: str) -> str:
        command = [sys.executable, "-c", READ_AND_GO, *words]
        ran = subprocess.run(command, capture_output=True, timeout=CHILD_WAIT_S, check=False)
        assert (ran.returncode, ran.stderr) == (0, b"")
        return ran.stdout.decode().strip()

    return run


async def test_a_process_ends_well_after_it_has_used_hdfs(
    hdfs: Hdfs, folder: str, store: FolderStore, leave: Leave
) -> None:
    await store.put("k", b"bytes")
    for words in (("close",), ()) * 3:
        assert await asyncio.to_thread(leave, hdfs.url + folder, "20", *words) == "bytes"


async def test_a_process_ends_though_a_namenode_never_answers(silent: int, leave: Leave) -> None:
    assert await asyncio.to_thread(leave, f"hdfs://127.0.0.1:{silent}/", "1", "close") == "timed out"


def test_hdfs_native_is_not_loaded_before_a_url_asks_for_it(tmp_path: Path) -> None:
    code = "import sys, forebay.stores.registry, forebay.daemon.main; print('hdfs_native' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=CHILD_WAIT_S, check=True)
    assert ran.stdout == b"False\n"


# ---------------------------------------------------------------------- attributes


async def test_what_hdfs_has_no_words_for_is_refused(store: FolderStore) -> None:
    keeper = cast("AttributesStore", store)
    await store.put("f", b"x", attributes=Attributes(0o640))
    with pytest.raises(Unsupported, match="this machine has none for user 3999999999"):
        await keeper.set_attributes("f", Attributes(uid=3_999_999_999))
    with pytest.raises(Unsupported, match="before 1970"):
        await keeper.set_attributes("f", Attributes(mtime_ns=-1))


async def test_only_the_superuser_gives_files_away(hdfs: Hdfs, folder: str, settings: Settings) -> None:
    hdfs.web("PUT", folder, "SETOWNER", owner="alice")
    store = open_folder(hdfs, folder, settings, **{"hdfs.user": "alice"})
    keeper = cast("AttributesStore", store)
    await store.put("f", b"x")
    await keeper.set_attributes("f", Attributes(mode=0o600, uid=os.geteuid()))  # alice, that is
    with pytest.raises(Denied):
        await keeper.set_attributes("f", Attributes(uid=pwd.getpwnam("daemon").pw_uid))
    found = await store.head("f")
    assert found.posix is not None
    assert (found.posix.mode, found.posix.owner) == (0o600, "alice")
    await store.close()


async def test_another_time_is_another_version(store: FolderStore) -> None:
    before = await store.put("f", b"x")
    await cast("AttributesStore", store).set_attributes("f", Attributes(mtime_ns=1_234_567_890_123_000_000))
    assert (await store.head("f")).version == "1-1234567890123" != before.version


class TestHdfsStoreWithLinks(AttributesContract, RenamingContract):
    """Of which Forebay keeps that a file is a symbolic link."""

    time_step_ns = 1_000_000
    mode_bits = 0o1777
    owner = TestHdfsStore.owner
    names_of_files_and_folders_meet = False

    @pytest.fixture
    async def store(
        self, hdfs: Hdfs, folder: str, settings: Settings, tmp_path: Path
    ) -> AsyncIterator[AttributedStore]:
        kept = KeptAttributes(tmp_path / "attributes.db")
        store = AttributedStore(open_folder(hdfs, folder, settings), kept)
        yield store
        await store.close()
        await kept.close()
