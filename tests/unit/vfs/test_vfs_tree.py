"""Virtual folders, mounts in mounts, and what stands in the way of each change."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.errors import (
    AlreadyExists,
    Busy,
    Denied,
    Invalid,
    NotADirectory,
    NotEmpty,
    NotFound,
    ReadOnly,
    TimedOut,
)  # fmt: skip
from forebay.testing.faulty_store import Hang
from forebay.testing.rig import Rig
from forebay.vfs.entries import FolderEntry, MountOptions


async def files_below(rig: Rig, path: str) -> list[str]:
    return sorted([file.path async for page in rig.fs.walk(path) for file in page])


async def test_folders_and_mounts_show_in_the_tree_and_survive_a_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.fs.mkdir("/data/raw", parents=True)
        await rig.put("s", "p/a", b"1")
        await rig.mount("/data/set", "s/p")
        for _ in range(2):
            assert await rig.names("/") == ["data"]
            assert await rig.names("/data") == ["raw", "set"]
            assert await rig.names("/data/raw") == []
            assert await rig.read("/data/set/a") == b"1"
            await rig.restart()


async def test_a_mount_in_a_mount_hides_what_is_below_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for key in ("a", "in/hidden", "z"):
            await rig.put("outer", key, b"")
        await rig.put("inner", "b", b"")
        await rig.mount("/m", "outer")
        await rig.mount("/m/in", "inner")
        await rig.mount("/m/new", "inner")
        assert sorted(await rig.names("/m")) == ["a", "in", "new", "z"]
        assert await rig.names("/m/in") == ["b"]
        assert await files_below(rig, "/") == ["/m/a", "/m/in/b", "/m/new/b", "/m/z"]
        with pytest.raises(Busy, match="/m/in"):
            await rig.fs.unmount("/m")
        await rig.fs.unmount("/m/in")
        assert await rig.names("/m/in") == ["hidden"]


async def test_an_open_file_keeps_its_mount_busy(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "a", b"1")
        await rig.mount("/s", "s")
        file = rig.fs.open(await rig.stat_file("/s/a"))
        with pytest.raises(Busy, match="1 of its files"):
            await rig.fs.unmount("/s")
        file.close()
        await rig.fs.unmount("/s")
        assert rig.memory("s").closed


async def test_an_unmount_ends_what_is_asked_of_the_store_before_it_closes_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "a", b"1")
        await rig.mount("/s", "s")
        entry = await rig.stat_file("/s/a")
        rig.store("s").script.extend([Hang(asyncio.Event())] * 3)
        asking = [asyncio.create_task(rig.fs.fetch(entry)), asyncio.create_task(rig.names("/s"))]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await rig.fs.unmount("/s")
            for task in asking:
                with pytest.raises(OSError, match="given up"):
                    await task
        rig.store("s").script.clear()
        await rig.mount("/s", "s")
        assert await rig.read("/s/a") == b"1"


async def test_nothing_is_mounted_when_the_store_says_no(tmp_path: Path) -> None:
    async with Rig(tmp_path, store_deadline_s=0.05) as rig:
        rig.store("s").script.extend([Denied("bad key"), Hang(asyncio.Event())])
        with pytest.raises(Denied, match="bad key"):
            await rig.mount("/s", "s")
        with pytest.raises(TimedOut, match="mem://s"):
            await rig.mount("/s", "s")
        assert await rig.names("/") == []
        await rig.mount("/s", "s")


async def test_where_a_mount_cannot_be(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "file", b"")
        await rig.mount("/s", "s")
        await rig.fs.mkdir("/full/sub", parents=True)

        async def mount(path: str) -> None:
            await rig.fs.mount(path, "mem://s", MountOptions())

        with pytest.raises(AlreadyExists, match="unmount it first"):
            await mount("/s")
        with pytest.raises(NotEmpty, match="sub"):
            await mount("/full")
        with pytest.raises(Invalid, match="root"):
            await mount("/")
        with pytest.raises(NotFound, match="fs mkdir"):
            await mount("/none/below")
        with pytest.raises(NotADirectory, match="/s/file is a file"):
            await mount("/s/file")
        with pytest.raises(NotADirectory, match="/s/file is a file"):
            await mount("/s/file/below")
        with pytest.raises(Invalid, match="freshness"):
            await rig.fs.mount("/x", "mem://s", MountOptions(freshness="never"))
        assert [mount.path for mount in rig.fs.mounts] == ["/s"]


async def test_two_mounts_at_one_path_at_the_same_time_make_one(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        both = await asyncio.gather(rig.mount("/s", "s"), rig.mount("/s", "s"), return_exceptions=True)
        assert sum(isinstance(one, AlreadyExists) for one in both) == 1
        assert len(rig.fs.mounts) == 1


async def test_folders_are_made_and_removed_with_the_errors_of_mkdir_and_rmdir(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        with pytest.raises(NotFound, match=r"fs mkdir -p /a"):
            await rig.fs.mkdir("/a/b")
        await rig.fs.mkdir("/a/b", parents=True)
        await rig.fs.mkdir("/a/b", parents=True)
        with pytest.raises(AlreadyExists):
            await rig.fs.mkdir("/a/b")
        with pytest.raises(NotEmpty, match="b"):
            await rig.fs.rmdir("/a")
        with pytest.raises(Busy):
            await rig.fs.rmdir("/")
        await rig.fs.rmdir("/a/b")
        await rig.fs.rmdir("/a")
        with pytest.raises(NotFound):
            await rig.fs.rmdir("/a")


async def test_a_folder_inside_a_mount_is_a_marker_in_the_store(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.mount("/s", "s")
        await rig.fs.mkdir("/s/a/b", parents=True)
        assert isinstance(await rig.fs.stat("/s/a/b"), FolderEntry)
        await rig.fs.refresh("/s")
        assert await rig.names("/s/a") == ["b"]
        with pytest.raises(NotEmpty):
            await rig.fs.rmdir("/s/a")
        await rig.fs.rmdir("/s/a/b")
        await rig.fs.rmdir("/s/a")
        assert await rig.names("/s") == []


async def test_a_read_only_mount_takes_no_change(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "d/a", b"")
        await rig.mount("/s", "s", readonly=True)
        with pytest.raises(ReadOnly, match="/s is mounted read-only"):
            await rig.fs.mkdir("/s/x")
        with pytest.raises(ReadOnly):
            await rig.fs.remove("/s/d/a")
        with pytest.raises(ReadOnly):
            await rig.fs.rmdir("/s/d")


async def test_pins_survive_a_restart_and_are_taken_away_by_their_own_path_only(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "d/a", b"1")
        await rig.mount("/s", "s")
        await rig.fs.pin("/s/d")
        await rig.restart()
        assert rig.cache.is_pinned("mem://s", "d/a")
        assert not rig.cache.is_pinned("mem://s", "da")
        with pytest.raises(NotFound, match="is not pinned"):
            await rig.fs.unpin("/s/d/a")
        await rig.fs.unpin("/s/d")
        assert not rig.cache.is_pinned("mem://s", "d/a")
        with pytest.raises(NotFound):
            await rig.fs.pin("/s/none")


async def test_a_mount_that_cannot_be_made_again_is_logged_and_the_others_come_back(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.mount("/s", "s")
        rig.control.add_mount("/bad", "mem://t", MountOptions(freshness="nonsense"))
        with capture_logs() as logs:
            await rig.restart()
        assert [mount.path for mount in rig.fs.mounts] == ["/s"]
        assert [line["path"] for line in logs if line["event"] == "mount.not_restored"] == ["/bad"]
