"""Bytes on their way from a store into a page file: one flight per run of pages, shared by all who wait for it.

*Callers*: cached files, on the loop.  *Locks*: none; state changes between awaits.  *Awaits*: the throttle, the
store, the disk pool.  *Invariants*: a page is in at most one flight; a waiter is told exactly once, when its page
has landed or the flight has failed; a flight that fails leaves no page marked that did not land whole.
*On crash*: landed pages that the index has not saved are fetched again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from forebay.cache.pagefile import PageFile, PageWriter
from forebay.cache.pages import PAGE_BYTES, Run
from forebay.cache.throttle import Throttle
from forebay.errors import Corrupt, FsError, NotFound, StaleVersion, TimedOut
from forebay.stores.base import Store
from forebay.types import Buffer, ByteRange

SINGLE_PAGES_MAX = 2  # up to 2 MiB come as one buffer; more is streamed, so that a reader waits for its page only
CHUNK_BYTES = PAGE_BYTES

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Route:
    """What a flight needs beside its pages."""

    store: Store
    key: str
    version: str
    throttle: Throttle
    pool: Executor  # where bytes are written to disk
    deadline_s: float  # for the first byte, and again for each chunk after it


class Flight:
    """One request for a run of pages.  `start` once; then `wait` any number of times."""

    __slots__ = ("_landed", "_waiters", "background", "error", "pages", "run")

    def __init__(self, pages: PageFile, run: Run, *, background: bool) -> None:
        self.pages = pages
        self.run = run
        self.background = background
        self.error: FsError | None = None
        self._landed = run.first  # pages before this one have landed
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    async def wait(self, page: int) -> None:
        """Return when `page` has landed.

        Raises:
            FsError: the flight failed before that.
        """
        if self.error is not None:
            raise self.error
        if page < self._landed:
            return
        landed = asyncio.get_running_loop().create_future()
        self._waiters.append((page, landed))
        await landed

    async def fly(self, route: Route, landed: Callable[[Run], None]) -> None:
        """Fetch and write; `landed(run)` is called on the loop as pages become whole.  Raises what failed."""
        size = self.pages.size
        span = ByteRange(self.run.first * PAGE_BYTES, min(self.run.stop * PAGE_BYTES, size))
        writer = PageWriter(self.pages, self.run)
        if len(self.run) <= SINGLE_PAGES_MAX:
            async with route.throttle.slot(span.size, background=self.background):
                part = None if span.size == size else span
                chunk = await _answer(route, route.store.get(route.key, part, version=route.version))
                await self._land(route, writer, chunk, landed)
        else:
            async with route.throttle.slot(2 * CHUNK_BYTES, background=self.background):
                chunks = route.store.stream(route.key, span, version=route.version, chunk_bytes=CHUNK_BYTES)
                while (more := await _answer(route, anext(chunks, None))) is not None:
                    await self._land(route, writer, more, landed)
        if not writer.done:
            raise Corrupt(f"{route.key}: the store sent fewer bytes than were asked for", path=route.key)

    async def _land(self, route: Route, writer: PageWriter, chunk: Buffer, landed: Callable[[Run], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(route.pool, writer.feed, chunk)
        if writer.pages_landed > self._landed:
            run, self._landed = Run(self._landed, writer.pages_landed), writer.pages_landed
            landed(run)
            self._wake()

    def _wake(self) -> None:
        still: list[tuple[int, asyncio.Future[None]]] = []
        for page, waiter in self._waiters:
            if page >= self._landed:
                still.append((page, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = still

    def fail(self, error: FsError) -> None:
        """Tell everyone who still waits."""
        self.error = error
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters.clear()


async def _answer(route: Route, call: Awaitable[Answer]) -> Answer:
    try:
        async with asyncio.timeout(route.deadline_s):
            return await call
    except NotFound as error:
        raise StaleVersion(f"{route.key} was deleted in its store", path=route.key) from error
    except TimeoutError as error:
        if isinstance(error, FsError):
            raise
        message = f"{route.store.location}: no answer for {route.key!r} within {route.deadline_s:g} s"
        raise TimedOut(message, path=route.key) from error
