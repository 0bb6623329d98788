"""The socket in the home by which Python programs of this user read and write; see `forebay.client`.

The admin API beside it is for management, and speaks HTTP; this one passes descriptors, and costs little per file.

*Callers*: the daemon, on the loop.  *Locks*: none.  *Awaits*: `close` waits for calls under way.  *Invariants*: a
connection that ends takes with it what it was being told, its job, and, if it was its program's last, all that was
open; no message holds a secret.
*On crash*: programs see their connections end; they connect to the next daemon.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import structlog

from forebay import paths
from forebay.clock import Clock
from forebay.errors import Denied, FsError, Invalid, Unavailable, kinds
from forebay.frontends.local.batches import Batch
from forebay.frontends.local.calls import Caller, Calls
from forebay.frontends.local.format import VERSION, BadFrame, Frame, Json, Kind, parse_json, parse_paths
from forebay.frontends.local.link import Link
from forebay.frontends.local.orders import Job, Orders
from forebay.frontends.local.sessions import Session, Sessions
from forebay.frontends.local.shelf import Shelf
from forebay.vfs.filesystem import FileSystem

log = structlog.get_logger()

DRAIN_S = 30.0  # a stop waits so long for calls under way
REQUESTS_MAX = 1_000  # of one connection at a time; ours has two
BACKLOG = 128


class _Program:
    """One connection's state."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.token: str | None = None  # until it has said hello
        self.session: Session | None = None
        self.jobs: list[Job] = []
        self.batches: dict[int, Batch] = {}
        self.calls: set[asyncio.Task[None]] = set()


class LocalServer:
    """See the module."""

    def __init__(
        self,
        fs: FileSystem,
        path: Path,
        clock: Clock,
        *,
        clean: Callable[[str], str],
        orders: Orders,
    ) -> None:
        """`clean` takes secrets out of a message."""
        self._fs = fs
        self._shelf = Shelf(fs)
        self._clock = clock
        self._path = path
        self._clean = clean
        self._calls = Calls(fs, orders)
        self._sessions = Sessions()
        self._programs: dict[Link, _Program] = {}
        self._listener: socket.socket | None = None

    # ------------------------------------------------------------------ life

    def listen(self) -> None:
        """Answer from now on.

        Raises:
            Denied: the socket cannot be made.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # Of a daemon that was killed: we hold the home's lock, so no other one lives.
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))  # umask 077: nobody else can connect, from the first moment
            self._path.chmod(0o600)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise Denied(f"cannot listen at {self._path}: {error.strerror}", path=str(self._path)) from error
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:  # nobody more; or, as EMFILE, not now: it stays in the queue
                return
            link = Link(connected, self._take)
            self._programs[link] = _Program(link)
            link.on_end = self._end

    async def close(self) -> None:
        """Take no new programs, let calls under way end, and close."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        calls = {call for program in self._programs.values() for call in program.calls}
        if calls:
            await asyncio.wait(calls, timeout=DRAIN_S)
        for link in list(self._programs):
            link.close()
        await asyncio.gather(*calls, return_exceptions=True)

    def _end(self, link: Link) -> None:
        program = self._programs.pop(link)
        for batch in program.batches.values():
            batch.end()
        for call in program.calls:
            call.cancel()
        for job in program.jobs:
            job.close()
        if program.token is not None:
            self._sessions.leave(program.token)

    # ------------------------------------------------------------------ requests

    def _take(self, link: Link, frame: Frame) -> None:
        program = self._programs[link]
        if not link.is_open:
            return
        if program.session is None:
            self._greet(program, frame)
        elif frame.kind == Kind.FILES:
            self._check_bound(program, frame.request)
            batch = program.batches[frame.request] = self._batch(link, frame.request)
            self._begin(batch, frame)
        elif frame.kind == Kind.DONE:
            if (done := program.batches.pop(frame.request, None)) is not None:
                done.end()
        elif frame.kind == Kind.CLOSE:
            program.session.close(parse_json(frame.body)[0].get("handle"))
        elif frame.kind == Kind.CALL:
            self._check_bound(program, frame.request)
            caller = Caller(program.session, link.pid, program.jobs)
            call = asyncio.create_task(self._call(link, frame, caller), name="local.call")
            program.calls.add(call)
            call.add_done_callback(program.calls.discard)
        else:
            raise BadFrame(f"no request is of kind {frame.kind}")

    def _batch(self, link: Link, request: int) -> Batch:
        return Batch(self._fs, self._shelf, link, request, self._explain)

    def _begin(self, batch: Batch, frame: Frame) -> None:
        wanted = parse_paths(frame.body)
        try:
            batch.begin(wanted, self._clock.monotonic())
        except Exception as error:  # noqa: BLE001 - the outermost boundary: a bug ends this request only
            told, message = self._explain(error)
            batch.link.fail(frame.request, told, message)

    def _check_bound(self, program: _Program, request: int) -> None:
        if request in program.batches or len(program.batches) + len(program.calls) > REQUESTS_MAX:
            raise BadFrame("too many requests at a time, or two of one number")

    def _greet(self, program: _Program, frame: Frame) -> None:
        head, _ = parse_json(frame.body)
        if frame.kind != Kind.HELLO or head.get("version") != VERSION:
            message = "this program's Forebay is another version than the daemon's; forebay stop, then try again"
            program.link.fail(frame.request, Invalid(message), message)
            return
        token = head.get("session")
        if not isinstance(token, str):
            raise BadFrame("a hello without a session")
        program.token = token
        program.session = self._sessions.join(token)
        program.link.answer(frame.request, {"version": VERSION, "pid": os.getpid()})

    async def _call(self, link: Link, frame: Frame, caller: Caller) -> None:
        try:
            fields, data = parse_json(frame.body)
            name = fields.get("call")
            if (short := self._calls.short.get(str(name))) is not None:
                answer = await short(caller, fields, data)
                link.answer(frame.request, answer.head, answer.data, answer.files)
            elif (long := self._calls.long.get(str(name))) is not None:
                await self._stream(link, frame.request, long(fields))
            else:
                raise Invalid(f"the daemon knows no call {name!r}; is it another version? forebay stop, then try again")
        except asyncio.CancelledError:
            if link.is_open:
                raise
        except Exception as error:  # noqa: BLE001 - the outermost boundary: a bug ends this call only
            told, message = self._explain(error)
            link.fail(frame.request, told, message)

    async def _stream(self, link: Link, request: int, batches: AsyncGenerator[list[Json], None]) -> None:
        async with contextlib.aclosing(batches) as rows:
            async for some in rows:
                link.part(request, some)
                await link.drain()
        link.answer(request, {})

    def _explain(self, error: BaseException) -> tuple[FsError, str]:
        """An error as programs get it, and its message without secrets."""
        if isinstance(error, FsError):
            return error, self._clean(paths.message_of(error, self._fs.local_folders))
        if isinstance(error, OSError):
            by_errno = [kind for kind in kinds().values() if error.errno == kind.ERRNO and kind is not FsError]
            kind = by_errno[0] if by_errno and not by_errno[0].retryable else FsError
            return kind(str(error)), self._clean(str(error))
        if not isinstance(error, BadFrame):
            log.error("local.crashed", exc_info=error)
        message = f"unexpected {type(error).__name__} in the daemon; its log says more"
        return Unavailable(message), message
