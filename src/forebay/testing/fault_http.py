"""The wire of an HTTP server that does wrong as it is told: what the fault proxy and the fault server share.

Before each request it takes the next of `faults`, or else what `script` chooses.

*Callers*: a server's loop, one task for each connection.  *Locks*: none; a test in another thread only replaces
`script`, and reads the counts when it has its answers.  *Invariant*: when `end` returns, no connection is open.
"""

import asyncio
import struct
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET

from forebay.testing.faults import BEFORE_HEADERS, Answer, Fault, Request, Script

PIECE_BYTES = 64 << 10
_LINGER_NONE = struct.pack("ii", 1, 0)  # close(2) then sends RST


class FaultyHttp:
    """See the module; what is right is `answer`'s."""

    def __init__(self) -> None:
        self.faults: deque[Fault | None] = deque()
        self.script = Script()
        self.seen: list[Request] = []  # every request, without its body
        self.did: Counter[str] = Counter()  # faults, by kind
        self._open: set[asyncio.Task[None]] = set()

    @property
    def requests(self) -> Counter[str]:
        """How many requests came, by method."""
        return Counter(request.method for request in self.seen)

    async def answer(self, request: Request) -> Answer:
        """The right answer."""
        raise NotImplementedError

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while (request := await _read(reader)) is not None:
                sent = await self._reply(writer, request)
                if sent == "stall":
                    await reader.read()  # until the client gives up
                if sent != "keep":
                    break
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # the client went away, or does not speak HTTP
        except asyncio.CancelledError:
            # By `end`; nobody but the loop waits for this task, and it would report the cancellation.
            writer.transport.abort()  # what the client has not read is not flushed
        finally:
            self._open.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def end(self) -> None:
        """Cut every connection."""
        for task in [*self._open]:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _reply(self, writer: asyncio.StreamWriter, request: Request) -> str:
        """Answer; how the connection ends, or "keep"."""
        self.seen.append(replace(request, body=b""))
        chosen = self.faults.popleft() if self.faults else self.script.choose(request)
        fault = chosen or Fault()
        if chosen is not None:
            self.did[type(chosen).__name__] += 1
        answer = await self.answer(fault.ask(request)) if fault.reaches_server else Answer(500)
        answer = fault.spoil(answer)
        await asyncio.sleep(answer.late_s)
        if answer.stop != BEFORE_HEADERS:
            writer.write(_head(answer))
            if request.method != "HEAD":
                await _write_body(writer, answer)
            await writer.drain()
        if answer.ending == "reset":
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _LINGER_NONE)
        return answer.ending


def _head(answer: Answer) -> bytes:
    reason = HTTPStatus(answer.status).phrase if answer.status in list(HTTPStatus) else "Error"
    length = {"Transfer-Encoding": "chunked"} if answer.is_chunked else {"Content-Length": str(answer.length)}
    headers = answer.with_headers(length).headers
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _write_body(writer: asyncio.StreamWriter, answer: Answer) -> None:
    stop = len(answer.body) if answer.stop is None else answer.stop
    for start in range(0, min(stop, len(answer.body)), PIECE_BYTES):
        piece = answer.body[start : min(start + PIECE_BYTES, stop)]
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.is_chunked else piece)
        await writer.drain()
        if answer.bytes_per_s:
            await asyncio.sleep(len(piece) / answer.bytes_per_s)
    if answer.is_chunked and answer.stop is None:
        writer.write(b"0\r\n\r\n")


async def _read(reader: asyncio.StreamReader) -> Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode("ascii").split(" ")
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body, time.monotonic())
