"""The rest of a folder follows after a few misses: in proportion to what is read, and never into a full cache."""

import asyncio
from pathlib import Path

from forebay.errors import Unavailable
from forebay.testing.rig import Rig
from forebay.units import KIB
from forebay.vfs.prefetch import AHEAD_PER_READ, ERRORS_MAX, PAUSE_S

FILE = 64 * KIB


async def mounted(rig: Rig, count: int) -> list[str]:
    for index in range(count):
        await rig.put("s", f"d/{index:04}", index.to_bytes(8, "big") * (FILE // 8))
    await rig.mount("/s", "s")
    return [f"/s/d/{index:04}" for index in range(count)]


async def quiet(rig: Rig) -> None:
    """Wait until the prefetcher has done what it may do for now."""
    async with asyncio.timeout(20):
        prefetcher = rig.fs.prefetcher
        while any(not watch.more.is_set() and watch.allowance > 0 for watch in prefetcher._watches.values()):
            before = rig.fs.counters()["files_prefetched"]
            await asyncio.sleep(0.02)
            if rig.fs.counters()["files_prefetched"] == before and len(prefetcher._tasks) <= 1:
                break
        await asyncio.sleep(0.05)
        await rig.landed()


async def cached(rig: Rig, names: list[str]) -> int:
    await rig.names("/s/d")
    return sum([rig.fs.is_cached(await rig.stat_file(name)) for name in names])


async def test_one_file_read_alone_fetches_nothing_else(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await mounted(rig, 20)
        for _ in range(3):
            await rig.read(names[7])
        await quiet(rig)
        assert await cached(rig, names) == 1


async def test_two_files_read_bring_the_rest_of_a_folder(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await mounted(rig, 50)
        await rig.read(names[7])
        await rig.read(names[31])
        await quiet(rig)
        assert await cached(rig, names) == 50
        assert rig.fs.counters()["files_prefetched"] >= 48
        assert rig.memory("s").requests["get"] == 50


async def test_what_is_fetched_ahead_is_in_proportion_to_what_is_read(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await mounted(rig, 10 * AHEAD_PER_READ)
        for index in (300, 310):
            await rig.read(names[index])
        await quiet(rig)
        assert 2 <= await cached(rig, names) <= 2 + 2 * AHEAD_PER_READ
        for index in range(10):
            await rig.read(names[-index])
        await quiet(rig)
        assert await cached(rig, names) > 8 * AHEAD_PER_READ


async def test_a_full_cache_ends_the_prefetch_and_evicts_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=10 * FILE) as rig:
        names = await mounted(rig, 100)
        await rig.read(names[7])
        await rig.read(names[31])
        await quiet(rig)
        assert rig.cache.disks[0].used_bytes == 10 * FILE
        rig.fs.prefetcher._watches["/s/d"].misses = 9
        assert not rig.fs.prefetcher._watches["/s/d"].may_start(rig.clock.monotonic() + PAUSE_S - 1)
        assert rig.fs.prefetcher._watches["/s/d"].may_start(rig.clock.monotonic() + PAUSE_S + 1)
        asked = rig.memory("s").requests["get"]
        for index in range(40, 60):
            await rig.read(names[index])
        await quiet(rig)
        assert rig.memory("s").requests["get"] <= asked + 20
        assert rig.fs.counters()["files_evicted"] == 0


async def test_a_store_in_trouble_is_left_alone_for_a_while(tmp_path: Path) -> None:
    async with Rig(tmp_path, store_requests=1) as rig:
        names = await mounted(rig, 60)
        await rig.names("/s/d")
        await rig.read(names[1])
        rig.store("s").script.extend([None, *[Unavailable("trouble")] * 500])
        await rig.read(names[2])
        await quiet(rig)
        assert len(rig.store("s").script) > 500 - 60
        assert rig.fs.prefetcher._watches["/s/d"].errors >= ERRORS_MAX
        rig.store("s").script.clear()
        await rig.read(names[-1])
        await rig.read(names[-2])
        await quiet(rig)
        assert await cached(rig, names) == 4
        rig.clock.advance(PAUSE_S + 1)
        await rig.read(names[-3])
        await rig.read(names[-4])
        await quiet(rig)
        assert await cached(rig, names) == 60


async def test_prefetch_can_be_turned_off(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await mounted(rig, 20)
        for name in names[:5]:
            await rig.read(name)
        await quiet(rig)
        assert await cached(rig, names) == 5
