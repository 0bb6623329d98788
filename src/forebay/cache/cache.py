"""The cache: opens versions, admits and evicts, saves its index, recovers after a crash.

*Callers*: the virtual file system, on the loop.  *Locks*: none here.  *Awaits*: only `start`, `close` and the
methods that delete many files.  *Invariants*: the bytes counted on a disk are the resident and the admitted ones;
they never exceed its capacity; a pinned or open file is never evicted.
*On crash*: see `forebay.cache.index`.
"""

import asyncio
import contextlib
import os
import sqlite3
from array import array
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import structlog

from forebay.cache.cachedfile import CachedFile, Source
from forebay.cache.disk import CacheDisk, DiskUse
from forebay.cache.flights import Route, stream
from forebay.cache.index import Row
from forebay.cache.pagefile import PageFile
from forebay.cache.pages import Residency, page_count
from forebay.cache.passing import PassingPool
from forebay.cache.policy import Dataset
from forebay.cache.room import EVICT_BATCH, TOUCH_S, Room
from forebay.cache.throttle import Throttle
from forebay.clock import Clock
from forebay.config.settings import Settings
from forebay.stores.base import Store
from forebay.types import Buffer, ByteRange

log = structlog.get_logger()

LIVE_MAX = 20_000  # idle files whose state stays in memory, about 1 KB each; others come from the index in 10 us
SAVE_EVERY_S = 1.0
POOL_THREADS = 4  # writers and readers of the cache disks; more only wait for the interpreter lock
SYNC_S = 5.0  # how long a stop waits for the disk, so that the next boot need not verify
TRIM_BATCH = 64
LOOK_UP_MAX = 256

Name = tuple[str, str, str]  # `CachedFile.name`: location, key, version


class Pin(NamedTuple):
    """Keys of a store that are never evicted."""

    location: str
    prefix: str  # a key, or a prefix that ends in "/" (or "")

    def covers(self, location: str, key: str) -> bool:
        """Does this pin hold that object?"""
        below = self.prefix == "" or self.prefix.endswith("/")
        return location == self.location and (key.startswith(self.prefix) if below else key == self.prefix)


