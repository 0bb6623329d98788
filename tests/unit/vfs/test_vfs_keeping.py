"""What a mount may hold in the cache, and for how long; and S3-FIFO on files."""

import random
from pathlib import Path

import pytest

from forebay.cache.room import TOUCH_S
from forebay.errors import Invalid
from forebay.testing.rig import Rig
from forebay.units import KIB
from forebay.vfs.mounter import MountChanges

FILE = 64 * KIB


async def filled(rig: Rig, store: str, count: int, **options: object) -> list[str]:
    """A mount of `count` files, each read once; their paths."""
    for index in range(count):
        await rig.put(store, f"{index:03}", random.Random(f"{store}{index}").randbytes(FILE))
    await rig.mount(f"/{store}", store, **options)
    names = [f"/{store}/{index:03}" for index in range(count)]
    await read(rig, names)
    return names


async def read(rig: Rig, names: list[str]) -> None:
    for name in names:
        data = await rig.read(name)
        assert data == random.Random(name[1:].split("/")[0] + str(int(name[-3:]))).randbytes(FILE)
        await rig.landed()


async def cached(rig: Rig, names: list[str]) -> list[str]:
    return [name for name in names if rig.fs.is_cached(await rig.stat_file(name))]


@pytest.mark.parametrize("policy", ["keep", "lru", "s3fifo"])
async def test_a_mount_never_holds_more_than_its_quota(tmp_path: Path, policy: str) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await filled(rig, "a", 8, quota_bytes=3 * FILE, policy=policy)
        assert len(await cached(rig, names)) == 3
        assert rig.cache.disks[0].used_bytes == 3 * FILE
        assert (await cached(rig, names) == names[:3]) == (policy == "keep")


async def test_a_mount_at_its_quota_takes_nothing_from_others_even_if_they_are_idle(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        other = await filled(rig, "other", 4)
        rig.clock.advance(10_000)
        names = await filled(rig, "a", 6, quota_bytes=2 * FILE, policy="lru")
        assert await cached(rig, other) == other
        assert await cached(rig, names) == names[4:]


async def test_a_quota_that_is_lowered_frees_at_once_and_one_that_is_taken_away_binds_no_more(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await filled(rig, "a", 6)
        await rig.fs.update_mount("/a", MountChanges(quota_bytes=2 * FILE))
        assert len(await cached(rig, names)) == 2
        await read(rig, names)
        assert len(await cached(rig, names)) == 2
        await rig.fs.update_mount("/a", MountChanges(quota_bytes=0))
        await read(rig, names)
        assert await cached(rig, names) == names
        assert rig.memory("a").requests["delete"] == 0


async def test_a_quota_holds_for_announced_orders_too(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await filled(rig, "a", 6, quota_bytes=3 * FILE)
        job = rig.fs.orders.open_job("train", 0)
        for _ in range(3):
            job.announce(names)
            await read(rig, names)
        assert rig.cache.disks[0].used_bytes == 3 * FILE


async def test_a_quota_below_nothing_is_refused(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        with pytest.raises(Invalid, match="quota must be 0 bytes or more"):
            await rig.mount("/a", "a", quota_bytes=-1)


async def test_a_time_to_live_frees_what_nobody_has_read_for_so_long_and_nothing_else(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        other = await filled(rig, "other", 2)
        names = await filled(rig, "a", 4, cache_ttl_s=3600.0)
        rig.clock.advance(3000)
        await read(rig, names[:2])
        rig.clock.advance(600 + TOUCH_S + 1)
        await rig.fs.keeper.look()
        assert await cached(rig, names) == names[:2]
        assert await cached(rig, other) == other
        rig.clock.advance(3600)
        file = rig.fs.open(await rig.stat_file(names[0]))
        rig.clock.advance(3600)
        await rig.fs.keeper.look()
        assert await cached(rig, names) == names[:1], "it is open"
        file.close()
        assert rig.memory("a").requests["delete"] == 0
        await read(rig, names)


async def test_a_time_to_live_outlasts_a_restart_and_spares_pins(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await filled(rig, "a", 3, cache_ttl_s=3600.0)
        await rig.fs.pin(names[1])
        await rig.restart()
        rig.clock.advance(3600 + TOUCH_S + 1)
        await rig.fs.keeper.look()
        assert await cached(rig, names) == names[1:2]


async def test_a_place_that_another_mount_keeps_for_ever_is_kept(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await filled(rig, "a", 3, cache_ttl_s=3600.0, quota_bytes=3 * FILE)
        await rig.mount("/again", "a")
        rig.clock.advance(100_000)
        await rig.fs.keeper.look()
        assert await cached(rig, names) == names
        await rig.fs.unmount("/again")
        await rig.fs.keeper.look()
        assert await cached(rig, names) == []


async def test_with_s3fifo_a_scan_does_not_drive_out_what_is_read_often(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=10 * FILE, prefetch=False, cache_policy="s3fifo") as rig:
        often = await filled(rig, "a", 5)
        for _ in range(3):
            rig.clock.advance(TOUCH_S + 1)
            await read(rig, often)
        for index in range(5, 60):
            await rig.put("a", f"{index:03}", random.Random(f"a{index}").randbytes(FILE))
        scan = [f"/a/{index:03}" for index in range(5, 60)]
        await rig.fs.refresh("/a")
        await read(rig, scan)
        assert await cached(rig, often) == often
        assert len(await cached(rig, scan)) == 5
        await rig.restart()
        await read(rig, scan[:20])
        assert len(await cached(rig, [*often, *scan])) == 10
