"""Bytes of objects over `http_calls`: what `object_reads` does not ask of obstore.

What differs from store to store is its `Service`: how the bytes are asked for, what the headers say.

*Callers*: adapters, on the loop.  *Locks*: none.  *Awaits*: the network, up to the answer within the deadline, and so
for each chunk.  *Invariants*: those of `obstore_reads`.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Protocol

from forebay.errors import Corrupt, StaleVersion
from forebay.stores.base import OutsideObject, check_span
from forebay.stores.http_calls import HttpCalls, Request
from forebay.types import Buffer, ByteRange, ObjectMeta
from forebay.units import GIB

WHOLE_BYTES_MAX = 5 * GIB  # `get` without a range; nobody asks for more in one buffer


class Service(Protocol):
    """What differs from store to store."""

    location: str

    def read_request(self, key: str, version: str | None) -> Request:
        """The GET of an object's bytes, which makes the store itself refuse another version."""
        ...

    def meta_in(self, key: str, headers: Mapping[str, str]) -> ObjectMeta:
        """What the headers of an answer say of the object."""
        ...


class HttpReads:
    """See the module."""

    def __init__(self, service: Service, calls: HttpCalls) -> None:
        self._service = service
        self._calls = calls

    async def get(self, key: str, span: ByteRange | None, version: str | None, until: float | None) -> Buffer:
        """See `Store.get`; `until` as `HttpCalls.call` has it."""
        size_max, request = WHOLE_BYTES_MAX if span is None else span.size, self._request(key, span, version)
        answer = await self._calls.call(request, expect=(200, 206), size_max=size_max, until=until)
        expected = self._check(key, answer.headers, span, version)
        if len(answer.body) != expected:
            message = f"{self._service.location}: {key!r}: {expected} bytes were announced, others came"
            raise Corrupt(message, path=key)
        return answer.body

    async def stream(
        self, key: str, span: ByteRange, version: str, chunk_bytes: int, until: float | None
    ) -> AsyncGenerator[Buffer, None]:
        """The chunks of an answer, the first of them empty: it has begun.  Who asks counts the bytes."""
        request = self._request(key, span, version)
        async with self._calls.open(request, expect=(200, 206), until=until) as response:
            self._check(key, response.headers, span, version)
            yield b""
            while chunk := await self._calls.next_chunk(response, chunk_bytes):
                yield chunk

    def _request(self, key: str, span: ByteRange | None, version: str | None) -> Request:
        request = self._service.read_request(key, version)
        if span is not None:
            check_span(key, span)
            request.headers += (("Range", f"bytes={span.start}-{span.stop - 1}"),)
        return request

    def _check(self, key: str, headers: Mapping[str, str], span: ByteRange | None, version: str | None) -> int:
        """Compare an answer's headers with the question; how many bytes must come."""
        location, meta = self._service.location, self._service.meta_in(key, headers)
        if version is not None and meta.version != version:
            raise StaleVersion(f"{location}: {key!r}: has another version by now", path=key)
        first, stop = (0, meta.size) if span is None else span
        if span is not None and first >= meta.size:
            raise OutsideObject(f"{location}: {key!r}: the range lies outside the object", path=key)
        sent = headers.get("Content-Range", f"bytes 0-{meta.size - 1}/{meta.size}")
        if not sent.startswith(f"bytes {first}-{stop - 1}/"):
            raise Corrupt(f"{location}: {key!r}: the store sent another range than was asked for", path=key)
        return stop - first


def size_in(key: str, headers: Mapping[str, str]) -> int:
    """The size of the whole object, as the headers of an answer tell it.

    Raises:
        Corrupt: they do not.
    """
    ranged = headers.get("Content-Range", "").rpartition("/")[2]
    try:
        return int(ranged or headers["Content-Length"])
    except (KeyError, ValueError) as error:
        raise Corrupt(f"{key!r}: the store did not say its size", path=key) from error
