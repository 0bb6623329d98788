"""The bytes of a file that is being written: all in a local file, or laid over a version in the store.

`WholeContent` is a local file: the kernel may write it by itself (passthrough), so nobody tells us of writes, and
whether it has changed is asked of the file.  `PatchedContent` holds only what was written of a large object that is
not cached: every write comes through here, and the rest is read from the version it began with.

*Callers*: drafts, on the loop; methods that may block say so and run in the pool.  *Invariant*: bytes that were
written are never read from the store again.
"""

import contextlib
import copy
import ctypes
import errno
import os
import platform
import threading
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, Protocol

import xxhash

from forebay.cache.pages import PAGE_BYTES, page_count
from forebay.errors import FsError
from forebay.types import Buffer, ByteRange

_libc = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE = 1 | 2  # fcntl.h: WAIT_BEFORE, as pages that are on their way already would be left out, and WRITE
SMALL_BYTES = PAGE_BYTES  # whether such a file has changed is seen by its checksum: 0.1 ms
_FINE_TIMES = (6, 13)  # Linux whose file times tell any two writes apart that somebody looked between ("multigrain")


class Stamp(NamedTuple):
    """What a look at a file tells of whether it has been written since."""

    size: int
    mtime_ns: int
    writes: int


class Snapshot(NamedTuple):
    """Content as it was at one moment."""

    stamp: Stamp
    sums: "array[int]"  # of its pages, xxh3; of a patched file only those that were written count


