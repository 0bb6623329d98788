"""A tiny S3 server in the test's own loop that answers right, unless it is told to answer wrong.

It keeps one bucket in memory under any keys, `a//b` and `..` included, and speaks just enough S3 for reads, listings
and plain writes.  It checks no signature.  Before each request it takes the next `Fault`, or `always`, or none.
"""

import asyncio
import hashlib
import ssl
import struct
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from urllib.parse import parse_qs, quote, quote_plus, unquote
from xml.sax.saxutils import escape

_MODIFIED = "Tue, 03 Jun 2025 10:00:00 GMT"
_MODIFIED_ISO = "2025-06-03T10:00:00.000Z"
_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content"}
PAGE_KEYS = 1_000


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do wrong with one request; what is not set is done right."""

    status: int | None = None  # this error instead of an answer
    code: str = ""  # S3's word for it
    headers: tuple[tuple[str, str], ...] = ()  # instead of, or beside, the right ones; an empty value leaves one out
    body: bytes | None = None  # these bytes, with a length that fits them
    hang: bool = False  # no answer at all
    reset: bool = False  # the connection is reset before the answer
    stop_after: int | None = None  # the connection ends after so many bytes of the body
    stall_after: int | None = None  # nothing more comes after so many bytes of the body
    whole: bool = False  # the whole object, though a range was asked for


@dataclass(slots=True)
class _Request:
    method: str
    key: str  # "" is the bucket
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class _Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class FaultServer:
    """See the module; made by `fault_server`."""

    bucket = "bucket"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.page_keys = PAGE_KEYS
        self.requests: Counter[str] = Counter()  # by method
        self.seen: list[dict[str, str]] = []  # the headers of every request, names in lower case
        self.scheme = "http"
        self.port = 0
        self._released = asyncio.Event()  # ends what hangs
        self._open: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while (request := await _read(reader, self.bucket)) is not None:
                self.requests[request.method] += 1
                self.seen.append(request.headers)
                fault = self.faults.popleft() if self.faults else self.always
                if not await self._reply(writer, request, fault or Fault()):
                    break
        except (OSError, ValueError, asyncio.IncompleteReadError):
            pass  # the client went away, or does not speak HTTP
        except asyncio.CancelledError:
            # By `end`; nobody but the loop waits for this task, and it would report the cancellation.
            writer.transport.abort()  # what the client has not read is not flushed
        finally:
            self._open.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def end(self) -> None:
        """Let what hangs go, and wait for every connection to end."""
        self._released.set()
        for task in [*self._open]:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _reply(self, writer: asyncio.StreamWriter, request: _Request, fault: Fault) -> bool:
        """Answer; False if the connection is over."""
        if fault.hang:
            await self._released.wait()
            return False
        if fault.reset:
            linger = struct.pack("ii", 1, 0)  # close(2) then sends RST
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
            return False
        if fault.whole:
            request.headers.pop("range", None)
        answer = _error(fault.status, fault.code) if fault.status else self._answer(request)
        if fault.body is not None:
            answer.body = fault.body
            answer.headers["Content-Length"] = str(len(fault.body))
        answer.headers.setdefault("Content-Length", str(len(answer.body)))
        answer.headers |= dict(fault.headers)
        lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Error')}"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items() if value]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        stops = [stop for stop in (fault.stop_after, fault.stall_after) if stop is not None]
        if request.method != "HEAD":
            writer.write(answer.body[: stops[0]] if stops else answer.body)
        await writer.drain()
        if fault.stall_after is not None:
            await self._released.wait()
        return not stops

    def _answer(self, request: _Request) -> _Answer:
        if request.key == "":
            return self._list(request.query)
        act: Callable[[_Request], _Answer] | None = {
            "GET": self._get,
            "HEAD": self._get,
            "PUT": self._put,
            "DELETE": self._delete,
        }.get(request.method)
        return _error(405, "MethodNotAllowed") if act is None else act(request)

    def _get(self, request: _Request) -> _Answer:
        data = self.objects.get(request.key)
        if data is None:
            return _error(404, "NoSuchKey")
        headers = {"ETag": etag(data), "Last-Modified": _MODIFIED}
        if request.headers.get("if-match", headers["ETag"]) != headers["ETag"]:
            return _error(412, "PreconditionFailed")
        if "range" not in request.headers:
            return _Answer(200, headers | {"Content-Length": str(len(data))}, data)
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, len(data))
        if start >= len(data):
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return _Answer(206, headers, data[start:stop])

    def _put(self, request: _Request) -> _Answer:
        self.objects[request.key] = request.body
        return _Answer(200, {"ETag": etag(request.body)})

    def _delete(self, request: _Request) -> _Answer:
        self.objects.pop(request.key, None)
        return _Answer(204)

    def _list(self, query: dict[str, str]) -> _Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = unquote(query.get("continuation-token", ""), errors="surrogateescape") or query.get("start-after", "")
        entries: dict[str, str] = {}
        for key in sorted(self.objects, key=lambda one: one.encode("utf-8", "surrogateescape")):
            if (
                not key.startswith(prefix)
                or key <= after
                or (after.endswith("/") and delimiter and key.startswith(after))
            ):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            folder = prefix + head + found
            if found and folder != after:
                entries[folder] = f"<CommonPrefixes><Prefix>{_encode(folder)}</Prefix></CommonPrefixes>"
            elif not found:
                size = len(self.objects[key])
                entries[key] = (
                    f"<Contents><Key>{_encode(key)}</Key><Size>{size}</Size><ETag>{escape(etag(self.objects[key]))}"
                    f"</ETag><LastModified>{_MODIFIED_ISO}</LastModified></Contents>"
                )
        names = [name for name in entries if name > after][: self.page_keys]
        cut = any(name > names[-1] for name in entries) if names else False
        more = (
            f"<NextContinuationToken>{quote(names[-1], errors='surrogateescape')}</NextContinuationToken>"
            if cut
            else ""
        )
        xml = (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<EncodingType>url</EncodingType><IsTruncated>{str(cut).lower()}</IsTruncated>{more}"
            f"{''.join(entries[name] for name in names)}</ListBucketResult>"
        )
        return _Answer(200, {"Content-Type": "application/xml"}, xml.encode())


@asynccontextmanager
async def fault_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[FaultServer]:
    """A server on a free loopback port, until the block ends."""
    faulty = FaultServer()
    faulty.scheme = "https" if tls else "http"
    server = await asyncio.start_server(faulty.serve, "127.0.0.1", 0, ssl=tls)
    faulty.port = server.sockets[0].getsockname()[1]
    try:
        yield faulty
    finally:
        server.close()
        await faulty.end()
        await server.wait_closed()


def etag(data: bytes) -> str:
    """The ETag that the server gives to these bytes, in quotes."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _error(status: int, code: str) -> _Answer:
    body = f"<Error><Code>{code}</Code><Message>scripted</Message></Error>" if code else ""
    return _Answer(status, {}, body.encode())


def _encode(key: str) -> str:
    return quote_plus(key, safe="/", errors="surrogateescape")


async def _read(reader: asyncio.StreamReader, bucket: str) -> _Request | None:
    line = await reader.readline()
    if not line:
        return None
    method, target, _ = line.decode("ascii").split(" ")
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    path, _, query = target.partition("?")
    fields = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
    key = unquote(path.removeprefix("/" + bucket).removeprefix("/"), errors="surrogateescape")
    return _Request(method, key, fields, headers, body)
