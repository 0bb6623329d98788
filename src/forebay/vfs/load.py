"""Bring every file below a path into the cache: parallel, bounded in memory, resumable, and exact about failures.

*Callers*: the admin API.  *Awaits*: the walk, the cache.  *Invariant*: every file walked is counted once, as done
or as failed; a file that is cached already counts as done and costs no request.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from forebay.errors import FsError
from forebay.vfs.entries import FileEntry

QUEUE_MAX = 10_000  # files walked ahead of the fetching, so that totals are known early
EVENT_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class LoadEvent:
    """How far a load is."""

    files_done: int = 0
    files_total: int | None = None  # None until the walk is over
    bytes_done: int = 0
    bytes_total: int | None = None
    failed: tuple[str, str] | None = None  # path and message of a file that has just failed
    done: bool = False


class _Load:
    def __init__(self, fetch: Callable[[FileEntry], Awaitable[None]]) -> None:
        self.fetch = fetch
        self.files: asyncio.Queue[FileEntry | None] = asyncio.Queue(QUEUE_MAX)
        self.files_found = self.bytes_found = 0
        self.event = LoadEvent()
        self.failures: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def walk(self, pages: AsyncIterator[list[FileEntry]], workers: int) -> None:
        try:
            async for page in pages:
                for file in page:
                    self.files_found += 1
                    self.bytes_found += file.size
                    await self.files.put(file)
            self.event = replace(self.event, files_total=self.files_found, bytes_total=self.bytes_found)
        finally:
            for _ in range(workers):
                await self.files.put(None)

    async def work(self) -> None:
        while (file := await self.files.get()) is not None:
            try:
                await self.fetch(file)
            except FsError as error:
                self.failures.put_nowait((file.path, str(error)))
            else:
                done = self.event
                self.event = replace(done, files_done=done.files_done + 1, bytes_done=done.bytes_done + file.size)


async def load(
    pages: AsyncIterator[list[FileEntry]], fetch: Callable[[FileEntry], Awaitable[None]], *, parallel: int
) -> AsyncIterator[LoadEvent]:
    """Fetch every file of `pages`, `parallel` at a time; yield progress, each failure, and an end with `done`.

    Closing the iterator stops the work; what is loaded stays, and the next load goes on from there.

    Raises:
        FsError: the walk itself failed.
    """
    state = _Load(fetch)
    walker = asyncio.create_task(state.walk(pages, parallel), name="load.walk")
    workers = [asyncio.create_task(state.work(), name="load.fetch") for _ in range(parallel)]
    everything = asyncio.gather(walker, *workers)
    try:
        while not everything.done():
            await asyncio.wait([everything], timeout=EVENT_EVERY_S)
            while not state.failures.empty():
                yield replace(state.event, failed=state.failures.get_nowait())
            yield state.event
        await everything
        yield replace(state.event, done=True)
    finally:
        everything.cancel()
        with contextlib.suppress(asyncio.CancelledError, FsError):
            await everything
