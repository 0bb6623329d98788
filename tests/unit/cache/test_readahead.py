"""Windows grow while a reader goes forward, and random reads fetch nothing ahead."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.readahead import STREAMS_MAX, WINDOW_FIRST, Streams
from forebay.types import ByteRange
from forebay.units import GIB, MIB

MAX = 64 * MIB


def read_through(size: int, piece: int) -> list[ByteRange]:
    streams = Streams(size)
    asked = [streams.advance(offset, min(piece, size - offset), MAX) for offset in range(0, size, piece)]
    return [span for span in asked if span is not None]


def test_the_start_of_a_file_is_followed_at_once() -> None:
    assert Streams(GIB).advance(0, 128 * 1024, MAX) == ByteRange(128 * 1024, 128 * 1024 + WINDOW_FIRST)


def test_a_sequential_reader_gets_every_byte_ahead_once_in_windows_that_double() -> None:
    spans = read_through(GIB, MIB)
    assert all(before.stop == after.start for before, after in itertools.pairwise(spans))
    assert spans[-1].stop == GIB
    assert max(span.size for span in spans) <= MAX
    assert len(spans) < 60  # 1,024 reads


def test_a_window_is_never_larger_than_allowed() -> None:
    streams = Streams(GIB)
    position = 0
    for _ in range(200):
        span = streams.advance(position, MIB, 4 * MIB)
        position += MIB
        assert span is None or span.stop <= position + 4 * MIB


def test_random_reads_of_a_large_file_fetch_nothing_ahead() -> None:
    chance = random.Random(7)
    streams = Streams(1000 * GIB)
    asked = [streams.advance(chance.randrange(1, 1000 * GIB), 4096, MAX) for _ in range(500)]
    assert asked == [None] * 500


def test_several_streams_in_one_file_each_get_their_window() -> None:
    streams = Streams(100 * GIB)
    starts = [index * 10 * GIB + MIB for index in range(STREAMS_MAX)]
    ahead = {start: 0 for start in starts}
    for step in range(8):
        for start in starts:
            span = streams.advance(start + step * MIB, MIB, MAX)
            ahead[start] += span.size if span else 0
    assert all(got >= 8 * MIB for got in ahead.values())


@given(st.integers(1, 64 * MIB), st.lists(st.tuples(st.integers(0, 64 * MIB), st.integers(1, 2 * MIB))))
def test_nothing_past_the_end_is_ever_asked_for(size: int, reads: list[tuple[int, int]]) -> None:
    streams = Streams(size)
    for offset, length in reads:
        span = streams.advance(min(offset, size - 1), length, MAX)
        assert span is None or 0 <= span.start < span.stop <= size
