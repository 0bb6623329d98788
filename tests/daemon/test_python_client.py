"""Python programs and a real daemon: bytes, names, versions; threads, forks, asyncio, a daemon that is killed."""

import asyncio
import contextlib
import errno
import io
import json
import mmap
import multiprocessing
import os
import pickle
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forebay import AsyncFileSystem, FileSystem
from forebay.client.exchanges import Entry
from forebay.errors import (
    AlreadyExists,
    CrossesMounts,
    FsError,
    Invalid,
    IsADirectory,
    NotEmpty,
    NotFound,
    ReadOnly,
    StaleVersion,
    Unavailable,
    Unsupported,
)
from forebay.frontends.local.format import VERSION, Frames, Kind, pack, pack_json, parse_error
from forebay.stores.posix import HIDDEN
from forebay.testing.daemons import RunForebay, daemon_pid, wait_until

MIB = 1 << 20
SMALL = 300  # files; more than two requests for files hold


@pytest.fixture
def fs(forebay: RunForebay, mounted: Path, forebay_home: Path) -> FileSystem:
    return FileSystem(forebay_home)


@pytest.fixture
def small(mounted: Path, fs: FileSystem) -> list[str]:
    """Small files of many sizes, an empty one among them; their virtual paths in a random order."""
    (mounted / "small").mkdir()
    for number in range(SMALL):
        (mounted / "small" / f"{number}.bin").write_bytes(random.Random(number).randbytes(number * 37))
    names = [f"/data/in/small/{number}.bin" for number in range(SMALL)]
    random.Random(0).shuffle(names)
    return names


def native(mounted: Path, names: list[str]) -> list[bytes]:
    return [(mounted / name.removeprefix("/data/in/")).read_bytes() for name in names]


def kill_daemon(home: Path) -> None:
    pid = daemon_pid(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: daemon_pid(home) is None, "the daemon is dead")


def open_files(forebay: RunForebay) -> bool:
    """Does anybody have a file of the mount open?"""
    ran = forebay("fs", "unmount", "/data/in")
    if ran.code == 0:
        return False
    assert "open" in ran.err
    return True


# ---------------------------------------------------------------- many files


def test_many_files_come_in_order_cold_and_warm_with_errors_in_their_places(
    fs: FileSystem, mounted: Path, small: list[str]
) -> None:
    wanted = [*small[:100], "/data/in/none", "forebay://data/in/a.txt", "/data/in/sub", "relative", *small[100:]]
    for _ in range(3):  # as bytes, as descriptors, as descriptors that were kept
        found = fs.read_many(wanted)
        assert [type(each) for each in found[100:104]] == [NotFound, bytes, IsADirectory, Invalid]
        assert found[101] == b"hello\n"
        assert found[:100] + found[104:] == native(mounted, small)
    assert fs.read_many([]) == []


def test_one_file_many_times_in_one_request(fs: FileSystem) -> None:
    assert fs.read_many(["/data/in/a.txt"] * 200) == [b"hello\n"] * 200


def test_a_large_cold_file_comes_whole(fs: FileSystem, mounted: Path) -> None:
    assert fs.read("/data/in/sub/big") == (mounted / "sub" / "big").read_bytes()
    assert fs.read("/data/in/sub/big") == (mounted / "sub" / "big").read_bytes()


def test_what_the_cache_does_not_admit_comes_through_the_socket(
    forebay: RunForebay, forebay_home: Path, data: Path
) -> None:
    (forebay_home / "forebay.toml").write_text(f"cache_dirs = [{{path = '{forebay_home}/cache', size = '1MiB'}}]")
    assert forebay("fs", "mount", "/in", f"file://{data}").code == 0
    fs, big = FileSystem(forebay_home), (data / "sub" / "big").read_bytes()
    assert fs.read("/in/sub/big") == big
    with fs.open("/in/sub/big") as file:
        assert file.read() == big
        with pytest.raises(io.UnsupportedOperation):
            file.fileno()


def test_a_program_that_may_open_few_files_reads_as_many_as_any(fs: FileSystem, small: list[str]) -> None:
    expected = [len(data) for data in fs.read_many(small) if isinstance(data, bytes)]
    code = """
import resource, sys, forebay
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
print(*(len(data) for data in forebay.read_many(sys.argv[1:])))
"""
    ran = subprocess.run([sys.executable, "-c", code, *small], capture_output=True, timeout=60, check=True)
    assert [int(word) for word in ran.stdout.split()] == expected


