"""Many files read whole by one request: complete ones as descriptors at once, the others as they come.

What is complete in the cache costs a look into memory, an open and a share of one message: this path decides how
fast small files are read.  The rest are tasks that end in any order.  Each file stays open in the cache until the
program says that it has read the request's, so none is evicted, or changed by a writer, under it.

*Callers*: the server, on the loop.  *Locks*: none.  *Awaits*: stores, the program's reading.  *Invariants*: each file
of a request is answered exactly once; what was opened is closed when the program is done, or has gone.
"""

import asyncio
from collections.abc import Callable, Sequence

from forebay import paths
from forebay.errors import FsError, IsADirectory, NoSpace, Unavailable
from forebay.frontends.local.format import (
    FDS_MAX,
    PIECE_BYTES,
    Kind,
    pack,
    pack_error,
    pack_opened,
    pack_piece,
)
from forebay.frontends.local.link import Link
from forebay.frontends.local.shelf import Opened, Shelf
from forebay.units import MIB
from forebay.vfs.drafts import AnyFile
from forebay.vfs.entries import FileEntry
from forebay.vfs.filesystem import FileSystem

STREAMED_BYTES = 2 * MIB  # a file up to this size that is not here goes to the program before it is on the disk

Explain = Callable[[BaseException], tuple[FsError, str]]


class Batch:
    """One request for files.  See the module."""

    def __init__(self, fs: FileSystem, shelf: Shelf, link: Link, request: int, explain: Explain) -> None:
        self._fs = fs
        self._shelf = shelf
        self.link = link
        self._request = request
        self._explain = explain
        self._files: list[AnyFile] = []  # open until the program has read all of them
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, wanted: Sequence[str], now: float) -> None:
        """Answer what memory knows and the cache has whole, and begin with the rest; `now` by the monotonic clock."""
        open_now = self._shelf.open
        later: list[tuple[int, str, AnyFile | None]] = []
        ready: list[tuple[int, Opened]] = []
        for number, path in enumerate(wanted):
            opened = open_now(path, now)
            if opened is None:
                later.append((number, path, None))
                continue
            self._files.append(opened.file)
            if opened.descriptor is None:
                later.append((number, path, opened.file))
                continue
            ready.append((number, opened))
            if len(ready) == FDS_MAX:
                self._send_opened(ready)
                ready = []
        self._send_opened(ready)
        for number, path, file in later:
            task = asyncio.create_task(self._bring(number, path, file), name=f"read of {path}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _send_opened(self, ready: Sequence[tuple[int, Opened]]) -> None:
        if ready:
            body = pack_opened([(number, opened.size) for number, opened in ready])
            files = [opened.descriptor for _, opened in ready if opened.descriptor is not None]
            self.link.send(pack(Kind.OPENED, self._request, body, fds=len(files)), files)

    # ------------------------------------------------------------------ what is not here

    async def _bring(self, number: int, path: str, file: AnyFile | None) -> None:
        try:
            await self._send(number, await self._open(path) if file is None else file)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost boundary of one file
            told, message = self._explain(error)
            self.link.send(pack(Kind.MISSED, self._request, pack_error(told, message, number)))

    async def _open(self, path: str) -> AnyFile:
        entry = await self._fs.links.find(paths.normalize(path))
        if not isinstance(entry, FileEntry):
            raise IsADirectory(f"{path} is a folder", path=path)
        file = self._fs.open(entry)
        self._files.append(file)
        return file

    async def _send(self, number: int, file: AnyFile) -> None:
        if file.entry.size > STREAMED_BYTES:
            try:
                await self._fs.fetch(file.entry)
            except NoSpace:  # it is not admitted: read through
                await self._stream(number, file)
                return
        opened = self._shelf.describe(file)
        if opened.descriptor is None:
            await self._stream(number, file)
        else:
            self._send_opened([(number, opened)])

    async def _stream(self, number: int, file: AnyFile) -> None:
        size, at = file.entry.size, 0
        step = STREAMED_BYTES if size <= STREAMED_BYTES else PIECE_BYTES
        while at < size or not size:
            data = await file.read(at, min(step, size - at))
            at += len(data)
            if at < size and not data:
                path = file.entry.path
                raise Unavailable(f"{path} was cut while it was read; read it again", path=path)
            await self.link.drain()
            self.link.send(pack(Kind.PIECE, self._request, pack_piece(number, size, data)))
            if not size:
                return

    def end(self) -> None:
        """The program is done with it, or has gone."""
        for task in list(self._tasks):
            task.cancel()
        for file in self._files:
            file.close()
        self._files.clear()
