"""Room for what is fetched: what may be admitted, and who leaves for it; and what leaves by itself.

*Callers*: the cache, on the loop.  *Awaits*: only `follow`, `expire` and `shrink`, which go through many files.
*Invariants*: nothing is evicted that is pinned, open, or announced to be read sooner than what asks; a mount with a
quota takes room from itself first, and never holds more.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from forebay.cache.coming import NEVER, Coming
from forebay.cache.disk import CacheDisk
from forebay.cache.index import Row
from forebay.cache.numbers import Place
from forebay.cache.policy import Dataset, Use, plan_eviction
from forebay.cache.s3fifo import S3Fifo
from forebay.clock import Clock
from forebay.units import MIB

EVICT_BATCH = 256
EVICT_SHARE, EVICT_BYTES = 256, 64 * MIB  # evict a 256th of the capacity at a time, at most 64 MiB
LOOK_AGAIN_S = 10.0  # a data set of which all is pinned or open is left alone for so long
TOUCH_S = 60  # the order of use, in memory and in the index, is this coarse
TRIES_MAX = 64  # files in use that are passed over before giving up
FOLLOW_BATCH = 1_000


class Asking(Protocol):
    """What asks for room: a `Source`."""

    @property
    def dataset(self) -> Dataset:
        """On whose account it is cached."""
        ...

    @property
    def policy(self) -> str:
        """Of its mount."""
        ...

    @property
    def quota_bytes(self) -> int | None:
        """What its mount may hold."""
        ...


class Host(Protocol):
    """What room asks of the cache."""

    disks: list[CacheDisk]

    def save_now(self, disk: CacheDisk) -> None:
        """Bring what has changed into the index, so that a query finds it."""
        ...

    def rows(self, disk: CacheDisk, ids: Sequence[int]) -> list[Row]:
        """What is known of some cache files, saved or not."""
        ...

    def may_drop(self, disk: CacheDisk, row: Row) -> bool:
        """Is it neither pinned nor open?"""
        ...

    def evict(self, disk: CacheDisk, rows: Iterable[Row]) -> int:
        """Delete cache files; return their bytes."""
        ...

    def unsaved(self, disk: CacheDisk) -> list[Row]:
        """Files of which the index does not know yet."""
        ...


class Room:
    """See the module."""

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self.coming = Coming()
        self.read_at: dict[Dataset, float] = {}  # when each data set was read last, by the monotonic clock
        self._nothing_to_evict: dict[tuple[CacheDisk, Dataset], float] = {}  # until when not to look again
        self._fifos: dict[tuple[CacheDisk, Dataset], S3Fifo] = {}

    # ------------------------------------------------------------------ who asks

    def make(self, disk: CacheDisk, asking: Asking, location: str, key: str, size: int) -> bool:
        """Evict until `size` bytes of an object fit, as far as the policy allows; do they?"""
        if asking.quota_bytes is not None:
            mount, quota = asking.dataset.mount, asking.quota_bytes
            if size > quota:
                return False

            def over() -> int:
                return max(0, self.held_bytes(mount) + size - quota)

            if over() and not self._make(disk, asking, (location, key), over, mount=mount, of_bytes=quota):
                return False
        if not disk.lacking_bytes(size):
            return True
        return self._make(
            disk, asking, (location, key), lambda: disk.lacking_bytes(size), of_bytes=disk.capacity_bytes()
        )

    def held_bytes(self, mount: str) -> int:
        """What a mount takes of all disks."""
        return sum(disk.bytes_of_mount.get(mount, 0) for disk in self._host.disks)

    def _make(
        self,
        disk: CacheDisk,
        asking: Asking,
        name: tuple[str, str],
        lacking: Callable[[], int],
        *,
        of_bytes: int,
        mount: str | None = None,
    ) -> bool:
        """Evict until nothing is lacking of what is bounded by `of_bytes`, from one mount only if it is named."""
        is_followed = asking.dataset in self.coming.datasets
        policy = "keep" if is_followed else asking.policy
        while need := lacking():
            now_s = self._clock.monotonic()
            uses = [
                Use(dataset, held, self.read_at.get(dataset, float("-inf")))
                for dataset, held in disk.bytes_of.items()
                if held > 0
                and mount in (None, dataset.mount)
                and self._nothing_to_evict.get((disk, dataset), now_s) <= now_s
            ]
            if plan := plan_eviction(asking.dataset, need, uses, now_s=now_s, policy=policy):
                dataset, wanted = plan[0]
                # A little more than needed, so that a full cache does not pay the query for every file.
                self._evict(disk, dataset, max(wanted, min(of_bytes // EVICT_SHARE, EVICT_BYTES)))
                if lacking() > need - wanted:  # pinned, or open: take from the next one
                    self._nothing_to_evict[disk, dataset] = now_s + LOOK_AGAIN_S
            elif not is_followed or not self._evict_later(disk, name, need, mount):
                return False
        return True

    def _evict(self, disk: CacheDisk, dataset: Dataset, size: int) -> None:
        """Delete files of a data set, those first that its policy says, until `size` bytes are free or none is left."""
        if dataset in self.coming.datasets:
            self._evict_last(disk, [dataset], -1, size)
        elif (disk, dataset) in self._fifos:
            self._evict_by_fifo(disk, self._fifos[disk, dataset], size)
        else:
            self._evict_oldest(disk, dataset, size)

    def _evict_oldest(self, disk: CacheDisk, dataset: Dataset, size: int) -> None:
        self._host.save_now(disk)
        offset = 0
        while size > 0:
            rows = disk.index.oldest(*dataset, limit=EVICT_BATCH, offset=offset)
            if not rows:
                return
            chosen: list[Row] = []
            for row in rows:
                if size > 0 and self._host.may_drop(disk, row):
                    chosen.append(row)
                    size -= row.resident
            self._host.evict(disk, chosen)
            offset += len(rows)  # forgotten rows stay in place until they are deleted

    def _evict_by_fifo(self, disk: CacheDisk, fifo: S3Fifo, size: int) -> None:
        in_use: list[tuple[int, int]] = []
        while size > 0 and len(in_use) < TRIES_MAX and (file_id := fifo.pop()) is not None:
            rows = self._host.rows(disk, [file_id])
            if rows and self._host.may_drop(disk, rows[0]):
                size -= self._host.evict(disk, rows)
            elif rows:
                in_use.append((file_id, _hash_of(rows[0])))
        for file_id, name in in_use:
            fifo.keep(file_id, name)

    def _evict_later(self, disk: CacheDisk, name: tuple[str, str], size: int, mount: str | None) -> bool:
        """Delete what is read later than the object that asks; was there any?"""
        number = self.coming.numbers.find(*name)
        than = NEVER if number is None else self.coming.due(number, after_window=True)
        datasets = [dataset for dataset in self.coming.datasets if mount in (None, dataset.mount)]
        return self._evict_last(disk, datasets, than, size) > 0

    def _evict_last(self, disk: CacheDisk, datasets: list[Dataset], than: int, size: int) -> int:
        freed = in_use = 0
        coming = self.coming
        while freed < size and in_use < TRIES_MAX:
            number = coming.pop(disk, datasets, than)
            if number is None:
                break
            file_id = coming.file_id(number)
            rows = self._host.rows(disk, [file_id])
            if rows and self._host.may_drop(disk, rows[0]):
                freed += self._host.evict(disk, rows)
            elif rows:
                coming.set_aside(number)
                in_use += 1
            else:
                coming.release(number, file_id)
        return freed

    # ------------------------------------------------------------------ what is told

    def cached(self, disk: CacheDisk, source: Asking, row: tuple[int, str, str, str]) -> None:
        """A file is cached: its id, and location, key and version of the object."""
        file_id, location, key, _ = row
        if source.dataset in self.coming.datasets:
            self._hold(disk, source.dataset, location, key, file_id)
        if source.policy == "s3fifo":
            self._fifo(disk, source.dataset).add(file_id, hash(row[1:]))

    def read_again(self, disk: CacheDisk, dataset: Dataset, file_id: int) -> None:
        """A file of a mount whose policy is `s3fifo` was opened, for the first time in a while."""
        if (disk, dataset) in self._fifos:
            self._fifos[disk, dataset].read(file_id)

    def dropped(self, disk: CacheDisk, dataset: Dataset, location: str, key: str, file_id: int) -> None:
        """A file is not cached any more."""
        if dataset in self.coming.datasets and (number := self.coming.numbers.find(location, key)) is not None:
            self.coming.release(number, file_id)
        if (disk, dataset) in self._fifos:
            self._fifos[disk, dataset].remove(file_id)

    def _hold(self, disk: CacheDisk, dataset: Dataset, location: str, key: str, file_id: int) -> None:
        folder, _, name = key.rpartition("/")
        numbers = self.coming.numbers
        number = numbers.find(location, key)
        if number is None:
            number = numbers.add(numbers.place(Place(location, folder, dataset, "", 0)), name)
        self.coming.hold(disk, number, file_id)

    def _fifo(self, disk: CacheDisk, dataset: Dataset) -> S3Fifo:
        fifo = self._fifos.get((disk, dataset))
        if fifo is None:
            fifo = self._fifos[disk, dataset] = S3Fifo()
            for file_id in disk.index.oldest_ids(*dataset):  # from before a restart, or another policy
                fifo.keep(file_id, file_id)
        return fifo

    # ------------------------------------------------------------------ announced orders

    async def follow(self, dataset: Dataset) -> None:
        """Know every cached file of a data set by when it is read next, since jobs begin to announce that."""
        self.coming.datasets.add(dataset)
        for disk in self._host.disks:
            for row in self._host.unsaved(disk):
                if (row.mount, row.folder) == dataset:
                    self._hold(disk, dataset, row.location, row.key, row.id)
            last_id = 0
            while rows := disk.index.keys(*dataset, after_id=last_id, limit=FOLLOW_BATCH):
                if dataset not in self.coming.datasets:
                    return  # nobody announces it any more
                last_id = rows[-1][0]
                for file_id, location, key in rows:
                    if not disk.index.is_forgotten(file_id):
                        self._hold(disk, dataset, location, key, file_id)
                await asyncio.sleep(0)  # readers go first

    def forget_orders(self) -> None:
        """Nobody announces anything any more."""
        self.coming = Coming()

    # ------------------------------------------------------------------ what leaves by itself

    async def expire(self, mount: str, unread_s: float) -> int:
        """Drop what a mount holds and nobody has read for so long, or a little longer; return how many files."""
        before = self._clock.time_ns() // 1_000_000_000 - int(unread_s) - TOUCH_S
        gone = 0
        for disk in self._host.disks:
            self._host.save_now(disk)
            for dataset in [dataset for dataset in disk.bytes_of if dataset.mount == mount]:
                offset = 0
                while rows := disk.index.oldest(*dataset, limit=EVICT_BATCH, offset=offset):
                    unread = [row for row in rows if row.used_at < before and self._host.may_drop(disk, row)]
                    self._host.evict(disk, unread)
                    gone += len(unread)
                    offset += len(rows)
                    if rows[-1].used_at >= before:
                        break
                    await asyncio.sleep(0)  # readers go first
        return gone

    async def shrink(self, mount: str, quota_bytes: int) -> None:
        """Evict until a mount holds no more than that, the data set that was read longest ago first."""
        for disk in self._host.disks:
            held = [dataset for dataset, size in disk.bytes_of.items() if dataset.mount == mount and size > 0]
            for dataset in sorted(held, key=lambda dataset: self.read_at.get(dataset, float("-inf"))):
                while (over := self.held_bytes(mount) - quota_bytes) > 0:
                    before = disk.bytes_of[dataset]
                    self._evict(disk, dataset, min(over, EVICT_BYTES))
                    if disk.bytes_of[dataset] == before:
                        break  # pinned, or open
                    await asyncio.sleep(0)  # readers go first


def _hash_of(row: Row) -> int:
    return hash((row.location, row.key, row.version))
