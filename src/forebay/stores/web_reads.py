"""Bytes of a web server's files by our own requests: wherever redirects lead, and from servers that ignore ranges.

*Callers*: the web store, on the loop.  *Locks*: none.  *Awaits*: the network.  *Invariants*: bytes are returned only
if the answer's version, range and length are what was asked for.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import format_datetime

import aiohttp

from forebay.errors import Corrupt, IsADirectory, NotFound, StaleVersion, Unsupported
from forebay.stores import web_versions
from forebay.stores.base import OutsideObject
from forebay.stores.http_calls import Request
from forebay.stores.web_http import WebHttp
from forebay.types import Buffer, ByteRange, ObjectMeta
from forebay.units import GIB

_WHOLE_BYTES_MAX = 5 * GIB  # `get` without a range; nobody asks for more in one buffer


class WebReads:
    """See the module."""

    def __init__(self, http: WebHttp, meta: Callable[[str, Mapping[str, str]], ObjectMeta]) -> None:
        """`meta` says what the headers of an answer say of a file."""
        self._http = http
        self._meta = meta
        self.ignores_ranges = False  # the server does, as the last answer showed

    async def get(self, key: str, span: ByteRange | None, version: str | None, until: float | None) -> bytearray:
        """See `OwnReads.get`."""

        async def read(response: aiohttp.ClientResponse) -> bytearray:
            skip, size = self._check(key, response, span, version)
            if size > _WHOLE_BYTES_MAX:
                raise Unsupported(f"{self._http.origin}: {key!r} is too large for one read", path=key)
            body = bytearray()
            async for chunk in response.content.iter_any():
                passed = min(skip, len(chunk))
                skip -= passed
                body += memoryview(chunk)[passed : passed + size - len(body)]
                if len(body) == size:
                    break
            if len(body) < size:
                raise aiohttp.ClientPayloadError  # the answer says itself that it is whole
            return body

        request = Request("GET", key, headers=_conditions(span, version))
        with _no_folder(key):
            return await self._http.ask(request, read, expect=(200,) if span is None else (200, 206), until=until)

    async def stream(
        self, key: str, span: ByteRange, version: str, chunk_bytes: int, until: float | None
    ) -> AsyncGenerator[Buffer, None]:
        """See `OwnReads.stream`."""
        request = Request("GET", key, headers=_conditions(span, version))
        with _no_folder(key):
            async with self._http.open(request, expect=(200, 206), until=until) as response:
                skip, left = self._check(key, response, span, version)
                yield b""
                while left and (chunk := await self._http.calls.next_chunk(response, min(chunk_bytes, skip + left))):
                    passed = min(skip, len(chunk))
                    skip -= passed
                    left -= len(chunk) - passed
                    if len(chunk) > passed:
                        yield memoryview(chunk)[passed:]

    def _check(
        self, key: str, response: aiohttp.ClientResponse, span: ByteRange | None, version: str | None
    ) -> tuple[int, int]:
        """Compare an answer with the question: how many of its bytes to pass over, and how many to take then."""
        what, meta = f"{self._http.origin}: {key!r}", self._meta(key, response.headers)
        if version is not None and meta.version != version:
            raise StaleVersion(f"{what}: has another version by now", path=key)
        if span is None:
            return 0, meta.size
        if span.start >= meta.size:
            raise OutsideObject(f"{what}: the range lies outside the file", path=key)
        if span.stop > meta.size:
            raise Corrupt(f"{what} ends at {meta.size}, before {span.stop}", path=key)
        self.ignores_ranges = response.status == 200
        if response.status == 200:
            return span.start, span.size
        if not response.headers.get("Content-Range", "").startswith(f"bytes {span.start}-{span.stop - 1}/"):
            raise Corrupt(f"{what}: the server sent another range than was asked for", path=key)
        return 0, span.size


def _conditions(span: ByteRange | None, version: str | None) -> tuple[tuple[str, str], ...]:
    headers = []
    if span is not None:
        headers.append(("Range", f"bytes={span.start}-{span.stop - 1}"))
    if version is not None:
        when = web_versions.changed_after(version)
        if web_versions.is_tag(version):
            headers.append(("If-Match", f'"{version}"'))
        elif when is not None:
            headers.append(("If-Unmodified-Since", format_datetime(when, usegmt=True)))
    return tuple(headers)


@contextmanager
def _no_folder(key: str) -> Iterator[None]:
    """Where a file is asked for, a folder is nothing."""
    try:
        yield
    except IsADirectory as error:
        raise NotFound(error.message, path=key) from None
