"""Stops, crashes, power cuts and meddling hands: what is cached is used again where it is sure, and fetched again
where it is not; nothing wrong is ever read."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.cache.cache import Cache
from forebay.errors import Busy
from forebay.testing.rig import Rig, read_piece
from forebay.units import KIB, MIB

SMALL = random.Random(3).randbytes(110 * KIB)
LARGE = random.Random(4).randbytes(6 * MIB + 77)


async def filled(rig: Rig) -> None:
    """Two files, `small` and `large`, in the cache."""
    await rig.put("s", "small", SMALL)
    await rig.put("s", "large", LARGE)
    await rig.mount("/s", "s")
    await read_both(rig)
    await rig.landed()


async def read_both(rig: Rig) -> None:
    assert await rig.read("/s/small") == SMALL
    assert await rig.read("/s/large") == LARGE


def bodies(rig: Rig) -> int:
    requests = rig.memory("s").requests
    return requests["get"] + requests["stream"]


def cache_files(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("cache/files/*/*")), key=lambda path: path.stat().st_size)


def cut_the_power(folder: Path) -> None:
    """Make the index look as after an unclean reboot."""
    with sqlite3.connect(folder / "cache" / "index.db") as db:
        db.execute("UPDATE meta SET value = 'another boot' WHERE name = 'boot_id'")
        db.execute("UPDATE meta SET value = '0' WHERE name = 'clean'")
    db.close()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


async def test_what_is_cached_survives_a_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await filled(rig)
        before, used = bodies(rig), rig.cache.disks[0].used_bytes
        await rig.restart()
        assert rig.cache.disks[0].used_bytes == used == len(SMALL) + len(LARGE)
        assert rig.cache.use()[0].files == 2
        await read_both(rig)
        assert bodies(rig) == before


async def test_parts_of_a_file_survive_a_restart_too(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "large", LARGE)
        await rig.mount("/s", "s")
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        assert await read_piece(file, 4 * MIB, MIB) == LARGE[4 * MIB : 5 * MIB]
        await rig.landed()
        file.close()
        await rig.restart()
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        assert file.read_now(4 * MIB, MIB) == LARGE[4 * MIB : 5 * MIB]
        assert file.read_now(3 * MIB, MIB) is None
        file.close()


async def test_after_an_unclean_reboot_a_flipped_byte_is_found_and_fetched_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    await filled(rig)
    await rig.end()
    cut_the_power(tmp_path)
    flip(cache_files(tmp_path)[1], 3 * MIB + 5)
    async with rig:
        before = bodies(rig)
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        assert file.local_fd() is None  # not before every page is verified
        file.close()
        await read_both(rig)
        await rig.landed()
        assert bodies(rig) == before + 1  # the one page
        assert rig.fs.counters()["pages_dropped_corrupt"] == 1
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        assert file.local_fd() is not None
        file.close()
        await rig.restart()
        await read_both(rig)
        assert bodies(rig) == before + 1


async def test_after_an_unclean_reboot_only_what_is_read_is_verified(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    await filled(rig)
    await rig.end()
    cut_the_power(tmp_path)
    async with rig:
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        assert await read_piece(file, 2 * MIB, 100) == LARGE[2 * MIB : 2 * MIB + 100]
        assert file._file.stored.doubted == 0b1111011
        file.close()


async def test_loading_after_an_unclean_reboot_verifies_what_is_there(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    await filled(rig)
    await rig.end()
    cut_the_power(tmp_path)
    flip(cache_files(tmp_path)[0], 9)
    async with rig:
        before = bodies(rig)
        assert [event async for event in rig.fs.load("/s")][-1].files_done == 2
        await rig.landed()
        assert bodies(rig) == before + 1
        await read_both(rig)


async def test_a_clean_stop_and_a_reboot_need_no_verifying(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    await filled(rig)
    await rig.end()
    with sqlite3.connect(tmp_path / "cache" / "index.db") as db:
        db.execute("UPDATE meta SET value = 'another boot' WHERE name = 'boot_id'")
    db.close()
    async with rig:
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        assert file.local_fd() is not None
        file.close()


@pytest.mark.parametrize("harm", ["missing", "short"])
async def test_a_cache_file_that_somebody_harmed_is_fetched_again(tmp_path: Path, harm: str) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    await filled(rig)
    await rig.end()
    for path in cache_files(tmp_path):
        path.unlink() if harm == "missing" else os.truncate(path, 100)
    async with rig:
        with capture_logs() as logs:
            await read_both(rig)
        assert {line["event"] for line in logs} >= {"cache.file_lost"}
        await rig.landed()
        assert rig.cache.disks[0].used_bytes == len(SMALL) + len(LARGE)
        before = bodies(rig)
        await rig.restart()
        await read_both(rig)
        assert bodies(rig) == before


async def test_a_cache_file_that_vanishes_while_parts_are_fetched_leaves_no_hole(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "large", LARGE)
        await rig.mount("/s", "s")
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        assert await read_piece(file, 4 * MIB, MIB) == LARGE[4 * MIB : 5 * MIB]
        await rig.landed()
        file.close()
        cache_files(tmp_path)[0].unlink()
        file = rig.fs.open_version(await rig.stat_file("/s/large"))
        offsets = range(0, len(LARGE), MIB)
        pieces = await asyncio.gather(*(read_piece(file, offset, MIB) for offset in offsets))
        assert b"".join(pieces) == LARGE
        await rig.landed()
        file.close()
        assert len(cache_files(tmp_path)) == 1  # a flight that began with the lost file has not made it again
        await rig.restart()
        assert await rig.read("/s/large") == LARGE


@pytest.mark.parametrize("harm", ["rubbish", "cut", "gone"])
async def test_a_damaged_index_is_thrown_away_with_a_warning_and_its_files_too(tmp_path: Path, harm: str) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    await filled(rig)
    await rig.end()
    index = tmp_path / "cache" / "index.db"
    if harm == "rubbish":
        index.write_bytes(b"this is no database " * 500)
    elif harm == "cut":
        os.truncate(index, 5_000)
    else:
        index.unlink()
    with capture_logs() as logs:
        rig.begin()
    if harm != "gone":
        assert "index.thrown_away" in {line["event"] for line in logs}
    assert rig.cache.disks[0].used_bytes == 0
    rig.cache.disks[0].remove_orphans()
    assert cache_files(tmp_path) == []
    assert list((tmp_path / "cache").glob("lost-*")) == []
    await read_both(rig)
    await rig.end()


async def test_an_index_that_breaks_while_in_use_costs_warmth_only(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await filled(rig)
        await rig.restart()
        with (tmp_path / "cache" / "index.db").open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 40_000)
        with capture_logs() as logs:
            await read_both(rig)
            await rig.landed()
        assert "index.thrown_away" in {line["event"] for line in logs}
        await rig.restart()
        await read_both(rig)


async def test_files_that_no_row_names_are_swept(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await filled(rig)
        disk = rig.cache.disks[0]
        orphan = Path(disk.file_path(disk.new_id()))
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"left by a crash")
        assert disk.remove_orphans() == 0  # of this session: it may be on its way into the index
        await rig.restart()
        assert rig.cache.disks[0].remove_orphans() == 1
        assert not orphan.exists()
        await read_both(rig)


async def test_two_daemons_cannot_use_one_cache_folder(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        with pytest.raises(Busy, match="another Forebay daemon"):
            Cache(rig.settings, rig.clock)


CHILD = """
import asyncio, sys
from pathlib import Path
from forebay.testing.rig import Rig

