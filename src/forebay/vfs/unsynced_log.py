"""Records of the journal that need not outlast a power cut: written without waiting, read again after a kill.

A file of lines, each with its checksum: a record, or that a key has none any more.  The newest line of a key counts.
When most of what is in the file counts no more, another one is begun with what does; the one before it goes when the
disk has that.

*Callers*: `journal.py`: `sync` from its thread, all else from the loop.  *Locks*: none; see `sync`.
*On crash*: after a kill every record is there; after a power cut any line may be missing that was not synced.
"""

import contextlib
import errno
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import structlog
import xxhash

from forebay.opened import sync_folder
from forebay.units import MIB
from forebay.vfs.journal_format import decode_text, encode_text

log = structlog.get_logger()

SPENT_MAX = MIB  # bytes of lines that do not count any more, and as many again as those that do
_NONE = -1  # instead of `after`: the key has no record any more


class Line(NamedTuple):
    """A record."""

    after: int  # the newest record of the journal's other log when this one was written
    text: bytes  # see `journal_format.encode_text`


class UnsyncedLog:
    """See the module.  Methods that write raise OSError."""

    def __init__(self, folder: Path) -> None:
        """Take what files of earlier processes hold.  Blocks; raises OSError."""
        self._folder = folder
        self._live: dict[str, tuple[int, Line]] = {}  # by key, with the record's number
        self._live_bytes = 0
        self._last = 0
        self._fd = -1  # of the file that is written to
        self._path = folder
        self._size = 0
        self._before: deque[tuple[int, Path]] = deque()  # files that go, with their descriptors
        self._untold: deque[str] = deque()  # keys without a record, which the full disk has not been told of
        self._is_dirty = False
        found = sorted(folder.glob("*.lines"))
        for path in found:
            for about, line in _read(path):
                self._keep(about, line)
        self._next_file = 1 + max((int(path.stem) for path in found), default=0)
        if found:
            self._before.extend((-1, path) for path in found)
            self._begin()
            self.sync()

    def records(self) -> list[tuple[int, Line]]:
        """Numbers, which are negative, and records, in the order of writing."""
        return list(self._live.values())

    def append(self, about: str, line: Line) -> int:
        """Put a record in place of the one with the same key; its number."""
        if self._fd < 0:
            self._begin()
        self._write(_encode(line))
        number = self._keep(about, line)
        if self._size > 2 * self._live_bytes + SPENT_MAX:
            with contextlib.suppress(OSError):  # it is tried again
                self._begin()
        return number

    def drop(self, about: str, number: int | None = None) -> None:
        """A key has no record any more, if it had that one, or any.  Raises nothing: `sync` does."""
        if about in self._live and number in (None, self._live[about][0]):
            self._keep(about, None)
            self._untold.append(about)
            self.tell()

    def tell(self) -> None:
        """Write again what a full disk did not take of `drop`.  Raises nothing: `sync` does."""
        with contextlib.suppress(OSError):
            while self._untold:
                self._write(_encode(Line(_NONE, encode_text(self._untold[0], {}))))
                self._untold.popleft()

    def _keep(self, about: str, line: Line | None) -> int:
        _, before = self._live.pop(about, (0, None))
        self._live_bytes -= 0 if before is None else len(before.text)
        if line is not None:
            self._last -= 1
            self._live[about] = self._last, line
            self._live_bytes += len(line.text)
        return self._last

    def _write(self, data: bytes) -> None:
        written = os.write(self._fd, data)
        self._size += written
        self._is_dirty = True
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _begin(self) -> None:
        """Go on in another file, which begins with what counts."""
        path = self._folder / f"{self._next_file:08d}.lines"
        before = self._fd, self._path, self._size
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._path, self._size = path, 0
        try:
            for _, line in self._live.values():
                self._write(_encode(line))
        except OSError:
            os.close(self._fd)
            path.unlink()
            self._fd, self._path, self._size = before
            raise
        self._next_file += 1
        if before[0] >= 0:
            self._before.append(before[:2])

    def sync(self) -> None:
        """Return when the disk has all that was asked for before; files that are not needed go.  Blocks.

        Those were begun before the file that is synced, whichever that is by then, and nobody else closes them.
        """
        if self._untold:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = len(self._before)
        if not self._is_dirty and not count:
            return
        self._is_dirty = False
        os.fsync(self._fd)
        if count:
            sync_folder(self._folder)
        for _ in range(count):
            fd, path = self._before.popleft()
            if fd >= 0:
                os.close(fd)
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write no more."""
        for fd in (self._fd, *(fd for fd, _ in self._before)):
            if fd >= 0:
                os.close(fd)
        self._fd = -1


def _encode(line: Line) -> bytes:
    """A line begins with its end, so that what a full disk cut is none of the next one."""
    data = b"%d %b" % line
    return b"\n%016x %b" % (xxhash.xxh3_64_intdigest(data), data)


def _read(path: Path) -> Iterator[tuple[str, Line | None]]:
    unreadable = 0
    for raw in path.read_bytes().split(b"\n")[1:]:
        checksum, _, data = raw.partition(b" ")
        if checksum == b"%016x" % xxhash.xxh3_64_intdigest(data):
            after, _, text = data.partition(b" ")
            yield decode_text(text)[0], Line(int(after), text) if int(after) != _NONE else None
        else:
            unreadable += 1
    if unreadable:
        log.warning(
            "journal.unreadable", path=str(path), lines=unreadable, reason="a power cut or a full disk cut them"
        )
