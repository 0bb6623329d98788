"""One version of one object, as far as it is cached: what open handles share.

Pages live in two page files: one on a cache disk (`stored`), and one in memory for pages that the cache could not
admit (`passing`), which is bounded and gone with the last handle.  A page is fetched by at most one flight.

*Callers*: open files and loaders, on the loop.  *Locks*: none; every method but those marked `async` is atomic on
the loop.  *Awaits*: flights, the disk pool.  *Invariants*: `opens` counts handles and flights, and descriptors are
open only while it is positive; a read returns bytes of this version only, or raises.
*On crash*: pages that were saved in the index are used again, others are fetched again.
"""

import asyncio
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from forebay.cache.disk import CacheDisk
from forebay.cache.flights import SINGLE_PAGES_MAX, Flight, Route
from forebay.cache.pagefile import PageFile
from forebay.cache.pages import PAGE_BYTES, Run, bytes_of, page_count, pages_of, split
from forebay.cache.policy import Dataset
from forebay.errors import Corrupt, FsError, NoSpace, TimedOut
from forebay.stores.base import Store
from forebay.types import Buffer, ByteRange
from forebay.units import MIB

log = structlog.get_logger()

PART_PAGES = 8  # 8 MiB parts: measured best per CPU and byte on a near store; several are in flight on a far one
PASSING_BYTES = 16 * MIB  # pages of one file held in memory when the cache does not admit them
ATTEMPTS = 3  # a page that was dropped, or whose background flight failed, is asked for again


class Source(NamedTuple):
    """Where the bytes of one version come from, and on whose account they are cached."""

    store: Store
    key: str
    size: int
    version: str
    dataset: Dataset
    policy: str


@dataclass(slots=True)
class Traffic:
    """What the cache did since the start; every number only grows."""

    hits: int = 0  # files opened with all their bytes here
    misses: int = 0
    bytes_from_store: int = 0
    bytes_from_cache: int = 0  # answered by us; passthrough reads go past us
    flights: int = 0
    flights_failed: int = 0
    files_evicted: int = 0
    bytes_evicted: int = 0
    bytes_read_through: int = 0  # fetched, but not admitted
    pages_dropped_corrupt: int = 0


class Owner(Protocol):
    """What a cached file asks of its cache."""

    traffic: Traffic
    readahead_bytes: int

    def route(self, source: Source) -> Route:
        """How to fetch."""
        ...

    def admit(self, file: "CachedFile", size: int) -> bool:
        """Count `size` bytes in on the file's disk, if they fit."""
        ...

    def changed(self, file: "CachedFile") -> None:
        """The file's residency changed: save it some time."""
        ...

    def released(self, file: "CachedFile") -> None:
        """The last handle was closed."""
        ...


