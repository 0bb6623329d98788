"""One connection of a program: frames in, frames and descriptors out.

*Callers*: the server and its requests, on the loop.  *Locks*: none.  *Awaits*: `drain`, the program's reading.
*Invariants*: frames leave in the order in which they were sent, whole; what is open is held until
it is sent.
*On crash*: the kernel closes the connection, and what was on its way with it.
"""

import asyncio
import errno
import socket
import struct
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from forebay.cache.pagefile import Descriptor
from forebay.errors import FsError, Unavailable
from forebay.frontends.local.format import BadFrame, Frame, Frames, Kind, pack, pack_error, pack_json
from forebay.types import Buffer

log = structlog.get_logger()

RECEIVE_BYTES = 256 << 10
QUEUED_BYTES_MAX = 4 << 20  # sent and not taken: whoever sends waits in `drain`
CROWDED_S = 0.01  # until descriptors are sent again of which too many are on their way
_CREDENTIALS = struct.Struct("iII")  # struct ucred, unix(7)


class _Queued(NamedTuple):
    data: memoryview
    files: Sequence[Descriptor]


class Link:
    """See the module."""

    def __init__(self, connected: socket.socket, on_frame: Callable[["Link", Frame], None]) -> None:
        self._socket = connected
        self._on_frame = on_frame
        self._frames = Frames()
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._drained: list[asyncio.Future[None]] = []
        self._is_waiting = False  # for the program to take what is queued
        self.is_open = True
        self.on_end: Callable[[Link], None] = lambda _: None
        raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self.pid, self.uid, self.gid = _CREDENTIALS.unpack(raw)
        connected.setblocking(False)
        self._loop.add_reader(connected, self._receive)

    # ------------------------------------------------------------------ in

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for frame in self._frames.feed(data):
                self._on_frame(self, frame)
        except BadFrame as error:
            log.warning("local.bad_frame", pid=self.pid, reason=str(error))
            self.close()

    # ------------------------------------------------------------------ out

    def answer(
        self, request: int, head: dict[str, object], data: Buffer = b"", files: Sequence[Descriptor] = ()
    ) -> None:
        """The last of a call."""
        self.send(pack(Kind.ANSWER, request, pack_json(head, data), fds=len(files)), files)

    def part(self, request: int, rows: Sequence[dict[str, object]]) -> None:
        """Some of a long answer."""
        self.send(pack(Kind.PART, request, pack_json({"rows": rows})))

    def fail(self, request: int, error: FsError, message: str) -> None:
        """The last of a request: an error."""
        self.send(pack(Kind.FAILED, request, pack_error(error, message)))

    def send(self, data: bytes, files: Sequence[Descriptor] = ()) -> None:
        """Send bytes, and open files with the first of them, now, or when the program has taken what comes before."""
        if not self.is_open:
            return
        self._queue.append(_Queued(memoryview(data), files))
        self._queued_bytes += len(data)
        if len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._queue and self.is_open:
            data, files = self._queue[0]
            fds = array("i", [file.number for file in files])
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if files else []
            try:
                count = self._socket.sendmsg([data], passed)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._socket, self._flush)
                self._is_waiting = True
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # descriptors on their way, of all programs: unix(7)
                    self._is_waiting = True
                    self._loop.call_later(CROWDED_S, self._flush)
                else:
                    self.close()
                return
            self._queued_bytes -= count
            if count < len(data):
                self._queue[0] = _Queued(data[count:], ())
            else:
                self._queue.popleft()
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._socket)
            self._wake()

    async def drain(self) -> None:
        """Return when little is waiting to be taken.

        Raises:
            Unavailable: the connection has ended.
        """
        while self.is_open and self._queued_bytes > QUEUED_BYTES_MAX:
            waiter = self._loop.create_future()
            self._drained.append(waiter)
            await waiter
        if not self.is_open:
            raise Unavailable("the program has gone")

    def _wake(self) -> None:
        waiting, self._drained = self._drained, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def close(self) -> None:
        """End it; the program sees the end of the stream."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._queue.clear()
        self._wake()
        self.on_end(self)
