"""A cache disk that is full: reads go through, nothing breaks, and the cache comes back when there is room again."""

import random
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fault.conftest import Disk
from forebay.cache.cache import Cache
from forebay.cache.disk import FAILED_PAUSE_S
from forebay.config.settings import CacheDir
from forebay.errors import Denied, NoSpace
from forebay.testing.rig import Rig
from forebay.units import GIB, KIB, MIB

FILES = {f"{index:02}": random.Random(index).randbytes(300 * KIB) for index in range(20)}
LARGE = random.Random(99).randbytes(5 * MIB)


async def mounted(rig: Rig) -> None:
    for key, data in FILES.items():
        await rig.put("s", key, data)
    await rig.put("s", "large", LARGE)
    await rig.mount("/s", "s")


async def read_all_files(rig: Rig) -> None:
    for key, data in FILES.items():
        assert await rig.read(f"/s/{key}") == data
    assert await rig.read("/s/large") == LARGE


async def test_a_disk_that_others_fill_makes_reads_go_through(tmp_path: Path, disk: Disk) -> None:
    async with Rig(tmp_path, cache_dirs=(CacheDir(disk.folder / "cache", GIB),), prefetch=False) as rig:
        await mounted(rig)
        assert await rig.read("/s/00") == FILES["00"]
        await rig.landed()
        disk.fill()
        with capture_logs() as logs:
            await read_all_files(rig)
            await rig.landed()
            await read_all_files(rig)
        assert "cache.write_refused" in {line["event"] for line in logs}
        rig.memory("s").requests.clear()
        assert await rig.read("/s/00") == FILES["00"]  # what was cached before still is
        assert rig.memory("s").requests["get"] == 0
        with pytest.raises(NoSpace):
            await rig.fs.fetch(await rig.stat_file("/s/07"))

        disk.relieve()
        rig.clock.advance(FAILED_PAUSE_S + 1)
        assert await rig.read("/s/07") == FILES["07"]
        await rig.landed()
        assert rig.fs.is_cached(await rig.stat_file("/s/07"))


async def test_a_cache_that_wants_more_than_the_disk_has_stops_at_the_disk(tmp_path: Path, disk: Disk) -> None:
    async with Rig(tmp_path, cache_dirs=(CacheDir(disk.folder / "cache", GIB),), prefetch=False) as rig:
        await mounted(rig)
        for _ in range(2):
            await read_all_files(rig)
            await rig.landed()
            rig.clock.advance(2.0)
        await rig.restart()
        await read_all_files(rig)


async def test_no_database_that_changes_with_files_is_mapped_for_a_full_disk_to_kill_the_daemon(tmp_path: Path) -> None:
    """On btrfs a change to a mapped page needs room; without it, it is SIGBUS."""
    async with Rig(tmp_path) as rig:
        await mounted(rig)
        await read_all_files(rig)
        await rig.landed()
        await rig.fs.mkdir("/s/folder")
        files = {path.name for path in tmp_path.rglob("*.db")}
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    assert files == {"index.db", "names.db", "attributes.db", "control.db"}
    assert {Path(path).name for path in mapped if path.startswith(str(tmp_path))} == {"control.db-shm"}


async def test_a_full_disk_does_not_stop_free_from_making_room(tmp_path: Path, disk: Disk) -> None:
    async with Rig(tmp_path, cache_dirs=(CacheDir(disk.folder / "cache", GIB),), prefetch=False) as rig:
        await mounted(rig)
        for key in list(FILES)[:5]:
            await rig.read(f"/s/{key}")
        await rig.landed()
        disk.fill()
        rig.clock.advance(2.0)
        assert (await rig.fs.free("/s"))[0] == 5
        assert rig.cache.disks[0].used_bytes == 0
        await read_all_files(rig)


async def test_a_cache_folder_on_a_full_disk_is_named_at_the_start(tmp_path: Path, disk: Disk) -> None:
    rig = Rig(tmp_path, cache_dirs=(CacheDir(disk.folder / "cache", GIB),))
    disk.fill()
    with pytest.raises((NoSpace, Denied), match="cache_dirs"):
        Cache(rig.settings, rig.clock)
    disk.relieve()
    async with rig:
        await mounted(rig)
        assert await rig.read("/s/01") == FILES["01"]


async def test_a_cache_folder_that_is_a_file_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(NoSpace, match=r"cannot be used.*cache_dirs"):
        Rig(tmp_path).begin()
