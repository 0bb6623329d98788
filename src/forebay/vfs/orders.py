"""Announced orders: what jobs will read, fetched ahead in that order, and kept by when it is read next.

A job is a training process that tells the order of its samples, an epoch or several at a time, and how far it is.
What comes next is fetched ahead, in order, within a window that grows only while readers have to wait; the cache evicts
by Belady's MIN over all jobs (`forebay.cache.coming`).  Nothing is fetched that no job announced and no reader asked
for: the folder prefetch is off where an order is known.

*Callers*: the admin API and the file system, on the loop.  *Awaits*: names, the cache.  *Invariants*: one runner per
job; a job ends with its process; what is held in memory for all jobs together is at most half of what is held of
uncached pages at all.
"""

import asyncio
import os
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Protocol

import structlog

from forebay import paths
from forebay.cache.cache import Cache
from forebay.cache.cachedfile import CachedFile
from forebay.cache.coming import BEHIND_MAX, Coming, Order
from forebay.cache.numbers import Place
from forebay.cache.policy import Dataset
from forebay.cache.readahead import Window
from forebay.errors import Busy, FsError, Invalid, NoSpace
from forebay.types import ByteRange
from forebay.units import MIB
from forebay.vfs.drafts import is_draft
from forebay.vfs.entries import Entry, FileEntry, Found, Mount, is_link
from forebay.vfs.links import Links
from forebay.vfs.prefetch import Prefetcher
from forebay.vfs.tree import Tree

log = structlog.get_logger()

ANNOUNCED_MAX = 8_000_000
"""Samples that all jobs together may have announced and not read: six epochs of ImageNet.  A sample takes 8 bytes, and
an object that was not announced before 53 more (measured with names of 25 bytes), while it is cached 92 more."""
WINDOW_SHARE = 128
"""The windows of all jobs take at most a 128th of the cache: what is fetched early takes the place of what others read
meanwhile.  Simulated with two jobs on the same data and half of it cached, windows of 1 % of the cache cost 0.1 % more
traffic, of 3 % 1 %, and of 5 % 2 %."""
WINDOW_MIN = MIB // 2  # of one job
LOOK_UP = 64  # samples that the cache is asked for at a time
HERE_SHARE = 4  # what is cached already counts as a quarter of its size: a look ahead costs something too
NAMES_MAX = 64  # names asked of the store at a time
TAKEN_AT_ONCE = 250  # announced samples: about a millisecond, in which nobody else is served
UNSEEN_BEHIND = 128  # of a job whose opens are not seen, samples handed out that may not have been read


class Host(Protocol):
    """What orders ask of the file system."""

    tree: Tree
    cache: Cache
    prefetcher: Prefetcher
    links: Links

    def peek(self, folder: str, name: str) -> Found | None:
        """A lookup from memory."""
        ...

    def dataset(self, mount: Mount, key: str) -> Dataset:
        """On whose account a key is cached."""
        ...

    def cached(self, entry: FileEntry) -> CachedFile:
        """The cached file of an entry, acquired: release it when done."""
        ...

    def look_up(self, entries: Sequence[FileEntry]) -> None:
        """Have the cache look for files that will be opened soon, all at once."""
        ...

    def is_cached(self, entry: FileEntry) -> bool:
        """Is the whole file in the cache?"""
        ...


