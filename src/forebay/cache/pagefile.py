"""The local file behind one cached version: sparse, of the object's final size, written page by page.

Residency is changed on the event loop only; bytes are written and read in the disk pool.  The file is never rewritten
for another version, so a descriptor or a hard link of a complete one can be handed to anybody.

*Callers*: cached files on the loop; flights and readers in the disk pool.  *Locks*: one, around the first open.
*Invariants*: a page marked in `residency` holds the store's bytes, and `sums` has its xxh3-64; the reverse order (mark
first, write later) never happens.  A descriptor is closed when its last user has let go of it, never under one.
"""

import contextlib
import errno
import os
import threading
from array import array
from typing import Protocol

import xxhash

from forebay.cache.pages import PAGE_BYTES, Residency, Run, bits_of, page_count
from forebay.errors import Corrupt
from forebay.types import Buffer

_opening = tuple(threading.Lock() for _ in range(64))  # by path: one for all would make the pool's threads queue


class FileLost(Corrupt):
    """A cache file that should hold pages is missing, or is not what it was: fetch them again."""


class Descriptor:
    """An open file, closed when nobody refers to it any more."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class Pages(Protocol):
    """Where a flight writes: a file on a cache disk, or memory."""

    @property
    def size(self) -> int:
        """Bytes of the object."""
        ...

    def write(self, position: int, piece: memoryview) -> int:
        """Write bytes; return how many were taken, at least one."""
        ...

    def seal(self, page: int, checksum: int) -> None:
        """A page has been written whole."""
        ...


class PageFile:
    """One version's bytes on a cache disk, as far as they are here."""

    __slots__ = ("_descriptor", "_is_abandoned", "doubted", "path", "residency", "sums")

    def __init__(self, path: str, size: int, *, mask: int = 0, sums: bytes = b"", trusted: bool = True) -> None:
        self.path = path
        self.residency = Residency(size, mask)
        self.sums = array("Q", sums or bytes(8 * page_count(size)))
        self.doubted = 0 if trusted else self.residency.mask  # pages to verify before they are served
        self._descriptor: Descriptor | None = None
        self._is_abandoned = False

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.residency.size

    @property
    def complete(self) -> bool:
        """Are all bytes here, and trusted?"""
        return self.residency.complete and not self.doubted

    def has(self, run: Run) -> bool:
        """Are all pages of `run` here, and trusted?"""
        return self.residency.has(run) and not (self.doubted and self.doubted & bits_of(run))

    @property
    def _opening(self) -> threading.Lock:
        return _opening[hash(self.path) % len(_opening)]

    def descriptor(self) -> Descriptor:
        """The open file; hold on to it while its number is in use.

        Raises:
            OSError: the file cannot be made.
            FileLost: a file that should hold pages is missing or has another size.
        """
        found = self._descriptor
        if found is None:
            with self._opening:  # two flights of a new file must not both create it: the second would empty it
                found = self._descriptor
                if found is None:
                    found = self._descriptor = Descriptor(self._open())
        return found

    def _open(self) -> int:
        if self._is_abandoned:
            raise FileLost(f"cache file {self.path} was given up")
        if not self.residency.mask:
            return self._create()
        return self._open_known(os.O_RDWR | os.O_CLOEXEC)

    def _open_known(self, flags: int) -> int:
        try:
            fd = os.open(self.path, flags)
        except FileNotFoundError as error:
            raise FileLost(f"cache file {self.path} is gone") from error
        if os.fstat(fd).st_size != self.size:
            os.close(fd)
            raise FileLost(f"cache file {self.path} has not the size it was made with")
        return fd

    def open_reader(self) -> Descriptor:
        """Another open file, by which one can only read: for other processes.  Some pages must be here.

        Raises:
            OSError, FileLost: as `descriptor`.
        """
        return Descriptor(self._open_known(os.O_RDONLY | os.O_CLOEXEC))

    def _create(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            fd = os.open(self.path, flags, 0o600)
        if self.size > PAGE_BYTES:  # else its one write makes it as long as it will be, for 20 us less
            try:
                os.ftruncate(fd, self.size)
            except OSError:
                os.close(fd)
                raise
        return fd

    def close(self) -> None:
        """Let go of the descriptor."""
        self._descriptor = None

    def unlink(self) -> None:
        """Remove the file from its disk.  Blocks; readers that hold a descriptor keep its bytes."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def abandon(self) -> None:
        """Unlink the file for good.  Who has it open keeps what it holds."""
        with self._opening:  # a flight that comes later must not make it again
            self._is_abandoned = True
            self.residency.discard(Run(0, page_count(self.size)))
        with contextlib.suppress(OSError):
            self.unlink()

    def write(self, position: int, piece: memoryview) -> int:
        """See `Pages.write`.  Blocks."""
        opened = self.descriptor()  # held: its number stays ours while we write
        return os.pwrite(opened.number, piece, position)

    def seal(self, page: int, checksum: int) -> None:
        """See `Pages.seal`."""
        self.sums[page] = checksum

    def read_now(self, offset: int, into: memoryview) -> int:
        """Fill `into` from `offset` without waiting for the disk; -1 if that would wait.

        The pages must be present and trusted, and `into` must end within the file.

        Raises:
            OSError, FileLost: the file cannot be read.
        """
        opened = self.descriptor()
        try:
            count = os.preadv(opened.number, [into], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):  # not in memory; or such a file system: tmpfs
                return -1
            raise
        return count if count == len(into) else -1

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from the disk, waiting for it.  Blocks.

        Raises:
            FileLost: fewer bytes than asked for, though the pages were marked present.
        """
        opened = self.descriptor()
        data = os.pread(opened.number, length, offset)
        if len(data) != length:
            raise FileLost(f"cache file {self.path} ends early")
        return data

    def wrong_pages(self, run: Run) -> list[int]:
        """Pages of `run` whose bytes do not match their checksum.  Blocks; reads all of them."""
        opened, wrong = self.descriptor(), []
        for page in range(*run):
            data = os.pread(opened.number, PAGE_BYTES, page * PAGE_BYTES)
            if xxhash.xxh3_64_intdigest(data) != self.sums[page]:
                wrong.append(page)
        return wrong


class PageWriter:
    """Writes one answer of the store into pages, in order, and sums each as it goes.

    Used by one flight; `feed` runs in the disk pool.  It does not mark residency: the loop does, afterwards.
    """

    __slots__ = ("_hash", "_pages", "_stop", "position")

    def __init__(self, pages: Pages, run: Run) -> None:
        self._pages = pages
        self.position = run.first * PAGE_BYTES
        self._stop = min(run.stop * PAGE_BYTES, pages.size)
        self._hash = xxhash.xxh3_64()

    @property
    def done(self) -> bool:
        """Has every byte of the run been written?"""
        return self.position == self._stop

    @property
    def pages_landed(self) -> int:
        """The page after the last one that is written whole."""
        return page_count(self.position) if self.done else self.position // PAGE_BYTES

    def feed(self, chunk: Buffer) -> None:
        """Write the next bytes.  Blocks.

        Raises:
            Corrupt: more bytes than the run holds.
            OSError: the disk refuses them.
        """
        view = memoryview(chunk)
        if self.position + len(view) > self._stop:
            raise Corrupt("the store sent more bytes than were asked for")
        while view:
            page = self.position // PAGE_BYTES
            page_stop = min((page + 1) * PAGE_BYTES, self._stop)
            piece = view[: page_stop - self.position]
            written = self._pages.write(self.position, piece)
            self._hash.update(piece[:written])
            self.position += written
            view = view[written:]
            if self.position == page_stop:
                self._pages.seal(page, self._hash.intdigest())
                self._hash.reset()
