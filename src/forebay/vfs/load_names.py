"""Learn every name below a path: many folders at once, resumable, and exact about failures.

A recursive listing of a store is one request after the other, each with the token of the one before; folders are
independent.  A folder that is known already, in memory or on disk, costs no request: so a load that is run again goes
on where it was stopped.

*Callers*: the admin API.  *Awaits*: listings.  *Invariants*: every folder is counted once, as done or as failed; when
the iterator ends, or is closed, no task of it is left.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from forebay.errors import FsError
from forebay.paths import join
from forebay.vfs.listing import Listing

EVENT_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class NamesEvent:
    """How far a load of names is."""

    folders_done: int = 0
    folders_found: int = 0  # so far; all of them once `done`
    files: int = 0  # in the folders that are done
    bytes: int = 0  # of these
    failed: tuple[str, str] | None = None  # path and message of a folder that has just failed
    done: bool = False


class _Walk:
    def __init__(self, path: str, open_folder: Callable[[str], Awaitable[Listing]]) -> None:
        self._open_folder = open_folder
        # The last found goes first: a walk in depth knows of few folders at a time, whatever their number.
        self._waiting: asyncio.LifoQueue[str] = asyncio.LifoQueue()
        self._waiting.put_nowait(path)
        self.found = 1
        self.done = self.files = self.bytes = 0
        self.failures: list[tuple[str, str]] = []
        self.over = asyncio.ensure_future(self._waiting.join())

    def event(self, failed: tuple[str, str] | None = None, *, done: bool = False) -> NamesEvent:
        """How far it is now."""
        return NamesEvent(self.done, self.found, self.files, self.bytes, failed, done)

    async def work(self) -> None:
        """Take folders until there are no more."""
        while True:
            path = await self._waiting.get()
            try:
                await self._learn(path)
                self.done += 1
            except FsError as error:
                self.failures.append((path, str(error)))
            finally:
                self._waiting.task_done()

    async def _learn(self, path: str) -> None:
        listing = await self._open_folder(path)
        index = files = size = 0
        folders: list[str] = []
        while True:
            await listing.wait(index)
            part = listing.part(index)
            if not part.entries:
                break
            index += part.entries
            folders += [join(path, name) for name in part.folders]
            files += part.entries - len(part.folders)
            size += part.bytes
            await asyncio.sleep(0)
        self.files += files
        self.bytes += size
        self.found += len(folders)
        for folder in reversed(folders):
            self._waiting.put_nowait(folder)


async def load_names(
    path: str, open_folder: Callable[[str], Awaitable[Listing]], *, parallel: int
) -> AsyncGenerator[NamesEvent, None]:
    """List every folder at and below `path`, `parallel` at a time; yield progress, each failure, and an end.

    Closing the iterator stops the work; what is known stays, and the next load goes on from there.
    """
    walk = _Walk(path, open_folder)
    workers = [asyncio.create_task(walk.work(), name="load.names") for _ in range(parallel)]
    try:
        is_over = False
        while not is_over:
            await asyncio.wait([walk.over, *workers], timeout=EVENT_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            is_over = walk.over.done()
            for worker in workers:
                if worker.done():
                    worker.result()  # a bug ends the load
            failures, walk.failures = walk.failures, []
            for failed in failures:
                yield walk.event(failed)
            yield walk.event(done=is_over)
    finally:
        for task in (walk.over, *workers):
            task.cancel()
        await asyncio.gather(walk.over, *workers, return_exceptions=True)