async def main():
    rig = Rig(Path(sys.argv[1]), ttl_s=1e9)
    rig.begin()
    rig.cache.start()
    for index in range(200):
        await rig.put("s", f"{index:03}", bytes([index]) * 300_000)
    await rig.mount("/s", "s")
    for index in range(200):
        await rig.read(f"/s/{index:03}")
        if index % 20 == 10:
            await rig.landed()
            print(index, flush=True)

asyncio.run(main())
"""


async def test_after_kill_minus_9_what_was_saved_is_used_and_nothing_is_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            saved = next(int(line) for line in child.stdout if line.strip().isdigit() and int(line) >= 90)
        finally:
            child.send_signal(signal.SIGKILL)
    rig = Rig(tmp_path)
    for index in range(200):
        await rig.put("s", f"{index:03}", bytes([index]) * 300_000)  # the same versions as the child's
    async with rig:
        assert [mount.path for mount in rig.fs.mounts] == ["/s"]
        await asyncio.to_thread(rig.cache.disks[0].remove_orphans)
        asked = bodies(rig)
        for index in range(saved + 1):
            assert await rig.read(f"/s/{index:03}") == bytes([index]) * 300_000
        assert bodies(rig) == asked
        for index in range(saved + 1, 200):
            assert await rig.read(f"/s/{index:03}") == bytes([index]) * 300_000
        await rig.landed()
        assert rig.cache.disks[0].used_bytes == 200 * 300_000
