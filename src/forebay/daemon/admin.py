"""The admin API: HTTP on the home's unix socket, for this user alone.

Answers are JSON.  What is long (a listing, a load) is a stream of JSON lines whose last line may be an error; what
fails before its first line is an error with a status.  `forebay.daemon.client` is the other end.

*Callers*: aiohttp, one task per connection.  *Locks*: none.  *Awaits*: the file system, the client's reading.
*Invariants*: a client that goes away cancels its request; no answer holds a secret.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from forebay import __version__, paths
from forebay.clock import Clock
from forebay.config.load import to_flags
from forebay.config.settings import Settings
from forebay.daemon import home as names
from forebay.daemon.activity import Activity, resident_bytes
from forebay.daemon.listing import list_below, list_folder, usage
from forebay.daemon.uploads import flush, upload_info
from forebay.daemon.wire import (
    Fields,
    Json,
    entry_info,
    error_info,
    location_info,
    mount_changes,
    mount_info,
    mount_options,
    to_bytes,
)
from forebay.errors import Denied, FsError, IsADirectory, NotFound, Unavailable
from forebay.frontends.fuse.mounts import FuseMounts
from forebay.modes import ModeChange
from forebay.observe.redact import Redactor
from forebay.types import ByteRange
from forebay.units import MIB
from forebay.vfs.control import FolderKind
from forebay.vfs.drafts import AnyFile, is_draft
from forebay.vfs.entries import FileEntry
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.load import LoadEvent
from forebay.vfs.load_names import NamesEvent
from forebay.vfs.modes import ModeEvent, change_modes, touch
from forebay.vfs.moving import MoveEvent, Moves
from forebay.vfs.views import shown

log = structlog.get_logger()

DRAIN_S = 30.0  # a stop waits so long for reads and writes under way
READ_BYTES = MIB
LINE_BYTES_MAX = 64 << 10  # of a request: a path of 4 KiB, percent-encoded, is 12 KiB

Simple = Callable[[Fields], Awaitable[object]]


class Admin:
    """See the module."""

    def __init__(
        self,
        fs: FileSystem,
        mounts: FuseMounts,
        activity: Activity,
        settings: Settings,
        redactor: Redactor,
        clock: Clock,
        stopping: asyncio.Event,
    ) -> None:
        self._fs = fs
        self._mounts = mounts
        self._activity = activity
        self._settings = settings
        self._redactor = redactor
        self._clock = clock
        self._stopping = stopping
        self._started_at = clock.monotonic()
        self._moves = Moves(fs)
        self._runner = web.AppRunner(
            self._app(),
            handler_cancellation=True,
            access_log=None,
            max_line_size=LINE_BYTES_MAX,
            lingering_time=0,  # an upload that is refused is not read to its end
            shutdown_timeout=DRAIN_S,
        )

    # ------------------------------------------------------------------ life

    async def listen(self) -> None:
        """Answer on the socket.

        Raises:
            Denied: the socket cannot be made.
        """
        path = names.socket_path(self._settings.home)
        await self._runner.setup()
        try:
            # Umask 077: nobody else can connect, from the first moment.  asyncio removes the socket of a daemon that
            # was killed; we hold the lock, so no other one lives.
            await web.UnixSite(self._runner, path).start()
            path.chmod(0o600)
        except OSError as error:
            raise Denied(f"cannot listen at {path}: {error.strerror}", path=str(path)) from error

    async def close(self) -> None:
        """Take no new requests, and let those under way end."""
        for site in list(self._runner.sites):
            await site.stop()
        with contextlib.suppress(FileNotFoundError):
            names.socket_path(self._settings.home).unlink()
        await self._runner.cleanup()
        await self._moves.close()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._translate, self._show])
        fs = self._fs
        simple: list[tuple[str, str, Simple]] = [
            ("GET", "status", self._status),
            ("POST", "stop", self._stop),
            ("GET", "activity", self._activity.now),
            ("GET", "activity/history", self._activity.history),
            ("POST", "fs/mkdir", lambda f: fs.mkdir(f.path(), parents=f.flag("parents"))),
            ("POST", "fs/rmdir", lambda f: fs.rmdir(f.path())),
            ("POST", "fs/mount", self._mount),
            ("POST", "fs/update-mount", self._update_mount),
            ("POST", "fs/unmount", lambda f: fs.unmount(f.path())),
            ("GET", "fs/mounts", self._list_mounts),
            ("GET", "fs/stat", self._stat),
            ("GET", "fs/location", self._location),
            ("GET", "fs/df", self._df),
            ("POST", "fs/free", self._free),
            ("POST", "fs/pin", lambda f: fs.pin(f.path())),
            ("POST", "fs/unpin", lambda f: fs.unpin(f.path())),
            ("POST", "fs/refresh", lambda f: fs.refresh(f.path())),
            ("POST", "fs/remove", self._remove),
            ("POST", "fs/touch", self._touch),
            ("GET", "fs/uploads", self._uploads),
            ("GET", "fuse", self._list_fuse),
            ("POST", "fuse/mount", self._mount_fuse),
            ("POST", "fuse/unmount", self._unmount_fuse),
        ]
        for method, path, act in simple:
            app.router.add_route(method, f"/v1/{path}", self._plain(act))
        app.router.add_get("/v1/fs/list", self._list, allow_head=False)
        app.router.add_get("/v1/fs/usage", self._usage, allow_head=False)
        app.router.add_post("/v1/fs/load", self._load)
        app.router.add_post("/v1/fs/move", self._move)
        app.router.add_post("/v1/fs/chmod", self._chmod)
        app.router.add_post("/v1/fs/flush", self._flush)
        app.router.add_get("/v1/fs/read", self._read, allow_head=False)
        app.router.add_put("/v1/fs/write", self._write)
        return app

    # ------------------------------------------------------------------ the frame around each request

    @web.middleware
    async def _translate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except FsError as error:
            return self._refuse(error)
        except web.HTTPException as error:
            found = FsError if error.status != 404 else NotFound
            return self._refuse(found(f"the daemon knows no {request.method} {request.path}"), status=error.status)
        except ConnectionError as error:  # the client has gone: nobody reads the answer
            log.debug("admin.client_gone", request=request.path)
            return self._refuse(Unavailable(str(error)))
        except OSError as error:
            log.warning("admin.failed", request=request.path, reason=str(error))
            return self._refuse(FsError(str(error)))
        except Exception as error:  # noqa: BLE001 - the outermost boundary: a bug ends this request only
            return self._refuse(self._unexpected(request, error))

    @web.middleware
    async def _show(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """End the answer when local folders show what was changed."""
        answer = await handler(request)
        if request.method != "GET":
            await shown(self._fs.views)
        return answer

    def _unexpected(self, request: web.Request, error: Exception) -> FsError:
        log.error("admin.crashed", request=request.path, exc_info=error)
        return FsError(f"unexpected {type(error).__name__} in the daemon; see {names.log_path(self._settings.home)}")

    def _refuse(self, error: FsError, *, status: int | None = None) -> web.Response:
        body = self._error_line(error)
        answer = web.Response(status=status or error.http_status, body=body, content_type="application/json")
        answer.force_close()  # the rest of a body that nobody reads must not be taken for a request
        return answer

    def _error_line(self, error: FsError) -> bytes:
        message = paths.message_of(error, self._mounts.local_folders)
        return to_bytes(error_info(error, self._redactor.clean(message)))

    def _plain(self, act: Simple) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            is_query = request.method == "GET"
            fields = Fields.of_query(request.raw_path) if is_query else Fields.of_body(await request.read())
            found = await act(fields)
            return web.Response(body=to_bytes({} if found is None else found), content_type="application/json")

        return handle

    async def _stream(self, request: web.Request, batches: AsyncGenerator[Sequence[Json], None]) -> web.StreamResponse:
        """Answer with the lines of each batch; what fails before the first one is raised."""
        answer = web.StreamResponse()
        answer.content_type = "application/x-ndjson"
        async with contextlib.aclosing(self._until_stop(batches)) as bounded:
            first = await anext(bounded, None) or ()  # `anext(it, ())` is a SystemError in CPython 3.11
            await answer.prepare(request)
            try:
                await answer.write(b"".join(map(to_bytes, first)))
                async for lines in bounded:
                    await answer.write(b"".join(map(to_bytes, lines)))
            except FsError as error:
                await answer.write(self._error_line(error))
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - as outermost, and the status has been sent
                await answer.write(self._error_line(self._unexpected(request, error)))
        return answer

    async def _until_stop(self, batches: AsyncGenerator[Sequence[Json], None]) -> AsyncGenerator[Sequence[Json], None]:
        """The batches, until the daemon stops: then an error, since a load may run for hours."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        step: asyncio.Future[Sequence[Json] | None] | None = None
        try:
            while True:
                step = asyncio.ensure_future(_next(batches))
                await asyncio.wait({step, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    raise Unavailable("the daemon is stopping; run the command again to go on")
                lines = step.result()
                if lines is None:
                    return
                yield lines
        finally:
            stopped.cancel()
            if step is not None:
                step.cancel()
                await asyncio.wait([step])
            await batches.aclose()

    # ------------------------------------------------------------------ the daemon

    async def _status(self, _: Fields) -> Json:
        return {
            "pid": os.getpid(),
            "version": __version__,
            "uptime_s": self._clock.monotonic() - self._started_at,
            "home": str(self._settings.home),
            "settings": to_flags(self._settings),
            "rss_bytes": resident_bytes(),
            "mounts": len(self._fs.mounts),
            "fuse_mounts": len(self._mounts.infos()),
            "cache": self._activity.cache(),
            "counters": self._fs.counters(),
        }

    async def _stop(self, _: Fields) -> None:
        asyncio.get_running_loop().call_soon(self._stopping.set)

    # ------------------------------------------------------------------ the tree

    async def _mount(self, fields: Fields) -> Json:
        options = mount_options(fields)
        self._redactor.learn(options.options)
        mount = await self._fs.mount(fields.path(), fields.text("url"), options)
        return mount_info(mount, default_policy=self._settings.cache_policy)

    async def _update_mount(self, fields: Fields) -> Json:
        changes = mount_changes(fields)
        self._redactor.learn(changes.options.items())
        mount = await self._fs.update_mount(fields.path(), changes)
        return mount_info(mount, default_policy=self._settings.cache_policy)

    async def _list_mounts(self, _: Fields) -> list[Json]:
        return [mount_info(mount, default_policy=self._settings.cache_policy) for mount in self._fs.mounts]

    async def _stat(self, fields: Fields) -> Json:
        return entry_info(self._fs, await self._fs.stat(fields.path()))

    async def _file(self, path: str) -> FileEntry:
        entry = await self._fs.stat(path)
        if not isinstance(entry, FileEntry):
            raise IsADirectory(f"{path} is a folder", path=path)
        return entry

    async def _location(self, fields: Fields) -> Json:
        return location_info(self._fs, await self._file(fields.path()))

    async def _df(self, _: Fields) -> list[Json]:
        return [use._asdict() for use in self._fs.cache.use()]

    async def _free(self, fields: Fields) -> Json:
        files, size = await self._fs.free(fields.path())
        return {"files": files, "bytes": size}

    async def _remove(self, fields: Fields) -> Json:
        recursive, force = fields.flag("recursive"), fields.flag("force")
        return {"removed": await self._fs.remove(fields.path(), recursive=recursive, force=force)}

    async def _touch(self, fields: Fields) -> None:
        await touch(self._fs, fields.path(), mtime_ns=fields.whole("mtime_ns"))

    async def _uploads(self, _: Fields) -> list[Json]:
        return [upload_info(info, self._redactor) for info in self._fs.uploader.infos()]

    async def _list(self, request: web.Request) -> web.StreamResponse:
        fields = Fields.of_query(request.raw_path)
        lister = list_below if fields.flag("recursive") else list_folder
        return await self._stream(request, lister(self._fs, fields.path()))

    async def _usage(self, request: web.Request) -> web.StreamResponse:
        return await self._stream(request, usage(self._fs, Fields.of_query(request.raw_path).path()))

    async def _load(self, request: web.Request) -> web.StreamResponse:
        fields = Fields.of_body(await request.read())
        path, parallel = fields.path(), fields.whole("parallel")
        load = self._fs.load_names if fields.flag("metadata") else self._fs.load
        return await self._stream(request, self._load_events(path, load(path, parallel=parallel)))

    async def _load_events(
        self, path: str, events: AsyncIterator[LoadEvent | NamesEvent]
    ) -> AsyncGenerator[Sequence[Json], None]:
        await self._fs.stat(path)  # an error here is a status, not a line
        async for batch in self._told(events):
            yield batch

    async def _told(
        self, events: AsyncIterator[LoadEvent | NamesEvent | MoveEvent | ModeEvent]
    ) -> AsyncGenerator[Sequence[Json], None]:
        async for event in events:
            failed = event.failed and (event.failed[0], self._redactor.clean(event.failed[1]))
            yield [asdict(event) | {"failed": failed}]

    async def _move(self, request: web.Request) -> web.StreamResponse:
        fields = Fields.of_body(await request.read())
        async with contextlib.aclosing(self._moves.move(fields.path("source"), fields.path("target"))) as events:
            return await self._stream(request, self._told(events))

    async def _chmod(self, request: web.Request) -> web.StreamResponse:
        fields = Fields.of_body(await request.read())
        change = ModeChange.parse(fields.text("mode"))
        async with contextlib.aclosing(
            change_modes(self._fs, fields.path(), change, recursive=fields.flag("recursive"))
        ) as events:
            return await self._stream(request, self._told(events))

    async def _flush(self, request: web.Request) -> web.StreamResponse:
        path = Fields.of_body(await request.read()).path()
        return await self._stream(request, flush(self._fs, path, self._redactor))

    # ------------------------------------------------------------------ bytes

    async def _read(self, request: web.Request) -> web.StreamResponse:
        fields = Fields.of_query(request.raw_path)
        entry = await self._file(fields.path())
        offset, length = fields.whole("offset") or 0, fields.whole("length")
        start = min(offset, entry.size) if offset >= 0 else max(0, entry.size + offset)
        stop = entry.size if length is None else min(entry.size, start + max(0, length))
        answer = web.StreamResponse()
        answer.content_type = "application/octet-stream"
        answer.content_length = stop - start
        pieces = self._pieces(entry, start, stop, past_cache=fields.flag("past_cache"))
        try:
            piece = await anext(pieces, b"")  # before the status line, so that a failure is one
            await answer.prepare(request)
            while piece:
                await answer.write(piece)
                start += len(piece)
                piece = await anext(pieces, b"")
            await answer.write_eof()
        except FsError as error:
            if not answer.prepared:
                raise
            log.warning("admin.read_cut", path=entry.path, offset=start, reason=str(error))
        finally:
            await pieces.aclose()
            if answer.prepared and start < stop and request.transport is not None:
                request.transport.close()  # fewer bytes than announced: the client asks why
        return answer

    async def _pieces(
        self, entry: FileEntry, start: int, stop: int, *, past_cache: bool
    ) -> AsyncGenerator[bytes, None]:
        """The bytes to send, as they come."""
        if past_cache and start < stop and not is_draft(entry):
            async with contextlib.aclosing(self._fs.stream_past_cache(entry, ByteRange(start, stop))) as chunks:
                async for chunk in chunks:
                    yield bytes(memoryview(chunk))
            return
        file = self._fs.open(entry)
        try:
            while piece := await _piece(file, start, stop):
                start += len(piece)
                yield piece
        finally:
            file.close()

    async def _write(self, request: web.Request) -> web.StreamResponse:
        path = Fields.of_query(request.raw_path).path()
        entry = await self._fs.write(path, request.content.iter_any())
        return web.Response(body=to_bytes(entry_info(self._fs, entry)), content_type="application/json")

    # ------------------------------------------------------------------ FUSE

    async def _list_fuse(self, _: Fields) -> list[Json]:
        return [asdict(info) for info in self._mounts.infos()]

    async def _mount_fuse(self, fields: Fields) -> Json:
        kind = fields.one_of("kind", FolderKind.WRITABLE)
        return asdict(await self._mounts.mount(fields.text("mountpoint"), fields.path(), kind))

    async def _unmount_fuse(self, fields: Fields) -> None:
        await self._mounts.unmount(fields.text("mountpoint"), force=fields.flag("force"))


async def _next(batches: AsyncIterator[Sequence[Json]]) -> Sequence[Json] | None:
    return await anext(batches, None)


async def _piece(file: AnyFile, start: int, stop: int) -> bytes:
    """The next bytes to send; a copy, since what memory answers is overwritten by the next read of any file."""
    size = min(READ_BYTES, stop - start)
    if size <= 0:
        return b""
    piece = file.read_now(start, size)
    return bytes(memoryview(await file.read(start, size) if piece is None else piece))
