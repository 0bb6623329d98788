"""The cache: opens versions, admits and evicts, saves its index, recovers after a crash.

*Callers*: the virtual file system, on the loop.  *Locks*: none here.  *Awaits*: only `start`, `close` and the
methods that delete many files.  *Invariants*: the bytes counted on a disk are the resident and the admitted ones;
they never exceed its capacity; a pinned or open file is never evicted.
*On crash*: see `forebay.cache.index`.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import NamedTuple

import structlog

from forebay.cache.cachedfile import CachedFile, Source, Traffic
from forebay.cache.disk import CacheDisk, DiskUse
from forebay.cache.flights import Route
from forebay.cache.index import Row
from forebay.cache.pagefile import PageFile
from forebay.cache.policy import Dataset, Use, plan_eviction
from forebay.cache.throttle import Throttle
from forebay.clock import Clock
from forebay.config.settings import Settings

log = structlog.get_logger()

LIVE_MAX = 20_000  # idle files whose state stays in memory, about 1 KB each; others come from the index in 10 us
SAVE_EVERY_S = 1.0
TOUCH_S = 60  # the time of last use is saved at most this often per file
POOL_THREADS = 4  # writers and readers of the cache disks; more only wait for the interpreter lock
SYNC_S = 5.0  # how long a stop waits for the disk, so that the next boot need not verify
EVICT_BATCH = 256

Name = tuple[str, str, str]  # location, key, version


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
        self._settings = settings
        self._clock = clock
        self.traffic = Traffic()
        self.readahead_bytes = settings.readahead_bytes
        self.disks = [
            CacheDisk(folder, reserve=settings.cache_reserve, clock=clock) for folder in settings.cache_folders
        ]
        self.on_drop: list[Callable[[int], None]] = []  # told the id of each file that is deleted
        self.pins: list[Pin] = []
        self._pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="disk")
        self._live: OrderedDict[Name, CachedFile] = OrderedDict()
        self._dirty: set[CachedFile] = set()
        self._saving: set[CachedFile] = set()  # not to be dropped: its row is being written
        self._save_lock = asyncio.Lock()
        self._throttles: dict[str, Throttle] = {}
        now = clock.monotonic()
        self._read_at: dict[Dataset, float] = {}
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
        for file in list(self._live.values()):
            await file.settle()
        await self._save()
        for disk in self.disks:
            synced = asyncio.get_running_loop().run_in_executor(self._pool, disk.sync)
            done, _ = await asyncio.wait([synced], timeout=SYNC_S)
            disk.index.close(clean=bool(done) and synced.exception() is None)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _save_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SAVE_EVERY_S)
            try:
                await self._save()
            except Exception:  # the outermost boundary of this task: the cache goes on, unsaved
                log.exception("cache.save_failed")

    async def _save(self) -> None:
        async with self._save_lock:
            self._saving, self._dirty = self._dirty, self._saving
            try:
                await self._save_rows()
            except BaseException:
                self._dirty |= self._saving  # next time
                raise
            finally:
                self._saving.clear()

    async def _save_rows(self) -> None:
        now = self._clock.monotonic()
        idle = {(name.mount, name.folder): now - at for name, at in self._read_at.items()}
        for disk in self.disks:
            rows = [_row(file) for file in self._saving if file.disk is disk]
            if rows:
                await asyncio.get_running_loop().run_in_executor(self._pool, disk.index.save, rows, idle)

    async def _sweep(self) -> None:
        for disk in self.disks:
            removed = await asyncio.get_running_loop().run_in_executor(self._pool, disk.remove_orphans)
            if removed:
                log.info("cache.orphans_removed", directory=str(disk.path), files=removed)

    # ------------------------------------------------------------------ opening

    def open(self, source: Source) -> CachedFile:
        """The cached file of one version, acquired; release it when done.  No waiting."""
        name = (source.store.location, source.key, source.version)
        file = self._live.get(name)
        if file is None:
            file = self._live[name] = self._restore(source) or self._make(source)
            self._trim_live()
        else:
            self._live.move_to_end(name)
        self._read_at[source.dataset] = self._clock.monotonic()
        now_s = self._clock.time_ns() // 1_000_000_000
        if now_s - file.used_at > TOUCH_S:
            file.used_at = now_s
            if file.stored.residency.mask:
                self._dirty.add(file)
        file.acquire()
        return file

    def residency(self, source: Source) -> int:
        """Bytes of that version that are cached."""
        file = self._live.get((source.store.location, source.key, source.version)) or self._restore(source)
        return 0 if file is None else file.stored.residency.resident_bytes

    def find(self, source: Source) -> CachedFile | None:
        """The cached file of a version if any of it is cached, not acquired."""
        file = self._live.get((source.store.location, source.key, source.version)) or self._restore(source)
        return file if file is not None and file.stored.residency.mask else None

    def _restore(self, source: Source) -> CachedFile | None:
        for disk in self.disks:
            row = disk.index.find(source.store.location, source.key, source.version)
            if row is not None and row.size == source.size:
                mask = int.from_bytes(row.pages, "little")
                path = disk.file_path(row.id)
                stored = PageFile(path, row.size, mask=mask, sums=row.sums, trusted=row.trusted)
                source = source._replace(dataset=Dataset(row.mount, row.folder))
                file = CachedFile(self, source, disk, row.id, stored)
                file.used_at = row.used_at
                return file
        return None

    def _make(self, source: Source) -> CachedFile:
        disk = max(self.disks, key=lambda disk: disk.capacity_bytes() - disk.used_bytes)
        self._drop_other_versions(source)
        file_id = disk.new_id()
        stored = PageFile(disk.file_path(file_id), source.size)
        return CachedFile(self, source, disk, file_id, stored)

    def _drop_other_versions(self, source: Source) -> None:
        for disk in self.disks:
            rows = disk.index.versions(source.store.location, source.key)
            self._drop(disk, [row for row in rows if row.version != source.version], keep_pinned=False)

    def _trim_live(self) -> None:
        if len(self._live) <= LIVE_MAX:
            return
        for name, file in list(self._live.items())[: len(self._live) - LIVE_MAX]:
            if not (file.opens or file in self._dirty or file in self._saving):
                del self._live[name]

    # ------------------------------------------------------------------ what cached files ask (cachedfile.Owner)

    def route(self, source: Source) -> Route:
        """How to fetch: the store, its throttle, the disk pool, the deadline."""
        store = source.store
        throttle = self._throttles.get(store.location)
        if throttle is None:
            throttle = self._throttles[store.location] = Throttle(
                requests_max=self._settings.store_requests, bytes_max=self._settings.memory_bytes
            )
        deadline_s = self._settings.store_deadline_s
        return Route(store, source.key, source.version, throttle, self._pool, deadline_s)

    def changed(self, file: CachedFile) -> None:
        """Save the file's residency with the next batch."""
        self._dirty.add(file)

    def released(self, file: CachedFile) -> None:
        """Nothing to do: an idle file stays known until the memory bound asks for its place."""

    def admit(self, file: CachedFile, size: int) -> bool:
        """Count `size` bytes in on the file's disk, evicting as the policy allows; False: read through."""
        disk, dataset = file.disk, file.source.dataset
        if not disk.accepts_writes:
            return False
        lacking = disk.lacking_bytes(size)
        if lacking:
            self._make_room(disk, file.source, lacking)
            if disk.lacking_bytes(size):
                return False
        disk.take(dataset, size)
        return True

    def _make_room(self, disk: CacheDisk, source: Source, lacking: int) -> None:
        uses = [Use(d, size, self._read_at.get(d, float("-inf"))) for d, size in disk.bytes_of.items() if size]
        now_s = self._clock.monotonic()
        for dataset, size in plan_eviction(source.dataset, lacking, uses, now_s=now_s, policy=source.policy) or ():
            self._evict(disk, dataset, size)

    def _evict(self, disk: CacheDisk, dataset: Dataset, size: int) -> None:
        """Delete least recently used files of a data set until `size` bytes are free or none is left."""
        disk.index.save([_row(file) for file in self._dirty if file.disk is disk])
        offset = 0
        while size > 0:
            rows = disk.index.oldest(*dataset, limit=EVICT_BATCH, offset=offset)
            if not rows:
                return
            chosen: list[Row] = []
            for row in rows:
                if size > 0 and self._may_drop(row):
                    chosen.append(row)
                    size -= row.resident
            self.traffic.files_evicted += len(chosen)
            self.traffic.bytes_evicted += sum(row.resident for row in chosen)
            self._drop(disk, chosen)
            offset += len(rows) - len(chosen)

    def _may_drop(self, row: Row, *, keep_pinned: bool = True) -> bool:
        live = self._live.get((row.location, row.key, row.version))
        if live is not None and (live.opens or live in self._saving):
            return False
        return not (keep_pinned and self.is_pinned(row.location, row.key))

    def _drop(self, disk: CacheDisk, rows: Iterable[Row], *, keep_pinned: bool = True) -> tuple[int, int]:
        """Delete cache files, unless open or pinned; return their count and bytes."""
        dropped: list[Row] = []
        for row in rows:
            if not self._may_drop(row, keep_pinned=keep_pinned):
                continue
            live = self._live.pop((row.location, row.key, row.version), None)
            resident = row.resident if live is None else live.stored.residency.resident_bytes
            if live is not None:
                self._dirty.discard(live)
            disk.take(Dataset(row.mount, row.folder), -resident)
            dropped.append(row._replace(resident=resident))
        if dropped:
            disk.index.delete(row.id for row in dropped)
            self._pool.submit(_unlink_all, [PageFile(disk.file_path(row.id), row.size) for row in dropped])
            for row in dropped:
                for told in self.on_drop:
                    told(row.id)
        return len(dropped), sum(row.resident for row in dropped)

    # ------------------------------------------------------------------ what people ask

    def is_pinned(self, location: str, key: str) -> bool:
        """Is that object held by a pin?"""
        return any(pin.covers(location, key) for pin in self.pins)

    async def free(self, location: str, prefix: str) -> tuple[int, int]:
        """Drop what is cached of a key, or below a prefix, unless pinned or open; return files and bytes."""
        await self._save()
        files = size = 0
        for disk in self.disks:
            rows = list(disk.index.below(location, prefix))
            if prefix and not prefix.endswith("/"):
                rows = [row for row in rows if row.key == prefix]
            for start in range(0, len(rows), EVICT_BATCH):
                more_files, more_bytes = self._drop(disk, rows[start : start + EVICT_BATCH])
                files, size = files + more_files, size + more_bytes
                await asyncio.sleep(0)  # readers go first
        return files, size

    def use(self) -> list[DiskUse]:
        """What each cache folder holds."""
        return [disk.use() for disk in self.disks]

    def counters(self) -> dict[str, int]:
        """What the cache did since the start."""
        return asdict(self.traffic)


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
        file.stored.trusted,
    )


def _unlink_all(files: list[PageFile]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
