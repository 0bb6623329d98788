"""The whole read path against dicts: whatever happens in whatever order, a reader gets the bytes of one version.

Objects change behind the file system's back, stores fail, the cache is tiny and forgets, the clock moves on, the
daemon stops and starts: a read gives exactly the bytes of the version that was opened, or an error that has a cause.
"""

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from forebay.cache.cachedfile import CachedFile
from forebay.errors import Busy, Denied, FsError, Invalid, NotFound, StaleVersion, Unavailable
from forebay.testing.faulty_store import Broken, Extended, Fault, Truncated
from forebay.testing.rig import Rig, read_piece
from forebay.units import MIB
from forebay.vfs.entries import FileEntry
from forebay.vfs.openfile import OpenFile
from forebay.vfs.orders import Job

CAPACITY = 6 * MIB
TTL_S = 60.0
STORES = ("one", "two")
KEYS = ("a", "b", "d/a", "d/b", "d/e/a")
QUOTAS = {"one": None, "two": 3 * MIB}
SIZES = (0, 1, 110_000, MIB, MIB + 1, 2 * MIB + 5, 4 * MIB - 1)
FAULTS: tuple[Fault, ...] = (
    Unavailable("unplugged"), Denied("no more"), Truncated(7), Extended(3), Broken(MIB + 9), Truncated(MIB),
)  # fmt: skip

Answer = TypeVar("Answer")
stores, keys, sizes = st.sampled_from(STORES), st.sampled_from(KEYS), st.sampled_from(SIZES)
folders = st.sampled_from(["/one", "/two", "/one/d", "/two/d/e", "/"])
chances = st.randoms(use_true_random=False)


