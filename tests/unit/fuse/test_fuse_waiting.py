"""Who waits for an answer: let go when told to stop, and when the store does not answer."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from forebay.errors import TimedOut
from forebay.frontends.fuse import abi, waiters
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.waiters import is_told_to_stop
from forebay.vfs.listing import Listing
from forebay.vfs.openfile import OpenFile
from fuse.conftest import Kernel

NOBODY = 2**22 + 1  # no pid is larger than 2**22


@pytest.fixture
def stopped() -> Iterator[int]:
    """A process that takes no signal but SIGKILL and SIGCONT: others wait for it."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        yield process.pid
        process.kill()


def test_who_is_gone_or_has_a_signal_to_stop_waiting_is_told_to_stop(stopped: int) -> None:
    assert is_told_to_stop(NOBODY)
    os.kill(stopped, signal.SIGCHLD)
    os.kill(stopped, signal.SIGWINCH)
    assert not is_told_to_stop(stopped)
    os.kill(stopped, signal.SIGTERM)
    assert is_told_to_stop(stopped)


def test_a_signal_that_is_blocked_stops_nobody() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        assert not is_told_to_stop(threading.get_native_id())
        signal.sigwait([signal.SIGTERM])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def test_a_caller_that_was_told_to_stop_is_let_go(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    forever = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(kernel.fs, "open_folder", lambda path, reads: asyncio.wait([forever]))
    kernel.send(Opcode.OPENDIR, 1, bytes(8), unique=6)
    await asyncio.sleep(0)
    kernel.send(Opcode.INTERRUPT, 0, abi.INTERRUPT_IN.pack(999))  # of a request answered long ago
    kernel.send(Opcode.INTERRUPT, 0, abi.INTERRUPT_IN.pack(6))
    await asyncio.sleep(0.01)
    assert kernel.device.answers == [(6, errno.EINTR, b"")]


async def test_a_signal_that_means_nothing_does_not_fail_a_read(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready: asyncio.Future[Listing] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(kernel.fs, "open_folder", lambda path, reads: asyncio.shield(ready))
    kernel.send(Opcode.OPENDIR, 1, bytes(8), unique=6, pid=os.getpid())  # no stop signal waits for this process
    await asyncio.sleep(0)
    kernel.send(Opcode.INTERRUPT, 0, abi.INTERRUPT_IN.pack(6), pid=os.getpid())
    await asyncio.sleep(0.01)
    assert kernel.device.answers == []
    ready.set_result(Listing("/", None))
    await asyncio.sleep(0.01)
    assert [error for _, error, _ in kernel.device.answers] == [0]


async def test_who_is_told_to_stop_is_let_go_though_the_kernel_says_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    monkeypatch.setattr(waiters, "LOOK_S", 0.001)
    ready: asyncio.Future[Listing] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(kernel.fs, "open_folder", lambda path, reads: asyncio.shield(ready))
    os.kill(stopped, signal.SIGINT)
    for unique, pid in {5: 0, 6: os.getpid(), 7: stopped, 8: NOBODY}.items():
        kernel.send(Opcode.OPENDIR, 1, bytes(8), unique=unique, pid=pid)
    async with asyncio.timeout(10):
        while len(kernel.device.answers) < 2:
            await asyncio.sleep(0.001)
    assert sorted(kernel.device.answers) == [(7, errno.EINTR, b""), (8, errno.EINTR, b"")]
    ready.set_result(Listing("/", None))
    async with asyncio.timeout(10):
        while len(kernel.device.answers) < 4:
            await asyncio.sleep(0)
    assert {(unique, error) for unique, error, _ in kernel.device.answers[2:]} == {(5, 0), (6, 0)}


@pytest.mark.parametrize(("failed_s", "asked"), [(60, 1), (0.5, 2)])
async def test_who_waited_long_for_a_read_that_failed_is_not_made_to_wait_for_each_page_of_it(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, failed_s: float, asked: int
) -> None:
    handle, *_ = await kernel.open(await kernel.lookup(b"big"))
    calls = 0

    async def hang(*_: object, **__: object) -> NoReturn:
        nonlocal calls
        calls += 1
        kernel.clock.advance(failed_s)
        raise TimedOut("no answer")

    monkeypatch.setattr(OpenFile, "read", hang)
    for size in (1 << 20, 4096):  # a read-ahead, and the page of it that a thread waits for
        assert await kernel.read(handle, 0, size, pid=7) == (errno.ETIMEDOUT, b"")
    assert calls == asked
    calls = 0
    assert await kernel.read(handle, 0, 4096, pid=8) == (errno.ETIMEDOUT, b"")
    assert await kernel.read(handle, 0, 4096) == (errno.ETIMEDOUT, b"")
    kernel.clock.advance(1)
    assert await kernel.read(handle, 0, 4096, pid=7) == (errno.ETIMEDOUT, b"")
    assert calls == 3, "others and later reads ask anew"