class Content(Protocol):
    """See the module."""

    may_be_mapped: bool
    """May somebody have mapped the local file for writing?  What is stored through `mmap` is told by nothing."""

    @property
    def fd(self) -> int:
        """The local file."""
        ...

    @property
    def is_whole(self) -> bool:
        """Are all bytes in the local file?"""
        ...

    def size(self) -> int:
        """Bytes."""
        ...

    def stamp(self) -> Stamp:
        """The file as of now."""
        ...

    def look(self) -> tuple[int, int]:
        """Size, and when the local file was last written, nanoseconds since 1970."""
        ...

    def pages(self) -> int:
        """Which of its pages are whole in the local file, as a mask."""
        ...

    def read_now(self, offset: int, into: memoryview) -> int:
        """Bytes that memory holds, short only at the end; -1: use `read`."""
        ...

    async def read(self, offset: int, length: int) -> Buffer:
        """Bytes, short only at the end."""
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of `data`.  Blocks.

        Raises:
            OSError: ENOSPC and its like.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut, or fill with zeros."""
        ...

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """See fallocate(2).  Blocks."""
        ...

    def is_unchanged(self, span: ByteRange) -> bool:
        """Is every byte of `span` what the version it began with has there, as far as that is known without a look?"""
        ...

    def begin_sending(self) -> None:
        """It is about to be read and sent: what is written from now on may not be in what the store has then."""
        ...

    def close(self) -> None:
        """Close the local file."""
        ...


class WholeContent:
    """See the module."""

    is_whole = True

    def __init__(self, fd: int, *, may_be_mapped: bool = False) -> None:
        self.fd = fd
        self.may_be_mapped = may_be_mapped
        self._writes = 0

    def size(self) -> int:
        """See `Content`."""
        return os.fstat(self.fd).st_size

    def stamp(self) -> Stamp:
        """See `Content`."""
        stat = os.fstat(self.fd)
        return Stamp(stat.st_size, stat.st_mtime_ns, self._writes)

    def look(self) -> tuple[int, int]:
        """See `Content`."""
        stat = os.fstat(self.fd)
        return stat.st_size, stat.st_mtime_ns

    def pages(self) -> int:
        """See `Content`."""
        return (1 << page_count(self.size())) - 1

    def read_now(self, offset: int, into: memoryview) -> int:
        """See `Content`."""
        try:
            count = os.preadv(self.fd, [into], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return -1
            raise
        return count if count == len(into) or offset + count >= self.size() else -1

    async def read(self, offset: int, length: int) -> Buffer:
        """See `Content`."""
        return os.pread(self.fd, length, offset)

    def write(self, offset: int, data: Buffer) -> None:
        """See `Content`."""
        write_all(self.fd, offset, data)
        self._writes += 1

    def truncate(self, size: int) -> None:
        """See `Content`."""
        os.ftruncate(self.fd, size)
        self._writes += 1

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """See `Content`."""
        _fallocate(self.fd, mode, offset, length)
        self._writes += 1

    def is_unchanged(self, span: ByteRange) -> bool:
        """See `Content`."""
        return False

    def begin_sending(self) -> None:
        """See `Content`; whether it has changed is asked of the file."""

    def close(self) -> None:
        """See `Content`."""
        os.close(self.fd)


ReadBase = Callable[[int, int], Awaitable[Buffer]]


class PatchedContent:
    """See the module.  *Locks*: `_lock`, held for microseconds, since large writes come from threads."""

    is_whole = False

    def __init__(self, fd: int, base_size: int, read_base: ReadBase, close_base: Callable[[], None]) -> None:
        self.fd = fd
        self.may_be_mapped = False
        self._read_base = read_base
        self._close_base = close_base
        self._base_stop = base_size  # what lies past it is zeros, or was written
        self._local = Spans()  # what is in the local file
        self._changed = Spans()  # what the base does not have
        self._late = Spans()  # what was written since it was begun to be sent
        self._late_stop = 0  # the least size since then
        self._writes = 0
        self._lock = threading.Lock()
        os.ftruncate(fd, base_size)

    def begin_sending(self) -> None:
        """See `Content`."""
        with self._lock:
            self._late, self._late_stop = Spans(), self.size()

    def rebase(self, size: int, read_base: ReadBase, close_base: Callable[[], None]) -> None:
        """What was sent has become a version of `size` bytes: what is not here is read from that from now on."""
        self.follow(read_base, close_base)
        with self._lock:
            self._base_stop = min(size, self._late_stop)
            self._changed, self._late = self._late, Spans()

    def follow(self, read_base: ReadBase, close_base: Callable[[], None]) -> None:
        """The version that is not here has another place: it is read there from now on."""
        self._close_base()
        self._read_base, self._close_base = read_base, close_base

    def without_base(self, cached: int) -> tuple["PatchedContent", "Spans"]:
        """The same, to be sent once more and not to be closed, if the version it began with has gone.

        Of that, the pages in the mask `cached` are read, as far as they are there; what else is needed of it is zeros,
        and is added to the spans when it is read.
        """
        remains, lost, read = copy.copy(self), Spans(), self._read_base

        async def read_base(offset: int, length: int) -> Buffer:
            page = offset // PAGE_BYTES
            stop = min(offset + length, (page + 1) * PAGE_BYTES)
            if cached >> page & 1:
                with contextlib.suppress(FsError):  # evicted just now
                    return await read(offset, stop - offset)
            lost.add(ByteRange(offset, stop))
            return bytes(stop - offset)

        remains._read_base = read_base  # noqa: SLF001 - of its own class
        return remains, lost

    def written(self) -> "list[ByteRange]":
        """What its version does not have, in order."""
        with self._lock:
            return list(self._changed)

    def size(self) -> int:
        """See `Content`."""
        return os.fstat(self.fd).st_size

    def stamp(self) -> Stamp:
        """See `Content`."""
        return Stamp(self.size(), 0, self._writes)

    def look(self) -> tuple[int, int]:
        """See `Content`."""
        stat = os.fstat(self.fd)
        return stat.st_size, stat.st_mtime_ns

    def pages(self) -> int:
        """See `Content`."""
        size, mask = self.size(), 0
        for page in range(page_count(size)):
            span = ByteRange(page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, size))
            mask |= (not self._missing(span)) << page
        return mask

    def read_now(self, offset: int, into: memoryview) -> int:
        """See `Content`."""
        span = ByteRange(offset, min(offset + len(into), self.size()))
        if span.size <= 0:
            return 0
        if self._missing(span):
            return -1
        return os.preadv(self.fd, [into[: span.size]], offset)

    def _missing(self, span: ByteRange) -> list[ByteRange]:
        """What only the base has."""
        with self._lock:
            gaps, stop = self._local.gaps(span), self._base_stop
        return [ByteRange(gap.start, min(gap.stop, stop)) for gap in gaps if gap.start < stop]

    async def read(self, offset: int, length: int) -> Buffer:
        """See `Content`."""
        stop = min(offset + length, self.size())
        if stop <= offset:
            return b""
        missing = self._missing(ByteRange(offset, stop))  # first: what is written now must not be a hole
        found = bytearray(os.pread(self.fd, stop - offset, offset))
        for start, gap_stop in missing:
            while start < gap_stop:
                piece = memoryview(await self._read_base(start, gap_stop - start))
                if not piece:
                    raise FsError(f"the version that a file began with ends at {start}, before {gap_stop}")
                found[start - offset : start - offset + len(piece)] = piece
                start += len(piece)
        return found

    def write(self, offset: int, data: Buffer) -> None:
        """See `Content`."""
        write_all(self.fd, offset, data)
        span = ByteRange(offset, offset + len(data))
        with self._lock:
            for spans in (self._local, self._changed, self._late):
                spans.add(span)
            self._writes += 1

    def truncate(self, size: int) -> None:
        """See `Content`."""
        with self._lock:
            os.ftruncate(self.fd, size)
            self._base_stop, self._late_stop = min(self._base_stop, size), min(self._late_stop, size)
            for spans in (self._local, self._changed, self._late):
                spans.cut(size)
            self._writes += 1

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """See `Content`; only what lies past the end, since holes would show the old bytes."""
        if mode or offset < self._base_stop:
            if mode or offset + length > self.size():
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return
        _fallocate(self.fd, mode, offset, length)
        with self._lock:
            self._writes += 1

    def is_unchanged(self, span: ByteRange) -> bool:
        """See `Content`."""
        with self._lock:
            return span.stop <= self._base_stop and self._changed.gaps(span) == [span]

    def close(self) -> None:
        """See `Content`."""
        os.close(self.fd)
        self._close_base()


class Spans:
    """Ranges of bytes, kept apart and in order.  Pure."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def __iter__(self) -> Iterator[ByteRange]:
        return map(ByteRange, self._starts, self._stops)

    def add(self, span: ByteRange) -> None:
        """Put in a range, joined with those that it touches."""
        if span.size <= 0:
            return
        first = bisect_left(self._stops, span.start)
        last = first
        start, stop = span
        while last < len(self._starts) and self._starts[last] <= stop:
            start, stop = min(start, self._starts[last]), max(stop, self._stops[last])
            last += 1
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def cut(self, size: int) -> None:
        """Take away everything from `size` on."""
        while self._starts and self._starts[-1] >= size:
            self._starts.pop()
            self._stops.pop()
        if self._stops:
            self._stops[-1] = min(self._stops[-1], size)

    def gaps(self, span: ByteRange) -> "list[ByteRange]":
        """What of `span` is not in them, in order.

        >>> spans = Spans(); spans.add(ByteRange(2, 4)); spans.gaps(ByteRange(0, 6))
        [ByteRange(start=0, stop=2), ByteRange(start=4, stop=6)]
        """
        found, position = [], span.start
        for index in range(bisect_left(self._stops, span.start + 1), len(self._starts)):
            if self._starts[index] >= span.stop:
                break
            if self._starts[index] > position:
                found.append(ByteRange(position, self._starts[index]))
            position = self._stops[index]
        if position < span.stop:
            found.append(ByteRange(position, span.stop))
        return found


