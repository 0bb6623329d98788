"""What is kept of names on disk: found again after a restart, within the freshness of its mount, and never wrong."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.errors import Unavailable
from forebay.testing.rig import Rig
from forebay.vfs.entries import FileEntry
from forebay.vfs.listing import StoredListing
from forebay.vfs.metadata import NAMES_FILE


async def mounted(rig: Rig, *keys: str, **options: object) -> None:
    for key in keys:
        await rig.put("s", key, key.encode("utf-8", "surrogateescape"))
    await rig.mount("/s", "s", **options)
    rig.memory("s").requests.clear()


def asked(rig: Rig) -> int:
    requests = rig.memory("s").requests
    return requests["head"] + requests["list"]


async def read_all_names(rig: Rig) -> None:
    assert await rig.names("/s") == ["a", "d"]
    assert await rig.names("/s/d") == ["b", "e"]
    assert (await rig.stat_file("/s/d/b")).size == 3
    assert (await rig.fs.lookup("/s/d", "none")).entry is None


KEYS = ("a", "d/b", "d/e/c")


async def test_an_immutable_folder_is_asked_for_once_in_all_its_lives(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="immutable")
        await read_all_names(rig)
        before = asked(rig)
        for _ in range(2):
            rig.clock.advance(1e8)
            await rig.restart()
            await read_all_names(rig)
        assert asked(rig) == before == 2


async def test_what_is_kept_is_what_the_store_said(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, "d/\udcff", freshness="immutable")
        before = [await rig.fs.stat(f"/s/{path}") for path in ("d/b", "d/\udcff", "d/e")]
        await rig.names("/s/d")
        await rig.restart()
        assert (await rig.names("/s/d"))[-1] == "\udcff"
        after = [await rig.fs.stat(f"/s/{path}") for path in ("d/b", "d/\udcff", "d/e")]
        assert [(e.path, e.mtime_ns) for e in after[:2]] == [(e.path, e.mtime_ns) for e in before[:2]]
        assert [e.version for e in after if isinstance(e, FileEntry)] == [
            e.version for e in before if isinstance(e, FileEntry)
        ]
        assert await rig.read("/s/d/\udcff") == b"d/\xff"


async def test_a_ttl_counts_on_through_a_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path, ttl_s=60.0) as rig:
        await mounted(rig, *KEYS)
        await rig.names("/s")
        await rig.put("s", "new", b"")
        rig.clock.advance(50.0)
        await rig.restart()
        assert await rig.names("/s") == ["a", "d"]
        assert (await rig.fs.lookup("/s", "a")).ttl_s <= 10.0
        rig.clock.advance(11.0)
        assert await rig.names("/s") == ["a", "d", "new"]


async def test_a_clock_that_went_back_makes_a_ttl_run_out(tmp_path: Path) -> None:
    async with Rig(tmp_path, ttl_s=60.0) as rig:
        await mounted(rig, *KEYS)
        await rig.names("/s")
        await rig.put("s", "new", b"")
        rig.clock.now_s -= 1.0
        await rig.restart()
        assert await rig.names("/s") == ["a", "d", "new"]


async def test_always_is_answered_from_nothing_that_is_kept(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="always")
        await rig.names("/s")
        await rig.put("s", "new", b"")
        await rig.restart()
        assert await rig.names("/s") == ["a", "d", "new"]


async def test_a_refresh_empties_what_is_kept_at_and_below_its_path(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, "dd/x", freshness="immutable")
        for path in ("/s", "/s/d", "/s/d/e", "/s/dd"):
            await rig.names(path)
        await rig.fs.refresh("/s/d")
        await rig.restart()
        rig.memory("s").requests.clear()
        assert await rig.names("/s/dd") == ["x"]
        assert rig.memory("s").requests["list"] <= 1  # whether /s/dd is a folder: its own names are kept
        for path in ("/s/d", "/s/d/e"):
            rig.memory("s").requests.clear()
            await rig.names(path)
            assert rig.memory("s").requests["list"] >= 1, path


async def test_an_unmounted_store_leaves_no_name_behind(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="immutable")
        await rig.names("/s")
        await rig.fs.unmount("/s")
        assert kept(tmp_path) == 0
        await rig.memory("s").delete("a")
        await rig.mount("/s", "s", freshness="immutable")
        assert await rig.names("/s") == ["d"]


async def test_names_of_another_store_at_the_same_path_are_not_believed(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="immutable")
        await rig.names("/s")
        await rig.end()
        (tmp_path / "control.db").unlink()  # as if nobody had told of the end of the old mount
        rig.begin()
        await rig.put("other", "z", b"")
        await rig.mount("/s", "other", freshness="immutable")
        assert await rig.names("/s") == ["z"]


async def test_a_change_of_ours_is_never_undone_by_what_was_kept(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="immutable")
        await rig.names("/s")
        await rig.names("/s/d")
        await rig.fs.write("/s/d/new", one(b"new"))
        await rig.fs.remove("/s/a")
        await rig.restart()
        assert sorted(await rig.names("/s")) == ["d"]
        assert sorted(await rig.names("/s/d")) == ["b", "e", "new"]


async def test_a_version_that_is_gone_is_asked_for_again_after_a_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="immutable")
        await rig.names("/s")
        await rig.put("s", "a", b"changed")
        with pytest.raises(OSError, match="changed"):
            await rig.read("/s/a")
        await rig.restart()
        assert await rig.read("/s/a") == b"changed"


async def test_a_damaged_names_database_is_thrown_away_with_a_warning(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="immutable")
        await rig.names("/s")
        await rig.end()
        (tmp_path / NAMES_FILE).write_bytes(b"garbage" * 1000)
        rig.begin()
        with capture_logs() as logs:
            assert await rig.names("/s") == ["a", "d"]
            await rig.fs.metadata.settle()
        assert "names.thrown_away" in [entry["event"] for entry in logs]
        await rig.restart()
        before = asked(rig)
        assert await rig.names("/s") == ["a", "d"]
        assert asked(rig) == before


async def test_a_names_database_that_breaks_midway_costs_requests_only(tmp_path: Path) -> None:
    async with Rig(tmp_path, metadata_entries=20) as rig:
        await mounted(
            rig, *(f"{folder}/{index:02}" for folder in range(6) for index in range(9)), freshness="immutable"
        )
        for folder in range(6):
            await rig.names(f"/s/{folder}")
        await rig.fs.metadata.settle()
        with sqlite3.connect(tmp_path / NAMES_FILE) as db:
            db.execute("UPDATE blocks SET sizes = x'00'")
        with capture_logs() as logs:
            for folder in range(6):
                assert len(await rig.names(f"/s/{folder}")) == 9
        assert "names.thrown_away" in [entry["event"] for entry in logs]


async def test_names_that_cannot_be_kept_cost_requests_only(tmp_path: Path) -> None:
    (tmp_path / NAMES_FILE).mkdir()
    async with Rig(tmp_path) as rig:
        with capture_logs() as logs:
            await mounted(rig, *KEYS, freshness="immutable")
            await read_all_names(rig)
            await rig.fs.refresh("/s")
            await read_all_names(rig)
        assert {entry["event"] for entry in logs if entry["log_level"] == "warning"} == {"names.not_kept"}
        await rig.restart()
        await read_all_names(rig)


async def test_a_machine_that_stopped_without_warning_starts_with_no_names(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *KEYS, freshness="immutable")
        await rig.names("/s")
        await rig.end()
        with sqlite3.connect(tmp_path / NAMES_FILE) as db:
            db.execute("UPDATE meta SET value = 'another' WHERE name = 'boot'")
            db.execute("UPDATE meta SET value = '0' WHERE name = 'clean'")
        await rig.put("s", "new", b"")
        rig.begin()
        assert await rig.names("/s") == ["a", "d", "new"]


LARGE = tuple(f"d/{index:04}" for index in range(2_600))


async def test_a_folder_larger_than_the_bound_is_answered_from_disk_and_memory_keeps_its_bound(tmp_path: Path) -> None:
    async with Rig(tmp_path, metadata_entries=500, page_keys=100) as rig:
        await mounted(rig, *LARGE, freshness="immutable")
        assert len(await rig.names("/s/d")) == len(LARGE)
        before = asked(rig)
        for key in LARGE[::100]:
            assert (await rig.stat_file(f"/s/{key}")).key == key
            assert (await rig.fs.lookup("/s/d", key[2:] + "x")).entry is None
        listing = await rig.fs.open_folder("/s/d")
        assert isinstance(listing, StoredListing)
        assert await rig.names("/s/d") == [key[2:] for key in LARGE]
        assert asked(rig) == before
        await rig.names("/s")
        assert len(rig.fs.metadata.folders) <= 500


async def test_a_large_folder_that_is_open_stays_one_listing_though_it_is_listed_anew(tmp_path: Path) -> None:
    async with Rig(tmp_path, metadata_entries=500) as rig:
        await mounted(rig, *LARGE, freshness="immutable")
        await rig.names("/s/d")
        listing = await rig.fs.open_folder("/s/d")
        await rig.put("s", "d/new", b"")
        await rig.fs.refresh("/s")
        assert len(await rig.names("/s/d")) == len(LARGE) + 1
        found: list[str] = []
        while len(found) < len(listing):
            await listing.wait(len(found))
            found += [name for name, _ in listing.some(len(found), len(found) + 300)]
        assert found == [key[2:] for key in LARGE]
        del listing
        async with asyncio.timeout(5):
            while kept(tmp_path) != 1:  # who let go of it does not wait for the thread
                await asyncio.sleep(0.01)


async def test_a_large_folder_that_we_changed_is_listed_again(tmp_path: Path) -> None:
    async with Rig(tmp_path, metadata_entries=500) as rig:
        await mounted(rig, *LARGE, freshness="immutable")
        await rig.names("/s/d")
        await rig.stat_file("/s/d/0007")
        await rig.fs.remove("/s/d/0007")
        assert (await rig.fs.lookup("/s/d", "0007")).entry is None
        assert len(await rig.names("/s/d")) == len(LARGE) - 1


async def test_a_listing_read_in_pieces_that_loses_its_file_says_so(tmp_path: Path) -> None:
    async with Rig(tmp_path, metadata_entries=500) as rig:
        await mounted(rig, *LARGE, freshness="immutable")
        await rig.names("/s/d")
        listing = await rig.fs.open_folder("/s/d")
        with sqlite3.connect(tmp_path / NAMES_FILE) as db:
            db.execute("DELETE FROM blocks")
        with pytest.raises(Unavailable, match="/s/d were lost"):
            await listing.wait(0)


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def kept(folder: Path) -> int:
    """How many folders lie in the names database."""
    with sqlite3.connect(folder / NAMES_FILE) as db:
        (count,) = db.execute("SELECT COUNT(*) FROM folders").fetchone()
    return int(count)


async def test_a_folder_that_was_dropped_is_not_dropped_again_until_something_is_saved(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "d/a", freshness="immutable")
        names = rig.fs.metadata.names
        await names.drop("/s/d")
        asked_before = names._asked
        await names.drop("/s/d")
        await names.settle()
        assert names._asked == asked_before
        await rig.names("/s/d")  # listed, and saved
        await names.drop("/s/d")
        await rig.restart()
        rig.memory("s").requests.clear()
        assert await rig.names("/s/d") == ["a"]
        assert asked(rig) > 0  # else a dropped listing has come back