class CachedFile:
    """See the module."""

    __slots__ = (
        "_flights",
        "_owner",
        "_passing",
        "_tasks",
        "disk",
        "id",
        "opens",
        "source",
        "stored",
        "used_at",
    )

    def __init__(self, owner: Owner, source: Source, disk: CacheDisk, file_id: int, stored: PageFile) -> None:
        self._owner = owner
        self.source = source
        self.disk = disk
        self.id = file_id
        self.stored = stored
        self._passing: PageFile | None = None
        self._flights: dict[int, Flight] = {}  # by page
        self._tasks: set[asyncio.Task[None]] = set()
        self.opens = 0
        self.used_at = 0  # seconds since 1970, coarse

    @property
    def complete(self) -> bool:
        """Are all bytes on the disk, and trusted?"""
        return self.stored.residency.complete and self.stored.trusted

    def acquire(self) -> None:
        """One more handle or flight."""
        self.opens += 1

    def release(self) -> None:
        """One less; the last closes the descriptors."""
        self.opens -= 1
        if self.opens == 0:
            self.stored.close()
            if self._passing is not None:
                self._passing.close()
                self._passing = None
            self._owner.released(self)

    def local_fd(self) -> int | None:
        """A descriptor of the complete file, owned by this object; None while bytes are missing or untrusted."""
        if not self.complete or self.source.size == 0:
            return None
        try:
            return self.stored.fd()
        except (OSError, Corrupt) as error:
            self._lose(error)
            return None

    def read_now(self, offset: int, into: memoryview) -> int:
        """Bytes read into `into` without waiting for disk or store, short only at the end; -1: use `read`."""
        length = min(len(into), self.source.size - offset)
        if length <= 0:
            return 0
        run = pages_of(offset, length, self.source.size)
        pages = self._pages_with(run)
        if pages is None:
            return -1
        try:
            return pages.read_now(offset, into[:length])
        except (OSError, Corrupt) as error:
            self._lose(error)
            return -1

    def _pages_with(self, run: Run) -> PageFile | None:
        if self.stored.trusted and self.stored.residency.has(run):
            return self.stored
        if self._passing is not None and self._passing.residency.has(run):
            return self._passing
        return None

    async def read(self, offset: int, length: int, *, deadline_s: float, ahead: ByteRange | None = None) -> Buffer:
        """The bytes `[offset, offset + length)`, short only at the end of the file.

        What is missing of them is asked for first, then what is missing of `ahead`, in the background.

        Raises:
            StaleVersion: the store has another version by now, and these bytes are not cached.
            TimedOut, Unavailable, Denied, ...: as the store says.
        """
        length = min(length, self.source.size - offset)
        if length <= 0:
            return b""
        try:
            async with asyncio.timeout(deadline_s):
                return await self._read(offset, length, ahead)
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
            message = f"{self.source.store.location}: {self.source.key!r} not read within {deadline_s:g} s"
            raise TimedOut(message) from error

    async def _read(self, offset: int, length: int, ahead: ByteRange | None) -> Buffer:
        await self._verify()
        run = pages_of(offset, length, self.source.size)
        error: FsError | None = None
        for _ in range(ATTEMPTS):
            try:
                await self._fetch_missing(run, ahead)
                return await self._assemble(run, offset, length)
            except Corrupt as again:
                error = again
        raise Corrupt(f"{self.source.key}: {error}") from error

    async def _fetch_missing(self, run: Run, ahead: ByteRange | None) -> None:
        for wanted in self._missing(self._widened(run)):
            for part in split(wanted, PART_PAGES):
                self._launch(part, background=False)
        if ahead is not None:
            self.fetch_ahead(ahead)
        waits = {id(flight): (flight, page) for page in range(*run) if (flight := self._flights.get(page))}
        for flight, page in waits.values():  # the last page of the run in each flight: pages land in order
            try:
                await flight.wait(page)
            except FsError as error:
                if flight.background:
                    raise _Again(str(error)) from error  # ours may still succeed: ask in our own name
                raise

    def _widened(self, run: Run) -> Run:
        # A small object comes whole, in one request.
        count = page_count(self.source.size)
        return Run(0, count) if count <= SINGLE_PAGES_MAX else run

    def _missing(self, run: Run) -> list[Run]:
        """Pages of `run` that are neither here nor on their way."""
        runs: list[Run] = []
        for absent in self.stored.residency.missing(run):
            for page in range(*absent):
                if page in self._flights or (self._passing and self._passing.residency.has(Run(page, page + 1))):
                    continue
                if runs and runs[-1].stop == page:
                    runs[-1] = Run(runs[-1].first, page + 1)
                else:
                    runs.append(Run(page, page + 1))
        return runs

    async def _assemble(self, run: Run, offset: int, length: int) -> Buffer:
        loop, pool = asyncio.get_running_loop(), self._owner.route(self.source).pool
        pages = self._pages_with(run)
        if pages is not None:
            return await loop.run_in_executor(pool, self._read_stored, pages, offset, length)
        pieces: list[bytes] = []  # some pages on disk and some in memory
        for page in range(*run):
            one = self._pages_with(Run(page, page + 1))
            if one is None:
                raise _Again("a page was dropped while it was waited for")
            start = max(offset, page * PAGE_BYTES)
            stop = min(offset + length, (page + 1) * PAGE_BYTES)
            pieces.append(await loop.run_in_executor(pool, self._read_stored, one, start, stop - start))
        return b"".join(pieces)

    def _read_stored(self, pages: PageFile, offset: int, length: int) -> bytes:
        try:
            return pages.read(offset, length)
        except OSError as error:
            if isinstance(error, FsError):
                raise
            raise Corrupt(f"cache file {pages.path}: {error.strerror}") from error

    @property
    def window_max(self) -> int:
        """How far ahead of a reader to fetch, bytes: little while pages are only held in memory."""
        return PASSING_BYTES // 2 if self._passing is not None else self._owner.readahead_bytes

    def fetch_ahead(self, span: ByteRange) -> None:
        """Begin to fetch bytes in the background, as far as they are missing."""
        for wanted in self._missing(pages_of(span.start, span.size, self.source.size)):
            for part in split(wanted, PART_PAGES):
                self._launch(part, background=True)

    async def fetch_all(self) -> None:
        """Bring the whole file into the cache.

        Raises:
            NoSpace: the cache does not admit it.
            FsError: the store failed.
        """
        await self._verify()
        for part in self._missing_parts():
            while len(self._tasks) >= PART_PAGES:  # a file's parts do not take every slot of the store
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._launch(part, background=True, must_admit=True)
        for flight in set(self._flights.values()):
            await flight.wait(flight.run.stop - 1)
        if not self.complete:
            raise NoSpace(f"{self.source.key}: the cache is full of data that is in use")

    def _missing_parts(self) -> list[Run]:
        whole = Run(0, page_count(self.source.size))
        return [part for absent in self._missing(whole) for part in split(absent, PART_PAGES)]

    def _launch(self, run: Run, *, background: bool, must_admit: bool = False) -> None:
        admitted = self._owner.admit(self, bytes_of(run, self.source.size))
        if must_admit and not admitted:
            raise NoSpace("the cache is full of data that is in use; free some, or give it more room")
        flight = Flight(self.stored if admitted else self._memory(), run, background=background)
        self.acquire()
        self._flights.update(dict.fromkeys(range(*run), flight))
        task = asyncio.create_task(self._fly(flight, admitted), name=f"flight {self.id:x} {run}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fly(self, flight: Flight, admitted: bool) -> None:
        traffic = self._owner.traffic
        unlanded = bytes_of(flight.run, self.source.size)

        def landed(run: Run) -> None:
            nonlocal unlanded
            size = bytes_of(run, self.source.size)
            unlanded -= size
            traffic.bytes_from_store += size
            self._landed(flight.pages, run, size)
            for page in range(*run):
                del self._flights[page]

        traffic.flights += 1
        try:
            await flight.fly(self._owner.route(self.source), landed)
        except OSError as error:
            traffic.flights_failed += 1
            self._abandon(flight)
            flight.fail(self._translated(error))
        finally:
            self._abandon(flight)
            if flight.error is None and unlanded:
                flight.fail(TimedOut("the daemon is stopping"))
            if admitted and unlanded:
                self.disk.take(self.source.dataset, -unlanded)
            self.release()

    def _abandon(self, flight: Flight) -> None:
        for page in range(*flight.run):
            if self._flights.get(page) is flight:
                del self._flights[page]

    def _landed(self, pages: PageFile, run: Run, size: int) -> None:
        pages.residency.add(run)
        if pages is self.stored:
            self._owner.changed(self)
            return
        self._owner.traffic.bytes_read_through += size
        excess = pages.residency.resident_bytes - PASSING_BYTES
        for old in pages.residency.present() if excess > 0 else ():
            if old.first < run.first:  # a reader goes forward: what lies behind goes first
                pages.drop(Run(old.first, min(old.stop, run.first)))

    def _memory(self) -> PageFile:
        if self._passing is None:
            self._passing = PageFile(None, self.source.size)
        return self._passing

    def _translated(self, error: OSError) -> FsError:
        if isinstance(error, FsError):
            return error
        self.disk.write_failed(error)  # our own disk, not the store: read through for a while
        return _Again(f"the cache disk failed: {error.strerror}")

    async def _verify(self) -> None:
        """After an unclean reboot: drop the pages whose bytes are not what their checksum says."""
        if self.stored.trusted:
            return
        loop, pool = asyncio.get_running_loop(), self._owner.route(self.source).pool
        try:
            wrong = await loop.run_in_executor(pool, self.stored.wrong_pages)
        except (OSError, Corrupt) as error:
            self._lose(error)
            return
        if not self.stored.trusted:  # else another reader was quicker
            self._trust(wrong)

    def _trust(self, wrong: list[int]) -> None:
        self.stored.trusted = True
        for page in wrong:
            self._discard(Run(page, page + 1))
        self._owner.traffic.pages_dropped_corrupt += len(wrong)
        self._owner.changed(self)

    def _lose(self, error: Exception) -> None:
        """The local file is gone or unreadable: forget its pages; they are fetched again."""
        log.warning("cache.file_lost", key=self.source.key, reason=str(error))
        self._discard(Run(0, page_count(self.source.size)))
        self.stored.trusted = True
        self.stored.close()
        self.stored.unlink()
        self._owner.changed(self)

    def _discard(self, run: Run) -> None:
        before = self.stored.residency.resident_bytes
        self.stored.residency.discard(run)
        self.disk.take(self.source.dataset, self.stored.residency.resident_bytes - before)

    async def settle(self) -> None:
        """Cancel flights and wait for their end (the daemon stops)."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Again(Corrupt):
    """Ask once more: nothing is wrong with the store."""
