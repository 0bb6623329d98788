"""A store that hangs or is away, behind a real mount: right errnos in time, no hang, and it works again afterwards."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.stores.registry import open_store
from forebay.testing.daemons import RunForebay, daemon_pid, wait_until
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.slowproxy import SlowProxy
from mount.conftest import Child, Reader, s3_options

READ = "sys.stdout.buffer.write(open(argv[1], 'rb').read())"
SLOW = "print('begun', flush=True); open(argv[1], 'rb').read()"


@pytest.fixture
def proxy(s3: SeaweedS3) -> Iterator[SlowProxy]:
    """The way to the store, which a test can stop and cut."""
    with SlowProxy(s3.port, rtt_ms=1, mbps=0) as proxy:
        yield proxy


@pytest.fixture
async def far(s3: SeaweedS3, proxy: SlowProxy, forebay: RunForebay, mnt: Path, tmp_path: Path) -> Path:
    """`one` and `two` of 100 kB in a bucket behind the proxy, mounted; no request's deadline ends within a test."""
    s3.make_bucket("far")
    keys = {"s3a.accessKeyId": s3.access_key, "s3a.secretKey": s3.secret_key}
    store, _ = open_store("s3://far/", keys | {"s3.endpoint": s3.endpoint}, settings=Settings(home=tmp_path))
    for name in ("one", "two"):
        await store.put(name, name.encode() * 33_000)
    await store.close()
    pairs = [f"{key}={value}" for key, value in (keys | {"s3.endpoint": proxy.endpoint}).items()]
    words = [word for pair in pairs for word in ("--option", pair)]
    assert forebay("fs", "mount", "/far", "s3://far/", *words).code == 0
    assert forebay("fuse", "mount", str(mnt), "/far").code == 0
    return mnt


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGCHLD, signal.SIGINT], [signal.SIGTERM], [signal.SIGKILL]]
)
def test_a_reader_that_waits_for_a_hanging_store_can_be_stopped(
    far: Path, proxy: SlowProxy, child: Child, signals: list[signal.Signals]
) -> None:
    child("os.listdir(argv[1])", far)
    os.kill(proxy.pid, signal.SIGSTOP)
    with Reader(SLOW, far / "two") as reader:
        assert reader.line() == "begun"
        _wait_for_a_page(reader)
        for number in signals:
            reader.process.send_signal(number)
        assert reader.process.wait(timeout=20) != 0, "it ends before the deadline of the read"
    os.kill(proxy.pid, signal.SIGCONT)
    assert child(READ, far / "two").stdout == b"two" * 33_000


def test_a_program_that_handles_its_signals_goes_on_with_what_it_has_mapped(
    far: Path, proxy: SlowProxy, child: Child
) -> None:
    child("os.listdir(argv[1])", far)
    os.kill(proxy.pid, signal.SIGSTOP)
    code = """
import mmap, signal
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
os.set_blocking(1, False)
signal.set_wakeup_fd(1)  # each signal is written there when it comes, and not when Python is ready for it
with open(argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
    print("begun", flush=True)
    print(mapped[50_001:50_004].decode(), flush=True)
"""
    with Reader(code, far / "two") as reader:
        assert reader.line() == "begun"
        _wait_for_a_page(reader)
        reader.process.send_signal(signal.SIGTERM)
        assert reader.process.stdout is not None
        assert reader.process.stdout.read(1) == bytes([signal.SIGTERM]), "its handler is called while it waits"
        os.kill(proxy.pid, signal.SIGCONT)
        assert [reader.line(), reader.line()] == ["told", "two"]


def _wait_for_a_page(reader: Reader) -> None:
    wait_until(lambda: _state(reader.process.pid) == "D", "it waits for a page")


def _state(pid: int) -> str:
    return _state_in(Path(f"/proc/{pid}/stat"))


def _state_in(stat: Path) -> str:
    return stat.read_text().rpartition(")")[2].split()[0]


def _has_thread_in_kernel(pid: int) -> bool:
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if _state_in(stat) == "D":
                return True
    return False


LOOK = "print('begun', flush=True); os.stat(argv[1])"


def _wait_in_kernel(caller: Reader) -> None:
    """Return when the kernel holds the folder's lock for a caller that has begun."""
    assert caller.line() == "begun"
    wait_until(lambda: _state(caller.process.pid) == "S", "it waits for an answer")


def _daemon(forebay_home: Path) -> int:
    pid = daemon_pid(forebay_home)
    assert pid is not None
    return pid