def test_what_was_read_is_let_go(fs: FileSystem, forebay: RunForebay, small: list[str]) -> None:
    fs.read_many(small)
    fs.read_many(small)
    assert not open_files(forebay)


def test_a_changed_file_is_seen_when_its_name_is_asked_for_again(fs: FileSystem, mounted: Path) -> None:
    assert fs.read_many(["/data/in/a.txt"] * 2) == [b"hello\n"] * 2
    assert fs.read("/data/in/a.txt") == b"hello\n"  # it is kept as a descriptor now
    (mounted / "a.txt").write_bytes(b"changed\n")
    fs.refresh("/data/in/a.txt")
    assert fs.read("/data/in/a.txt") == b"changed\n"
    with fs.open("/data/in/a.txt", "wb") as file:
        file.write(b"here\n")
    assert fs.read("/data/in/a.txt") == b"here\n"


def test_what_programs_read_is_counted_as_whatever_readers_read(
    fs: FileSystem, forebay: RunForebay, mounted: Path, small: list[str]
) -> None:
    def opens(names: list[str]) -> list[bytes]:
        return [fs.open(name).read() for name in names]

    def report() -> dict[str, Any]:
        (found,) = json.loads(forebay("report", "--since", "1h", "--json").out)
        return dict(found)

    expected = native(mounted, small)
    size = sum(map(len, expected))
    assert fs.read_many(small) == expected
    seen = report()
    for read in (fs.read_many, fs.read_many, opens):
        before = seen
        assert read(small) == expected
        seen = report()
        assert (seen["hits"] - before["hits"], seen["read"] - before["read"]) == (SMALL, size)
        assert (seen["opened_files"], seen["opened_bytes"]) == (SMALL, size)


# ---------------------------------------------------------------- one file


def test_a_file_object_reads_seeks_and_maps(fs: FileSystem, mounted: Path) -> None:
    big = (mounted / "sub" / "big").read_bytes()
    with fs.open("/data/in/sub/big") as cold:
        assert isinstance(cold, io.BufferedReader)
        assert (cold.name, cold.mode, cold.readable(), cold.writable()) == ("/data/in/sub/big", "rb", True, False)
        assert cold.seek(-5, os.SEEK_END) == len(big) - 5
        assert cold.read() == big[-5:]
        assert (cold.seek(2 * MIB), cold.read(10), cold.tell()) == (2 * MIB, big[2 * MIB :][:10], 2 * MIB + 10)
    assert fs.read("/data/in/sub/big") == big
    with fs.open("/data/in/sub/big") as whole, mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[:] == big
        assert whole.read() == big
        with pytest.raises(OSError, match="Bad file descriptor"):  # a program cannot write into the cache
            os.pwrite(whole.fileno(), b"x", 0)


def test_text_is_read_and_written_in_its_encoding(fs: FileSystem, mounted: Path) -> None:
    with fs.open("/data/in/t.txt", "w", encoding="latin-1") as file:
        file.write("für\nalle\n")
    assert (mounted / "t.txt").read_bytes() == b"f\xfcr\nalle\n"
    with fs.open("/data/in/t.txt", "r", encoding="latin-1") as file:
        assert list(file) == ["für\n", "alle\n"]


def test_an_open_file_is_in_use_until_it_is_closed_or_its_program_ends(
    fs: FileSystem, forebay: RunForebay, forebay_home: Path
) -> None:
    fs.read("/data/in/a.txt")
    code = "import sys, forebay; f = forebay.open('/data/in/a.txt'); print(f.read(), flush=True); sys.stdin.read()"
    with fs.open("/data/in/a.txt"):
        assert open_files(forebay)
    fs.close()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"b'hello\\n'\n"
        assert open_files(forebay)
        program.kill()
    wait_until(lambda: not open_files(forebay), "what a killed program had open is closed")


def test_an_open_file_keeps_its_bytes_when_it_is_freed_and_changed(
    fs: FileSystem, forebay: RunForebay, mounted: Path
) -> None:
    big = (mounted / "sub" / "big").read_bytes()
    fs.read("/data/in/sub/big")
    with fs.open("/data/in/sub/big") as before:
        assert forebay("fs", "free", "/data/in").code == 0
        with fs.open("/data/in/sub/big", "r+b") as writer:
            writer.write(b"changed")
        (mounted / "sub" / "big").write_bytes(b"other")
        fs.refresh("/data/in/sub/big")
        assert before.read() == big
    assert fs.read("/data/in/sub/big") == b"other"


