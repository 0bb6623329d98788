"""Files that the kernel reads without having opened them: what a local folder for small files is made of.

There the kernel is told at its first open that opens need no answer (ENOSYS), and asks neither for those nor for what
ends them: who opens a file whose pages the kernel has reads it with no word to us.  Only a READ shows that a file is in
use, so it is opened here with the first and closed with the one that comes to its end, which of a small file is the
same; else when it has not been read for a while.

*Callers*: operations, on the loop.  *Locks*: none.  *Awaits*: the store, for what is not cached.
*Invariant*: what is open here was read within the last `2 * IDLE_S`.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from forebay.frontends.fuse.nodes import Node
from forebay.types import Buffer
from forebay.vfs.drafts import AnyFile
from forebay.vfs.entries import FileEntry

IDLE_S = 5.0  # a file that is read slowly is opened anew each time, which costs as much as one request


class _Reading:
    """A file that is being read."""

    __slots__ = ("entry", "file", "is_idle", "readers")

    def __init__(self, entry: FileEntry, file: AnyFile) -> None:
        self.entry = entry
        self.file = file
        self.readers = 0  # requests that wait
        self.is_idle = False  # not read since the last look


class UnopenedFiles:
    """See the module."""

    def __init__(self, open_file: Callable[[FileEntry], AnyFile]) -> None:
        self._open_file = open_file
        self._readings: dict[int, _Reading] = {}  # by node id
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._readings)

    def read(self, node: Node, offset: int, size: int) -> Buffer | None:
        """What can be had at once; None: ask for it by `read_later`.

        Raises:
            FsError: it cannot be opened.
        """
        reading = self._reading(node)
        data = reading.file.read_now(offset, size)
        if data is not None:
            self._was_read(node.ino, reading, offset + len(data))
        return data

    async def read_later(self, node: Node, offset: int, size: int) -> Buffer:
        """The same, from disk or store.

        Raises:
            FsError: as the file says.
        """
        reading = self._reading(node)
        reading.readers += 1
        try:
            data = await reading.file.read(offset, size)
        finally:
            reading.readers -= 1
            if self._readings.get(node.ino) is not reading and not reading.readers:
                reading.file.close()
        self._was_read(node.ino, reading, offset + len(data))
        return data

    def _reading(self, node: Node) -> _Reading:
        entry = cast("FileEntry", node.entry)
        reading = self._readings.get(node.ino)
        if reading is not None and reading.entry is not entry:  # what was written has become a version
            self._end(node.ino)
            reading = None
        if reading is None:
            reading = self._readings[node.ino] = _Reading(entry, self._open_file(entry))
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._end_idle)
        reading.is_idle = False
        return reading

    def _was_read(self, ino: int, reading: _Reading, stop: int) -> None:
        if stop >= reading.entry.size and self._readings.get(ino) is reading and not reading.readers:
            self._end(ino)

    def _end(self, ino: int) -> None:
        reading = self._readings.pop(ino)
        if not reading.readers:  # else the last of them closes it
            reading.file.close()

    def _end_idle(self) -> None:
        for ino, reading in list(self._readings.items()):
            if reading.is_idle and not reading.readers:
                self._end(ino)
            reading.is_idle = True
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(IDLE_S, self._end_idle) if self._readings else None

    def end(self) -> None:
        """Close everything: the mount has ended."""
        if self._timer is not None:
            self._timer.cancel()
        for ino in list(self._readings):
            self._end(ino)
