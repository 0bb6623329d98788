"""What the kernel offers, what we take, and what is said where it offers too little."""

import os
import threading

import pytest

from forebay.clock import FakeClock, SystemClock
from forebay.errors import Unsupported
from forebay.frontends.fuse import abi, busywait, wire
from forebay.frontends.fuse.busywait import BusyWait
from forebay.frontends.fuse.handshake import MAX_READ_BYTES, WANTED, agree
from forebay.frontends.fuse.mountinfo import parse_mountinfo
from forebay.frontends.fuse.wire import InitIn

EVERYTHING = 2**64 - 1


def test_a_new_kernel_gives_passthrough_and_large_reads() -> None:
    agreement = agree(InitIn(7, 99, 131072, EVERYTHING))
    assert agreement.passthrough
    assert agreement.expire_only
    assert agreement.flags == WANTED
    assert (agreement.protocol, agreement.max_read_bytes) == ("7.45", MAX_READ_BYTES)


def test_nothing_is_taken_that_was_not_offered() -> None:
    agreement = agree(InitIn(7, 31, 131072, int(abi.Init.ASYNC_READ | abi.Init.MAX_PAGES)))
    assert agreement.flags == abi.Init.ASYNC_READ | abi.Init.MAX_PAGES
    assert not agreement.passthrough
    assert agreement.protocol == "7.31"


def test_without_large_requests_reads_are_as_the_kernel_cuts_them() -> None:
    assert agree(InitIn(7, 27, 131072, 0)).max_read_bytes == 128 * 1024


@pytest.mark.parametrize("version", [(7, 26), (6, 99)])
def test_a_kernel_that_is_too_old_is_named(version: tuple[int, int]) -> None:
    with pytest.raises(Unsupported, match=r"the kernel speaks FUSE .*needs 7\.27"):
        agree(InitIn(*version, 0, 0))


def test_flags_above_32_are_read_only_where_the_kernel_says_that_they_are_there() -> None:
    body = abi.INIT_IN_EXT.pack(7, 45, 4096, abi.Init.INIT_EXT, 1 << 5)
    assert wire.parse_init(memoryview(body)).flags == abi.Init.INIT_EXT | abi.Init.PASSTHROUGH
    old = abi.INIT_IN_EXT.pack(7, 45, 4096, 0, 1 << 5)
    assert wire.parse_init(memoryview(old)).flags == 0
    assert wire.parse_init(memoryview(body[:16])).flags == abi.Init.INIT_EXT


def test_the_answer_has_every_field_where_the_kernel_reads_it() -> None:
    flags = int(abi.Init.INIT_EXT | abi.Init.PASSTHROUGH)
    packed = wire.pack_init(InitIn(7, 40, 65536, 0), flags=flags, max_pages=256, max_background=128, stack_depth=2)
    assert abi.INIT_OUT.unpack(packed) == (
        7, 40, 256 * 4096, abi.Init.INIT_EXT, 128, 96, 4096, 1, 256, 0, 1 << 5, 2, 0,
    )  # fmt: skip


def test_mounts_of_others_are_not_ours() -> None:
    text = (
        "22 1 0:20 / /proc rw - proc proc rw\n"
        "36 22 0:44 / /mnt/a\\040b\\012c rw,nosuid shared:1 - fuse.forebay forebay:/x ro\n"
        "37 22 0:45 / /mnt/other rw - fuse.sshfs forebay rw\n"
    )
    assert [tuple(mount) for mount in parse_mountinfo(text)] == [("/mnt/a b\nc", "0:44")]


class TestBusyWait:
    def test_it_sees_a_request_that_comes_in_a_moment(self) -> None:
        reader, writer = os.pipe()
        try:
            wait = BusyWait(reader, FakeClock())  # time stands still: it looks until there is something
            thread = threading.Timer(0.02, os.write, (writer, b"x"))
            thread.start()
            assert wait.wait()
            thread.join()
        finally:
            os.close(reader)
            os.close(writer)

    def test_after_looking_in_vain_it_looks_less_and_less_often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, writer = os.pipe()
        monkeypatch.setattr(busywait, "BUSY_S", 1e9)
        try:
            looks = 0

            class Counting(SystemClock):
                def monotonic(self) -> float:
                    nonlocal looks
                    looks += 1
                    return looks * 1.0  # each look takes a second: too long

            wait = BusyWait(reader, Counting())
            assert not any(wait.wait() for _ in range(1000))
            assert looks < 100
        finally:
            os.close(reader)
            os.close(writer)
