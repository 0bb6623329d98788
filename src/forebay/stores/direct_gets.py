"""GETs of small objects on connections of our own: a third of the CPU that they cost through a library.

An answer is read from its socket on the loop, a small one whole by one system call: no thread, and nothing parsed but
what must be compared.  Only what was asked for comes back, a 200 or 206 of that version, range and length.
All else is a failure without a reason: who asks then asks in the ordinary way, which knows what failures mean.

*Callers*: `object_reads`, on the loop.  *Locks*: none.  *Awaits*: the network; a silent server ends a call.
*Invariants*: a connection carries one request at a time, and is used again only after an answer that was right to its
last byte; there are at most as many as were busy at a time, `CONNECTIONS_MAX` of them.
"""

import asyncio
import ssl
from typing import NamedTuple

from forebay.stores.http_calls import CONNECT_WITHIN_S, CONNECTIONS_MAX, IDLE_S
from forebay.types import ByteRange
from forebay.units import KIB, MIB

BYTES_MAX = 4 * MIB  # of one answer; obstore is as good with larger ones
HEAD_BYTES_MAX = 4 * KIB  # of status and headers
FAILURES_MAX = 8  # in a row: this server answers in a way of its own, or not at all
REST_S = 60.0  # then it is left to the ordinary way for so long
_TICKS = 4  # a connection is looked at so often before it counts as silent
_FIRST = memoryview(bytearray(256 * KIB))
"""Where the first bytes of every answer go, which of a small object are all of it: one read, and memory that is in the
processor's caches.  They are copied out before another connection is read."""


class Origin(NamedTuple):
    """Where to connect."""

    host: str
    port: int
    tls: ssl.SSLContext | None


class Wanted(NamedTuple):
    """What an answer must be."""

    etag: bytes  # in quotes
    span: ByteRange | None  # None: the whole object


class Head(NamedTuple):
    """What status and headers say of the body."""

    size: int
    keeps: bool  # the connection stays open


def read_head(head: bytes, wanted: Wanted) -> Head | None:
    """Status and headers, if they announce what was wanted.

    >>> whole = Wanted(b'"e"', None)
    >>> read_head(b'HTTP/1.1 200 OK\\r\\nETag: "e"\\r\\nContent-Length: 3', whole)
    Head(size=3, keeps=True)
    >>> read_head(b'HTTP/1.1 200 OK\\r\\nETag: "other"\\r\\nContent-Length: 3', whole) is None
    True
    """
    status, *lines = head.split(b"\r\n")
    fields = {}
    for line in lines:
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    length, span = fields.get(b"content-length", b""), wanted.span
    if fields.get(b"etag") != wanted.etag or b"transfer-encoding" in fields or not length.isdigit():
        return None
    if span is None:
        is_right = status.startswith(b"HTTP/1.1 200") and int(length) <= BYTES_MAX
    else:
        sent = fields.get(b"content-range", b"")
        is_right = status.startswith(b"HTTP/1.1 206") and sent.startswith(b"bytes %d-%d/" % (span.start, span.stop - 1))
        is_right = is_right and int(length) == span.size
    return Head(int(length), fields.get(b"connection", b"").lower() != b"close") if is_right else None


