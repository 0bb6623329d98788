"""Page arithmetic and residency: which pages of a cached file are here.  Pure.

A page is 1 MiB: large enough that a part of 8 MiB is few marks, small enough that a random read of an
archive does not fetch much more than it asked for.
"""

from collections.abc import Iterator
from typing import NamedTuple

from forebay.units import MIB

PAGE_BYTES = MIB


class Run(NamedTuple):
    """Pages `[first, stop)` of one file."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


def page_count(size: int) -> int:
    """Pages of a file of `size` bytes; none for an empty file."""
    return -(-size // PAGE_BYTES)


def pages_of(offset: int, length: int, size: int) -> Run:
    """The pages that hold bytes `[offset, offset + length)` of a file of `size` bytes, cut at its end.

    >>> pages_of(0, 10, 5), pages_of(MIB - 1, 2, 9 * MIB), pages_of(50, 10, 20)
    (Run(first=0, stop=1), Run(first=0, stop=2), Run(first=0, stop=0))
    """
    stop = min(offset + length, size)
    if stop <= offset:
        return Run(0, 0)
    return Run(offset // PAGE_BYTES, -(-stop // PAGE_BYTES))


def bytes_of(run: Run, size: int) -> int:
    """Bytes in the pages of `run`, of a file of `size` bytes."""
    return max(0, min(run.stop * PAGE_BYTES, size) - run.first * PAGE_BYTES)


def bits_of(run: Run) -> int:
    """The pages of `run` as a mask: bit `i` is page `i`."""
    return (1 << run.stop) - (1 << run.first) if run.stop > run.first else 0


def split(run: Run, pages_max: int) -> Iterator[Run]:
    """Cut a run into runs of at most `pages_max` pages, in order."""
    for first in range(run.first, run.stop, pages_max):
        yield Run(first, min(first + pages_max, run.stop))


class Residency:
    """The set of pages of one file that are present.

    Invariant: only pages `0 <= page < page_count(size)` are ever marked, so `resident_bytes` is exact.
    """

    __slots__ = ("_full", "_mask", "size")

    def __init__(self, size: int, mask: int = 0) -> None:
        self.size = size
        self._full = (1 << page_count(size)) - 1
        self._mask = mask & self._full

    def __repr__(self) -> str:
        return f"<Residency {self._mask.bit_count()} of {page_count(self.size)} pages>"

    @property
    def mask(self) -> int:
        """Bit `i` is set if page `i` is present."""
        return self._mask

    @property
    def complete(self) -> bool:
        """Are all pages present?  True for an empty file."""
        return self._mask == self._full

    @property
    def resident_bytes(self) -> int:
        """Bytes of the pages present."""
        count = self._mask.bit_count()
        tail = self.size % PAGE_BYTES
        if tail and self._mask >> (page_count(self.size) - 1):
            return (count - 1) * PAGE_BYTES + tail
        return count * PAGE_BYTES

    def add(self, run: Run) -> None:
        """Mark the pages of `run` present."""
        self._mask |= bits_of(run) & self._full

    def discard(self, run: Run) -> None:
        """Mark the pages of `run` absent."""
        self._mask &= ~bits_of(run)

    def has(self, run: Run) -> bool:
        """Are all pages of `run` present?"""
        bits = bits_of(run)
        return self._mask & bits == bits

    def missing(self, run: Run) -> list[Run]:
        """The pages of `run` that are absent, as maximal runs in order.

        >>> Residency(9 * MIB, 0b000010110).missing(Run(0, 6))
        [Run(first=0, stop=1), Run(first=3, stop=4), Run(first=5, stop=6)]
        """
        absent = bits_of(run) & ~self._mask
        return list(runs_of(absent))

    def present(self) -> list[Run]:
        """The pages present, as maximal runs in order."""
        return list(runs_of(self._mask))


def runs_of(bits: int) -> Iterator[Run]:
    """The maximal runs of pages in a mask, in order."""
    position = 0
    while bits:
        gap = (bits & -bits).bit_length() - 1
        bits >>= gap
        length = (~bits & (bits + 1)).bit_length() - 1
        yield Run(position + gap, position + gap + length)
        bits >>= length
        position += gap + length
