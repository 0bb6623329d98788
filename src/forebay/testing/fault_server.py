"""A tiny S3 server in the test's own loop that answers right, unless it is told to answer wrong.

It keeps one bucket in memory under any keys, `a//b` and `..` included, and speaks just enough S3 for reads, listings
and plain writes.  It checks no signature.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, quote, quote_plus, unquote
from xml.sax.saxutils import escape

from forebay.testing.fault_http import FaultyHttp
from forebay.testing.faults import Answer, Refuse, Request

_MODIFIED = "Tue, 03 Jun 2025 10:00:00 GMT"
_MODIFIED_ISO = "2025-06-03T10:00:00.000Z"
PAGE_KEYS = 1_000


class FaultServer(FaultyHttp):
    """See the module; made by `fault_server`."""

    bucket = "bucket"

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.page_keys = PAGE_KEYS
        self.targets: list[str] = []  # the key of every request, or the prefix of a listing
        self.scheme = "http"
        self.port = 0

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def answer(self, request: Request) -> Answer:
        """What S3 answers."""
        path, _, query = request.target.partition("?")
        key = unquote(path.removeprefix("/" + self.bucket).removeprefix("/"), errors="surrogateescape")
        fields = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
        self.targets.append(key or fields.get("prefix", ""))
        if key == "":
            return self._list(fields)
        act: Callable[[str, Request], Answer] | None = {
            "GET": self._get,
            "HEAD": self._get,
            "PUT": self._put,
            "DELETE": self._delete,
        }.get(request.method)
        return _error(405, "MethodNotAllowed") if act is None else act(key, request)

    def _get(self, key: str, request: Request) -> Answer:
        data = self.objects.get(key)
        if data is None:
            return _error(404, "NoSuchKey")
        headers = {"ETag": etag(data), "Last-Modified": _MODIFIED}
        if request.headers.get("if-match", headers["ETag"]) != headers["ETag"]:
            return _error(412, "PreconditionFailed")
        if "range" not in request.headers:
            return Answer(200, headers | {"Content-Length": str(len(data))}, data)
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, len(data))
        if start >= len(data):
            return _error(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return Answer(206, headers, data[start:stop])

    def _put(self, key: str, request: Request) -> Answer:
        self.objects[key] = request.body
        return Answer(200, {"ETag": etag(request.body)})

    def _delete(self, key: str, _request: Request) -> Answer:
        self.objects.pop(key, None)
        return Answer(204)

    def _list(self, query: dict[str, str]) -> Answer:
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
        return Answer(200, {"Content-Type": "application/xml"}, xml.encode())


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


def _error(status: int, code: str) -> Answer:
    return Refuse(status, code).spoil(Answer(status))


def _encode(key: str) -> str:
    return quote_plus(key, safe="/", errors="surrogateescape")
