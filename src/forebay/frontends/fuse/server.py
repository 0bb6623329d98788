"""The request loop of one mount: each request gets exactly one answer, and nothing waits for anything else.

A handler answers at once (bytes), later (a coroutine, which becomes a task), or never (None: FORGET and its like).
What it raises becomes an errno.  A task is cancelled when its caller was told to stop.

*Callers*: the event loop, when the device is readable.  *Locks*: none.  *Awaits*: nothing itself; tasks await the
file system.  *Invariants*: one answer per request, also when a handler fails, is cancelled, or the mount ends.
*On crash*: the kernel answers what is open with ENOTCONN; the next daemon mounts again.
"""

import asyncio
import errno
import struct
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from types import CoroutineType
from typing import cast

import structlog

from forebay.clock import Clock
from forebay.frontends.fuse import abi, wire
from forebay.frontends.fuse.busywait import BusyWait
from forebay.frontends.fuse.device import Device, Gone
from forebay.frontends.fuse.waiters import Waiters
from forebay.frontends.fuse.wire import Request
from forebay.types import Buffer

log = structlog.get_logger()

Answer = Buffer | Coroutine[None, None, Buffer] | None
Handler = Callable[[Request], Answer]

REQUESTS_PER_TURN = 32  # then tasks and timers have theirs; the device stays readable


class Server:
    """See the module."""

    def __init__(
        self,
        device: Device,
        handlers: Mapping[int, Handler],
        refused: Mapping[int, int],
        clock: Clock,
        on_end: Callable[[], None],
    ) -> None:
        """`refused`: the errno of each opcode that has no handler and another answer than ENOSYS."""
        self._device = device
        self._busy_wait = BusyWait(device.fd, clock, lambda: self.on_spare())
        self._handlers = dict(handlers) | {abi.Opcode.INTERRUPT: self._interrupt}
        self._refused = refused
        self._on_end = on_end
        self.on_spare: Callable[[], None] = lambda: None  # called when nobody asks, though the last did just now
        self.waiters = Waiters()
        self.requests: Counter[int] = Counter()  # by opcode
        self._serving = False

    def start(self) -> None:
        """Begin to serve on the running loop."""
        asyncio.get_running_loop().add_reader(self._device.fd, self._read_some)
        self._serving = True

    async def stop(self) -> None:
        """Stop to serve, and answer what still waits with EINTR.  The device stays open."""
        self._stop_reading()
        await self.waiters.end()

    def _stop_reading(self) -> None:
        if self._serving:
            self._serving = False
            asyncio.get_running_loop().remove_reader(self._device.fd)

    def _read_some(self) -> None:
        try:
            for _ in range(REQUESTS_PER_TURN):
                data = self._device.read()
                if data is None:
                    return
                self.serve(data)
                # Not by reading until there is nothing: CPython makes an error of that, with its text, and drops it.
                if not self._busy_wait.wait(patient=not self.waiters):
                    return
        except Gone:
            self._stop_reading()
            self._on_end()

    def serve(self, data: memoryview) -> None:
        """Answer one request, now or by a task."""
        try:
            request = wire.parse_request(data)
        except ValueError as error:
            log.error("fuse.bad_request", reason=str(error))
            if len(data) >= 16:  # length, opcode and unique have come: whoever waits gets an answer
                self._device.write(wire.pack_error(int.from_bytes(data[8:16], "little"), errno.EINVAL))
            return
        opcode, unique = request.opcode, request.unique
        self.requests[opcode] += 1
        handler = self._handlers.get(opcode)
        if handler is None:
            self._device.write(wire.pack_error(unique, self._refused.get(opcode, errno.ENOSYS)))
            return
        try:
            answer = handler(request)
        except Exception as error:  # noqa: BLE001 - a request's outermost boundary: it must be answered
            self._device.write(wire.pack_error(unique, errno_of(error, opcode)))
            return
        if type(answer) is bytes:  # most are, and short
            self._device.write(wire.pack_reply(unique, len(answer)) + answer)
        elif answer is None:
            return
        elif isinstance(answer, CoroutineType):  # not Coroutine: asking an abstract class costs 0.5 us
            task = asyncio.create_task(answer, name=f"fuse {opcode} {unique}")
            self.waiters.add(request, task)
            task.add_done_callback(partial(self._finish, unique, opcode))
        else:
            payload = cast("Buffer", answer)
            self._device.write(wire.pack_reply(unique, len(payload)), payload)

    def is_alone(self) -> bool:
        """Does nobody wait for an answer but who has asked last?"""
        return not self.waiters and not self._busy_wait.has_come()

    def _finish(self, unique: int, opcode: int, task: asyncio.Task[Buffer]) -> None:
        # As a callback, since a task that is cancelled before its first step runs no line of its own.
        if task.cancelled():
            self._device.write(wire.pack_error(unique, errno.EINTR))
        elif (error := task.exception()) is not None:
            self._device.write(wire.pack_error(unique, errno_of(error, opcode)))
        else:
            payload = task.result()
            self._device.write(wire.pack_reply(unique, len(payload)), payload)
        self.waiters.remove(unique)

    def _interrupt(self, request: Request) -> None:
        self.waiters.interrupt(*abi.INTERRUPT_IN.unpack_from(request.body))


def errno_of(error: BaseException, opcode: int) -> int:
    """What a caller is told; anything but an OSError is a bug of ours, and logged."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if isinstance(error, ValueError | struct.error):
        log.error("fuse.bad_request", opcode=opcode, reason=str(error))
        return errno.EINVAL
    log.error("fuse.handler_failed", opcode=opcode, exc_info=error)
    return errno.EIO
