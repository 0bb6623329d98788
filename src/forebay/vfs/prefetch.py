"""Fetch the rest of a folder in the background, once readers have missed a few times in it.

A loader's random reads of siblings look random to a read-ahead, but all of them will be read.  The work ahead is
in proportion to the work done: at most `AHEAD_PER_READ` files for each file that readers opened in the folder, so
somebody who looks at three files of a million fetches a hundred, and a training run soon has no bound.

`FolderWatch` decides and is pure; `Prefetcher` acts.
*Callers*: the file system, on the loop.  *Awaits*: listings, the cache.  *Invariants*: one runner per folder; at
most `FETCHES_MAX` files under way; nothing is fetched that the cache does not admit.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence

import structlog

from forebay.clock import Clock
from forebay.errors import FsError, NoSpace
from forebay.paths import is_within, split
from forebay.units import MIB
from forebay.vfs.entries import FileEntry
from forebay.vfs.listing import Listing

log = structlog.get_logger()

MISSES_MIN = 2  # one file read alone is a look; two in a folder are a habit
AHEAD_PER_READ = 32
FILE_BYTES_MAX = 8 * MIB  # larger files are read ahead within themselves
FETCHES_MAX = 48  # three quarters of the default `store_requests`: readers find a free slot at once
IDLE_S = 30.0  # a folder that nobody reads is left alone
ERRORS_MAX = 5  # in a row: the store is in trouble, readers will say so
PAUSE_S = 60.0  # after a full cache or a store in trouble
LOOK_UP = 64  # files that the cache is asked for at a time
FOLDERS_MAX = 10_000  # folders watched at a time


class FolderWatch:
    """How much of one folder has been read and fetched ahead."""

    __slots__ = ("errors", "fetched", "last_missed", "misses", "more", "paused_until", "read_at", "reads", "running")

    def __init__(self) -> None:
        self.reads = 0  # files opened by readers
        self.misses = 0  # of these, the ones that had to wait for the store
        self.last_missed = ""  # one file read twice is one miss
        self.fetched = 0  # files begun ahead
        self.errors = 0  # in a row
        self.read_at = 0.0
        self.running = False
        self.paused_until = float("-inf")  # the cache was full, or the store in trouble
        self.more = asyncio.Event()  # set when the allowance has grown

    def may_start(self, now: float) -> bool:
        """Is it time to fetch the rest?"""
        return not self.running and self.misses >= MISSES_MIN and now >= self.paused_until

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
        look_up: Callable[[Sequence[FileEntry]], None],
        is_cached: Callable[[FileEntry], bool],
        fetch: Callable[[FileEntry], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._list_folder = list_folder
        self._look_up = look_up
        self._is_cached = is_cached
        self._fetch = fetch
        self._watches: dict[str, FolderWatch] = {}
        self._slots = asyncio.Semaphore(FETCHES_MAX)
        self._tasks: dict[asyncio.Task[None], str] = {}  # and the folder it is for

    def under_way(self, path: str) -> int:
        """How many files at or below a path are fetched ahead now, and folders gone through."""
        return sum(is_within(folder, path) for folder in self._tasks.values())

    @property
    def is_running(self) -> bool:
        """Is anything fetched ahead, so that the work of readers allows for more?"""
        return bool(self._tasks)

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
        if watch is None or entry.size > FILE_BYTES_MAX or entry.path == watch.last_missed:
            return
        watch.last_missed = entry.path
        watch.misses += 1
        if watch.may_start(self._clock.monotonic()):
            watch.running = True
            watch.errors = 0
            self._spawn(self._run(folder, watch), folder)

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
            if watch.errors >= ERRORS_MAX:
                watch.paused_until = self._clock.monotonic() + PAUSE_S

    async def _fetch_rest(self, folder: str, watch: FolderWatch) -> None:
        listing = await self._list_folder(folder)
        index = 0
        while True:
            await listing.wait(index)
            if index >= len(listing):
                return
            if index % LOOK_UP == 0:
                await asyncio.sleep(0)  # a folder that is cached already must not hold up the loop
                coming = listing.some(index, index + LOOK_UP)
                self._look_up([entry for _, entry in coming if isinstance(entry, FileEntry)])
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
            self._spawn(self._fetch_one(entry, watch), folder, self._slots.release)

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
            entry.mount.traffic.files_prefetched += 1
        except NoSpace:
            watch.errors = ERRORS_MAX  # the cache takes no more: nothing to do ahead
        except FsError as error:
            watch.errors += 1
            log.debug("prefetch.failed", path=entry.path, reason=str(error))

    def _spawn(self, work: Coroutine[None, None, None], folder: str, finish: Callable[[], None] | None = None) -> None:
        task = asyncio.create_task(work, name=f"prefetch {folder}")
        self._tasks[task] = folder

        def ended(_: asyncio.Task[None]) -> None:
            del self._tasks[task]
            if finish is not None:
                finish()

        task.add_done_callback(ended)

    async def forget(self, path: str) -> None:
        """Cancel what is under way at or below a path, and watch it no more."""
        tasks = [task for task, folder in self._tasks.items() if is_within(folder, path)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for folder in [folder for folder in self._watches if is_within(folder, path)]:
            del self._watches[folder]

    async def close(self) -> None:
        """Cancel what is under way."""
        await self.forget("/")
