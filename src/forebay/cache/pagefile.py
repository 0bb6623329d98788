"""The local file behind one cached version: sparse, of the object's final size, written page by page.

A page file lies on a cache disk, or in memory (memfd) for bytes that the cache could not admit.  Its residency is
changed on the event loop only; bytes are written and read in the disk pool.  The file is never rewritten for
another version, so a descriptor or a hard link of a complete one can be handed to anybody.
"""

import contextlib
import ctypes
import os
import threading
from array import array
from pathlib import Path

import xxhash

from forebay.cache.pages import PAGE_BYTES, Residency, Run, page_count
from forebay.errors import Corrupt
from forebay.types import Buffer

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 0x01, 0x02  # linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)
_opening = threading.Lock()


class PageFile:
    """One version's bytes, as far as they are here.

    Invariant: a page marked in `residency` holds the store's bytes, and `sums` has its xxh3-64; the reverse order
    (mark first, write later) never happens.
    """

    __slots__ = ("_fd", "in_memory", "path", "residency", "sums", "trusted")

    def __init__(self, path: Path | None, size: int, *, mask: int = 0, sums: bytes = b"", trusted: bool = True) -> None:
        self.path = path  # None: in memory
        self.in_memory = path is None
        self.residency = Residency(size, mask)
        self.sums = array("Q", sums or bytes(8 * page_count(size)))
        self.trusted = trusted
        self._fd = -1

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.residency.size

    def fd(self) -> int:
        """The descriptor, opened at first use.

        Raises:
            OSError: the file cannot be made.
            Corrupt: a file that should hold pages is missing or has another size.
        """
        if self._fd < 0:
            with _opening:  # two flights of a new file must not both create it: the second would empty it
                if self._fd < 0:
                    self._fd = self._open()
        return self._fd

    def _open(self) -> int:
        if self.path is None:
            fd = os.memfd_create("forebay-read-through", os.MFD_CLOEXEC)
            os.ftruncate(fd, self.size)
            return fd
        if self.residency.mask:
            try:
                fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise Corrupt(f"cache file {self.path} is gone") from error
            if os.fstat(fd).st_size != self.size:
                os.close(fd)
                raise Corrupt(f"cache file {self.path} has not the size it was made with")
            return fd
        return self._create(self.path)

    def _create(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, flags, 0o600)
        os.ftruncate(fd, self.size)
        return fd

    def close(self) -> None:
        """Close the descriptor; bytes in memory are gone with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.in_memory:
            self.residency = Residency(self.size)

    def unlink(self) -> None:
        """Remove the file from its disk.  Blocks; readers that hold a descriptor keep it."""
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def read_now(self, offset: int, into: memoryview) -> int:
        """Fill `into` from `offset` without waiting for the disk; -1 if that would wait.

        The pages must be present and trusted, and `into` must end within the file.
        """
        try:
            flags = 0 if self.in_memory else os.RWF_NOWAIT
            count = os.preadv(self.fd(), [into], offset, flags)
        except BlockingIOError:
            return -1
        return count if count == len(into) else -1

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from the disk, waiting for it.  Blocks.

        Raises:
            Corrupt: fewer bytes than asked for, though the pages were marked present.
        """
        data = os.pread(self.fd(), length, offset)
        if len(data) != length:
            raise Corrupt(f"cache file {self.path} ends early")
        return data

    def wrong_pages(self) -> list[int]:
        """Pages marked present whose bytes do not match their checksum.  Blocks; reads every present page."""
        wrong: list[int] = []
        for run in self.residency.present():
            for page in range(run.first, run.stop):
                data = os.pread(self.fd(), PAGE_BYTES, page * PAGE_BYTES)
                if xxhash.xxh3_64_intdigest(data) != self.sums[page]:
                    wrong.append(page)
        return wrong

    def drop(self, run: Run) -> None:
        """Give the pages' space back (a hole) and mark them absent."""
        self.residency.discard(run)
        start, length = run.first * PAGE_BYTES, len(run) * PAGE_BYTES
        mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
        _libc.fallocate(self.fd(), mode, ctypes.c_long(start), ctypes.c_long(length))


class PageWriter:
    """Writes one answer of the store into a page file, in order, and sums each page as it goes.

    Used by one flight; `feed` runs in the disk pool.  It does not mark residency: the loop does, afterwards.
    """

    __slots__ = ("_hash", "_pages", "_stop", "position")

    def __init__(self, pages: PageFile, run: Run) -> None:
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
        fd = self._pages.fd()
        while view:
            page = self.position // PAGE_BYTES
            page_stop = min((page + 1) * PAGE_BYTES, self._stop)
            piece = view[: page_stop - self.position]
            written = os.pwrite(fd, piece, self.position)
            self._hash.update(piece[:written])
            self.position += written
            view = view[written:]
            if self.position == page_stop:
                self._pages.sums[page] = self._hash.intdigest()
                self._hash.reset()
