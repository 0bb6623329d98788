"""The tree of mounts for asyncio programs: the same exchanges as `forebay.client.filesystem`, on the running loop.

*Callers*: tasks of one loop; one `AsyncFileSystem` may be used on several loops, one after the other.  *Locks*: none.
*Awaits*: the daemon; reading local files and starting a daemon happen in threads of the loop.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from forebay.client import exchanges, operations
from forebay.client.exchanges import Entry, Exchange, ReadFiles, Receive, Reply, Send
from forebay.client.handles import Handle
from forebay.client.jobs import Order
from forebay.client.links import Connection, LinkLost, read_files
from forebay.client.names import Name, virtual_path
from forebay.client.operations import Operation
from forebay.client.place import Place, new_session
from forebay.errors import FsError, Invalid, Unavailable
from forebay.frontends.local.format import BadFrame, Frame

Result = TypeVar("Result")


class AsyncLink(Connection):
    """One that a task waits for; of one task at a time."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        super().__init__(connected)
        self._loop = asyncio.get_running_loop()

    async def drive(self, exchange: Exchange[Result]) -> Result:
        """See `forebay.client.links.Link.drive`."""
        found: Any = None
        try:
            while True:
                step = exchange.send(found)
                if isinstance(step, ReadFiles):
                    found = await asyncio.shield(self._loop.run_in_executor(None, read_files, step))
                elif isinstance(step, Receive):
                    found = await self._receive()
                else:
                    assert isinstance(step, Send)
                    await self._send(step.data)
                    found = None
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _send(self, data: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._socket, data)
        except OSError as error:
            raise LinkLost(str(error)) from error

    async def _receive(self) -> Frame:
        while not self._arrived:
            try:
                self._take_in()
            except BlockingIOError:
                await self._readable()
        return self._arrived.popleft()

    async def _readable(self) -> None:
        ready = self._loop.create_future()
        self._loop.add_reader(self._socket, _wake, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._socket)


