"""An S3 server that only lists, and fast: buckets of any size whose pages are made on the fly, in a process of its own.

    with ListingServer() as server:      # s3://1000x500 at server.endpoint: 1,000 folders of 500 keys each
        ...
        server.requests()                # {"list": 1001, "head": 0}

A bucket is named `FOLDERSxFILES`.  Its keys are `folder-000000/file-0000000.bin` and so on, each with a size, a time
and an ETag of its own; none of them can be read.  No signature is checked.
"""

import argparse
import asyncio
import json
import re
import sys
import urllib.request
from collections import Counter
from typing import NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import uvloop

from forebay.testing.told_port import ToldPort

PAGE_KEYS = 1_000
_BUCKET = re.compile(r"(\d+)x(\d+)")
_FOLDER = re.compile(r"folder-(\d{6})/")
_FILE = re.compile(r"file-(\d{7})\.bin")
_COUNTS = "/requests"
_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>bucket</Name><EncodingType>url</EncodingType><MaxKeys>1000</MaxKeys>"
)


class Bucket(NamedTuple):
    """What a bucket's name says."""

    folders: int
    files: int  # in each

    def find(self, key: str) -> int | None:
        """The number of a key in the whole bucket; None if there is no such key."""
        folder, _, name = key.partition("/")
        found_folder, found = _FOLDER.fullmatch(folder + "/"), _FILE.fullmatch(name)
        if found_folder is None or found is None:
            return None
        number, file = int(found_folder[1]), int(found[1])
        return number * self.files + file if number < self.folders and file < self.files else None

    def span(self, prefix: str) -> range:
        """The numbers of the keys that begin with a prefix: "" or a folder, else none."""
        if not prefix:
            return range(self.folders * self.files)
        found = _FOLDER.fullmatch(prefix)
        number = int(found[1]) if found else self.folders
        return range(number * self.files, (number + 1) * self.files) if number < self.folders else range(0)


def folder_name(number: int) -> str:
    """The prefix of a folder."""
    return f"folder-{number:06d}/"


def size_of(number: int) -> int:
    """The size of a key's object, by its number in the bucket."""
    return 1 + number % 1_000_003


def etag_of(number: int) -> str:
    """And its ETag."""
    return f"{number * 0x9E3779B97F4A7C15 % (1 << 128):032x}"


def _contents(bucket: Bucket, number: int) -> str:
    folder, file = divmod(number, bucket.files)
    minute, second = divmod(number // 1000 % 3600, 60)
    return (
        f"<Contents><Key>folder-{folder:06d}/file-{file:07d}.bin</Key>"
        f"<LastModified>2025-06-03T10:{minute:02d}:{second:02d}.{number % 1000:03d}Z</LastModified>"
        f"<ETag>&quot;{etag_of(number)}&quot;</ETag><Size>{size_of(number)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
    )


def make_page(bucket: Bucket, query: dict[str, str]) -> bytes:
    """One answer of ListObjectsV2."""
    prefix, start, size = query.get("prefix", ""), int(query.get("continuation-token", "0")), PAGE_KEYS
    size = min(size, int(query.get("max-keys", "1000")))
    if query.get("delimiter") and not prefix:
        every = range(bucket.folders)
        some = every[start : start + size]
        items = [f"<CommonPrefixes><Prefix>{folder_name(number)}</Prefix></CommonPrefixes>" for number in some]
    else:
        every = bucket.span(prefix)
        items = [_contents(bucket, number) for number in every[start : start + size]]
    is_cut = start + size < len(every)
    more = f"<NextContinuationToken>{start + size}</NextContinuationToken>" if is_cut else ""
    tail = f"<KeyCount>{len(items)}</KeyCount><IsTruncated>{str(is_cut).lower()}</IsTruncated>{more}</ListBucketResult>"
    return "".join((_HEAD, *items, tail)).encode()


class _Connection(asyncio.Protocol):
    """One client: requests without bodies, each answered at once."""

    def __init__(self, requests: Counter[str]) -> None:
        self._requests = requests
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        *whole, self._unread = (self._unread + data).split(b"\r\n\r\n")
        for head in whole:
            method, target, _ = head.partition(b"\r\n")[0].decode().split(" ")
            self._transport.write(self._answer(method, target))

    def _answer(self, method: str, target: str) -> bytes:
        url = urlsplit(target)
        if url.path == _COUNTS:
            return _pack(200, json.dumps(self._requests).encode())
        name, _, key = unquote(url.path.lstrip("/")).partition("/")
        found = _BUCKET.fullmatch(name)
        if found is None:
            return _pack(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        bucket = Bucket(int(found[1]), int(found[2]))
        if key:
            self._requests["head"] += 1
            number = bucket.find(key)
            if number is None:
                return _pack(404, b"")
            more = f'ETag: "{etag_of(number)}"\r\nLast-Modified: Tue, 03 Jun 2025 10:00:00 GMT\r\n'
            return _pack(200, b"", more, length=size_of(number))
        self._requests["list"] += 1
        return _pack(200, make_page(bucket, dict(parse_qsl(url.query, keep_blank_values=True))))


def _pack(status: int, body: bytes, headers: str = "", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + body


class ListingServer(ToldPort):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("the listing server", [sys.executable, "-m", "forebay.testing.listing_server"])

    def requests(self) -> dict[str, int]:
        """How many listings and HEADs it has answered."""
        with urllib.request.urlopen(self.endpoint + _COUNTS, timeout=30) as answer:
            counts: dict[str, int] = {"list": 0, "head": 0} | json.load(answer)
            return counts


async def _serve(port: int) -> None:
    requests: Counter[str] = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(requests), "127.0.0.1", port)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


def main() -> None:
    """Serve until it is ended; the port is the first line of stdout."""
    parser = argparse.ArgumentParser(description="An S3 server that only lists; see forebay.testing.listing_server.")
    parser.add_argument("--port", type=int, default=0, help="a free one, if 0")
    uvloop.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
