"""An S3 server that costs next to nothing: a far store, whose work another machine would do.

    with SinkServer() as server:      # any bucket of it exists, and has what was put into it
        ...

A real server on this machine spends more on an object (sums, its disk) than the client that is measured, on the same
processors.  This one drops the bytes that it gets, and keeps their number: who reads gets as many, always the same.
It answers as S3 does to GET, PUT, HEAD and DELETE of objects, to uploads in parts, and to listings.  No signature is
checked.  At a second port the same objects are far away (see wire.py).
"""

import argparse
import asyncio
import os
import re
import sys
from functools import partial
from typing import Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

import uvloop

from forebay.testing.told_port import ToldPort
from wire import Wire

ROOM_BYTES = 1 << 20  # read at a time
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_MARK = re.compile(rb"\r\n(x-amz-meta-[^\r]*)", re.IGNORECASE)
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_BYTES = os.urandom(4 << 20)  # of every object, again and again
PAGE_KEYS = 1_000


class Objects:
    """What was put: the size, the number (its ETag) and the metadata headers of each key."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, bytes]] = {}
        self._uploads: dict[str, tuple[bytes, dict[str, int]]] = {}
        self._count = 0

    def answer(self, method: str, target: str, head: bytes, size: int) -> bytes:
        """The answer to a request whose body had `size` bytes."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        key = unquote(url.path)
        if "/" not in key.strip("/"):
            return _pack(200, self._list(f"/{key.strip('/')}/", query))
        if "uploads" in query or "uploadId" in query:
            return self._part(method, key, query, head, size)
        if method == "PUT":
            return self._keep(key, size, b"\r\n".join(_MARK.findall(head)))
        known = self._known.pop(key, None) if method == "DELETE" else self._known.get(key)
        if method == "DELETE":
            return _pack(204)
        if known is None:
            return _pack(404)
        described = b"%b\r\n%b" % (_described(known[1]), known[2])
        if method == "HEAD":
            return _pack(200, headers=described, length=known[0])
        return _read(described, known[0], _RANGE.search(head))

    def _list(self, bucket: str, query: dict[str, str]) -> bytes:
        """One page of ListObjectsV2; the names of these buckets need no escapes."""
        start, delimiter = bucket + query.get("prefix", ""), query.get("delimiter", "")
        after = bucket + query.get("continuation-token", query.get("start-after", ""))
        found: dict[str, str] = {}
        for key in sorted(key for key in self._known if key.startswith(start)):
            below, is_folder, _ = key[len(start) :].partition(delimiter) if delimiter else (key[len(start) :], "", "")
            name = start + below + is_folder
            if name <= after or name in found:
                continue
            if len(found) == PAGE_KEYS:
                token = f"<NextContinuationToken>{list(found)[-1][len(bucket) :]}</NextContinuationToken>"
                break
            size, number, _ = self._known[key]
            told = (
                f"<CommonPrefixes><Prefix>{name[len(bucket) :]}</Prefix></CommonPrefixes>"
                if is_folder
                else f"<Contents><Key>{name[len(bucket) :]}</Key><LastModified>2025-06-03T10:00:00.000Z</LastModified>"
                f"<ETag>&quot;{number:032x}&quot;</ETag><Size>{size}</Size></Contents>"
            )
            found[name] = told
        else:
            token = ""
        return (
            f'<?xml version="1.0"?><ListBucketResult><KeyCount>{len(found)}</KeyCount>'
            f"<IsTruncated>{str(bool(token)).lower()}</IsTruncated>{token}{''.join(found.values())}</ListBucketResult>"
        ).encode()

    def _part(self, method: str, key: str, query: dict[str, str], head: bytes, size: int) -> bytes:
        name = query.get("uploadId", "")
        if "uploads" in query:
            self._count += 1
            self._uploads[str(self._count)] = b"\r\n".join(_MARK.findall(head)), {}
            return _pack(
                200,
                b"<InitiateMultipartUploadResult><UploadId>%d</UploadId></InitiateMultipartUploadResult>" % self._count,
            )
        if name not in self._uploads:
            return _pack(404, b"<Error><Code>NoSuchUpload</Code></Error>")
        marks, parts = self._uploads[name]
        if method == "PUT":
            parts[query["partNumber"]] = size
            return _pack(200, headers=b'ETag: "%d-%s"' % (size, query["partNumber"].encode()))
        del self._uploads[name]
        if method == "DELETE":
            return _pack(204)
        self._keep(key, sum(parts.values()), marks)
        return _pack(
            200, b'<CompleteMultipartUploadResult><ETag>"%032x"</ETag></CompleteMultipartUploadResult>' % self._count
        )

    def _keep(self, key: str, size: int, marks: bytes) -> bytes:
        self._count += 1
        self._known[key] = size, self._count, marks
        return _pack(200, headers=_described(self._count))