class ReadingMachine(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(["keep", "lru", "s3fifo"]), page_keys=st.sampled_from([1, 1000]))
    def start(self, policy: str, page_keys: int) -> None:
        self.quiet = contextlib.ExitStack()
        self.quiet.enter_context(capture_logs())
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-model-"))
        self.runner = asyncio.Runner()
        self.broken: list[dict[str, Any]] = []
        self.runner.get_loop().set_exception_handler(lambda _, context: self.broken.append(context))
        self.rig = Rig(
            self.folder, capacity_bytes=CAPACITY, page_keys=page_keys, cache_policy=policy, ttl_s=TTL_S,
            memory_bytes=16 * MIB, store_deadline_s=20.0,
        )  # fmt: skip
        self.data: dict[tuple[str, str, str], bytes] = {}  # by store, key and version: all that ever was
        self.history: dict[tuple[str, str], list[tuple[float, str | None]]] = {}  # versions, and since when
        self.opened: list[tuple[OpenFile, bool]] = []
        self.jobs: list[Job] = []
        self.seed = 0
        self.run(self._begin())

    async def _begin(self) -> None:
        self.rig.begin()
        for store in STORES:
            await self.rig.mount(f"/{store}", store, quota_bytes=QUOTAS[store])

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return self.runner.run(_within(work))

    def current(self, store: str, key: str) -> str | None:
        return self.history.get((store, key), [(0.0, None)])[-1][1]

    def has_faults(self) -> bool:
        return any(self.rig.store(name).script for name in STORES)

    # ------------------------------------------------------------------ behind our back

    @rule(store=stores, key=keys, size=sizes)
    def put(self, store: str, key: str, size: int) -> None:
        self.seed += 1
        data = random.Random(self.seed).randbytes(size)
        meta = self.run(self.rig.put(store, key, data))
        self.data[store, key, meta.version] = data
        self.note(store, key, meta.version)

    @rule(store=stores, key=keys)
    def delete(self, store: str, key: str) -> None:
        self.run(self.rig.memory(store).delete(key))
        self.note(store, key, None)

    def note(self, store: str, key: str, version: str | None) -> None:
        past = self.history.setdefault((store, key), [(0.0, None)])
        past.append((self.rig.clock.now_s, version))

    @rule(store=stores, faults=st.lists(st.sampled_from([*FAULTS, None]), min_size=1, max_size=3))
    def fail_next(self, store: str, faults: list[Fault]) -> None:
        self.rig.store(store).script.extend(faults)

    @rule()
    def mend(self) -> None:
        for name in STORES:
            self.rig.store(name).script.clear()

    @rule(seconds=st.sampled_from([1.0, TTL_S + 1, 400.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.clock.advance(seconds)

    # ------------------------------------------------------------------ names

    @rule(store=stores, key=keys)
    def stat(self, store: str, key: str) -> None:
        has_faults = self.has_faults()
        try:
            entry = self.run(self.rig.fs.stat(f"/{store}/{key}"))
        except NotFound:
            assert None in self.recent(store, key)
            return
        except FsError:
            assert has_faults
            return
        assert isinstance(entry, FileEntry)
        assert entry.version in self.recent(store, key)
        assert entry.size == len(self.data[store, key, entry.version])

    def recent(self, store: str, key: str) -> set[str | None]:
        """What an answer may say: every version that was the current one within the time to live."""
        past = self.history.get((store, key), [(0.0, None)])
        ends = [at for at, _ in past[1:]] + [self.rig.clock.now_s]
        return {version for (_, version), end in zip(past, ends, strict=True) if end >= self.rig.clock.now_s - TTL_S}

    @rule(store=stores, folder=st.sampled_from(["", "d/", "d/e/"]))
    def list_folder(self, store: str, folder: str) -> None:
        has_faults = self.has_faults()
        try:
            names = self.run(self.rig.names(f"/{store}/{folder}".rstrip("/")))
        except NotFound:
            return  # a folder that has, or had, no keys
        except FsError:
            assert has_faults
            return
        for key in KEYS:
            if key.startswith(folder) and "/" not in key[len(folder) :]:
                assert (None if key[len(folder) :] not in names else "a version") in {
                    version and "a version" for version in self.recent(store, key)
                }

    @precondition(lambda self: not self.has_faults())
    @rule(store=stores, key=keys)
    def refresh(self, store: str, key: str) -> None:
        path = f"/{store}/{key}"
        version = self.current(store, key)
        try:
            self.run(self.rig.fs.refresh(path))
        except NotFound:
            assert version is None
        else:
            entry = self.run(self.rig.stat_file(path))
            assert entry.version == version

    # ------------------------------------------------------------------ bytes

    @precondition(lambda self: len(self.opened) < 5)
    @rule(store=stores, key=keys)
    def open(self, store: str, key: str) -> None:
        try:
            entry = self.run(self.rig.stat_file(f"/{store}/{key}"))
        except FsError:
            return  # `stat` says whether it may
        self.opened.append((self.run(_open(self.rig, entry)), True))

    @precondition(lambda self: self.opened)
    @rule(chance=chances, count=st.integers(1, 6), wide=st.booleans())
    def read(self, chance: random.Random, count: int, wide: bool) -> None:
        """Several reads at the same time, of any open files at any place."""
        has_faults = self.has_faults()
        self.run(self._read_many(chance, count, wide, has_faults))

    async def _read_many(self, chance: random.Random, count: int, wide: bool, has_faults: bool) -> None:
        reads = []
        for _ in range(count):
            file, _ = chance.choice(self.opened)
            offset = chance.choice([0, chance.randrange(file.entry.size + 2)])
            reads.append(
                self._read_one(file, offset, chance.choice([1, 4096, MIB, 3 * MIB if wide else 77]), has_faults)
            )
        await asyncio.gather(*reads)

    async def _read_one(self, file: OpenFile, offset: int, size: int, has_faults: bool) -> None:
        entry = file.entry
        store = entry.mount.path[1:]
        try:
            got = await read_piece(file, offset, size)
        except StaleVersion:
            assert self.current(store, entry.key) != entry.version
        except FsError:
            if not has_faults:
                raise
        else:
            assert got == self.data[store, entry.key, entry.version][offset : offset + size]

    @precondition(lambda self: self.opened)
    @rule(chance=chances)
    def close_file(self, chance: random.Random) -> None:
        file, _ = self.opened.pop(chance.randrange(len(self.opened)))
        file.close()

    # ------------------------------------------------------------------ what people do

    @rule(path=folders)
    def load(self, path: str) -> None:
        has_faults = self.has_faults()
        try:
            events = self.run(_load(self.rig, path))
        except NotFound:
            return
        except FsError:
            assert has_faults
            return
        last = events[-1]
        failed = [event.failed for event in events if event.failed]
        assert last.done
        assert last.files_done + len(failed) == last.files_total

    @rule(path=folders)
    def free(self, path: str) -> None:
        try:
            self.run(self.rig.fs.free(path))
        except FsError:
            assert self.has_faults() or path not in ("/", "/one", "/two")

    @rule(path=folders)
    def pin(self, path: str) -> None:
        try:
            self.run(self.rig.fs.pin(path))
        except FsError:
            assert path not in ("/", "/one", "/two")

    @rule(path=folders)
    def unpin(self, path: str) -> None:
        with contextlib.suppress(NotFound):
            self.run(self.rig.fs.unpin(path))

    @rule(store=stores)
    def remount(self, store: str) -> None:
        try:
            self.run(self.rig.fs.unmount(f"/{store}"))
        except Busy:
            assert any(file.entry.mount.path == f"/{store}" for file, _ in self.opened)
        else:
            self.rig.store(store).script.clear()
            self.run(self.rig.mount(f"/{store}", store, quota_bytes=QUOTAS[store]))

    @rule()
    def restart(self) -> None:
        for file, _ in self.opened:
            file.close()
        self.opened.clear()
        self.jobs.clear()
        self.run(self.rig.restart())

    # ------------------------------------------------------------------ what jobs announce

    @rule(names=st.lists(st.tuples(stores, keys), min_size=1, max_size=8), joins=st.booleans())
    def announce(self, names: list[tuple[str, str]], joins: bool) -> None:
        self.run(self._announce([f"/{store}/{key}" for store, key in names], joins))

    async def _announce(self, names: list[str], joins: bool) -> None:
        if not self.jobs or not joins:
            self.jobs.append(self.rig.fs.orders.open_job("train", 0))
        with contextlib.suppress(Invalid):  # a mount that is away just now
            self.jobs[-1].announce(names)

    @precondition(lambda self: self.jobs)
    @rule(chance=chances, count=st.integers(1, 5))
    def advance(self, chance: random.Random, count: int) -> None:
        job = chance.choice(self.jobs)
        self.run(_calling(lambda: job.advance(count)))

    @precondition(lambda self: self.jobs)
    @rule(chance=chances)
    def end_job(self, chance: random.Random) -> None:
        job = self.jobs.pop(chance.randrange(len(self.jobs)))
        self.run(_calling(job.close))

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def capacity_is_kept(self) -> None:
        for disk in self.rig.cache.disks:
            assert 0 <= disk.used_bytes <= CAPACITY
            assert disk.used_bytes == sum(disk.bytes_of.values()) == sum(disk.bytes_of_mount.values())
        for store, quota in QUOTAS.items():
            assert quota is None or self.rig.cache.room.held_bytes(f"mem://{store}/") <= quota

    @invariant()
    def nothing_in_the_background_broke(self) -> None:
        assert not self.broken

    @invariant()
    def nothing_wrong_is_cached(self) -> None:
        self.run(self._check_cache())

    async def _check_cache(self) -> None:
        cache, counted = self.rig.cache, 0
        while self.rig.fs.orders.is_busy:
            await asyncio.sleep(0.001)
        await cache.settle()
        await cache.save()
        for file in cache._live.values():
            assert not file._flights
            counted += file.stored.residency.resident_bytes
            self._check_pages(file)
        index, live = cache.disks[0].index, {file.id for file in cache._live.values()}
        for location in STORES:
            rows = index.below(f"mem://{location}", "", 0, 10_000)
            counted += sum(row.resident for row in rows if row.id not in live and not index.is_forgotten(row.id))
        assert counted == cache.disks[0].used_bytes
        opens = sum(file.opens for file in cache._live.values())
        assert opens == len(self.opened) + sum(len(job._kept) for job in self.jobs)
        assert 0 <= self.rig.fs.orders.memory_left <= 4 * MIB
        assert cache.passing.bytes <= 8 * MIB
        assert all(throttle.requests == throttle.bytes == 0 for throttle in cache.throttles.values())

    def _check_pages(self, file: CachedFile) -> None:
        if file.stored.residency.mask:
            data = self.data[file.source.store.location.removeprefix("mem://"), file.source.key, file.source.version]
            with open(file.stored.path, "rb") as local:
                for run in file.stored.residency.present():
                    local.seek(run.first * MIB)
                    assert local.read(len(run) * MIB) == data[run.first * MIB : run.stop * MIB]

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            for file, _ in self.opened:
                file.close()
            self.run(self.rig.end())
            self.runner.close()
            shutil.rmtree(self.folder)
            self.quiet.close()


async def _calling(call: Callable[[], None]) -> None:
    call()


async def _within(work: Coroutine[Any, Any, Answer]) -> Answer:
    async with asyncio.timeout(15):  # nothing hangs
        return await work


async def _open(rig: Rig, entry: FileEntry) -> OpenFile:
    return rig.fs.open_version(entry)


async def _load(rig: Rig, path: str) -> list[Any]:
    return [event async for event in rig.fs.load(path)]


TestReading = ReadingMachine.TestCase
TestReading.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