def _wake(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _close_connected(connecting: "asyncio.Future[socket.socket]") -> None:
    """The task that wanted the connection was cancelled before it came."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


class AsyncLinks:
    """Connections of one process on one loop; after a fork or on another loop there are new ones."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._renew(None)

    def _renew(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._pid = os.getpid()
        self._loop = loop
        self._session = new_session()
        self._idle: list[AsyncLink] = []

    async def run(self, make: Callable[[], Exchange[Result]], *, repeats: bool) -> Result:
        """See `forebay.client.links.Links.run`."""
        for attempt in (0, 1):
            try:
                return await self._run_once(make)
            except LinkLost as error:
                if attempt or not repeats:
                    raise exchanges.lost(repeats=repeats) from error
        raise AssertionError("the second attempt returns or raises")

    async def _run_once(self, make: Callable[[], Exchange[Result]]) -> Result:
        link = await self.take()
        try:
            result = await link.drive(make())
        except FsError:
            self._idle.append(link)
            raise
        except BadFrame as error:
            link.close()
            raise FsError(f"the daemon's answer cannot be: {error}") from error
        except BaseException:
            link.close()
            raise
        self._idle.append(link)
        return result

    async def take(self) -> AsyncLink:
        """A connection for the caller alone."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop or self._pid != os.getpid():
            self.close()
            self._renew(loop)
        while self._idle:
            link = self._idle.pop()
            if link.is_alive():
                return link
            link.close()
        connecting = loop.run_in_executor(None, self.place.connect)
        try:
            link = AsyncLink(await asyncio.shield(connecting))
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_connected)
            raise
        try:
            await link.drive(exchanges.hello(self._session))
        except BaseException as error:
            link.close()
            if isinstance(error, LinkLost | BadFrame):
                raise Unavailable("the daemon ended as it was asked; its log may say why") from error
            raise
        return link

    def close(self) -> None:
        """End those that are idle."""
        idle, self._idle = self._idle, []
        for link in idle:
            link.close()


class AsyncFile:
    """An open file; `async with await fs.open(path)`.  Of one task at a time."""

    def __init__(self, links: AsyncLinks, handle: Handle) -> None:
        self._links = links
        self._handle = handle
        self._position = handle.size() if handle.appends else 0
        self.is_closed = False

    @property
    def entry(self) -> Entry:
        """The file as it was opened."""
        assert self._handle.entry is not None
        return self._handle.entry

    def tell(self) -> int:
        """Where the next read or write begins."""
        return self._position

    def seek(self, position: int) -> None:
        """The next read or write begins there."""
        if position < 0:
            raise Invalid(f"{self._handle.path} has no byte {position}", path=self._handle.path)
        self._position = position

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, all that are left if it is negative; short only at the end."""
        self._check_open()
        wanted = sys.maxsize if size < 0 else size
        pieces: list[bytes] = []
        while wanted and (piece := await self._read_piece(wanted)):
            pieces.append(piece)
            self._position += len(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    async def _read_piece(self, size: int) -> bytes:
        handle, position = self._handle, self._position
        if handle.fd is None:
            return await self._links.run(lambda: handle.read(position, size), repeats=True)
        left = max(handle.size() - position, 0)
        return await asyncio.to_thread(os.pread, handle.fd, min(size, left), position)

    async def write(self, data: "bytes | bytearray | memoryview") -> None:
        """Write all of it."""
        self._check_open()
        view = memoryview(data).cast("B")
        while view:
            count = await self._write_piece(view)
            self._position += count
            view = view[count:]

    async def _write_piece(self, view: memoryview) -> int:
        handle, position = self._handle, self._position
        handle.check_owner()
        if handle.fd is None:
            return await self._links.run(lambda: handle.write(position, view), repeats=False)
        if handle.appends:
            return await asyncio.to_thread(os.write, handle.fd, view)
        return await asyncio.to_thread(os.pwrite, handle.fd, view, position)

    async def truncate(self, size: int) -> None:
        """Cut it, or fill it with zeros, to so many bytes."""
        self._check_open()
        await self._links.run(lambda: self._handle.truncate(size), repeats=False)

    async def sync(self) -> None:
        """Return when what was written is acknowledged, as the mount's write mode says; `close` does so too."""
        self._check_open()
        await self._links.run(self._handle.flush, repeats=False)

    def _check_open(self) -> None:
        if self.is_closed:
            raise ValueError("I/O operation on closed file")

    async def close(self) -> None:
        """Close it; of a file that was written, as `sync`; it is closed if that fails, too."""
        if self.is_closed:
            return
        self.is_closed = True
        handle = self._handle
        try:
            if handle.is_ours and handle.writes:
                await self._links.run(handle.flush, repeats=False)
        finally:
            handle.close_fd()
            if handle.is_ours:
                await self._links.run(lambda: exchanges.close_handle(handle.number), repeats=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncJob(Order):
    """A reading order, announced; `async with await fs.job(name)`.  See `forebay.client.jobs.Job`."""

    def __init__(self, name: str, link: AsyncLink) -> None:
        super().__init__(name)
        self._link: AsyncLink | None = link
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """Tell the daemon of it."""
        await self._tell(self.opening())

    async def announce(self, paths: Sequence[Name]) -> None:
        """These will be read next, after what was announced before."""
        for telling in self.announcements(paths):
            await self._tell(telling)

    async def advance(self, count: int) -> None:
        """The next `count` files of the order have been handed to the loader."""
        await self._tell(self.advancing(count))

    async def _tell(self, telling: Exchange[Reply]) -> None:
        async with self._turn:
            link = self.checked(self._link)
            try:
                await link.drive(telling)
            except LinkLost as error:
                self.close()
                raise self.lost() from error
            except asyncio.CancelledError:  # midway in an exchange: nothing that follows would be understood
                self.close()
                raise

    def close(self) -> None:
        """There will be no more: the daemon forgets it."""
        link, self._link = self._link, None
        if link is not None and self.is_ours:
            link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncFileSystem:
    """As `forebay.FileSystem`, whose methods say more; `home` as there."""

    def __init__(self, home: Name | None = None) -> None:
        self._links = AsyncLinks(Place(home))

    def __reduce__(self) -> tuple[Any, ...]:
        return AsyncFileSystem, (str(self.home),)

    def __repr__(self) -> str:
        return f"AsyncFileSystem({str(self.home)!r})"

    @property
    def home(self) -> os.PathLike[str]:
        """The home of its daemon."""
        return self._links.place.home

    def close(self) -> None:
        """End connections that are idle; it may be used again."""
        self._links.close()

    async def open(self, path: Name, mode: str = "rb") -> AsyncFile:
        """Open a file, always binary."""
        handle = Handle(virtual_path(path), mode)
        await self._links.run(handle.open, repeats=not handle.writes)
        return AsyncFile(self._links, handle)

    async def read(self, path: Name) -> bytes:
        """The whole of a file."""
        (result,) = await self.read_many([path])
        if isinstance(result, FsError):
            raise result
        return result

    async def read_many(self, paths: Iterable[Name]) -> list[bytes | FsError]:
        """The whole of many files, in order; for one that cannot be read, its error in its place."""
        return await self._do(operations.read_many(paths))

    async def write(self, path: Name, data: "bytes | bytearray | memoryview") -> None:
        """Make or replace a file."""
        async with await self.open(path, "wb") as file:
            await file.write(data)

    async def stat(self, path: Name, *, follow_symlinks: bool = True) -> Entry:
        """What is at a path."""
        return await self._do(operations.stat(path, follow_symlinks=follow_symlinks))

    async def exists(self, path: Name) -> bool:
        """Is anything at a path?"""
        return await self._do(operations.exists(path))

    async def readlink(self, path: Name) -> str:
        """The target of a symbolic link."""
        return await self._do(operations.readlink(path))

    async def ls(self, path: Name) -> list[Entry]:
        """The entries of a folder."""
        return await self._do(operations.ls(path))

    async def walk(self, path: Name) -> list[Entry]:
        """Every file at or below a path."""
        return await self._do(operations.walk(path))

    async def mkdir(self, path: Name, *, parents: bool = False) -> None:
        """Make a folder."""
        await self._do(operations.mkdir(path, parents=parents))

    async def rmdir(self, path: Name) -> None:
        """Remove an empty folder."""
        await self._do(operations.rmdir(path))

    async def remove(self, path: Name, *, recursive: bool = False) -> None:
        """Remove a file, or a folder and all below it."""
        await self._do(operations.remove(path, recursive=recursive))

    async def rename(self, source: Name, target: Name, *, replace: bool = True) -> None:
        """Move a file or folder within its mount."""
        await self._do(operations.rename(source, target, replace=replace))

    async def touch(self, path: Name) -> None:
        """Make an empty file, or date one to now."""
        await self._do(operations.touch(path))

    async def refresh(self, path: Name) -> None:
        """Ask the store again for names and versions at or below a path."""
        await self._do(operations.refresh(path))

    async def virtual(self, local_path: Name) -> str:
        """The virtual path of a local one."""
        return await self._do(operations.virtual(local_path))

    async def job(self, name: str) -> AsyncJob:
        """Tell the daemon in which order this program will read."""
        job = AsyncJob(name, await self._links.take())
        await job.begin()
        return job

    async def _do(self, operation: Operation[Result]) -> Result:
        return await self._links.run(operation.exchange, repeats=operation.repeats)
