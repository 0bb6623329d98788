"""File objects of blocking programs: what `FileSystem.open` gives, as the `io` module wants it.

*Callers*: any thread, one at a time, as of any raw file of Python.  A reader that was opened before a fork may be used
by parent and child, each at a place of its own; a writer only by the process that opened it.
"""

import contextlib
import io
import os
import sys
from typing import Any

from forebay.client import exchanges
from forebay.client.handles import Handle
from forebay.client.links import Links
from forebay.errors import FsError, Invalid

BUFFER_BYTES = 128 << 10  # of reads and writes by a descriptor
REMOTE_BUFFER_BYTES = 1 << 20  # of those through the socket, of which each costs a round trip


class RawFile(io.RawIOBase):
    """See the module."""

    def __init__(self, links: Links, handle: Handle) -> None:
        """Open it.

        Raises:
            FsError: as the daemon says.
        """
        self._links = links
        self._handle = handle
        self._position = 0
        self._is_open = False
        links.run(handle.open, repeats=not handle.writes)
        self._is_open = True
        if handle.appends:
            self._position = handle.size()

    @property
    def name(self) -> str:
        """The virtual path."""
        return self._handle.path

    @property
    def mode(self) -> str:
        """As of `open`, for those who look whether it is binary."""
        handle = self._handle
        return ("ab" if handle.appends else "wb") if not handle.reads else "rb+" if handle.writes else "rb"

    @property
    def version(self) -> str | None:
        """Of the file, as it was opened."""
        assert self._handle.entry is not None
        return self._handle.entry.version

    @property
    def is_local(self) -> bool:
        """Is all of it on the local disk, so that no byte goes through the socket?"""
        return self._handle.fd is not None

    def readable(self) -> bool:
        """See `io.IOBase`."""
        return self._handle.reads

    def writable(self) -> bool:
        """See `io.IOBase`."""
        return self._handle.writes

    def seekable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def fileno(self) -> int:
        """A descriptor of the local file, once all of it is here; for `mmap`, say.

        Raises:
            io.UnsupportedOperation: it is not all here.
        """
        self._check_open()
        if self._handle.fd is None:
            raise io.UnsupportedOperation(f"{self.name} is not whole on the local disk, so it has no descriptor")
        return self._handle.fd

    def isatty(self) -> bool:
        """See `io.IOBase`."""
        return False

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    # ------------------------------------------------------------------ bytes

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as typeshed has it
        """See `io.RawIOBase`."""
        self._check_open()
        if not self._handle.reads:
            raise io.UnsupportedOperation("not readable")
        fd = self._handle.fd
        if fd is not None:
            count = os.preadv(fd, [buffer], self._position)
        else:
            view = memoryview(buffer).cast("B")
            data = self._links.run(lambda: self._handle.read(self._position, len(view)), repeats=True)
            count = len(data)
            view[:count] = data
        self._position += count
        return count

    def readall(self) -> bytes:
        """See `io.RawIOBase`."""
        pieces: list[bytes] = []
        size = max(self._handle.size() - self._position, 0)
        while True:
            fd = self._handle.fd
            if fd is not None:
                piece = os.pread(fd, max(size, 1), self._position)
            else:
                piece = self._links.run(lambda: self._handle.read(self._position, sys.maxsize), repeats=True)
            if not piece:
                return b"".join(pieces) if len(pieces) != 1 else pieces[0]
            pieces.append(piece)
            self._position += len(piece)

    def write(self, data: Any) -> int:  # noqa: ANN401 - as typeshed has it
        """See `io.RawIOBase`."""
        self._check_open()
        if not self._handle.writes:
            raise io.UnsupportedOperation("not writable")
        self._handle.check_owner()
        fd = self._handle.fd
        if fd is None:
            count = self._links.run(lambda: self._handle.write(self._position, data), repeats=False)
        elif self._handle.appends:
            count = os.write(fd, data)
        else:
            count = os.pwrite(fd, data, self._position)
        self._position = self._handle.size() if self._handle.appends else self._position + count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase`."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._handle.size()}.get(whence)
        if base is None:
            raise ValueError(f"invalid whence: {whence}")
        if base + offset < 0:
            raise Invalid(f"{self.name} has no byte {base + offset}", path=self.name)
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """See `io.IOBase`."""
        self._check_open()
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """See `io.IOBase`."""
        self._check_open()
        if not self._handle.writes:
            raise io.UnsupportedOperation("not writable")
        wanted = self._position if size is None else size
        self._links.run(lambda: self._handle.truncate(wanted), repeats=False)
        return wanted

    def sync(self) -> None:
        """Return when what was written is acknowledged, as the mount's write mode says; `close` does so too.

        What a buffer above this still holds is not written yet: flush that first.

        Raises:
            StaleVersion: somebody else has changed the object meanwhile; both are kept.
            FsError: the store failed.
        """
        self._check_open()
        self._links.run(self._handle.flush, repeats=False)

    def close(self) -> None:
        """Close it; of a file that was written, as `sync`.

        Raises what `sync` raises; it is closed then, too.
        """
        if self.closed:
            return
        try:
            if self._is_open and self._handle.is_ours:
                self._end()
        finally:
            self._handle.close_fd()
            super().close()

    def _end(self) -> None:
        self._is_open = False
        number = self._handle.number
        if not self._handle.writes:
            with contextlib.suppress(FsError):  # the daemon has ended, and with it what was open
                self._links.run(lambda: exchanges.close_handle(number), repeats=False)
            return
        try:
            self._links.run(self._handle.flush, repeats=False)
        finally:
            self._handle.close_fd()  # first: what becomes a cached version is written no more
            self._links.run(lambda: exchanges.call("close", {"handle": number}), repeats=False)


def open_file(links: Links, path: str, mode: str, buffering: int, text: dict[str, str | None]) -> io.IOBase:
    """A file object as the built-in `open` gives it; `text` are its encoding, errors and newline.

    Raises:
        Invalid: the mode, or what goes with it.
        FsError: as the daemon says.
    """
    is_binary = "b" in mode
    if is_binary and ("t" in mode or any(value is not None for value in text.values())):
        raise Invalid("a binary file takes no encoding, errors and newline", path=path)
    if buffering == 0 and not is_binary:
        raise Invalid("text needs a buffer", path=path)
    raw = RawFile(links, Handle(path, mode))
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else BUFFER_BYTES if raw.is_local else REMOTE_BUFFER_BYTES
    buffered: io.BufferedIOBase
    if raw.readable() and raw.writable():
        buffered = io.BufferedRandom(raw, size)
    elif raw.writable():
        buffered = io.BufferedWriter(raw, size)
    else:
        buffered = io.BufferedReader(raw, size)
    return buffered if is_binary else io.TextIOWrapper(buffered, **text, line_buffering=buffering == 1)  # type: ignore[arg-type]
