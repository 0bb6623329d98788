"""What stays in the cache and what leaves it: policies, pins, `free`, versions, several disks, the reserve."""

import os
import random
from pathlib import Path

import pytest

from forebay.cache.policy import IDLE_S
from forebay.config.settings import CacheDir
from forebay.errors import NoSpace
from forebay.testing.rig import Rig, read_all
from forebay.units import KIB

FILE = 256 * KIB


def data_of(key: str) -> bytes:
    return random.Random(key).randbytes(FILE)


async def filled(rig: Rig, store: str, count: int, **options: object) -> list[str]:
    """A mount of `count` files, each read once, oldest first; their paths."""
    for index in range(count):
        await rig.put(store, f"{index:03}", data_of(f"{store}{index}"))
    await rig.mount(f"/{store}", store, **options)
    names = [f"/{store}/{index:03}" for index in range(count)]
    for name in names:
        await read_and_save(rig, name)
        rig.clock.advance(61)
    return names


async def read_and_save(rig: Rig, path: str) -> None:
    assert await rig.read(path) == data_of(path[1:].split("/")[0] + str(int(path[-3:])))
    await rig.landed()


async def cached(rig: Rig, paths: list[str]) -> list[str]:
    return [path for path in paths if rig.fs.is_cached(await rig.stat_file(path))]


async def test_keep_fills_the_cache_once_and_leaves_it_alone(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, prefetch=False) as rig:
        names = await filled(rig, "a", 8)
        assert await cached(rig, names) == names[:4]
        for name in reversed(names):
            await read_and_save(rig, name)
        assert await cached(rig, names) == names[:4]
        assert rig.fs.counters()["files_evicted"] == 0


async def test_lru_makes_room_by_dropping_what_was_used_longest_ago(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, prefetch=False) as rig:
        names = await filled(rig, "a", 6, policy="lru")
        assert await cached(rig, names) == names[2:]
        await read_and_save(rig, names[2])
        rig.clock.advance(61)
        await read_and_save(rig, names[0])
        assert await cached(rig, names) == [names[0], names[2], *names[4:]]


async def test_a_data_set_that_is_idle_makes_room_for_another(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, prefetch=False) as rig:
        old = await filled(rig, "old", 4)
        rig.clock.advance(IDLE_S + 1)
        new = await filled(rig, "new", 3)
        assert await cached(rig, new) == new
        assert await cached(rig, old) == old[3:]


async def test_a_data_set_in_use_is_not_disturbed_by_another(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, prefetch=False) as rig:
        old = await filled(rig, "old", 4)
        new = await filled(rig, "new", 2)
        assert await cached(rig, old) == old
        assert await cached(rig, new) == []


async def test_a_pinned_data_set_stays_and_the_next_idle_one_gives_instead(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, prefetch=False) as rig:
        pinned, other = await filled(rig, "pinned", 2), await filled(rig, "other", 2)
        await rig.fs.pin("/pinned")
        rig.clock.advance(IDLE_S + 1)
        new = await filled(rig, "new", 2)
        assert await cached(rig, pinned) == pinned
        assert await cached(rig, other) == []
        assert await cached(rig, new) == new
        await rig.fs.unpin("/pinned")
        rig.clock.advance(IDLE_S + 1)
        last = await filled(rig, "last", 2)
        assert await cached(rig, last) == last
        assert await cached(rig, pinned) == []


async def test_an_open_file_is_not_evicted_and_not_freed(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, prefetch=False) as rig:
        old = await filled(rig, "old", 4)
        file = rig.fs.open(await rig.stat_file(old[0]))
        rig.clock.advance(IDLE_S + 1)
        new = await filled(rig, "new", 3)
        assert await cached(rig, old) == [old[0]]
        assert await cached(rig, new) == new
        await rig.fs.free("/old")
        assert file.local_fd() is not None
        file.close()


async def test_a_closed_file_opens_again_and_is_held_like_any_other(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, prefetch=False) as rig:
        old = await filled(rig, "old", 4)
        file = rig.fs.open(await rig.stat_file(old[0]))
        file.close()
        assert file.reopen()
        rig.clock.advance(IDLE_S + 1)
        await filled(rig, "new", 3)
        assert await cached(rig, old) == [old[0]]
        assert await read_all(file) == data_of("old0")
        file.close()


async def test_opening_again_keeps_a_data_set_from_being_idle_and_a_file_from_being_the_oldest(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=2 * FILE, prefetch=False) as rig:
        old = await filled(rig, "old", 2, policy="lru")
        file = rig.fs.open(await rig.stat_file(old[0]))
        file.close()
        rig.clock.advance(IDLE_S - 1)
        assert file.reopen()
        file.close()
        assert await cached(rig, await filled(rig, "new", 1)) == [], "the other data set is in use"
        await rig.put("old", "002", data_of("old2"))
        await read_and_save(rig, "/old/002")
        assert await cached(rig, old) == [old[0]]


