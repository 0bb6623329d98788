"""Writes and removals go to the store, are seen at once, and say what stands in their way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.errors import AlreadyExists, Busy, IsADirectory, NotADirectory, NotFound, ReadOnly, Unavailable
from forebay.testing.rig import Rig
from forebay.units import MIB
from forebay.vfs.sending import SINGLE_PUT_BYTES


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def mounted(rig: Rig, *keys: str) -> None:
    for key in keys:
        await rig.put("s", key, b"old")
    await rig.mount("/s", "s")


async def test_a_written_file_is_seen_at_once_with_its_folders(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig)
        assert await rig.names("/s") == []
        await rig.fs.write("/s/d/e/f", chunks(b"one", b"two"))
        assert await rig.names("/s") == ["d"]
        assert await rig.names("/s/d/e") == ["f"]
        assert await rig.read("/s/d/e/f") == b"onetwo"


async def test_an_overwritten_file_reads_new_and_an_open_one_stays_old(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        assert await rig.read("/s/a") == b"old"
        await rig.landed()
        before = rig.fs.open(await rig.stat_file("/s/a"))
        await rig.fs.write("/s/a", chunks(b"new"))
        assert await rig.read("/s/a") == b"new"
        assert bytes(before.read_now(0, 10) or b"") == b"old"
        before.close()


async def test_a_large_file_goes_in_parts(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig)
        data = bytes(range(256)) * 4096 * 9
        await rig.fs.write("/s/a", chunks(*(data[start : start + MIB] for start in range(0, len(data), MIB))))
        assert len(data) > SINGLE_PUT_BYTES
        assert rig.memory("s").requests["upload"] == 1
        assert await rig.read("/s/a") == data


async def test_a_write_that_fails_leaves_what_was(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise Unavailable("the client went away")

    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        with pytest.raises(Unavailable, match="the client went away"):
            await rig.fs.write("/s/a", broken())
        assert await rig.read("/s/a") == b"old"


async def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a", "d/b")
        with pytest.raises(ReadOnly, match="not inside a mount"):
            await rig.fs.write("/elsewhere", chunks(b""))
        with pytest.raises(IsADirectory):
            await rig.fs.write("/s/d", chunks(b""))
        with pytest.raises(IsADirectory):
            await rig.fs.write("/s", chunks(b""))
        with pytest.raises(NotADirectory, match="/s/a is a file"):
            await rig.fs.write("/s/a/x", chunks(b""))
        with pytest.raises(NotADirectory, match="/s/a is a file"):
            await rig.fs.write("/s/a/x/y/z", chunks(b""))
        with pytest.raises(AlreadyExists):
            await rig.fs.write("/s/a", chunks(b""), overwrite=False)
        await rig.mount("/r", "s", readonly=True)
        with pytest.raises(ReadOnly, match="/r is mounted read-only"):
            await rig.fs.write("/r/x", chunks(b""))


async def test_a_file_that_came_up_meanwhile_is_not_overwritten_against_the_will(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig)
        assert await rig.names("/s") == []
        await rig.put("s", "a", b"somebody else's")
        with pytest.raises(AlreadyExists):
            await rig.fs.write("/s/a", chunks(b"mine"), overwrite=False)


async def test_a_lookup_that_began_before_a_write_does_not_hide_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig)
        looking = asyncio.create_task(rig.fs.lookup("/s", "a"))
        await asyncio.sleep(0)
        await rig.fs.write("/s/a", chunks(b"new"))
        await looking
        assert await rig.read("/s/a") == b"new"


async def test_removing_a_file_and_a_folder_with_all_it_holds(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a", "d/", *(f"d/{index}" for index in range(100)), "da")
        assert await rig.fs.remove("/s/a") == 1
        with pytest.raises(NotFound):
            await rig.fs.remove("/s/a")
        with pytest.raises(IsADirectory, match="-r"):
            await rig.fs.remove("/s/d")
        assert await rig.fs.remove("/s/d", recursive=True) == 101
        assert await rig.names("/s") == ["da"]


async def test_a_folder_stays_when_the_last_folder_in_it_is_removed(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "d/e/f")
        assert await rig.fs.remove("/s/d/e", recursive=True) == 1
        assert (await rig.names("/s"), await rig.names("/s/d")) == (["d"], [])


async def test_folders_are_removed_after_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "d/", "d/a/", "d/a/x", "d/a/b/", "d/a/b/y", "d/z")
        store, gone = rig.store("s"), list[str]()
        delete = store.delete

        async def note(key: str) -> None:
            gone.append(key)
            await delete(key)

        monkeypatch.setattr(store, "delete", note)
        assert await rig.fs.remove("/s/d", recursive=True) == 6
        assert gone[-3:] == ["d/a/b/", "d/a/", "d/"]


async def test_a_removal_that_fails_midway_says_so_and_shows_what_is_left(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *(f"d/{index}" for index in range(10)))
        assert len(await rig.names("/s/d")) == 10
        rig.store("s").script.extend([None, Unavailable("not that one")])
        with pytest.raises(Unavailable, match="not that one"):
            await rig.fs.remove("/s/d", recursive=True)
        assert len(await rig.names("/s/d")) == 1
        assert await rig.fs.remove("/s/d", recursive=True) == 1


async def test_a_mount_is_not_removed_like_a_folder(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "d/a")
        await rig.mount("/s/d/in", "t")
        for path in ("/s", "/s/d", "/s/d/in"):
            with pytest.raises(Busy, match="unmount"):
                await rig.fs.remove(path, recursive=True)
        with pytest.raises(Busy, match="unmount"):
            await rig.fs.rmdir("/s")