class Cache:
    """See the module."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Take the cache folders.

        Raises:
            Denied, NoSpace, Busy: a folder cannot be used.
        """
        self._settings = settings
        self._clock = clock
        self.monotonic = clock.monotonic
        self.files_evicted = self.bytes_evicted = self.pages_dropped_corrupt = 0  # since the start
        self.readahead_bytes = settings.readahead_bytes
        self.passing = PassingPool(settings.memory_bytes // 2)
        self.disks = [
            CacheDisk(folder, reserve=settings.cache_reserve, clock=clock) for folder in settings.cache_folders
        ]
        self.on_drop: list[Callable[[int], None]] = []  # told the id of each file that is deleted
        self.pins: list[Pin] = []
        self.throttles: dict[str, Throttle] = {}  # by location
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="disk")
        self._live: OrderedDict[Name, CachedFile] = OrderedDict()
        self._dirty: set[CachedFile] = set()
        self._saving: set[CachedFile] = set()  # not to be dropped: its row is being written
        self._unsaved: dict[int, CachedFile] = {}  # by id: those that the index does not know at all
        self._save_lock = asyncio.Lock()
        self.room = Room(self, clock)
        now = clock.monotonic()
        self._read_at = self.room.read_at
        for disk in self.disks:
            for name, idle_s in disk.index.idle_times().items():
                self._read_at[Dataset(*name)] = now - idle_s
        self._tasks: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to save in the background, and to remove what a crash left."""
        self._tasks = [
            asyncio.create_task(self._save_for_ever(), name="cache.save"),
            asyncio.create_task(self._sweep(), name="cache.sweep"),
        ]

    async def close(self) -> None:
        """Stop flights, save the index, and let the disks settle."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.settle()
        await self.save()
        for disk in self.disks:
            synced = asyncio.get_running_loop().run_in_executor(self._pool, disk.sync)
            done, _ = await asyncio.wait([synced], timeout=SYNC_S)
            disk.close(clean=bool(done) and synced.exception() is None and not self._dirty)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def settle(self, store: Store | None = None) -> None:
        """End the flights through a store that is about to be closed (None: all flights)."""
        for file in [file for file in self._live.values() if file.opens]:
            await file.settle(store)

    def is_reading(self, store: Store) -> bool:
        """Is anything fetched through that store now?"""
        return any(file.is_reading(store) for file in self._live.values() if file.opens)

    async def _save_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            await self.save()

    async def save(self) -> None:
        """Write what has changed to the index.  A disk that refuses is logged, and asked again next time."""
        async with self._save_lock:
            self._saving, self._dirty = self._dirty, self._saving
            try:
                await self._save_rows()
            except sqlite3.Error as error:
                self._dirty |= self._saving
                log.warning("index.not_saved", reason=str(error))
            except BaseException:
                self._dirty |= self._saving
                raise
            finally:
                idle = [file for file in self._saving if not file.opens]
                self._saving.clear()
                for file in idle:
                    self.released(file)

    async def saved(self) -> None:
        """Return when what is being written to the index now has been."""
        async with self._save_lock:
            pass

    async def _save_rows(self) -> None:
        now, loop = self._clock.monotonic(), asyncio.get_running_loop()
        idle = {(name.mount, name.folder): now - at for name, at in self._read_at.items()}
        for disk in self.disks:
            files = [file for file in self._saving if file.disk is disk]
            if not files and not disk.index.has_forgotten:
                continue
            rows = [_row(file) for file in files]
            await loop.run_in_executor(self._pool, disk.index.save, rows, idle)
            new = [row for row, file in zip(rows, files, strict=True) if not file.is_saved]
            for file in files:
                file.is_saved = True
                self._unsaved.pop(file.id, None)
            for location, key in await loop.run_in_executor(self._pool, disk.index.outdated, new):
                self._drop_outdated(disk, location, key)

    def _drop_outdated(self, disk: CacheDisk, location: str, key: str) -> None:
        """A newer version of an object has been cached: the others go, those that are open when they are closed."""
        rows = disk.index.versions(location, key)
        newest = max((row.id for row in rows), default=0)
        outdated = [row for row in rows if row.id != newest]
        for row in outdated:
            live = self._live.get((row.location, row.key, row.version))
            if live is not None:
                live.is_outdated = True
        self._drop(disk, outdated, keep_pinned=False)

    async def _sweep(self) -> None:
        for disk in self.disks:
            try:
                removed = await asyncio.get_running_loop().run_in_executor(self._pool, disk.remove_orphans)
            except (OSError, sqlite3.Error) as error:
                log.warning("cache.orphans_left", directory=str(disk.path), reason=str(error))
                continue
            if removed:
                log.info("cache.orphans_removed", directory=str(disk.path), files=removed)

    # ------------------------------------------------------------------ opening

    def open(self, source: Source) -> CachedFile:
        """The cached file of one version, acquired; release it when done.  No waiting."""
        name = (source.store.location, source.key, source.version)
        file = self._live.get(name)
        if file is None:
            file = self._restore(source) or self._make(source)
            self._live[file.name] = file
        elif file.source.store is not source.store:  # another mount of the same place, or a remount
            file.source = source._replace(dataset=file.source.dataset)
        self._acquire(file)
        if len(self._live) > LIVE_MAX:
            self._trim_live()
        return file

    def open_known(self, store: Store, key: str, version: str) -> CachedFile | None:
        """What `open` gives, if that is in memory as it is to be, such as after `look_up`; else None."""
        file = self._live.get((store.location, key, version))
        if file is None or file.source.store is not store:
            return None
        self._acquire(file)
        return file

    def reopen(self, file: CachedFile, local_id: int) -> bool:
        """Acquire a file that was complete when it was released, under that id; False if it is not what it was."""
        if not file.is_known or file.id != local_id:
            return False
        self._acquire(file)
        return True

    def _acquire(self, file: CachedFile) -> None:
        file.opens += 1
        self._read_at[file.source.dataset] = now = self._clock.monotonic()
        if now >= file.touch_at:
            file.touch_at = now + TOUCH_S
            self._touch(file)

    def _touch(self, file: CachedFile) -> None:
        self._live.move_to_end(file.name)
        now_s = self._clock.time_ns() // 1_000_000_000
        if now_s - file.used_at > TOUCH_S:
            file.used_at = now_s
            if file.stored.residency.mask:
                self._dirty.add(file)
            if file.source.policy == "s3fifo":
                self.room.read_again(file.disk, file.source.dataset, file.id)

    def look_up(self, sources: Iterable[Source]) -> None:
        """Know many versions by one query each `LOOK_UP_MAX`, since most of them will be opened next."""
        unknown: dict[str, list[Source]] = {}
        for source in sources:
            if (source.store.location, source.key, source.version) not in self._live:
                unknown.setdefault(source.store.location, []).append(source)
        for location, asked in unknown.items():
            for start in range(0, len(asked), LOOK_UP_MAX):
                self._look_up(location, asked[start : start + LOOK_UP_MAX])
        while len(self._live) > LIVE_MAX and self._trim_live():
            pass

    def _look_up(self, location: str, sources: list[Source]) -> None:
        found = {
            (row.key, row.version): (disk, row)
            for disk in self.disks
            for row in disk.index.find(location, [source.key for source in sources])
        }
        for source in sources:
            known = found.get((source.key, source.version))
            file = None if known is None else self._restored(source, *known)
            file = file or self._make(source)
            self._live[file.name] = file

    def residency(self, store: Store, key: str, version: str, size: int) -> int:
        """Bytes of that version that are cached."""
        name = (store.location, key, version)
        file = self._live.get(name)
        if file is not None:
            return file.stored.residency.resident_bytes
        found = self._find(name, size)
        return 0 if found is None else found[1].resident

    def is_open(self, source: Source) -> bool:
        """Has anybody that version open?"""
        file = self._live.get((source.store.location, source.key, source.version))
        return file is not None and file.opens > 0

    def find(self, source: Source) -> CachedFile | None:
        """The cached file of a version if any of it is cached: to look at, not to read from."""
        file = self._live.get((source.store.location, source.key, source.version)) or self._restore(source)
        return file if file is not None and file.stored.residency.mask else None

    def _find(self, name: Name, size: int) -> tuple[CacheDisk, Row] | None:
        location, key, version = name
        for disk in self.disks:
            for row in disk.index.versions(location, key):
                if row.version == version and _is_sound(row, size):
                    return disk, row
        return None

    def _restore(self, source: Source) -> CachedFile | None:
        found = self._find((source.store.location, source.key, source.version), source.size)
        return None if found is None else self._restored(source, *found)

    def _restored(self, source: Source, disk: CacheDisk, row: Row) -> CachedFile | None:
        if not _is_sound(row, source.size):
            return None
        mask = int.from_bytes(row.pages, "little")
        stored = PageFile(disk.file_path(row.id), row.size, mask=mask, sums=row.sums, trusted=row.trusted)
        file = CachedFile(self, source._replace(dataset=Dataset(row.mount, row.folder)), disk, row.id, stored)
        file.used_at = row.used_at
        file.is_counted = file.is_saved = True
        return file

    def _make(self, source: Source) -> CachedFile:
        disk = self.disks[0]
        if len(self.disks) > 1:
            disk = max(self.disks, key=lambda disk: (disk.accepts_writes, disk.capacity_bytes() - disk.used_bytes))
        file_id = disk.new_id()
        stored = PageFile(disk.file_path(file_id), source.size)
        return CachedFile(self, source, disk, file_id, stored)

    # ------------------------------------------------------------------ files that are written here

    def give_up(self, source: Source, path: str, *, opens: int) -> list[int] | None:
        """Move the whole local file of a version to `path`: somebody will change it, so it is that version no more.

        Args:
            opens: how many handles the caller knows of; they go on, on the moved file.

        Returns:
            The checksums of its pages; None if it is not all here, or others have it open, or `path` is on another
            disk: nothing has changed then.
        """
        file = self._live.get((source.store.location, source.key, source.version)) or self._restore(source)
        if file is None or not file.complete or file.opens > opens or file in self._saving or source.size == 0:
            return None
        self._live[file.name] = file
        try:
            file.stored.descriptor()  # those who have it open keep it by this
            os.rename(file.stored.path, path)
        except OSError:
            return None
        if not opens:
            file.stored.close()
        sums = list(file.stored.sums)
        file.is_outdated = False
        del self._live[file.name]
        file.is_known = False
        self._dirty.discard(file)
        file.disk.take(file.source.dataset, -file.source.size)
        self._uncount(file.disk, _row(file))
        file.disk.index.forget([file.id])
        return sums

    def adopt(self, source: Source, path: str, sums: Iterable[int], pages: int) -> bool:
        """Take a local file that holds a version's bytes into the cache; the file is gone from `path` if that works.

        Args:
            pages: which of its pages are there, as a mask.

        Returns:
            False if it was not admitted, or lies on another disk.
        """
        name = (source.store.location, source.key, source.version)
        known = self._live.get(name)
        if source.size == 0 or (known is not None and (known.opens or known.stored.residency.mask)):
            return False
        file = self._make(source)
        held = Residency(source.size, pages).resident_bytes
        if not self.admit(file, held):
            return False
        try:
            os.makedirs(os.path.dirname(file.stored.path), mode=0o700, exist_ok=True)
            os.rename(path, file.stored.path)
        except OSError:
            file.disk.take(source.dataset, -held)
            return False
        if known is not None:
            known.is_known = False
        file.stored = PageFile(file.stored.path, source.size, mask=pages, sums=array("Q", sums).tobytes())
        file.used_at = self._clock.time_ns() // 1_000_000_000
        self._live[name] = file
        self._read_at[source.dataset] = self._clock.monotonic()
        self.changed(file)
        return True

    def _trim_live(self) -> int:
        """Forget a few idle files, least recently used first; return how many."""
        gone = 0
        for _ in range(TRIM_BATCH):
            name, file = next(iter(self._live.items()))
            if file.opens or file in self._dirty or file in self._saving:
                self._live.move_to_end(name)
            else:
                del self._live[name]
                file.is_known = False
                gone += 1
            if len(self._live) <= LIVE_MAX:
                break
        return gone

    # ------------------------------------------------------------------ what cached files ask (cachedfile.Owner)

    def route(self, file: CachedFile, store: Store) -> Route:
        """How to fetch: the store, its throttle, the disk and its pool, the deadline."""
        source, deadline_s = file.source, self._settings.store_deadline_s
        return Route(store, source.key, source.version, self.throttle(store), file.disk, self._pool, deadline_s)

    def throttle(self, store: Store) -> Throttle:
        """What bounds the requests to a store."""
        throttle = self.throttles.get(store.location)
        if throttle is None:
            throttle = self.throttles[store.location] = Throttle(
                requests_max=self._settings.store_requests, bytes_max=self._settings.memory_bytes // 2
            )
        return throttle

    def stream_past(self, source: Source, span: ByteRange) -> AsyncGenerator[Buffer, None]:
        """The bytes of `span` as the store has them, neither cached nor counted: for who measures the store.

        Raises:
            StaleVersion: the store has another version by now.
            FsError: as the store says.
        """
        store, deadline_s = source.store, self._settings.store_deadline_s
        route = Route(store, source.key, source.version, self.throttle(store), self.disks[0], self._pool, deadline_s)
        return stream(route, span, source.size)

    def changed(self, file: CachedFile) -> None:
        """Save the file's residency with the next batch."""
        self._dirty.add(file)
        if not file.is_counted:
            file.is_counted = True
            file.disk.files += 1
            self._unsaved[file.id] = file
            self.room.cached(file.disk, file.source, (file.id, *file.name))

    def lost(self, file: CachedFile) -> None:
        """The local file is gone: begin another, under another name, since a crash now may leave the row of the old."""
        source, old_id, file.id = file.source, file.id, file.disk.new_id()
        file.stored = PageFile(file.disk.file_path(file.id), source.size)
        file.disk.index.forget([old_id])
        self._dirty.add(file)
        if self._unsaved.pop(old_id, None) is not None or file.is_saved:
            self._unsaved[file.id] = file
            self.room.dropped(file.disk, source.dataset, source.store.location, source.key, old_id)
            self.room.cached(file.disk, source, (file.id, *file.name))
        for told in self.on_drop:
            told(old_id)

    def released(self, file: CachedFile) -> None:
        """An idle file stays known until the memory bound asks for its place, save when a newer version is here."""
        if file in self._saving:
            return  # it is idle when it is saved
        if file.is_outdated:
            self._drop(file.disk, [_row(file)], keep_pinned=False)
        self.room.coming.put_back(file.source.store.location, file.source.key)

    def admit(self, file: CachedFile, size: int) -> bool:
        """Count `size` bytes in on the file's disk, evicting as the policy allows; False: read through."""
        disk, source = file.disk, file.source
        if not disk.accepts_writes:
            return False
        is_tight = disk.lacking_bytes(size) or source.quota_bytes is not None
        if is_tight and not self.room.make(disk, source, source.store.location, source.key, size):
            return False
        disk.take(source.dataset, size)
        return True

    # ------------------------------------------------------------------ what room asks (room.Host)

    def save_now(self, disk: CacheDisk) -> None:
        """Bring what has changed into the index, so that a query finds it."""
        try:
            disk.index.save([_row(file) for file in self._dirty if file.disk is disk and file not in self._saving])
        except sqlite3.Error as error:
            log.warning("index.not_saved", reason=str(error))  # what is in it is enough to go on

    def rows(self, disk: CacheDisk, ids: Sequence[int]) -> list[Row]:
        """What is known of some cache files, saved or not."""
        known = [file for file_id in ids if (file := self._unsaved.get(file_id)) is not None]
        unsaved = [_row(file) for file in known if file.disk is disk]
        return unsaved if len(unsaved) == len(ids) else unsaved + disk.index.rows(ids)

    def unsaved(self, disk: CacheDisk) -> list[Row]:
        """Files of which the index does not know yet."""
        return [_row(file) for file in self._unsaved.values() if file.disk is disk]

    def may_drop(self, disk: CacheDisk, row: Row) -> bool:
        """Is it neither pinned nor open?"""
        return self._may_drop(disk, row)

    def evict(self, disk: CacheDisk, rows: Iterable[Row]) -> int:
        """Delete cache files; return their bytes."""
        files, freed = self._drop(disk, rows)
        self.files_evicted += files
        self.bytes_evicted += freed
        return freed

    def _uncount(self, disk: CacheDisk, row: Row) -> None:
        disk.files -= 1
        self._unsaved.pop(row.id, None)
        self.room.dropped(disk, Dataset(row.mount, row.folder), row.location, row.key, row.id)

    def _may_drop(self, disk: CacheDisk, row: Row, *, keep_pinned: bool = True) -> bool:
        if disk.index.is_forgotten(row.id):
            return False
        live = self._live.get((row.location, row.key, row.version))
        if live is not None and (live.opens or live in self._saving):
            return False
        return not (keep_pinned and self.is_pinned(row.location, row.key))

    def _drop(self, disk: CacheDisk, rows: Iterable[Row], *, keep_pinned: bool = True) -> tuple[int, int]:
        """Delete cache files that the index has now, unless open or pinned; return their count and bytes."""
        dropped, freed = [row for row in rows if self._may_drop(disk, row, keep_pinned=keep_pinned)], 0
        for row in dropped:
            live = self._live.pop((row.location, row.key, row.version), None)
            resident = row.resident if live is None else live.stored.residency.resident_bytes
            if live is not None:
                live.is_known = False
                self._dirty.discard(live)
            disk.take(Dataset(row.mount, row.folder), -resident)
            self._uncount(disk, row)
            freed += resident
        if dropped:
            disk.index.forget(row.id for row in dropped)
            self._pool.submit(_unlink_all, [disk.file_path(row.id) for row in dropped])
            for row in dropped:
                for told in self.on_drop:
                    told(row.id)
        return len(dropped), freed

    # ------------------------------------------------------------------ what people ask

    def is_pinned(self, location: str, key: str) -> bool:
        """Is that object held by a pin?"""
        return any(pin.covers(location, key) for pin in self.pins)

    async def free(self, location: str, prefix: str) -> tuple[int, int]:
        """Drop what is cached of a key, or below a prefix, unless pinned or open; return files and bytes."""
        await self.save()
        files = size = 0
        is_key = bool(prefix) and not prefix.endswith("/")
        for disk in self.disks:
            last_id = 0
            while rows := disk.index.below(location, prefix, last_id, EVICT_BATCH):
                last_id = rows[-1].id
                more_files, more_bytes = self._drop(disk, [row for row in rows if not is_key or row.key == prefix])
                files, size = files + more_files, size + more_bytes
                await asyncio.sleep(0)  # readers go first
        return files, size

    def files(self) -> list[CachedFile]:
        """The files whose state is in memory: every one that is open, and those used lately."""
        return list(self._live.values())

    def use(self) -> list[DiskUse]:
        """What each cache folder holds."""
        return [disk.use() for disk in self.disks]

    def held_bytes(self, place: str) -> int:
        """Bytes that are cached of a place, as its data sets name it."""
        return sum(size for disk in self.disks for dataset, size in disk.bytes_of.items() if dataset.mount == place)

    def counters(self) -> dict[str, int]:
        """What the cache did since the start."""
        return {
            "files_evicted": self.files_evicted,
            "bytes_evicted": self.bytes_evicted,
            "pages_dropped_corrupt": self.pages_dropped_corrupt,
        }


def _is_sound(row: Row, size: int) -> bool:
    return row.size == size and len(row.sums) == 8 * page_count(row.size)


def _row(file: CachedFile) -> Row:
    source, residency = file.source, file.stored.residency
    mask = residency.mask.to_bytes((residency.mask.bit_length() + 7) // 8, "little")
    return Row(
        file.id,
        source.store.location,
        source.key,
        source.version,
        source.size,
        source.dataset.mount,
        source.dataset.folder,
        mask,
        file.stored.sums.tobytes(),
        residency.resident_bytes,
        file.used_at,
        not file.stored.doubted,
    )


def _unlink_all(files: list[str]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.unlink(file)
