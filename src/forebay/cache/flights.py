"""Bytes on their way from a store into pages: one flight per run of pages, shared by all who wait for it.

A small answer is handed to readers as soon as it is here, before it is on the disk.

*Callers*: cached files, on the loop.  *Locks*: none; state changes between awaits.  *Awaits*: the throttle, the
store, the disk pool.  *Invariants*: a page is in at most one flight; a waiter is told exactly once, when its page
has arrived or the flight has failed; a flight that fails leaves no page marked that did not land whole; no write is
left running when a flight has ended.
*On crash*: landed pages that the index has not saved are fetched again.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from typing import NamedTuple, TypeVar

from forebay.cache.disk import CacheDisk
from forebay.cache.pagefile import PageFile, Pages, PageWriter
from forebay.cache.pages import PAGE_BYTES, Run
from forebay.cache.throttle import Throttle
from forebay.errors import Corrupt, FsError, NotFound, StaleVersion, TimedOut
from forebay.stores.base import OutsideObject, Store
from forebay.types import Buffer, ByteRange

SINGLE_PAGES_MAX = 2  # up to 2 MiB come as one buffer; more is streamed, so that a reader waits for its page only
CHUNK_BYTES = PAGE_BYTES

Answer = TypeVar("Answer")
LandedCall = Callable[["Flight", Run], None]


class Route(NamedTuple):
    """What a flight needs beside its pages."""

    store: Store
    key: str
    version: str
    throttle: Throttle
    disk: CacheDisk
    pool: Executor  # where bytes are written to disk when that may take long
    deadline_s: float  # for the first byte, and again for each chunk after it


class Flight:
    """One request for a run of pages.  `fly` once; `wait` any number of times."""

    __slots__ = (
        "_landed",
        "_waiters",
        "admitted",
        "background",
        "data",
        "error",
        "is_given_up",
        "pages",
        "run",
        "store",
        "unread",
    )

    def __init__(self, pages: Pages, run: Run, store: Store, *, background: bool) -> None:
        self.pages = pages
        self.run = run
        self.store = store
        self.background = background
        self.is_given_up = False  # its task is cancelled for its sake
        self.admitted = 0  # bytes that are counted in on the disk, but have not landed
        self.unread = 0  # bytes that readers will read, and that have not landed
        self.error: FsError | None = None  # None: under way, or landed whole
        self.data: memoryview | None = None  # the whole run, if it came in one piece
        self._landed = run.first  # pages before this one have landed
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    async def wait(self, page: int) -> None:
        """Return when `page` can be read: from `data`, or from where it landed.

        Raises:
            FsError: the flight failed before that.
        """
        if page < self._landed or self.data is not None:
            return
        if self.error is not None:
            raise self.error
        arrived = asyncio.get_running_loop().create_future()
        self._waiters.append((page, arrived))
        await arrived

    async def fly(self, route: Route, landed: LandedCall) -> None:
        """Fetch and write; `landed(self, run)` is called on the loop as pages become whole.  Raises what failed."""
        size = self.pages.size
        span = ByteRange(self.run.first * PAGE_BYTES, min(self.run.stop * PAGE_BYTES, size))
        if len(self.run) <= SINGLE_PAGES_MAX:
            await self._fly_single(route, span, landed)
        else:
            await self._fly_stream(route, span, landed)

    async def _fly_single(self, route: Route, span: ByteRange, landed: LandedCall) -> None:
        async with route.throttle.slot(span.size, background=self.background):
            part = None if span.size == self.pages.size else span
            data = memoryview(await _answer(route, route.store.get(route.key, part, version=route.version)))
            if len(data) != span.size:
                raise Corrupt(f"{route.key}: {len(data)} bytes came, not {span.size}", path=route.key)
            self.data = data
            self._wake(self.run.stop)
            await self._land(route, PageWriter(self.pages, self.run), data, landed)

    async def _fly_stream(self, route: Route, span: ByteRange, landed: LandedCall) -> None:
        writer = PageWriter(self.pages, self.run)
        async with route.throttle.slot(2 * CHUNK_BYTES, background=self.background):
            chunks = route.store.stream(route.key, span, version=route.version, chunk_bytes=CHUNK_BYTES)
            try:
                while (more := await _answer(route, anext(chunks, None))) is not None:
                    await self._land(route, writer, more, landed)
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()  # the connection is given back now, not when it is collected
        if not writer.done:
            raise Corrupt(f"{route.key}: the store sent fewer bytes than were asked for", path=route.key)

    async def _land(self, route: Route, writer: PageWriter, chunk: Buffer, landed: LandedCall) -> None:
        if not isinstance(self.pages, PageFile):
            writer.feed(chunk)
        elif not route.disk.write_at_once(writer.feed, chunk):
            await _write(route.pool, writer, chunk)
        if (stop := writer.pages_landed) > self._landed:
            run, self._landed = Run(self._landed, stop), stop
            landed(self, run)
            self._wake(stop)

    def _wake(self, arrived: int) -> None:
        if not self._waiters:
            return
        still: list[tuple[int, asyncio.Future[None]]] = []
        for page, waiter in self._waiters:
            if page >= arrived:
                still.append((page, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = still

    def fail(self, error: FsError) -> None:
        """Tell everyone who still waits; nothing to tell if it has failed already, or landed whole."""
        if self.error is not None or self._landed == self.run.stop:
            return
        self.error = error
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()


async def stream(route: Route, span: ByteRange, size: int) -> AsyncGenerator[Buffer, None]:
    """The bytes of `span` of an object of `size` bytes, as they come, by one request; they land nowhere."""
    async with route.throttle.slot(min(span.size, 2 * CHUNK_BYTES), background=False):
        if span.size <= SINGLE_PAGES_MAX * PAGE_BYTES:
            part = None if span.size == size else span
            yield await _answer(route, route.store.get(route.key, part, version=route.version))
            return
        chunks = route.store.stream(route.key, span, version=route.version, chunk_bytes=CHUNK_BYTES)
        try:
            while (more := await _answer(route, anext(chunks, None))) is not None:
                yield more
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()


async def _write(pool: Executor, writer: PageWriter, chunk: Buffer) -> None:
    writing = pool.submit(writer.feed, chunk)
    try:
        await asyncio.wrap_future(writing)
    except asyncio.CancelledError:
        if not writing.done():  # it has begun: the flight ends after it
            await asyncio.wait([asyncio.wrap_future(writing)])
        raise


async def _answer(route: Route, call: Awaitable[Answer]) -> Answer:
    try:
        async with asyncio.timeout(route.deadline_s):
            return await call
    except NotFound as error:
        raise StaleVersion(f"{route.key} was deleted in its store", path=route.key) from error
    except OutsideObject as error:  # no flight leaves its version: this is another
        raise StaleVersion(f"{route.key} is shorter in its store by now", path=route.key) from error
    except TimeoutError as error:
        if isinstance(error, FsError):
            raise
        message = f"{route.store.location}: no answer for {route.key!r} within {route.deadline_s:g} s"
        raise TimedOut(message, path=route.key) from error
