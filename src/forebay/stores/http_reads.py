"""Bytes of objects over `http_calls`, for the keys that obstore refuses or would change.

What differs from store to store is its `Service`: how the bytes are asked for, what the headers say.

*Callers*: adapters, on the loop.  *Locks*: none.  *Awaits*: the network, up to the answer within the deadline, and so
for each chunk.  *Invariants*: those of `obstore_reads`.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from forebay.errors import Corrupt, Invalid, StaleVersion
from forebay.stores.http_calls import HttpCalls, Request
from forebay.stores.obstore_reads import check_span
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

    async def get(self, key: str, span: ByteRange | None, version: str | None) -> Buffer:
        """See `Store.get`."""
        expect, size_max = ((200,), WHOLE_BYTES_MAX) if span is None else ((200, 206), span.size)
        answer = await self._calls.call(self._request(key, span, version), expect=expect, size_max=size_max)
        expected = self._check(key, answer.headers, span, version)
        if len(answer.body) != expected:
            message = f"{self._service.location}: {key!r}: {expected} bytes were announced, others came"
            raise Corrupt(message, path=key)
        return answer.body

    async def stream(self, key: str, span: ByteRange, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """The chunks of an answer; who asks counts them."""
        async with self._calls.open(self._request(key, span, version), expect=(200, 206)) as response:
            self._check(key, response.headers, span, version)
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
        if span is None:
            return meta.size
        if span.start >= meta.size:
            raise Invalid(f"{location}: {key!r}: the range lies outside the object", path=key)
        sent = headers.get("Content-Range", f"bytes 0-{meta.size - 1}/{meta.size}")
        if not sent.startswith(f"bytes {span.start}-{span.stop - 1}/"):
            raise Corrupt(f"{location}: {key!r}: the store sent another range than was asked for", path=key)
        return span.size


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