def _read(described: bytes, size: int, asked: "re.Match[bytes] | None") -> bytes:
    start, stop = 0, size
    if asked is not None:
        start, stop = int(asked[1]), min(int(asked[2] or size) + 1, size)
        if start >= stop:
            return _pack(416)
        described += b"\r\nContent-Range: bytes %d-%d/%d" % (start, stop - 1, size)
    body = _BYTES[: stop - start] if stop - start <= len(_BYTES) else _BYTES * (1 + (stop - start) // len(_BYTES))
    return _pack(200 if asked is None else 206, body[: stop - start], headers=described.replace(b"\r\n\r\n", b"\r\n"))


def _described(number: int) -> bytes:
    return b'ETag: "%032x"\r\nLast-Modified: Tue, 03 Jun 2025 10:00:00 GMT' % number


def _pack(status: int, body: bytes = b"", *, headers: bytes = b"", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    more = headers.strip() + b"\r\n" if headers else b""
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, size, more, body)


class _Connection(asyncio.BufferedProtocol):
    """One client: a request at a time; the bytes of bodies are counted and dropped."""

    def __init__(self, objects: Objects, wire: Wire | None) -> None:
        self._objects = objects
        self._wire = wire
        self._room = bytearray(ROOM_BYTES)
        self._head = b""
        self._unread = b""  # of a head
        self._missing = 0  # of the body
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if self._wire is not None:
            self._wire.pause(self._transport, self._wire.rtt_s)  # connecting takes a round trip, too

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        if self._wire is not None:
            self._wire.came(nbytes, self._transport)
        if self._head and nbytes < self._missing:
            self._missing -= nbytes
            return
        self._take(bytes(memoryview(self._room)[:nbytes]))

    def _take(self, data: bytes) -> None:
        while data or (self._head and not self._missing):
            if self._head:
                taken = min(len(data), self._missing)
                data, self._missing = data[taken:], self._missing - taken
                if self._missing:
                    return
                self._answer()
                continue
            head, found, data = (self._unread + data).partition(b"\r\n\r\n")
            self._unread = b"" if found else head
            if not found:
                return
            self._head = head
            length = _LENGTH.search(head)
            self._size = self._missing = int(length[1]) if length else 0
            if b"100-continue" in head:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _answer(self) -> None:
        method, target, _ = self._head.partition(b"\r\n")[0].decode().split(" ")
        self._write(self._objects.answer(method, target, self._head, self._size))
        self._head = b""

    def _write(self, data: bytes) -> None:
        if self._wire is None:
            self._transport.write(data)
        else:
            self._wire.send(data, self._transport)


class SinkServer(ToldPort):
    """See the module."""

    def __init__(self, *, rtt_ms: float, mbps: float) -> None:
        """What lies before the port of `far_endpoint`: a round trip, milliseconds, and a link, MB/s each way."""
        words = ["--rtt-ms", str(rtt_ms), "--mbps", str(mbps)]
        super().__init__("the sink server", [sys.executable, __file__, *words])

    def __enter__(self) -> Self:
        super().__enter__()
        self.far_endpoint = f"http://127.0.0.1:{self.told()}"
        return self


async def _serve(rtt_ms: float, mbps: float) -> None:
    objects, loop = Objects(), asyncio.get_running_loop()
    for wire in (None, Wire(rtt_s=rtt_ms / 1e3, bytes_per_s=mbps * 1e6)):
        server = await loop.create_server(partial(_Connection, objects, wire), "127.0.0.1", 0)
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rtt-ms", type=float, required=True, help="round trip to the second port, milliseconds")
    parser.add_argument("--mbps", type=float, required=True, help="rate of the link to it, MB/s each way")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.rtt_ms, arguments.mbps))