def test_a_version_that_has_gone_is_stale_and_never_another_one(fs: FileSystem, mounted: Path) -> None:
    (mounted / "huge").write_bytes(os.urandom(40 * MIB))  # more than is read ahead of the first bytes
    with fs.open("/data/in/huge") as file:
        assert any(file.read(10))
        (mounted / "huge").write_bytes(bytes(40 * MIB))
        with pytest.raises(StaleVersion) as failure:
            file.read()
        assert failure.value.errno == errno.ESTALE


# ---------------------------------------------------------------- writing


def test_files_are_made_replaced_appended_to_and_changed_in_place(fs: FileSystem, mounted: Path) -> None:
    path, local = "/data/in/w/new.bin", mounted / "w" / "new.bin"
    with fs.open(path, "wb") as file:
        file.write(b"0123456789")
    assert local.read_bytes() == b"0123456789"
    with fs.open(path, "ab") as file:
        assert file.tell() == 10
        file.write(b"abc")
    assert local.read_bytes() == b"0123456789abc"
    with fs.open(path, "r+b") as file:
        file.seek(2)
        file.write(b"XY")
        file.flush()
        assert (file.seek(0), file.read(5)) == (0, b"01XY4")
        file.truncate(6)
    assert local.read_bytes() == b"01XY45"
    with fs.open(path, "wb") as file:
        file.write(b"short")
    assert (local.read_bytes(), fs.read(path)) == (b"short", b"short")
    with pytest.raises(AlreadyExists) as failure:
        fs.open(path, "xb")
    assert failure.value.errno == errno.EEXIST


def test_a_large_file_that_is_not_cached_is_changed_without_fetching_it(fs: FileSystem, mounted: Path) -> None:
    before = os.urandom(40 * MIB)
    (mounted / "large").write_bytes(before)
    with fs.open("/data/in/large", "r+b") as file:
        assert not file.raw.is_local
        file.seek(MIB)
        file.write(b"mine")
        file.seek(0)
        assert file.read(MIB + 5) == before[:MIB] + b"mine" + before[MIB + 4 :][:1]
    with fs.open("/data/in/large", "ab") as file:
        file.write(b"end")
    assert (mounted / "large").read_bytes() == before[:MIB] + b"mine" + before[MIB + 4 :] + b"end"


def test_a_sync_in_between_is_a_promise_too(fs: FileSystem, mounted: Path) -> None:
    with fs.open("/data/in/log", "wb", buffering=0) as file:
        file.write(b"one")
        file.sync()
        assert (mounted / "log").read_bytes() == b"one"
        file.write(b"two")
    assert (mounted / "log").read_bytes() == b"onetwo"


def test_names_are_made_moved_and_removed(fs: FileSystem, mounted: Path) -> None:
    fs.mkdir("/data/in/x/y", parents=True)
    fs.write("/data/in/x/y/f", b"1")
    fs.rename("/data/in/x/y/f", "/data/in/x/g")
    assert [(entry.path, entry.type, entry.size) for entry in fs.ls("/data/in/x")] == [
        ("/data/in/x/g", "file", 1),
        ("/data/in/x/y", "directory", 0),
    ]
    assert [entry.path for entry in fs.walk("/data/in/x")] == ["/data/in/x/g"]
    stat = fs.stat("/data/in/x/g")
    assert (stat.mtime_ns, stat.is_file) == ((mounted / "x" / "g").stat().st_mtime_ns, True)
    fs.rmdir("/data/in/x/y")
    fs.touch("/data/in/x/t")
    assert (mounted / "x" / "t").read_bytes() == b""
    fs.remove("/data/in/x/t")
    fs.remove("/data/in/x", recursive=True)
    assert not fs.exists("/data/in/x")
    assert not (mounted / "x").exists()


