"""One version of one object, as far as it is cached: what open handles share.

Pages live on a cache disk (`stored`), or in memory if the cache could not admit them (`_passing`), which is bounded
and gone with the last handle.  A page is fetched by at most one flight.

*Callers*: open files and loaders, on the loop.  *Locks*: none; every method but those marked `async` is atomic on
the loop.  *Awaits*: flights, the disk pool.  *Invariants*: `opens` counts handles and flights, and descriptors are
open only while it is positive; a read returns bytes of this version only, or raises; bytes counted in on the disk are
those of the pages present and of the admitted flights.
*On crash*: pages that were saved in the index are used again, others are fetched again.
"""

import asyncio
import errno
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import structlog

from forebay.cache.disk import CacheDisk
from forebay.cache.flights import SINGLE_PAGES_MAX, Flight, Route
from forebay.cache.pagefile import Descriptor, FileLost, PageFile
from forebay.cache.pages import PAGE_BYTES, Run, bits_of, bytes_of, page_count, pages_of, runs_of, split
from forebay.cache.passing import PassingPages, PassingPool
from forebay.cache.policy import Dataset
from forebay.errors import Corrupt, FsError, NoSpace, TimedOut
from forebay.observe.traffic import Traffic
from forebay.stores.base import Store
from forebay.types import Buffer, ByteRange
from forebay.units import MIB

log = structlog.get_logger()

PART_PAGES = 8  # 8 MiB parts: measured best per CPU and byte on a near store; several are in flight on a far one
PARTS_MAX = 8  # of one file that is loaded whole: the store's slots are for all
PASSING_AHEAD_BYTES = 8 * MIB  # read ahead of a reader while pages are only held in memory
AT_ONCE_BYTES = 2 * MIB  # read on the loop if the page cache has it: 0.2 ms
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)  # they pass; the file is as good as ever
NO_ROOM = (
    "the cache is full of data in use, or its disk is nearly full: forebay fs df -h; free some, or give it more room"
)
ATTEMPTS = 3  # a page that was dropped, or whose background flight failed, is asked for again


class Source(NamedTuple):
    """Where the bytes of one version come from, and on whose account they are cached."""

    store: Store
    key: str
    size: int
    version: str
    dataset: Dataset
    policy: str
    traffic: Traffic  # of the mount that opened it last
    quota_bytes: int | None = None  # what its mount may hold in the cache


class Owner(Protocol):
    """What a cached file asks of its cache."""

    readahead_bytes: int
    passing: PassingPool
    monotonic: Callable[[], float]
    pages_dropped_corrupt: int

    def route(self, file: "CachedFile", store: Store) -> Route:
        """How to fetch through one of the stores that show the file's location."""
        ...

    def admit(self, file: "CachedFile", size: int) -> bool:
        """Count `size` bytes in on the file's disk, if they fit."""
        ...

    def changed(self, file: "CachedFile") -> None:
        """The file's residency changed: save it some time."""
        ...

    def lost(self, file: "CachedFile") -> None:
        """The local file was not what it should be and is gone: give it another."""
        ...

    def released(self, file: "CachedFile") -> None:
        """The last handle was closed."""
        ...


