"""How the server waits for requests: what it reads in vain, and when it looks for the next one without sleeping."""

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from forebay.clock import FakeClock
from forebay.frontends.fuse import abi, busywait
from forebay.frontends.fuse.busywait import BusyWait
from forebay.frontends.fuse.device import Device
from forebay.frontends.fuse.server import Server

STATFS = abi.IN_HEADER.pack(abi.IN_HEADER.size, abi.Opcode.STATFS, 1, 1, 0, 0, 0, 0, 0)


class SteppingClock(FakeClock):
    """Time passes each time it is asked for."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.step_s = step_s
        self.readings = 0

    def monotonic(self) -> float:
        self.readings += 1
        self.advance(self.step_s)
        return self.now_s


class CountedDevice(Device):
    """Counts reads that found nothing."""

    in_vain = 0

    def read(self) -> memoryview | None:
        data = super().read()
        self.in_vain += data is None
        return data


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def looks(waiting: BusyWait, clock: SteppingClock, waits: int) -> list[bool]:
    """Of so many waits for nothing: which did look."""
    found = []
    for _ in range(waits):
        before = clock.readings
        assert not waiting.wait()
        found.append(clock.readings > before)
    return found


def test_a_request_that_is_there_is_seen_and_the_next_one_looked_for(pipe: tuple[int, int]) -> None:
    clock = SteppingClock(1e-6)
    waiting = BusyWait(pipe[0], clock)
    for _ in range(3):
        os.write(pipe[1], b"x")
        assert waiting.wait()
        os.read(pipe[0], 1)
    assert looks(waiting, clock, 1) == [True]


def test_after_looks_in_vain_ever_more_waits_go_without_one(pipe: tuple[int, int]) -> None:
    clock = SteppingClock(busywait.BUSY_S / 2)
    waiting = BusyWait(pipe[0], clock)
    assert looks(waiting, clock, 12) == [True, False, True, False, False, False, True, *[False] * 5]
    for _ in range(20):
        looks(waiting, clock, busywait.SKIP_MAX + 1)
    assert any(looks(waiting, clock, busywait.SKIP_MAX + 1)), "it never gives up for good"


def test_a_look_while_others_need_the_processor_is_not_repeated_soon(pipe: tuple[int, int]) -> None:
    clock = SteppingClock(2 * busywait.BUSY_S)
    waiting = BusyWait(pipe[0], clock)
    assert looks(waiting, clock, busywait.SKIP_BUSY + 2) == [True, *[False] * busywait.SKIP_BUSY, True]


def test_where_others_need_the_processor_again_and_again_looks_become_rare(pipe: tuple[int, int]) -> None:
    clock = SteppingClock(2 * busywait.BUSY_S)
    waiting = BusyWait(pipe[0], clock)
    looks(waiting, clock, 4 * busywait.SKIP_BUSY_MAX)
    assert sum(looks(waiting, clock, 4 * busywait.SKIP_BUSY_MAX)) <= 4
    os.write(pipe[1], b"x")
    before = clock.readings
    while not waiting.wait():  # one request in time, at the next look
        pass
    assert clock.readings == before + 1
    os.read(pipe[0], 1)
    assert sum(looks(waiting, clock, busywait.SKIP_BUSY_MAX)) <= 3


def test_nobody_looks_while_tasks_have_work_to_do(pipe: tuple[int, int]) -> None:
    clock = SteppingClock(1e-6)
    os.write(pipe[1], b"x")
    assert not BusyWait(pipe[0], clock).wait(patient=False)
    assert clock.readings == 0


def test_a_moment_in_which_nobody_asks_is_used_once_a_look(pipe: tuple[int, int]) -> None:
    clock, used = SteppingClock(1e-6), 0

    def use() -> None:
        nonlocal used
        used += 1
        os.write(pipe[1], b"x")  # a request comes meanwhile
        clock.advance(2 * busywait.BUSY_S)  # and it took a while, which says nothing of the processor

    waiting = BusyWait(pipe[0], clock, use)
    assert waiting.wait()
    assert used == 1
    assert waiting.wait(), "the request is still there, and nobody has a moment"
    assert used == 1
    os.read(pipe[0], 1)
    assert waiting.wait()
    assert used == 2


async def test_one_request_at_a_time_costs_one_read_each() -> None:
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # messages stay whole, as on the device
    kernel.setblocking(False)
    device = CountedDevice(ours.fileno())
    server = Server(device, {abi.Opcode.STATFS: lambda _: b"answer"}, {}, SteppingClock(busywait.BUSY_S), lambda: None)
    server.start()
    try:
        for _ in range(5):
            await asyncio.get_running_loop().sock_sendall(kernel, STATFS)
            answer = await asyncio.get_running_loop().sock_recv(kernel, 100)
            assert answer.endswith(b"answer")
        assert device.in_vain == 0, "a read that finds nothing costs as much as one that finds something"
    finally:
        await server.stop()
        ours.close()
        kernel.close()