def test_every_refusal_is_the_builtin_error_with_its_errno(fs: FileSystem, forebay: RunForebay, mounted: Path) -> None:
    assert forebay("fs", "mount", "/locked", f"file://{mounted}", "--readonly").code == 0
    for refused, kind, builtin, number in (
        (lambda: fs.open("/data/in/none"), NotFound, FileNotFoundError, errno.ENOENT),
        (lambda: fs.open("/data/in/sub"), IsADirectory, IsADirectoryError, errno.EISDIR),
        (lambda: fs.open("/data/in/sub", "wb"), IsADirectory, IsADirectoryError, errno.EISDIR),
        (lambda: fs.open("/data/in/a.txt/b", "wb"), FsError, NotADirectoryError, errno.ENOTDIR),
        (lambda: fs.ls("/data/in/a.txt"), FsError, NotADirectoryError, errno.ENOTDIR),
        (lambda: fs.rmdir("/data/in/sub"), NotEmpty, OSError, errno.ENOTEMPTY),
        (lambda: fs.open("/locked/new", "wb"), ReadOnly, OSError, errno.EROFS),
        (lambda: fs.remove("/locked/a.txt"), ReadOnly, OSError, errno.EROFS),
        (lambda: fs.rename("/data/in/a.txt", "/locked/a"), ReadOnly, OSError, errno.EROFS),
        (lambda: fs.open("a.txt"), Invalid, OSError, errno.EINVAL),
        (lambda: fs.open("s3://bucket/a"), Invalid, OSError, errno.EINVAL),
        (lambda: fs.open("/data/in/a.txt", "q"), Invalid, OSError, errno.EINVAL),
    ):
        with pytest.raises(kind) as failure:
            refused()
        assert isinstance(failure.value, builtin)
        assert failure.value.errno == number
    assert fs.read("/data/in/a.txt") == b"hello\n"


def test_a_rename_to_another_mount_says_so(fs: FileSystem, forebay: RunForebay, forebay_home: Path) -> None:
    other = forebay_home.parent / "other"
    other.mkdir()
    assert forebay("fs", "mount", "/other", f"file://{other}").code == 0
    with pytest.raises(CrossesMounts):
        fs.rename("/data/in/a.txt", "/other/a.txt")


# ---------------------------------------------------------------- threads, forks, spawned children, asyncio


def read_all(fs: FileSystem, names: list[str]) -> int:
    return hash(tuple(fs.read_many(names)))


def test_threads_share_one_file_system(fs: FileSystem, mounted: Path, small: list[str]) -> None:
    expected = native(mounted, small)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: fs.read_many(small), range(16)):
            assert found == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_children_use_the_file_system_of_their_parent_at_the_same_time(
    fs: FileSystem, mounted: Path, small: list[str], method: str
) -> None:
    expected = native(mounted, small)
    assert fs.read_many(small) == expected  # it has a connection now
    context = multiprocessing.get_context(method)
    with context.Pool(4) as pool:
        results = [pool.apply_async(fs.read_many, (small,)) for _ in range(8)]
        assert fs.read_many(small) == expected
        assert [result.get(60) for result in results] == [expected] * 8