class Orders:
    """See the module."""

    def __init__(self, host: Host, *, window_max: int, memory_bytes: int) -> None:
        self.host = host
        self.jobs: dict[Order, Job] = {}
        self.window_max = window_max
        self.memory_left = memory_bytes  # for what the cache does not admit
        self._tasks: dict[asyncio.Task[None], Job | None] = {}  # and the job it is for

    @property
    def coming(self) -> Coming:
        """What is known of all jobs."""
        return self.host.cache.room.coming

    def _bound_windows(self) -> None:
        """Each job may fetch so far ahead that all together take no more of the cache than they should."""
        capacity = sum(disk.capacity_bytes() for disk in self.host.cache.disks)
        for job in self.jobs.values():
            job.window.bound(min(self.window_max, max(WINDOW_MIN, capacity // WINDOW_SHARE // len(self.jobs))))

    def open_job(self, name: str, pid: int) -> "Job":
        """A job begins; it ends with `Job.close`, or with its process.

        Args:
            pid: the process, as this one sees it; 0 if it cannot be seen.

        Raises:
            Invalid: there is no such process.
        """
        watch = -1
        if pid:
            try:
                watch = os.pidfd_open(pid)
            except OSError as error:
                raise Invalid(f"there is no process {pid} that could announce what it reads") from error
        job = Job(self, name, watch)
        if watch >= 0:
            asyncio.get_running_loop().add_reader(watch, job.close)
        self.jobs[job.order] = job
        self._bound_windows()
        self.coming.add(job.order)
        log.info("job.opened", job=name, pid=pid)
        return job

    def ended(self, job: "Job") -> None:
        """A job was closed: end its work, and forget what it announced."""
        for task, of in self._tasks.items():
            if of is job:
                task.cancel()
        del self.jobs[job.order]
        if not self.jobs:
            self.host.cache.room.forget_orders()
            return
        self._bound_windows()
        self.coming.remove(job.order)
        others = set[Dataset]().union(*(other.datasets for other in self.jobs.values()))
        for dataset in job.datasets - others:
            self.coming.unfollow(dataset)

    def numbers(self, names: Sequence[str], datasets: dict[Dataset, str]) -> list[int]:
        """The numbers of announced paths; their data sets, and where the tree shows them, are added to `datasets`.

        Raises:
            Invalid: a path is in no mount.
        """
        places: dict[str, tuple[int, str]] = {}
        numbers = self.coming.numbers
        found = []
        for path in names:
            folder, name = paths.split(path)
            known = places.get(folder)
            if known is None:
                mount, prefix = self.host.tree.folder_place(folder)
                if mount is None:
                    raise Invalid(f"{path} is in no mount, so it cannot be announced", path=path)
                above, _, start = prefix.rpartition("/")  # of a shared prefix, names begin with its end
                dataset = self.host.dataset(mount, prefix + name)
                datasets[dataset] = paths.join(mount.path, dataset.folder) if dataset.folder else mount.path
                place = Place(mount.store.location, above, dataset, folder, len(start))
                known = places[folder] = numbers.place(place), start
            found.append(numbers.target(numbers.add(known[0], known[1] + name)))
        return found

    def follow(self, dataset: Dataset, path: str) -> None:
        """From now on a data set is fetched and kept by announced orders."""
        if dataset not in self.coming.datasets:
            self.coming.datasets.add(dataset)
            self.spawn(self._follow(dataset, path))

    async def _follow(self, dataset: Dataset, path: str) -> None:
        await self.host.prefetcher.forget(path)
        await self.host.cache.room.follow(dataset)

    def opened(self, file: CachedFile) -> bool:
        """A reader opened a file; is its data set announced?"""
        coming, source = self.coming, file.source
        if source.dataset not in coming.datasets:
            return False
        number = coming.numbers.find(source.store.location, source.key)
        if number is not None and (found := coming.used(number)) is not None:
            order, position = found
            self.jobs[order].opened(position, file)
        return True

    def covers(self, entry: FileEntry) -> bool:
        """Is that file's data set announced?"""
        return bool(self.jobs) and self.host.dataset(entry.mount, entry.key) in self.coming.datasets

    @property
    def is_busy(self) -> bool:
        """Is anything looked for or fetched ahead?"""
        return bool(self._tasks)

    def spawn(self, work: Coroutine[None, None, None], job: "Job | None" = None) -> asyncio.Task[None]:
        """Work that ends with this object, and with the job."""
        task = asyncio.create_task(work, name="orders")
        self._tasks[task] = job
        task.add_done_callback(self._tasks.pop)
        return task

    async def close(self) -> None:
        """Forget every job."""
        for job in list(self.jobs.values()):
            job.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Job:
    """One job: what it announced, and what is fetched ahead for it."""

    def __init__(self, orders: Orders, name: str, watch: int) -> None:
        self.name = name
        self.order = Order()
        self.datasets: set[Dataset] = set()
        self._orders = orders
        self._watch = watch  # a descriptor that tells the end of the process; -1 without
        self.window = Window(orders.window_max)
        self._ahead: dict[int, int] = {}  # by position: bytes that are here or on their way, and not opened yet
        self._ahead_bytes = 0
        self._begun = 0  # what stands before this position is fetched, or on its way
        self._named: dict[int, FileEntry] = {}  # by position from there on: what is fetched when its turn comes
        self._asked: set[int] = set()  # positions of names that are asked for
        self._typical_bytes = MIB  # of a file whose size is not known yet
        self._told = 0  # so many samples were handed out, as it says
        self._later: deque[Sequence[str]] = deque()  # announced, and not in `order` yet
        self._later_count = 0
        self._taker: asyncio.Task[None] | None = None
        self._failure: FsError | None = None  # of what was announced, and could not be told at once
        self._kept: dict[int, CachedFile] = {}  # by position: those held in memory
        self._sees_opens = False
        self._is_closed = False
        self._runner: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ what the job tells

    def announce(self, names: Sequence[str]) -> None:
        """The job will read these virtual paths, in this order, after what it has announced before.

        It takes about 4 us a path: the first `TAKEN_AT_ONCE` now, the rest by and by, while others are served.

        Raises:
            Invalid: a path is in no mount.  Of what is taken later, the next call raises it.
            Busy: more is announced than can be held; announce the rest when some of it has been read.
        """
        self._check()
        unread = sum(job.unread for job in self._orders.jobs.values())
        if unread + len(names) > ANNOUNCED_MAX:
            message = f"{unread:,} samples are announced and not read; announce more when some of them have been"
            raise Busy(message)
        now = 0 if self._later_count else TAKEN_AT_ONCE
        self._take(names[:now])
        if later := names[now:]:
            self._later.append(later)
            self._later_count += len(later)
            if self._taker is None or self._taker.done():
                self._taker = self._orders.spawn(self._take_later(), self)

    @property
    def unread(self) -> int:
        """Samples that are announced and not read."""
        return self.order.end - self.order.at + self._later_count

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _take_later(self) -> None:
        try:
            while self._later:
                names = self._later.popleft()
                for start in range(0, len(names), TAKEN_AT_ONCE):
                    await asyncio.sleep(0)  # readers go first
                    some = names[start : start + TAKEN_AT_ONCE]
                    self._take(some)
                    self._later_count -= len(some)
        except FsError as error:
            self._failure, self._later_count = error, 0
            self._later.clear()

    def _take(self, names: Sequence[str]) -> None:
        self._orders.coming.announce(self.order, self._numbers(names))
        self._catch_up()

    def _numbers(self, names: Sequence[str]) -> list[int]:
        """The numbers of what the job reads; its data sets are followed."""
        datasets: dict[Dataset, str] = {}
        numbers = self._orders.numbers(names, datasets)
        for dataset, path in datasets.items():
            self.datasets.add(dataset)
            self._orders.follow(dataset, path)
        return numbers

    def advance(self, count: int) -> None:
        """The next `count` samples have been handed to the loader.

        Raises:
            Invalid: a path that was announced is in no mount.
        """
        self._check()
        self._told = min(self._told + count, self.order.end + self._later_count)
        self._catch_up()

    def _catch_up(self) -> None:
        """What is known of the order is used up as far as the job says."""
        behind = BEHIND_MAX if self._sees_opens else UNSEEN_BEHIND
        position = min(max(self._told, self.order.at), self.order.end)  # its opens may be seen before it tells
        self._orders.coming.advance(self.order, position, behind=behind)
        for passed in list(self._ahead):  # in the order of positions, nearly
            if passed >= position - behind:
                break
            self._leave(passed)
        self._go_on()

    def close(self) -> None:
        """Forget the job; what is cached stays."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._watch >= 0:
            asyncio.get_running_loop().remove_reader(self._watch)
            os.close(self._watch)
        for position in list(self._ahead):
            self._leave(position)
        self._orders.ended(self)
        log.info("job.closed", job=self.name, samples=self.order.at)

    # ------------------------------------------------------------------ what is seen of it

    def opened(self, position: int, file: CachedFile) -> None:
        """A sample was opened."""
        order = self.order
        self._sees_opens = True
        self.window.read(file.source.size, late=not file.is_all_here)
        self._leave(position)
        if position >= order.at:  # it does not tell how far it is, or tells it later
            self._orders.coming.advance(order, position + 1)
        self._go_on()

    def _leave(self, position: int) -> None:
        """A sample need not be held for the job any more."""
        self._ahead_bytes -= self._ahead.pop(position, 0)
        file = self._kept.pop(position, None)
        if file is not None:
            file.keepers -= 1
            if not file.keepers:
                self._orders.memory_left += file.source.size
            file.release()

    # ------------------------------------------------------------------ fetching ahead

    @property
    def _has_room(self) -> bool:
        coming_bytes = self._ahead_bytes + len(self._asked) * self._typical_bytes
        return coming_bytes < self.window.size and len(self._asked) < NAMES_MAX

    @property
    def _is_low(self) -> bool:
        """Is a quarter of the window free?  Many samples at a time cost less."""
        has_more = self.order.ahead < self.order.end
        return has_more and self._has_room and 4 * self._ahead_bytes <= 3 * self.window.size

    @property
    def _may_begin(self) -> bool:
        """Is it known what is next in turn?"""
        position = self._begun
        return position < self.order.ahead and (position not in self._asked or self.order.is_used(position))

    def _go_on(self) -> None:
        is_idle = self._runner is None or self._runner.done()
        if is_idle and (self._is_low or self._may_begin) and not self._is_closed:
            self._runner = self._orders.spawn(self._run(), self)

    async def _run(self) -> None:
        while self._is_low or self._may_begin:
            if self._is_low:
                self._look_ahead()
            self._begin()
            await asyncio.sleep(0)  # readers go first

    def _look_ahead(self) -> None:
        """Find out what the next samples are."""
        order = self.order
        stop = min(order.end, order.ahead + LOOK_UP)
        while order.ahead < stop and self._has_room:
            position = order.ahead = max(order.ahead, order.floor)
            if position >= order.end:
                break
            order.ahead += 1
            if order.is_used(position):
                continue
            numbers = self._orders.coming.numbers
            number = numbers.link(order.number(position))
            path = numbers.path(number)
            found = self._orders.host.peek(*paths.split(path))
            if found is None or found.entry is None or is_link(found.entry):
                self._asked.add(position)
                self._orders.spawn(self._ask(position, number, path), self)
            elif isinstance(found.entry, FileEntry):
                self._name(position, found.entry)

    async def _ask(self, position: int, number: int, path: str) -> None:
        entry: Entry | None = None
        try:
            entry = await self._orders.host.links.find(path, ahead=True)
            if isinstance(entry, FileEntry) and entry.path != path:
                self._lead(number, entry.path)
        except FsError as error:
            log.debug("job.name_failed", job=self.name, path=path, reason=str(error))
        self._asked.remove(position)
        if isinstance(entry, FileEntry) and not self.order.is_used(position):
            self._name(position, entry)
        self._go_on()

    def _lead(self, link: int, path: str) -> None:
        """What was announced by a symbolic link is the file at a path."""
        coming = self._orders.coming
        (target,) = self._numbers([path])
        if target != coming.numbers.target(link):
            coming.lead(link, target)

    def _name(self, position: int, entry: FileEntry) -> None:
        self._named[position] = entry
        self._count(position, entry.size)

    def _begin(self) -> None:
        """Fetch what is next in turn, up to a name that is not known yet: its reader waits for that one first."""
        order = self.order
        self._begun = max(self._begun, min(order.floor, order.ahead))
        coming: list[tuple[int, FileEntry]] = []
        while len(coming) < LOOK_UP and self._may_begin:
            entry = self._named.pop(self._begun, None)
            if entry is not None and not order.is_used(self._begun):
                coming.append((self._begun, entry))
            self._begun += 1
        self._orders.host.look_up([entry for _, entry in coming])
        for position, entry in coming:
            self._fetch(position, entry)

    def _count(self, position: int, size: int) -> None:
        self._typical_bytes += (size - self._typical_bytes) // 4
        self._ahead[position] = size
        self._ahead_bytes += size

    def _weigh(self, position: int, size: int) -> None:
        """What stands at a position takes only so much of the window."""
        if position in self._ahead:
            self._ahead_bytes += size - self._ahead[position]
            self._ahead[position] = size

    def _fetch(self, position: int, entry: FileEntry) -> None:
        if is_draft(entry) or self._orders.host.is_cached(entry):
            self._weigh(position, entry.size // HERE_SHARE)
        else:
            self._orders.spawn(self._bring(position, entry), self)

    async def _bring(self, position: int, entry: FileEntry) -> None:
        file = self._orders.host.cached(entry)
        try:
            if file.is_passing:
                self._keep(position, file)
            elif not file.complete:
                await file.fetch_all(entry.mount.store)
                entry.mount.traffic.files_prefetched += 1
        except NoSpace:
            self._keep(position, file)
        except FsError as error:
            log.debug("job.fetch_failed", job=self.name, path=entry.path, reason=str(error))
        finally:
            file.release()

    def _keep(self, position: int, file: CachedFile) -> None:
        """Hold a file that the cache does not admit in memory, if there is room, until it is opened."""
        orders, size = self._orders, file.source.size
        if self.order.is_used(position) or (not file.keepers and size > orders.memory_left):
            return
        if not file.keepers:
            orders.memory_left -= size
            file.source.traffic.files_prefetched += 1
        file.keepers += 1
        file.acquire()
        self._kept[position] = file
        self._weigh(position, 0)  # memory has a bound of its own
        file.fetch_ahead(ByteRange(0, size), file.source.store)