@pytest.fixture
def new(far: Path, forebay: RunForebay, tmp_path: Path, child: Child) -> Path:
    """A file to be written over `two`, of which the kernel is to be told: it knows the name.  It has not seen `one`."""
    assert forebay("fs", "mount", "--update", "/far", "--write-mode", "back").code == 0
    child("os.stat(argv[1])", far / "two")
    assert forebay("fs", "stat", "/far/one").code == 0
    (tmp_path / "new").write_bytes(b"new")
    return tmp_path / "new"


def test_a_change_in_a_folder_holds_up_nobody_there_while_a_lookup_waits_for_the_store(
    far: Path, proxy: SlowProxy, forebay: RunForebay, forebay_home: Path, new: Path, child: Child
) -> None:
    os.kill(proxy.pid, signal.SIGSTOP)
    with Reader(LOOK, far / "absent") as waiting:
        _wait_in_kernel(waiting)
        assert forebay("fs", "cp", f"file:{new}", "/far/two").code == 0
        child("os.stat(argv[1])", far / "one")
        os.kill(_daemon(forebay_home), signal.SIGKILL)
        wait_until(lambda: daemon_pid(forebay_home) is None, "the daemon ends by itself")
    os.kill(proxy.pid, signal.SIGCONT)


def test_a_daemon_that_is_killed_while_it_and_the_kernel_wait_for_each_other_makes_way_for_the_next(
    far: Path, proxy: SlowProxy, forebay: RunForebay, forebay_home: Path, new: Path, child: Child
) -> None:
    os.kill(proxy.pid, signal.SIGSTOP)
    with Reader(LOOK, far / "absent") as first:
        _wait_in_kernel(first)
        assert forebay("fs", "cp", f"file:{new}", "/far/two").code == 0
        with Reader(LOOK, far / "absent too") as second:
            _wait_in_kernel(second)
            first.process.kill()  # the kernel is told now, and waits for the second
            pid = _daemon(forebay_home)
            wait_until(lambda: _has_thread_in_kernel(pid), "the daemon waits for the kernel")
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: _state(pid) == "Z" and _has_thread_in_kernel(pid), "it is dead, but for that thread")
            os.kill(proxy.pid, signal.SIGCONT)
            assert forebay("fs", "flush", "/far").code == 0
    assert child(READ, far / "two").stdout == b"new"


def test_what_is_cached_reads_while_the_store_is_away(
    far: Path, proxy: SlowProxy, forebay: RunForebay, child: Child
) -> None:
    assert forebay("fs", "load", "/far").code == 0
    proxy.stop()
    for name in ("one", "two"):
        assert child(READ, far / name).stdout == name.encode() * 33_000
    failed = forebay("fs", "mount", "/again", "s3://far/", "--option", f"s3.endpoint={proxy.endpoint}")
    assert failed.code == 1


FILL = """
with open(argv[1] + '/kept', 'wb') as file: file.write(b'kept')
fd = os.open(argv[1] + '/large', os.O_WRONLY | os.O_CREAT)
written = 0
try:
    while written < 64 << 20: written += os.write(fd, b'x' * (1 << 20))
except OSError as error: print(errno.errorcode[error.errno])
try: os.close(fd)
except OSError as error: assert error.errno == errno.ENOSPC  # its record may find no room, too
print(written, os.stat(argv[1] + '/large').st_size)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root")
@pytest.mark.parametrize("mode", ["through", "back", "lazy"])
def test_a_full_local_disk_is_told_by_the_write_and_what_was_written_before_is_in_the_store(
    s3: SeaweedS3,
    forebay: RunForebay,
    mnt: Path,
    child: Child,
    small_disk: Path,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = f"full-{mode}"
    s3.make_bucket(bucket)
    monkeypatch.setenv("FOREBAY_WRITES_DIR", str(small_disk / "writes"))
    assert forebay("fs", "mount", "/f", f"s3://{bucket}/", "--write-mode", mode, *s3_options(s3)).code == 0
    assert forebay("fuse", "mount", str(mnt), "/f").code == 0
    told, sizes = child(FILL, mnt).stdout.decode().splitlines()
    written, size = map(int, sizes.split())
    assert (told, size) == ("ENOSPC", written)
    assert forebay("fs", "flush", "/f").code == 0
    assert s3.request("GET", f"/{bucket}/kept") == (200, b"kept")
    assert s3.request("GET", f"/{bucket}/large") == (200, b"x" * written)
    child("os.unlink(argv[1])", mnt / "large")
    child("with open(argv[1], 'wb') as file: file.write(b'x' * (8 << 20))", mnt / "again")
    assert forebay("fs", "flush", "/f").code == 0
