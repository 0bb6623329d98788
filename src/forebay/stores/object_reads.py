"""Bytes of objects, by whichever of three ways fits: a `Direct` one for small ones, obstore, and our own requests.

obstore (`obstore_reads`) is four times cheaper than our own requests (mostly `http_reads`), and a direct way three
times cheaper than obstore, where a store has one; it gives no reasons.  Our own requests take keys that obstore would
change, and go on after a failure that may pass: the others do not hear how long a store asks to wait, nor know our
deadline.

*Callers*: adapters, on the loop.  *Locks*: none.  *Awaits*: the network; each call within one deadline, retries
included.  *Invariants*: those of the ways; a stream that breaks goes on where it was.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol, TypeVar

from forebay.errors import Corrupt, FsError, Throttled, TimedOut, Unavailable
from forebay.stores.base import check_span
from forebay.stores.http_calls import RETRIES_MAX, HttpCalls, backoff_s
from forebay.stores.obstore_reads import ObstoreReads, Service, is_odd
from forebay.types import Buffer, ByteRange

_PASSING = (Throttled, Unavailable, TimedOut)

Result = TypeVar("Result")


class OwnReads(Protocol):
    """Reads by our own requests; `until` is a time of the loop's clock, None the deadline from now."""

    async def get(self, key: str, span: ByteRange | None, version: str | None, until: float | None) -> Buffer:
        """See `Store.get`."""
        ...

    def stream(
        self, key: str, span: ByteRange, version: str, chunk_bytes: int, until: float | None
    ) -> AsyncGenerator[Buffer, None]:
        """The chunks of an answer, the first of them empty: it has begun.  Who asks counts the bytes."""
        ...


class Direct(Protocol):
    """Small objects at the least cost, as long as all goes well."""

    def takes(self, span: ByteRange | None, version: str | None) -> bool:
        """May it be asked for these bytes now?"""
        ...

    async def get(self, key: str, span: ByteRange | None, version: str) -> Buffer | None:
        """The bytes as `Store.get` gives them; None if anything was not as it should be."""
        ...


class ObjectReads:
    """See the module."""

    def __init__(
        self,
        service: Service,
        ours: OwnReads,
        calls: HttpCalls,
        *,
        direct: Direct | None = None,
        takes: Callable[[str], bool] = lambda key: not is_odd(key),
        hands_over: tuple[type[FsError], ...] = (),
    ) -> None:
        """`takes` says whether obstore can read a key; `hands_over` what it does not get right, beside what passes."""
        self._location = service.location
        self._calls = calls
        self._direct = direct
        self._takes = takes
        self._hands_over: tuple[type[FsError], ...] = (*_PASSING, *hands_over)
        self.obstore = ObstoreReads(service)
        self._ours = ours

    async def get(self, key: str, span: ByteRange | None, version: str | None) -> Buffer:
        """See `Store.get`."""
        direct = self._direct
        if direct is not None and version is not None and direct.takes(span, version) and not self._is_heeding():
            began = asyncio.get_running_loop().time()
            data = await direct.get(key, span, version)
            return data if data is not None else await self._ours.get(key, span, version, await self._turn(began, 0))
        return await self.either(
            key,
            lambda: self.obstore.get(key, span, version),
            lambda until: self._ours.get(key, span, version, until),
        )

    async def either(
        self, key: str, by_obstore: Callable[[], Awaitable[Result]], by_us: Callable[[float | None], Awaitable[Result]]
    ) -> Result:
        """Ask by obstore if it takes the key, else by our own request; by that too if obstore's failure may pass.

        `by_us` is told until when it may take, by the loop's clock; None: the deadline from now.
        """
        if self._asks_itself(key):
            return await by_us(None)
        began = asyncio.get_running_loop().time()
        try:
            return await by_obstore()
        except self._hands_over:
            return await by_us(await self._turn(began, 0))

    async def stream(self, key: str, span: ByteRange, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        check_span(key, span)
        what = f"{self._location}: {key!r}"
        loop = asyncio.get_running_loop()
        came = cuts = 0
        is_itself, until, asked_at = self._asks_itself(key), None, loop.time()
        while came < span.size:
            rest, has_begun = ByteRange(span.start + came, span.stop), False
            chunks = (
                self._ours.stream(key, rest, version, chunk_bytes, until)
                if is_itself
                else self.obstore.stream(key, rest, version, chunk_bytes)
            )
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        has_begun = True
                        came += len(chunk)
                        if came > span.size:
                            raise Corrupt(f"{what}: more bytes came than were asked for", path=key)
                        if chunk:
                            yield chunk
                            asked_at = loop.time()
                if came < span.size:
                    raise Unavailable(f"{what}: the answer ended after {came} of {span.size} bytes", path=key)
            except self._hands_over as error:
                is_spent = is_itself and not has_begun  # so are the retries of our own request
                if cuts == RETRIES_MAX or is_spent or (has_begun and not isinstance(error, _PASSING)):
                    raise
                is_itself, until = True, await self._turn(asked_at, cuts)
                cuts += 1

    def _asks_itself(self, key: str) -> bool:
        """Must, or shall, we ask ourselves?"""
        return not self._takes(key) or self._is_heeding()

    def _is_heeding(self) -> bool:
        """Does the store name times to leave it alone, which only our own requests hear?"""
        return asyncio.get_running_loop().time() < self._calls.heed_until

    async def _turn(self, began: float, tried: int) -> float:
        """After a failure that may pass: pause, then go on by our own requests; until when, by the loop's clock."""
        await asyncio.sleep(backoff_s(tried, random.random()))
        return began + self._calls.deadline_s
