"""HDFS behind a real mount: its names, modes, owners and times, its bytes, and what is said when it is away."""

import os
import pwd
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.stores.base import Store
from forebay.stores.registry import open_store
from forebay.testing.daemons import RunForebay
from forebay.testing.hdfs import Hdfs
from forebay.testing.slowproxy import SlowProxy
from mount.conftest import Child

READ = "sys.stdout.buffer.write(open(argv[1], 'rb').read())"
TELL = """
for path in argv[1:]:
    found = os.stat(path)
    print(oct(found.st_mode & 0o7777), found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns)
"""
FAIL = """
try: open(argv[1], 'rb').read()
except OSError as error: print(errno.errorcode[error.errno])
"""
FOLDER = "/mounted"
BIG = os.urandom(9_000_000)  # three blocks
Mounted = Callable[..., Path]


@pytest.fixture
async def store(hdfs: Hdfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    """The folder with a few files in it, as it is beside the mount."""
    monkeypatch.delenv("HADOOP_USER_NAME", raising=False)
    hdfs.web("DELETE", FOLDER, "DELETE", recursive="true")
    store, _ = open_store(hdfs.url + FOLDER, {}, settings=Settings(home=tmp_path))
    for name, data in (("small", b"one"), ("big", BIG), ("d/deep/file", b"deep"), ("empty/", b"")):
        await store.put(name, data)
    yield store
    await store.close()


@pytest.fixture
def mounted(hdfs: Hdfs, store: Store, forebay: RunForebay, mnt: Path) -> Mounted:
    """Mount the folder at /data and /data at `mnt`; give the local path."""

    def mount(*options: str, port: int = hdfs.port) -> Path:
        ran = forebay("fs", "mount", "/data", f"hdfs://127.0.0.1:{port}{FOLDER}", *options)
        assert ran.code == 0, ran.err
        ran = forebay("fuse", "mount", str(mnt), "/data")
        assert ran.code == 0, ran.err
        return mnt

    return mount


@pytest.fixture
def proxy(hdfs: Hdfs) -> Iterator[SlowProxy]:
    """The way to the NameNode, which a test can stop and cut."""
    with SlowProxy(hdfs.port, rtt_ms=1, mbps=0) as proxy:
        yield proxy


async def test_reading_through_the_mount_equals_what_was_put(mounted: Mounted, child: Child, store: Store) -> None:
    mnt = mounted()
    for _ in range(2):  # cold, then cached
        assert child(READ, mnt / "small").stdout == b"one"
        assert child(READ, mnt / "big").stdout == BIG
        assert child(READ, mnt / "d/deep/file").stdout == b"deep"
    listed = "print(sorted(os.listdir(argv[1])), os.listdir(argv[2]))"
    assert child(listed, mnt, mnt / "empty").stdout.decode().strip() == "['big', 'd', 'empty', 'small'] []"


async def test_modes_owners_and_times_of_hdfs_are_shown(
    hdfs: Hdfs, mounted: Mounted, child: Child, store: Store
) -> None:
    daemon = pwd.getpwnam("daemon")
    hdfs.web("PUT", f"{FOLDER}/small", "SETPERMISSION", permission="640")
    hdfs.web("PUT", f"{FOLDER}/small", "SETOWNER", owner="daemon", group="daemon")
    hdfs.web("PUT", f"{FOLDER}/small", "SETTIMES", modificationtime="1234567890123")
    hdfs.web("PUT", f"{FOLDER}/d", "SETPERMISSION", permission="1775")
    mnt = mounted()
    small, big, folder = child(TELL, mnt / "small", mnt / "big", mnt / "d").stdout.decode().splitlines()
    assert small == f"0o640 {daemon.pw_uid} {daemon.pw_gid} 3 1234567890123000000"
    assert big.startswith(f"0o644 {os.getuid()} ")
    assert folder.startswith(f"0o1775 {os.getuid()} ")
    listed = child("import subprocess; subprocess.run(['ls', '-l', argv[1]], check=True)", mnt).stdout.decode()
    assert "-rw-r----- 1 daemon daemon" in listed
    assert "drwxrwxr-t" in listed


async def test_a_file_that_was_replaced_is_seen_after_a_refresh(
    mounted: Mounted, forebay: RunForebay, child: Child, store: Store
) -> None:
    mnt = mounted("--freshness", "immutable")
    assert child(READ, mnt / "small").stdout == b"one"
    await store.put("small", b"two")
    assert child(READ, mnt / "small").stdout == b"one"
    assert forebay("fs", "refresh", "/data").code == 0
    assert child(READ, mnt / "small").stdout == b"two"


async def test_what_is_cached_reads_without_the_namenode_and_the_rest_fails_in_time(
    mounted: Mounted, proxy: SlowProxy, child: Child, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBAY_STORE_DEADLINE_S", "3")
    mnt = mounted("--freshness", "immutable", port=proxy.port)
    assert child(READ, mnt / "small").stdout == b"one"
    child("os.stat(argv[1])", mnt / "big")
    os.kill(proxy.pid, signal.SIGSTOP)  # it hangs
    assert child(READ, mnt / "small").stdout == b"one"
    assert child(FAIL, mnt / "big").stdout == b"ETIMEDOUT\n"
    os.kill(proxy.pid, signal.SIGCONT)
    assert child(READ, mnt / "big").stdout == BIG
    assert child("os.stat(argv[1])", mnt / "d/deep/file").returncode == 0
    proxy.stop()  # it is away
    assert child(READ, mnt / "small").stdout == b"one"
    assert child(FAIL, mnt / "d/deep/file").stdout == b"EIO\n"


def test_the_mount_of_a_wrong_port_says_what_is_wrong(forebay: RunForebay) -> None:
    ran = forebay("fs", "mount", "/data", "hdfs://127.0.0.1:1/data")
    assert ran.code == 1
    assert "connection refused by 127.0.0.1:1; check the port" in ran.err


async def test_files_that_are_copied_into_the_mount_are_in_hdfs(
    hdfs: Hdfs, mounted: Mounted, forebay: RunForebay, store: Store, tmp_path: Path
) -> None:
    mounted()
    (tmp_path / "new").write_bytes(BIG)
    assert forebay("fs", "cp", f"file://{tmp_path}/new", "/data/d/new").code == 0
    status = hdfs.web("GET", f"{FOLDER}/d/new", "GETFILESTATUS")["FileStatus"]
    assert status["length"] == len(BIG)
    assert forebay("fs", "rm", "-r", "/data/d").code == 0
    names = [one["pathSuffix"] for one in hdfs.web("GET", FOLDER, "LISTSTATUS")["FileStatuses"]["FileStatus"]]
    assert names == ["big", "empty", "small"]
