"""One cache folder: which writes are done on the loop."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.cache.disk import AT_ONCE_BYTES, QUICK_S, SLOW_PAUSE_S, CacheDisk
from forebay.clock import FakeClock
from forebay.config.settings import CacheDir
from forebay.types import Buffer
from forebay.units import GIB


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def disk(tmp_path: Path, clock: FakeClock) -> Iterator[CacheDisk]:
    disk = CacheDisk(CacheDir(tmp_path, GIB), reserve=0.0, clock=clock)
    yield disk
    disk.close(clean=True)


def _drop(data: Buffer) -> None:
    pass


def test_a_write_that_waited_for_the_disk_sends_the_next_ones_to_the_pool_for_a_while(
    disk: CacheDisk, clock: FakeClock
) -> None:
    def wait(data: Buffer) -> None:
        time.sleep(1e-3)  # off the processor, as a write to a busy disk is
        clock.advance(2 * QUICK_S)

    assert disk.write_at_once(wait, b"one")
    assert not disk.write_at_once(_drop, b"two")
    clock.advance(SLOW_PAUSE_S)
    assert disk.write_at_once(_drop, b"three")


def test_a_write_that_waited_for_a_processor_alone_does_not(disk: CacheDisk, clock: FakeClock) -> None:
    def be_pushed_aside(data: Buffer) -> None:
        clock.advance(2 * QUICK_S)

    assert disk.write_at_once(be_pushed_aside, b"one")
    assert disk.write_at_once(_drop, b"two")


def test_a_large_piece_is_left_to_the_pool(disk: CacheDisk) -> None:
    assert not disk.write_at_once(_drop, bytes(AT_ONCE_BYTES + 1))