class CachedFile:
    """See the module."""

    __slots__ = (
        "_ends",
        "_flights",
        "_owner",
        "_passing",
        "_reading",
        "_tasks",
        "disk",
        "id",
        "is_counted",
        "is_known",
        "is_outdated",
        "is_saved",
        "keepers",
        "name",
        "opens",
        "source",
        "stored",
        "touch_at",
        "unread",
        "used_at",
    )

    def __init__(self, owner: Owner, source: Source, disk: CacheDisk, file_id: int, stored: PageFile) -> None:
        self._owner = owner
        self.source = source
        self.name = (source.store.location, source.key, source.version)
        self.disk = disk
        self.id = file_id
        self.stored = stored
        self._passing: PassingPages | None = None
        self._flights: dict[int, Flight] | None = None  # by page; None while there is none: most files are complete
        self._tasks: dict[asyncio.Task[None], Flight] | None = None
        self._ends: list[asyncio.Future[None]] | None = None  # to be told of the next flight that ends
        self._reading: list[Run] | None = None
        self.opens = 0
        self.unread = 0  # bytes that are here or on their way for readers, and have not been read
        self.used_at = 0  # seconds since 1970, coarse
        self.touch_at = 0.0  # when, by the monotonic clock, to look at `used_at` again
        self.keepers = 0  # who holds it in memory for a reader who will come soon
        self.is_known = True  # to the cache: else another object may stand for this version
        self.is_counted = False  # among the files of its disk
        self.is_saved = False  # in the index
        self.is_outdated = False  # a newer version is cached: drop this one when it is closed

    def __repr__(self) -> str:
        return f"<CachedFile {self.id:x} {self.source.key!r} {self.stored.residency} {self.opens} opens>"

    @property
    def complete(self) -> bool:
        """Are all bytes on the disk, and trusted?"""
        return self.stored.complete

    @property
    def is_passing(self) -> bool:
        """Is anything of it only in memory?"""
        return self._passing is not None

    @property
    def is_all_here(self) -> bool:
        """Are all bytes on the disk or in memory?"""
        return self.stored.complete or (self._passing is not None and self._passing.residency.complete)

    def acquire(self) -> None:
        """One more handle or flight."""
        self.opens += 1

    def release(self) -> None:
        """One less; the last closes the descriptors."""
        self.opens -= 1
        assert self.opens >= 0
        if self.opens == 0:
            self.stored.close()
            if self._passing is not None:
                self._passing.close()
                self._passing = None
            self._owner.released(self)

    def local_fd(self) -> int | None:
        """A descriptor of the complete file, owned by this object; None while bytes are missing or untrusted."""
        if not self.stored.complete or self.source.size == 0:
            return None
        try:
            return self.stored.descriptor().number
        except OSError as error:
            self._lose(self.stored, error)
            return None

    def reader(self) -> Descriptor | None:
        """The complete file opened once more, by which one can only read; None as `local_fd`."""
        if not self.stored.complete or self.source.size == 0:
            return None
        try:
            return self.stored.open_reader()
        except OSError as error:
            self._lose(self.stored, error)
            return None

    def read_now(self, offset: int, into: memoryview) -> int:
        """Bytes read into `into` without waiting for disk or store, short only at the end; -1: use `read`."""
        length = min(len(into), self.source.size - offset)
        if length <= 0:
            return 0
        stored = self.stored
        if not stored.complete:
            run = pages_of(offset, length, self.source.size)
            if not stored.has(run):
                if self._passing is not None and self._passing.residency.has(run):
                    return self._passing.read_now(offset, into[:length])
                return -1
        try:
            return stored.read_now(offset, into[:length])
        except OSError as error:
            self._lose(stored, error)
            return -1

    def is_here(self, offset: int, length: int) -> bool:
        """Can these bytes be had without the store?"""
        length = min(length, self.source.size - offset)
        if length <= 0:
            return True
        run = pages_of(offset, length, self.source.size)
        return self.stored.has(run) or (self._passing is not None and self._passing.residency.has(run))

    def count_read(self, traffic: Traffic, size: int) -> None:
        """Count bytes that a reader got: as many as were fetched for readers and not read yet are from the store."""
        if self.unread:
            fresh = min(size, self.unread)
            self.unread -= fresh
            traffic.read_from_store += fresh
            size -= fresh
        if self._passing is None:
            traffic.read_from_cache += size
        else:
            traffic.read_from_memory += size

    # ------------------------------------------------------------------ reading

    async def read(
        self, offset: int, length: int, *, store: Store, deadline_s: float, ahead: ByteRange | None = None
    ) -> Buffer:
        """The bytes `[offset, offset + length)`, short only at the end of the file.

        What is missing of them is asked for first, then what is missing of `ahead`, in the background.

        Raises:
            StaleVersion: the store has another version by now, and these bytes are not cached.
            TimedOut, Unavailable, Denied, ...: as the store says.
        """
        length = min(length, self.source.size - offset)
        if length <= 0:
            return b""
        run = pages_of(offset, length, self.source.size)
        reading = self._reading = self._reading or []
        reading.append(run)
        try:
            async with asyncio.timeout(deadline_s):
                return await self._read(run, offset, length, store, ahead)
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
            message = f"{self.source.store.location}: {self.source.key!r} not read within {deadline_s:g} s"
            raise TimedOut(message) from error
        finally:
            reading.remove(run)

    async def _read(self, run: Run, offset: int, length: int, store: Store, ahead: ByteRange | None) -> Buffer:
        for attempt in range(ATTEMPTS):
            try:
                await self._verify(run)
                flights = self._fetch_missing(run, store, ahead)
                for flight, page in flights.items():  # the last page of the run in each flight: they land in order
                    await _arrival(flight, page)
                return await self._assemble(run, offset, length, flights)
            except _Again as again:
                if attempt == ATTEMPTS - 1:
                    raise again.reason from again
            except Corrupt:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _is_read(self, page: int) -> bool:
        """Does a reader wait for that page, or will one soon?"""
        return self.keepers > 0 or any(run.first <= page < run.stop for run in self._reading or ())

    def _fetch_missing(self, run: Run, store: Store, ahead: ByteRange | None) -> dict[Flight, int]:
        """Launch what is missing; the flights that carry pages of `run`, with the last such page of each."""
        for wanted in self._missing(self._widened(run)):
            for part in split(wanted, PART_PAGES):
                self._launch(part, store, background=False)
        if ahead is not None:
            self.fetch_ahead(ahead, store)
        if not self._flights:
            return {}
        return {flight: page for page in range(*run) if (flight := self._flights.get(page)) is not None}

    def _widened(self, run: Run) -> Run:
        # A small object comes whole, in one request.
        count = page_count(self.source.size)
        return Run(0, count) if count <= SINGLE_PAGES_MAX else run

    def _missing(self, run: Run, *, on_disk: bool = False) -> list[Run]:
        """Pages of `run` that are neither here nor on their way; with `on_disk`, those in memory are missing too."""
        if not self.stored.residency.mask and not self._flights and (on_disk or self._passing is None):
            return [run] if run.stop > run.first else []  # nothing of the file is: so most are asked for
        absent = bits_of(run) & ~self.stored.residency.mask
        if absent and self._flights:
            for page in self._flights:
                absent &= ~(1 << page)
        if absent and self._passing is not None and not on_disk:
            absent &= ~self._passing.residency.mask
        return list(runs_of(absent)) if absent else []

    async def _assemble(self, run: Run, offset: int, length: int, flights: Iterable[Flight]) -> Buffer:
        for flight in flights:
            if flight.data is not None and flight.run.first <= run.first and run.stop <= flight.run.stop:
                start = offset - flight.run.first * PAGE_BYTES
                return flight.data[start : start + length]
        stored = self.stored
        if stored.has(run):
            return await self._read_stored(stored, offset, length)
        pieces: list[Buffer] = []  # some pages on disk, some in memory
        for page in range(*run):
            start = max(offset, page * PAGE_BYTES)
            stop = min(offset + length, (page + 1) * PAGE_BYTES)
            pieces.append(await self._read_piece(page, start, stop - start, flights))
        return b"".join(memoryview(piece) for piece in pieces)

    async def _read_piece(self, page: int, offset: int, length: int, flights: Iterable[Flight]) -> Buffer:
        one = Run(page, page + 1)
        for flight in flights:
            if flight.data is not None and flight.run.first <= page < flight.run.stop:
                start = offset - flight.run.first * PAGE_BYTES
                return flight.data[start : start + length]
        if self._passing is not None and self._passing.residency.has(one):
            into = bytearray(length)
            self._passing.read_now(offset, memoryview(into))
            return into
        if self.stored.has(one):
            return await self._read_stored(self.stored, offset, length)
        raise _Again(FsError(f"{self.source.key}: a page was dropped again and again while it was waited for"))

    async def _read_stored(self, stored: PageFile, offset: int, length: int) -> Buffer:
        try:
            into = bytearray(min(length, AT_ONCE_BYTES))
            if length <= AT_ONCE_BYTES and stored.read_now(offset, memoryview(into)) == length:
                return into  # just written, mostly
            pool = self._owner.route(self, self.source.store).pool
            return await asyncio.get_running_loop().run_in_executor(pool, stored.read, offset, length)
        except OSError as error:
            self._lose(stored, error)
            raise _Again(FsError(f"{self.source.key}: the cache disk cannot be read: {error}")) from error

    # ------------------------------------------------------------------ fetching

    @property
    def window_max(self) -> int:
        """How far ahead of a reader to fetch, bytes: little while pages are only held in memory."""
        return PASSING_AHEAD_BYTES if self._passing is not None else self._owner.readahead_bytes

    def fetch_ahead(self, span: ByteRange, store: Store) -> None:
        """Begin to fetch bytes in the background, as far as they are missing."""
        for wanted in self._missing(pages_of(span.start, span.size, self.source.size)):
            for part in split(wanted, PART_PAGES):
                self._launch(part, store, background=True)

    async def fetch_all(self, store: Store, *, is_load: bool = False) -> None:
        """Bring the whole file into the cache; `is_load` if nobody is about to read it.

        Raises:
            NoSpace: the cache does not admit it.
            FsError: the store failed.
        """
        whole = Run(0, page_count(self.source.size))
        for attempt in range(ATTEMPTS):
            try:
                if self.stored.doubted:
                    for part in split(whole, PART_PAGES):
                        await self._verify(part)
                await self._fetch_parts(whole, store, is_load=is_load)
                break
            except _Again as again:
                if attempt == ATTEMPTS - 1:
                    raise again.reason from again
            except Corrupt:
                if attempt == ATTEMPTS - 1:
                    raise
        if not self.complete:
            raise NoSpace(f"{self.source.key}: {NO_ROOM}")

    async def _fetch_parts(self, whole: Run, store: Store, *, is_load: bool) -> None:
        while True:
            missing = self._missing(whole, on_disk=True)
            if missing and len(self._tasks or ()) < PARTS_MAX:
                part = Run(missing[0].first, min(missing[0].stop, missing[0].first + PART_PAGES))
                flight = self._begin(part, store, background=True, must=True, is_load=is_load)
                if part == whole:
                    await self._fly_here(flight)
                    return
                self._spawn(flight)
            elif self._tasks:
                flights = list(self._tasks.values())
                await self._one_flown()
                for flight in flights:
                    if flight.error is not None:
                        raise flight.error
            else:
                return

    def _launch(self, run: Run, store: Store, *, background: bool) -> None:
        self._spawn(self._begin(run, store, background=background))

    def _begin(self, run: Run, store: Store, *, background: bool, must: bool = False, is_load: bool = False) -> Flight:
        size = bytes_of(run, self.source.size)
        admitted = self._owner.admit(self, size)
        if must and not admitted:
            raise NoSpace(NO_ROOM)
        flight = Flight(self.stored if admitted else self._memory(), run, store, background=background)
        flight.admitted = size if admitted else 0
        if not is_load:  # now, since a small answer is read before it has landed
            flight.unread = size
            self.unread += size
        self.acquire()
        self._flights = self._flights or {}
        for page in range(*run):
            self._flights[page] = flight
        self._tasks = self._tasks or {}
        return flight

    def _spawn(self, flight: Flight) -> None:
        assert self._tasks is not None
        task = asyncio.create_task(self._fly(flight), name="flight")
        self._tasks[task] = flight
        task.add_done_callback(self._flown)

    async def _fly_here(self, flight: Flight) -> None:
        """Fly in the caller's own task: another one for each file of a load would cost a tenth of the whole."""
        task = asyncio.current_task()
        assert task is not None
        assert self._tasks is not None
        self._tasks[task] = flight
        try:
            await self._fly(flight)
        except asyncio.CancelledError:
            if not flight.is_given_up or task.uncancel():
                raise  # the caller was meant, be it beside the flight
        finally:
            self._flown(task)
        if flight.error is not None:
            raise flight.error

    async def _fly(self, flight: Flight) -> None:
        traffic, began_s = self.source.traffic, self._owner.monotonic()
        traffic.flights += 1
        try:
            await flight.fly(self._owner.route(self, flight.store), self._landed)
        except OSError as error:
            traffic.flights_failed += 1
            self._end(flight)  # before its waiters hear of it: they may ask again
            flight.fail(self._translated(flight, error))
        traffic.flight_times.add(self._owner.monotonic() - began_s)

    def _landed(self, flight: Flight, run: Run) -> None:
        size, traffic = bytes_of(run, self.source.size), self.source.traffic
        traffic.bytes_from_store += size
        flight.unread -= min(size, flight.unread)
        if flight.pages is self.stored:
            flight.admitted -= size
            self.stored.residency.add(run)
            self._owner.changed(self)
        elif isinstance(flight.pages, PassingPages):
            traffic.bytes_read_through += size
            flight.pages.landed(run)
        # else the cache file was lost meanwhile, and what is written in it
        self._forget(flight, run)

    def _flown(self, task: asyncio.Task[None]) -> None:
        # Here and not in `_fly`, which never runs if it is cancelled before its first step.
        assert self._tasks is not None
        flight = self._tasks.pop(task)
        self._end(flight)
        flight.fail(TimedOut(f"{self.source.key}: the fetch was given up"))
        if not self._tasks:
            self._tasks = self._flights = None
        if self._ends:
            ends, self._ends = self._ends, None
            for end in ends:
                if not end.done():
                    end.set_result(None)
        self.release()

    async def _one_flown(self) -> None:
        """Wait until the next flight has ended."""
        end = asyncio.get_running_loop().create_future()
        self._ends = self._ends or []
        self._ends.append(end)
        await end

    def _end(self, flight: Flight) -> None:
        """What of a flight has not landed will not come: give its place back."""
        self._forget(flight, flight.run)
        self.unread -= min(flight.unread, self.unread)
        flight.unread = 0
        if flight.admitted:
            self.disk.take(self.source.dataset, -flight.admitted)
            flight.admitted = 0

    def _forget(self, flight: Flight, run: Run) -> None:
        if flights := self._flights:
            for page in range(*run):
                if flights.get(page) is flight:
                    del flights[page]

    def _memory(self) -> PassingPages:
        if self._passing is None:
            self._passing = PassingPages(self._owner.passing, self.source.size, self._is_read)
        return self._passing

    def _translated(self, flight: Flight, error: OSError) -> FsError:
        if isinstance(error, FileLost):
            if isinstance(flight.pages, PageFile):
                self._lose(flight.pages, error)
            return _Again(error)
        if isinstance(error, FsError):
            return error
        self.disk.write_failed(error)  # our own disk, not the store: read through for a while
        return _Again(NoSpace(f"the cache disk failed: {error.strerror}"))

    async def landed(self) -> None:
        """Wait until nothing of it is on its way any more."""
        while self._tasks:
            await self._one_flown()

    def is_reading(self, store: Store) -> bool:
        """Is anything of it fetched through that store now?"""
        return any(flight.store is store for flight in (self._tasks or {}).values())

    async def settle(self, store: Store | None = None) -> None:
        """Cancel flights (those through one store, or all) and wait for their end."""
        flights = {task: one for task, one in (self._tasks or {}).items() if store is None or one.store is store}
        for task, flight in flights.items():
            flight.is_given_up = True
            task.cancel()
        while self._tasks and not flights.keys().isdisjoint(self._tasks):
            await self._one_flown()

    # ------------------------------------------------------------------ doubt and loss

    async def _verify(self, run: Run) -> None:
        """After an unclean reboot: drop the pages of `run` whose bytes are not what their checksum says."""
        stored = self.stored
        bits = stored.doubted & bits_of(run)
        if not bits:
            return
        pool = self._owner.route(self, self.source.store).pool
        for part in runs_of(bits):
            try:
                wrong = await asyncio.get_running_loop().run_in_executor(pool, stored.wrong_pages, part)
            except OSError as error:
                self._lose(stored, error)
                return
            if stored is not self.stored:
                return
            for page in wrong:
                if stored.doubted & 1 << page:  # else another reader was quicker
                    self._discard(Run(page, page + 1))
                    self._owner.pages_dropped_corrupt += 1
            stored.doubted &= ~bits_of(part)
        self._owner.changed(self)

    def _lose(self, stored: PageFile, error: OSError) -> None:
        """The local file is gone or unreadable: forget its pages; they are fetched again, into a new file."""
        if stored is not self.stored or error.errno in _SHORTAGES:
            return
        log.warning("cache.file_lost", key=self.source.key, file=stored.path, reason=str(error))
        self._discard(Run(0, page_count(self.source.size)))
        self.unread = 0
        stored.abandon()
        self._owner.lost(self)

    def _discard(self, run: Run) -> None:
        before = self.stored.residency.resident_bytes
        self.stored.residency.discard(run)
        self.disk.take(self.source.dataset, self.stored.residency.resident_bytes - before)


async def _arrival(flight: Flight, page: int) -> None:
    try:
        await flight.wait(page)
    except FsError as error:
        if flight.background and not isinstance(error, _Again):
            raise _Again(error) from error  # ours may still succeed: ask in our own name
        raise


class _Again(Corrupt):
    """Ask once more; after the last attempt `reason` is the error to tell."""

    def __init__(self, reason: FsError) -> None:
        super().__init__(reason.message)
        self.reason = reason
