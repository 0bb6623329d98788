"""Fetch the rest of a folder in the background, once readers have missed a few times in it.

A loader's random reads of siblings look random to a read-ahead, but all of them will be read.  The work ahead is
in proportion to the work done: at most `AHEAD_PER_READ` files for each file that readers opened in the folder, so
somebody who looks at three files of a million fetches a hundred, and a training run soon has no bound.

`FolderWatch` decides and is pure; `Prefetcher` acts.
*Callers*: the file system, on the loop.  *Awaits*: listings, the cache.  *Invariants*: one runner per folder; at
most `FETCHES_MAX` files under way; nothing is fetched that the cache does not admit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

import structlog

from forebay.clock import Clock
from forebay.errors import FsError, NoSpace
from forebay.paths import split
from forebay.units import MIB
from forebay.vfs.entries import FileEntry
from forebay.vfs.folders import Listing

log = structlog.get_logger()

MISSES_MIN = 2  # one file read alone is a look; two in a folder are a habit
AHEAD_PER_READ = 32
FILE_BYTES_MAX = 8 * MIB  # larger files are read ahead within themselves
FETCHES_MAX = 48  # three quarters of the default `store_requests`: readers find a free slot at once
IDLE_S = 30.0  # a folder that nobody reads is left alone
ERRORS_MAX = 5  # in a row: the store is in trouble, readers will say so
FOLDERS_MAX = 10_000  # folders watched at a time


class FolderWatch:
    """How much of one folder has been read and fetched ahead."""

    __slots__ = ("errors", "fetched", "misses", "more", "read_at", "reads", "running")

    def __init__(self) -> None:
        self.reads = 0  # files opened by readers
        self.misses = 0  # of these, the ones that had to wait for the store
        self.fetched = 0  # files begun ahead
        self.errors = 0  # in a row
        self.read_at = 0.0
        self.running = False
        self.more = asyncio.Event()  # set when the allowance has grown

    @property
    def may_start(self) -> bool:
        """Is it time to fetch the rest?"""
        return not self.running and self.misses >= MISSES_MIN and self.errors < ERRORS_MAX

    @property
    def allowance(self) -> int:
        """How many more files may be fetched ahead now."""
        return AHEAD_PER_READ * self.reads - self.fetched


class Prefetcher:
    """See the module."""

    def __init__(
        self,
        clock: Clock,
        *,
        list_folder: Callable[[str], Awaitable[Listing]],
        is_cached: Callable[[FileEntry], bool],
        fetch: Callable[[FileEntry], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._list_folder = list_folder
        self._is_cached = is_cached
        self._fetch = fetch
        self._watches: dict[str, FolderWatch] = {}
        self._slots = asyncio.Semaphore(FETCHES_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self.files_fetched = 0

    def opened(self, entry: FileEntry) -> None:
        """A reader opened a file."""
        if entry.size > FILE_BYTES_MAX:
            return
        folder, _ = split(entry.path)
        watch = self._watches.get(folder)
        if watch is None:
            if len(self._watches) >= FOLDERS_MAX:
                self._forget_idle()
            watch = self._watches[folder] = FolderWatch()
        watch.reads += 1
        watch.read_at = self._clock.monotonic()
        if watch.running:
            watch.more.set()

    def missed(self, entry: FileEntry) -> None:
        """A reader had to wait for the store."""
        folder, _ = split(entry.path)
        watch = self._watches.get(folder)
        if watch is None or entry.size > FILE_BYTES_MAX:
            return
        watch.misses += 1
        if watch.may_start:
            watch.running = True
            self._spawn(self._run(folder, watch), f"prefetch {folder}")

    def _forget_idle(self) -> None:
        now = self._clock.monotonic()
        idle = [name for name, watch in self._watches.items() if not watch.running and now - watch.read_at > IDLE_S]
        for name in idle or [next(iter(self._watches))]:
            del self._watches[name]

    async def _run(self, folder: str, watch: FolderWatch) -> None:
        try:
            await self._fetch_rest(folder, watch)
        except FsError as error:
            log.info("prefetch.stopped", folder=folder, reason=str(error))
        finally:
            watch.running = False
            watch.misses = 0

    async def _fetch_rest(self, folder: str, watch: FolderWatch) -> None:
        listing = await self._list_folder(folder)
        index = 0
        while True:
            await listing.wait(index)
            if index >= len(listing):
                return
            _, entry = listing[index]
            index += 1
            if not isinstance(entry, FileEntry) or not 0 < entry.size <= FILE_BYTES_MAX or self._is_cached(entry):
                continue
            if watch.allowance <= 0 and not await self._wait_for_readers(watch):
                return
            await self._slots.acquire()
            if watch.errors >= ERRORS_MAX:
                self._slots.release()
                return
            watch.fetched += 1
            self._spawn(self._fetch_one(entry, watch), f"prefetch {entry.path}")

    async def _wait_for_readers(self, watch: FolderWatch) -> bool:
        watch.more.clear()
        try:
            async with asyncio.timeout(IDLE_S):
                await watch.more.wait()
        except TimeoutError:
            return False
        return True

    async def _fetch_one(self, entry: FileEntry, watch: FolderWatch) -> None:
        try:
            await self._fetch(entry)
            watch.errors = 0
            self.files_fetched += 1
        except NoSpace:
            watch.errors = ERRORS_MAX  # the cache takes no more: nothing to do ahead
        except FsError as error:
            watch.errors += 1
            log.debug("prefetch.failed", path=entry.path, reason=str(error))
        finally:
            self._slots.release()

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