def test_a_child_forked_while_threads_read_has_connections_and_locks_of_its_own(
    fs: FileSystem, small: list[str]
) -> None:
    stop = threading.Event()

    def read_on() -> None:
        while not stop.is_set():
            fs.read_many(small[:20])

    threads = [threading.Thread(target=read_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            pid = os.fork()
            if not pid:
                os._exit(0 if fs.read("/data/in/a.txt") == b"hello\n" else 1)
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_an_open_reader_goes_on_in_a_forked_child_and_a_writer_does_not(fs: FileSystem, mounted: Path) -> None:
    (mounted / "huge").write_bytes(os.urandom(20 * MIB))
    with fs.open("/data/in/huge") as reader, fs.open("/data/in/out", "wb", buffering=0) as writer:
        first = reader.read(10)
        pid = os.fork()
        if not pid:
            refused = 0
            try:
                writer.write(b"child")
            except Unsupported:
                refused = 1
            reader.seek(0)
            os._exit(0 if reader.read(10) == first and refused else 1)
        assert os.waitpid(pid, 0)[1] == 0
        writer.write(b"parent")
        reader.seek(0)
        assert reader.read(10) == first
    assert (mounted / "out").read_bytes() == b"parent"


def test_a_file_system_and_its_errors_are_pickled(fs: FileSystem) -> None:
    again = pickle.loads(pickle.dumps(fs))
    assert again.read("/data/in/a.txt") == b"hello\n"
    (missing,) = again.read_many(["/data/in/none"])
    assert isinstance(pickle.loads(pickle.dumps(missing)), NotFound)


async def test_asyncio_programs_have_the_same(
    forebay: RunForebay, mounted: Path, forebay_home: Path, small: list[str]
) -> None:
    fs = AsyncFileSystem(forebay_home)
    expected = native(mounted, small)
    found = await asyncio.gather(*(fs.read_many([*small, "/data/in/none"]) for _ in range(4)))
    assert all(each[:-1] == expected and isinstance(each[-1], NotFound) for each in found)
    await fs.write("/data/in/x/new", b"0123")
    async with await fs.open("/data/in/x/new", "ab") as file:
        await file.write(b"45")
        await file.sync()
    assert (mounted / "x" / "new").read_bytes() == b"012345"
    async with await fs.open("/data/in/sub/big") as file:
        file.seek(5)
        assert await file.read(7) == (mounted / "sub" / "big").read_bytes()[5:12]
        assert len(await file.read()) == 3 * MIB - 12
    assert await fs.stat("/data/in/a.txt") == FileSystem(forebay_home).stat("/data/in/a.txt")
    assert isinstance(await fs.stat("/data"), Entry)
    assert [entry.path for entry in await fs.ls("/data/in/x")] == ["/data/in/x/new"]
    assert [entry.path for entry in await fs.walk("/data/in/x")] == ["/data/in/x/new"]
    await fs.mkdir("/data/in/y/z", parents=True)
    await fs.rmdir("/data/in/y/z")
    await fs.touch("/data/in/y/t")
    await fs.rename("/data/in/y/t", "/data/in/y/u")
    await fs.refresh("/data/in/y")
    await fs.remove("/data/in/y", recursive=True)
    with pytest.raises(NotFound):
        await fs.read("/data/in/y/u")
    assert [await fs.exists(path) for path in ("/data/in/a.txt", "/data/in/y/u")] == [True, False]
    with pytest.raises(Invalid, match="in no local folder"):
        await fs.virtual(mounted)
    async with await fs.open("/data/in/x/new", "r+b") as file:
        await file.truncate(3)
    assert (mounted / "x" / "new").read_bytes() == b"012"
    fs.close()


async def test_a_cancelled_task_leaves_the_next_one_alone(
    forebay: RunForebay, mounted: Path, forebay_home: Path, small: list[str]
) -> None:
    fs = AsyncFileSystem(forebay_home)
    for _ in range(5):
        task = asyncio.ensure_future(fs.read_many(small))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert await fs.read("/data/in/a.txt") == b"hello\n"
    fs.close()


# ---------------------------------------------------------------- the daemon's end


def test_the_first_use_starts_the_daemon(forebay: RunForebay, mounted: Path, forebay_home: Path) -> None:
    assert forebay("stop").code == 0
    assert FileSystem(forebay_home).read("/data/in/a.txt") == b"hello\n"
    assert daemon_pid(forebay_home) is not None


def test_reads_go_on_after_the_daemon_was_killed(
    fs: FileSystem, forebay_home: Path, mounted: Path, small: list[str]
) -> None:
    (mounted / "huge").write_bytes(os.urandom(20 * MIB))
    fs.read("/data/in/a.txt")
    with fs.open("/data/in/a.txt") as cached, fs.open("/data/in/huge", buffering=0) as remote:
        other = fs.open("/data/in/huge", buffering=0)
        assert len(remote.read(10)) == 10
        kill_daemon(forebay_home)
        assert fs.read_many(small) == native(mounted, small)
        assert cached.read() == b"hello\n"
        assert other.read(MIB) == (mounted / "huge").read_bytes()[:MIB]  # each by a new handle, of its own version
        assert remote.read(MIB) == (mounted / "huge").read_bytes()[10:][:MIB]
        other.close()


def test_a_file_that_was_being_written_when_the_daemon_ended_fails_and_says_so(
    fs: FileSystem, forebay_home: Path
) -> None:
    file = fs.open("/data/in/out", "wb")
    file.write(b"half")
    kill_daemon(forebay_home)
    with pytest.raises(Unavailable):
        file.close()
    fs.write("/data/in/out", b"whole")
    assert fs.read("/data/in/out") == b"whole"


def test_what_a_killed_program_had_written_is_kept_as_on_a_disk(fs: FileSystem, mounted: Path) -> None:
    code = """
import sys, forebay
file = forebay.open("/data/in/out", "wb", 0)
file.write(b"half")
print("written", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"written\n"
        program.kill()
    wait_until(lambda: (mounted / "out").exists(), "what it had written is in the store")
    assert fs.read("/data/in/out") == (mounted / "out").read_bytes() == b"half"


def test_a_change_is_made_once_by_the_next_daemon_if_none_runs(fs: FileSystem, forebay_home: Path) -> None:
    fs.stat("/data")
    kill_daemon(forebay_home)
    fs.mkdir("/data/in/made")  # the dead connection is noticed before anything is asked
    assert fs.stat("/data/in/made").type == "directory"


def test_a_write_keeps_its_promise_over_kill_9(fs: FileSystem, forebay: RunForebay, forebay_home: Path) -> None:
    back = forebay_home.parent / "back"
    back.mkdir()
    assert forebay("fs", "mount", "/back", f"file://{back}", "--write-mode", "back").code == 0
    for number in range(20):
        fs.write(f"/back/{number}", b"%d" % number * 1000)
    kill_daemon(forebay_home)
    assert [fs.read(f"/back/{number}") for number in range(20)] == [b"%d" % number * 1000 for number in range(20)]
    assert forebay("fs", "flush", "/back").code == 0
    assert {path.name for path in back.iterdir() if not path.name.startswith(HIDDEN)} == {
        str(number) for number in range(20)
    }


# ---------------------------------------------------------------- others at the socket


def test_rubbish_ends_the_connection_that_sent_it_and_no_other(fs: FileSystem, forebay_home: Path) -> None:
    fs.read("/data/in/a.txt")
    for seed in range(30):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.connect(str(forebay_home / "local.sock"))
            other.settimeout(20)
            if seed % 2:
                other.sendall(pack(Kind.HELLO, 1, pack_json({"version": VERSION, "session": "s"})))
                assert other.recv(1)
            other.sendall(random.Random(seed).randbytes(64 + seed))
            with contextlib.suppress(ConnectionError):
                while other.recv(1 << 16):
                    pass
    assert fs.read("/data/in/a.txt") == b"hello\n"
    assert stat.S_IMODE((forebay_home / "local.sock").stat().st_mode) == 0o600


def test_a_program_of_another_version_is_told_what_to_do(fs: FileSystem, forebay_home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.connect(str(forebay_home / "local.sock"))
        other.sendall(pack(Kind.HELLO, 1, pack_json({"version": VERSION + 1, "session": "s"})))
        (refused,) = Frames().feed(other.recv(1 << 16))
    assert "forebay stop" in parse_error(refused.body)[1].message


# ---------------------------------------------------------------- orders


def test_a_job_is_told_and_belongs_to_its_process(fs: FileSystem, small: list[str]) -> None:
    with fs.job("training") as job:
        job.announce(small)
        job.announce(["forebay://data/in/a.txt"])
        job.advance(10)
        pid = os.fork()
        if not pid:
            try:
                job.advance(1)
            except Invalid:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        job.advance(1)
    with pytest.raises(Invalid, match="closed"):
        job.advance(1)


async def test_an_asyncio_program_announces_too(fs: FileSystem, forebay_home: Path, small: list[str]) -> None:
    programs = AsyncFileSystem(forebay_home)
    async with await programs.job("training") as job:
        await asyncio.gather(job.announce(small), job.announce(["forebay://data/in/a.txt"]), job.advance(10))
        with pytest.raises(Invalid, match="not an absolute path"):
            await job.announce(["relative"])
    with pytest.raises(Invalid, match="closed"):
        await job.advance(1)
    lost = await programs.job("training")
    kill_daemon(forebay_home)
    with pytest.raises(Unavailable, match="make another one"):
        await lost.announce(["/data/in/a.txt"])
    programs.close()


def test_a_job_that_lost_its_daemon_says_so(fs: FileSystem, forebay_home: Path) -> None:
    job = fs.job("training")
    kill_daemon(forebay_home)
    with pytest.raises(Unavailable, match="make another one"):
        job.announce(["/data/in/a.txt"])
    with fs.job("training") as again:
        again.announce(["/data/in/a.txt"])


# ---------------------------------------------------------------- what importing costs


def test_importing_forebay_costs_nothing_and_using_it_brings_no_store(fs: FileSystem) -> None:
    code = """
import sys, forebay
assert [name for name in sys.modules if name.startswith("forebay")] == ["forebay"]
assert forebay.read("/data/in/a.txt") == b"hello\\n"
heavy = ("forebay.stores", "forebay.vfs", "forebay.cache", "aiohttp", "asyncio", "obstore", "fsspec", "typer")
assert not [name for name in sys.modules if name.startswith(heavy)]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
