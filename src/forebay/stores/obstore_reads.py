"""Bytes of objects through obstore (Rust): a read costs a quarter of the CPU that it costs in Python.

What differs from store to store is its `Service`: the client, what versions are, what errors mean.

*Callers*: adapters, on the loop.  *Locks*: none.  *Awaits*: the network; obstore's own limits end each call within
the deadline, save a body that never pauses and never ends: who asks for bytes limits that.  *Invariants*: bytes are
returned only if the answer's version, range and length are what was asked for.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from forebay.errors import Corrupt, Invalid, StaleVersion
from forebay.stores.base import check_span
from forebay.stores.http_calls import CONNECT_WITHIN_S, HttpCalls, Tls
from forebay.stores.wire_errors import OBSTORE_ERRORS, Names
from forebay.types import Buffer, ByteRange

_QUIET_S = 0.05  # obstore's threads need a moment before the interpreter may exit, else 1 in 5 exits aborts
_DRAIN_S = 5.0
# What obstore refuses (empty or dotted segments, control characters) or silently changes (slashes at the ends).
_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f\ud800-\udfff]")

Result = TypeVar("Result")
Meta = Mapping[str, Any]  # path, size, last_modified, e_tag, version


class _Found(Protocol):
    """An answer of obstore whose bytes are still to come (its own type exists for type checkers only)."""

    meta: dict[str, Any]
    range: tuple[int, int]

    async def bytes_async(self) -> Buffer: ...

    def stream(self, min_chunk_size: int) -> AsyncIterator[Buffer]: ...


class Service(Protocol):
    """What differs from store to store."""

    location: str

    def ready(self) -> Any | None:  # noqa: ANN401 - obstore's clients have no common type
        """The client, if it is made and still right."""
        ...

    async def connect(self) -> Any:  # noqa: ANN401
        """The client, made if need be."""
        ...

    def version_of(self, meta: Meta) -> str:
        """The version in what obstore says of an object."""
        ...

    def conditions(self, version: str) -> dict[str, Any]:
        """Options of a GET that make the store itself refuse another version."""
        ...

    def translate(self, error: Exception, key: str) -> Exception:
        """The error for what obstore raised."""
        ...

    async def mend(self, error: Exception) -> bool:
        """Has what failed been put right, such as a region, so that another try makes sense?"""
        ...


class ObstoreReads:
    """See the module."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls = 0  # of obstore, under way
        self._idle = asyncio.Event()
        self._idle.set()

    async def head(self, key: str) -> Meta:
        """What the store says of an object."""
        return cast(Meta, await self._ask(key, lambda client: client.head_async(key)))

    async def get(self, key: str, span: ByteRange | None, version: str | None) -> Buffer:
        """See `Store.get`."""
        if span is not None:
            check_span(key, span)
        options: dict[str, Any] = {} if version is None else self._service.conditions(version)
        if span is not None:
            options["range"] = span
        found, data = await self._ask(key, partial(_read_whole, key, options))
        size = self._check(key, found, span, version)
        if len(data) != size:
            message = f"{self._service.location}: {key!r}: {size} bytes were announced, {len(data)} came"
            raise Corrupt(message, path=key)
        return data

    async def stream(self, key: str, span: ByteRange, version: str, chunk_bytes: int) -> AsyncGenerator[Buffer, None]:
        """The chunks of an answer; who asks counts them."""
        check_span(key, span)
        options: dict[str, Any] = self._service.conditions(version) | {"range": span}
        found = await self._ask(key, lambda client: _open(client, key, options))
        self._check(key, found, span, version)
        chunks = found.stream(min_chunk_size=chunk_bytes)

        async def more(_client: object) -> Buffer | None:
            return await anext(chunks, None)

        while (chunk := await self._ask(key, more)) is not None:
            yield chunk

    def _check(self, key: str, found: _Found, span: ByteRange | None, version: str | None) -> int:
        """Compare an answer with the question; how many bytes it announced."""
        meta, (start, stop) = found.meta, found.range
        if version is not None and self._service.version_of(meta) != version:
            raise StaleVersion(f"{self._service.location}: {key!r}: has another version by now", path=key)
        first, end = (0, meta["size"]) if span is None else span
        if start != first or stop != end:
            what = f"{self._service.location}: {key!r}"
            raise Corrupt(f"{what}: asked for bytes {first} to {end}, got {start} to {stop}", path=key)
        return end - first

    async def _ask(self, key: str, ask: Callable[[Any], Awaitable[Result]]) -> Result:
        """Ask obstore; once more if what failed can be put right."""
        for again in (True, False):
            self._calls += 1
            self._idle.clear()
            try:
                return await ask(self._service.ready() or await self._service.connect())
            except OBSTORE_ERRORS as error:
                failed = self._service.translate(error, key)
                if not (again and await self._service.mend(error)):
                    raise failed from None
            finally:
                self._calls -= 1
                if self._calls == 0:
                    self._idle.set()
        raise AssertionError("unreachable: the second try returns or raises")

    async def drain(self) -> None:
        """Wait until no call is under way."""
        with suppress(TimeoutError):  # what still runs then is cancelled with the loop
            async with asyncio.timeout(_DRAIN_S):
                await self._idle.wait()

    async def rest(self) -> None:
        """Give obstore's threads the moment they need after the last client has gone."""
        await asyncio.sleep(_QUIET_S)


async def client_options(names: Names, tls: Tls, calls: HttpCalls) -> dict[str, Any]:
    """How obstore's HTTP client shall behave: as `HttpCalls` does."""
    options: dict[str, Any] = {
        "allow_http": names.endpoint.startswith("http://"),
        "allow_invalid_certificates": not tls.verify,
        "connect_timeout": timedelta(seconds=min(CONNECT_WITHIN_S, calls.deadline_s)),
        "read_timeout": timedelta(seconds=calls.silence_s),
        "timeout": timedelta(days=1),  # of a whole answer; a reader may take its time
        "pool_idle_timeout": timedelta(seconds=20),
    }
    if tls.ca_file is not None:
        try:
            options["root_certificate"] = await asyncio.to_thread(tls.ca_file.read_bytes)
        except OSError as error:
            message = f"{names.location}: {names.ca_option} {tls.ca_file} cannot be read: {error.strerror}"
            raise Invalid(message) from error
    return options


def retry_config(deadline_s: float) -> Any:  # noqa: ANN401 - a TypedDict of obstore's type stubs
    """obstore tries once: `object_reads` goes on."""
    return {"max_retries": 0, "retry_timeout": timedelta(seconds=deadline_s)}


def is_odd(key: str) -> bool:
    """Must the object be read by other means, since obstore would refuse or change its key?

    >>> is_odd("a/b.jpg"), is_odd("a//b"), is_odd("a/../b"), is_odd("a/")
    (False, True, True, True)
    """
    return _ODD.search(key) is not None


async def _read_whole(key: str, options: dict[str, Any], client: Any) -> tuple[_Found, Buffer]:  # noqa: ANN401
    found = await _open(client, key, options)
    return found, await found.bytes_async()


async def _open(client: Any, key: str, options: dict[str, Any]) -> _Found:  # noqa: ANN401
    return cast(_Found, await client.get_async(key, options=options))