def sums_of(fd: int, span: ByteRange | None = None, settles: bool = False, *, pages: int | None = None) -> "array[int]":
    """The checksum of every page of a file, or of a span that begins with one.  Blocks; reads what it sums.

    Args:
        settles: as of `load`.
        pages: a mask; 0 of those that are not in it.
    """
    start, stop = span or ByteRange(0, os.fstat(fd).st_size)
    if settles:
        _begin_to_settle(fd, ByteRange(start, stop))
    found = array("Q", bytes(8 * page_count(stop - start)))
    for index, at in enumerate(range(start, stop, PAGE_BYTES)):
        if pages is None or pages >> at // PAGE_BYTES & 1:
            found[index] = xxhash.xxh3_64_intdigest(os.pread(fd, min(PAGE_BYTES, stop - at), at))
    return found


def sums_in(data: Buffer) -> "array[int]":
    """The checksum of every page of some bytes."""
    view = memoryview(data)
    return array("Q", (xxhash.xxh3_64_intdigest(view[at : at + PAGE_BYTES]) for at in range(0, len(view), PAGE_BYTES)))


def load(fd: int, start: int, room: memoryview, settles: bool) -> "tuple[int, array[int]]":
    """Fill `room` with a file's bytes from `start` on; how many there were, and their checksums.  Blocks.

    Args:
        settles: what is stored through `mmap` after that shall change the file's time.  It may take as long as the
            local disk takes to write that.
    """
    if settles:
        _begin_to_settle(fd, ByteRange(start, start + len(room)))
    count = 0
    while count < len(room) and (more := os.preadv(fd, [room[count:]], start + count)):
        count += more
    return count, sums_in(room[:count])


def _begin_to_settle(fd: int, span: ByteRange) -> None:
    """Begin to write a part of a file out, so that later stores through `mmap` change its time.  Blocks a little."""
    _libc.sync_file_range(fd, ctypes.c_int64(span.start), ctypes.c_int64(span.size), _SYNC_FILE_RANGE)


def differs(content: Content, then: Snapshot) -> bool:
    """Has content changed since a snapshot?  Blocks for small files 0.1 ms, on kernels before 6.13 for all of it."""
    now = content.stamp()
    if now != then.stamp:
        return True
    if not content.is_whole or (now.size > SMALL_BYTES and has_fine_times()):
        return False
    return bool(sums_of(content.fd) != then.sums)


def has_fine_times(release: str = platform.release()) -> bool:
    """Do file times tell any two writes apart?

    >>> has_fine_times("6.18.1-x"), has_fine_times("5.10.0"), has_fine_times("odd")
    (True, False, False)
    """
    numbers = release.split(".")[:2]
    return all(part.isdigit() for part in numbers) and tuple(map(int, numbers)) >= _FINE_TIMES


def write_all(fd: int, offset: int, data: Buffer) -> None:
    """As pwrite(2), and all of it.  Blocks."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        offset += count
        view = view[count:]


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