class _Connection(asyncio.BufferedProtocol):
    """One connection; `ask` again when it has answered and `is_idle`."""

    def __init__(self) -> None:
        self._head = b""  # what came of one that comes in pieces
        self._body: bytearray | None = None  # None: the head is coming
        self._room = _FIRST  # where the next bytes go
        self._wanted: Wanted | None = None
        self._answer: asyncio.Future[bytearray | None] | None = None
        self._keeps = True
        self.has_answered = False  # anything at all, to the last request
        self.is_open = False
        self.quiet_ticks = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `BaseProtocol`."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is none by inheritance
        self.is_open = True

    def connection_lost(self, error: Exception | None) -> None:
        """See `BaseProtocol`."""
        self.is_open = False
        self._finish(None)

    def ask(self, request: bytes, wanted: Wanted) -> asyncio.Future[bytearray | None]:
        """Send a request; the body of the right answer will come, or None, and the connection has ended."""
        self._wanted = wanted
        self.has_answered, self.quiet_ticks = False, 0
        answer = self._answer = asyncio.get_running_loop().create_future()
        if self.is_open:
            self._transport.write(request)
        else:
            self._finish(None)
        return answer

    def abort(self) -> None:
        """End it, whatever is under way."""
        self.is_open = False
        self._transport.abort()
        self._finish(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `BufferedProtocol`."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """See `BufferedProtocol`."""
        self.quiet_ticks, self.has_answered = 0, True
        if self._wanted is None:  # nobody asked for it
            self.abort()
        elif self._body is None:
            self._begin(self._wanted, _FIRST[:nbytes])
        else:
            self._room = self._room[nbytes:]
            if not self._room:
                self._end(self._body)

    def _begin(self, wanted: Wanted, first: memoryview) -> None:
        """If the head is here, the body has a buffer, with what came of it; not if it will be the wrong one."""
        head = self._head + bytes(first[:HEAD_BYTES_MAX])
        end = head.find(b"\r\n\r\n")
        if end < 0:
            self._head = head
            if len(head) >= HEAD_BYTES_MAX:
                self.abort()
            return
        told, rest = read_head(head[:end], wanted), first[end + 4 - len(self._head) :]
        if told is None:
            self.abort()
            return
        self._head, self._keeps = b"", told.keeps and len(rest) <= told.size  # of more, nobody knows what it is
        if len(rest) >= told.size:
            self._end(bytearray(rest[: told.size]))
            return
        self._body = bytearray(told.size)
        self._room = memoryview(self._body)[len(rest) :]
        self._body[: len(rest)] = rest

    def _end(self, body: bytearray) -> None:
        self._finish(body)
        if not self._keeps:
            self.abort()

    def _finish(self, body: bytearray | None) -> None:
        answer, self._answer = self._answer, None
        self._wanted = self._body = None
        self._head, self._room = b"", _FIRST
        if answer is not None and not answer.done():
            answer.set_result(body)


class DirectGets:
    """See the module."""

    def __init__(self, origin: Origin, *, silence_s: float) -> None:
        self.origin = origin
        self._tick_s = silence_s / _TICKS
        self._idle: list[_Connection] = []  # the one used last at the end: the others grow old, and go
        self._busy: set[_Connection] = set()
        self._opening = 0
        self._tick: asyncio.TimerHandle | None = None
        self._failures = 0  # in a row
        self._rests_until = 0.0  # by the loop's clock

    def __repr__(self) -> str:
        return f"<DirectGets {self.origin.host}:{self.origin.port} {len(self._busy)} busy, {len(self._idle)} idle>"

    @property
    def is_ready(self) -> bool:
        """May it be asked now?"""
        is_free = len(self._busy) + self._opening < CONNECTIONS_MAX
        return is_free and asyncio.get_running_loop().time() >= self._rests_until

    async def get(self, request: bytes, wanted: Wanted) -> bytearray | None:
        """Send a GET, as it goes out; the body of the answer if it is what was wanted."""
        body, connection = None, self._take_idle()
        if connection is not None:
            body = await self._ask(connection, request, wanted)
        # A server may close what idles at any time: then it has not heard this request.
        if body is None and (connection is None or not connection.has_answered):
            connection = await self._open()
            body = None if connection is None else await self._ask(connection, request, wanted)
        self._failures = 0 if body is not None else self._failures + 1
        if self._failures >= FAILURES_MAX:
            self._failures, self._rests_until = 0, asyncio.get_running_loop().time() + REST_S
        return body

    async def _ask(self, connection: _Connection, request: bytes, wanted: Wanted) -> bytearray | None:
        self._busy.add(connection)
        try:
            return await connection.ask(request, wanted)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
            if connection.is_open:
                self._idle.append(connection)

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None

    async def _open(self) -> _Connection | None:
        loop, (host, port, tls) = asyncio.get_running_loop(), self.origin
        self._opening += 1
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                _, connection = await loop.create_connection(_Connection, host, port, ssl=tls)
        except (OSError, UnicodeError):  # of a name that DNS cannot take
            return None
        finally:
            self._opening -= 1
        if self._tick is None:
            self._tick = loop.call_later(self._tick_s, self._look)
        return connection

    def _look(self) -> None:
        """End connections that are silent, or idle for long: one timer for all, and none while there are none."""
        for connection in [*self._busy]:
            connection.quiet_ticks += 1
            if connection.quiet_ticks > _TICKS:
                connection.abort()
        for connection in self._idle:
            connection.quiet_ticks += 1
            if connection.quiet_ticks * self._tick_s > IDLE_S:
                connection.abort()
        self._idle = [connection for connection in self._idle if connection.is_open]
        is_needed = self._idle or self._busy
        self._tick = asyncio.get_running_loop().call_later(self._tick_s, self._look) if is_needed else None

    def close(self) -> None:
        """End every connection, and what is asked on it."""
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        self._idle.clear()
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
