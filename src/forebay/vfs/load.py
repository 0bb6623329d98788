"""Bring every file below a path into the cache: parallel, bounded in memory, resumable, and exact about failures.

*Callers*: the admin API.  *Awaits*: the walk, the cache.  *Invariants*: every file walked is counted once, as done
or as failed; a file that is cached already counts as done and costs no request; when the iterator ends, or is closed,
no task of it is left.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from forebay.errors import FsError
from forebay.vfs.entries import FileEntry

AHEAD_MAX = 10_000  # files walked ahead of the fetching, and the rest of a page: totals are known early
EVENT_EVERY_S = 0.2
LookUp = Callable[[Sequence[FileEntry]], None]

YIELD_EVERY = 32  # files that were cached already, before others get a turn


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
    def __init__(self, look_up: LookUp, fetch: Callable[[FileEntry], Awaitable[None]]) -> None:
        self._look_up = look_up
        self._fetch = fetch
        self._files: deque[FileEntry] = deque()  # no queue: its calls for each file are a twentieth of a small one
        self._came, self._went = asyncio.Event(), asyncio.Event()  # files, for who fetches; room, for who walks
        self.files_done = self.bytes_done = self.files_found = self.bytes_found = 0
        self.is_walked = False
        self.failures: list[tuple[str, str]] = []

    def event(self, **more: object) -> LoadEvent:
        """How far it is now."""
        event = LoadEvent(files_done=self.files_done, bytes_done=self.bytes_done, **more)  # type: ignore[arg-type]
        return replace(event, files_total=self.files_found, bytes_total=self.bytes_found) if self.is_walked else event

    async def walk(self, pages: AsyncIterator[list[FileEntry]]) -> None:
        async for page in pages:
            self._look_up(page)
            self.files_found += len(page)
            self.bytes_found += sum(file.size for file in page)
            self._files.extend(page)
            self._came.set()
            while len(self._files) >= AHEAD_MAX:
                self._went.clear()
                await self._went.wait()
        self.is_walked = True
        self._came.set()

    async def _are_more(self) -> bool:
        """Are there more files?  Wait until that is known."""
        while not self._files and not self.is_walked:
            self._came.clear()
            await self._came.wait()
        return bool(self._files)

    async def work(self) -> None:
        files, count = self._files, 0
        while files or await self._are_more():
            file = files.popleft()
            if len(files) < AHEAD_MAX and not self._went.is_set():
                self._went.set()
            try:
                await self._fetch(file)
            except FsError as error:
                self.failures.append((file.path, str(error)))
                continue
            self.files_done += 1
            self.bytes_done += file.size
            count += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)


async def load(
    pages: AsyncIterator[list[FileEntry]],
    fetch: Callable[[FileEntry], Awaitable[None]],
    *,
    parallel: int,
    look_up: LookUp = lambda _: None,
) -> AsyncIterator[LoadEvent]:
    """Fetch every file of `pages`, `parallel` at a time; yield progress, each failure, and an end with `done`.

    `look_up` hears of files that will be fetched soon, many at a time.

    Closing the iterator stops the work; what is loaded stays, and the next load goes on from there.

    Raises:
        FsError: the walk itself failed.
    """
    state = _Load(look_up, fetch)
    tasks = [asyncio.create_task(state.walk(pages), name="load.walk")]
    tasks += [asyncio.create_task(state.work(), name="load.fetch") for _ in range(parallel)]
    try:
        running = set(tasks)
        while running:
            done, running = await asyncio.wait(running, timeout=EVENT_EVERY_S, return_when=asyncio.FIRST_EXCEPTION)
            failures, state.failures = state.failures, []
            for failure in failures:
                yield state.event(failed=failure)
            for task in done:
                task.result()  # raises what the walk raised
            yield state.event()
        yield state.event(done=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