@pytest.mark.parametrize("end", ["evicted", "forgotten", "lost"])
async def test_a_closed_file_does_not_open_again_once_its_local_file_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await filled(rig, "a", 2)
        file = rig.fs.open(await rig.stat_file(names[0]))
        file.close()
        await rig.landed()
        if end == "evicted":
            await rig.fs.free(names[0])
        elif end == "forgotten":
            monkeypatch.setattr("forebay.cache.cache.LIVE_MAX", 1)
            await rig.put("a", "more", b"more")
            await rig.fs.refresh("/a")
            await rig.read("/a/more")
        else:
            os.unlink(rig.cache.disks[0].file_path(file.local_id))
            await read_and_save(rig, names[0])  # fetched again, into another file
        assert not file.reopen()
        assert await rig.read(names[0]) == data_of("a0")


async def test_free_drops_what_is_below_a_path_and_tells_what_it_was(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        dropped: list[int] = []
        rig.cache.on_drop.append(dropped.append)
        names = await filled(rig, "a", 3)
        ids = [rig.fs.open(await rig.stat_file(name)) for name in names]
        for file in ids:
            file.close()
        assert await rig.fs.free(names[1]) == (1, FILE)
        assert await cached(rig, names) == [names[0], names[2]]
        assert await rig.fs.free("/") == (2, 2 * FILE)
        assert rig.cache.disks[0].used_bytes == 0
        assert sorted(dropped) == sorted(file.local_id for file in ids)
        assert await rig.fs.free("/a") == (0, 0)
        await read_and_save(rig, names[0])
        assert rig.cache.use()[0].files == 1


async def test_free_of_a_name_leaves_those_that_begin_like_it(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        for key in ("x", "xy", "x-/a"):
            await rig.put("a", key, b"1")
        await rig.mount("/a", "a")
        async for _ in rig.fs.load("/a"):
            pass
        assert await rig.fs.free("/a/x") == (1, 1)
        assert await rig.fs.free("/a/x-") == (1, 1)


async def test_a_newer_version_replaces_the_one_before(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        (name,) = await filled(rig, "a", 1)
        await rig.put("a", "000", b"another")
        await rig.fs.refresh(name)
        assert await rig.read(name) == b"another"
        await rig.landed()
        await rig.landed()  # the first has found that one is outdated
        assert rig.cache.disks[0].used_bytes == len(b"another")
        assert len(rig.cache.disks[0].index.versions("mem://a", "000")) == 1


async def test_an_older_version_that_is_open_goes_when_it_is_closed(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        (name,) = await filled(rig, "a", 1)
        old = rig.fs.open(await rig.stat_file(name))
        await rig.put("a", "000", b"another")
        await rig.fs.refresh(name)
        assert await rig.read(name) == b"another"
        await rig.landed()
        await rig.landed()  # the first has found that one is outdated
        assert bytes(old.read_now(0, FILE) or b"") == data_of("a0")
        old.close()
        await rig.cache.save()
        assert rig.cache.disks[0].used_bytes == len(b"another")


async def test_a_look_at_an_outdated_version_does_not_drop_the_newer_one(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        await rig.put("a", "000", data_of("a0"))
        await rig.mount("/a", "a")
        outdated = await rig.stat_file("/a/000")
        await rig.put("a", "000", data_of("a0"))
        await rig.fs.refresh("/a/000")
        await read_and_save(rig, "/a/000")
        rig.fs.open(outdated).close()
        await rig.cache.save()
        assert await cached(rig, ["/a/000"]) == ["/a/000"]


async def test_files_are_spread_over_cache_folders_within_the_size_of_each(tmp_path: Path) -> None:
    folders = (CacheDir(tmp_path / "one", 3 * FILE), CacheDir(tmp_path / "two", 5 * FILE))
    async with Rig(tmp_path, cache_dirs=folders, prefetch=False) as rig:
        names = await filled(rig, "a", 9)
        assert [disk.used_bytes for disk in rig.cache.disks] == [3 * FILE, 5 * FILE]
        assert rig.fs.statfs() == (8 * FILE, 0)
        await rig.restart()
        assert len(await cached(rig, names)) == 8


async def test_the_reserve_of_free_disk_is_left_alone(tmp_path: Path) -> None:
    async with Rig(tmp_path, cache_reserve=0.9, capacity_bytes=1 << 60, prefetch=False) as rig:
        use = rig.cache.use()[0]
        assert use.capacity_bytes == max(0, use.disk_free_bytes - use.reserve_bytes)


async def test_fetching_what_the_cache_does_not_admit_says_so(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=FILE - 1) as rig:
        await rig.put("a", "000", data_of("a0"))
        await rig.mount("/a", "a")
        with pytest.raises(NoSpace, match="full"):
            await rig.fs.fetch(await rig.stat_file("/a/000"))


async def test_two_mounts_of_one_place_share_what_is_cached(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        (name,) = await filled(rig, "a", 1)
        await rig.mount("/again", "a")
        await rig.fs.unmount("/a")
        assert rig.fs.is_cached(await rig.stat_file("/again/000"))
        assert await rig.read("/again/000") == data_of("a0")
        assert rig.memory("a").requests["get"] == 1
        assert name not in [mount.path for mount in rig.fs.mounts]


async def test_the_memory_of_idle_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.cache.cache.LIVE_MAX", 3)
    async with Rig(tmp_path, prefetch=False) as rig:
        names = await filled(rig, "a", 6)
        assert len(rig.cache.files()) <= 4
        assert await cached(rig, names) == names
        for name in names:
            await read_and_save(rig, name)
        assert rig.memory("a").requests["get"] == 6
