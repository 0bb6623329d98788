"""Moves between mounts lose nothing, whatever fails; pending uploads keep their mount; drafts are listed once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.daemon.listing import list_below, usage
from forebay.errors import Busy, FsError, Unavailable
from forebay.testing.rig import Rig
from forebay.vfs.moving import MoveEvent, Moves


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def two_mounts(rig: Rig) -> None:
    for key in ("d/a", "d/e/b", "d/e/c"):
        await rig.put("s", key, key.encode())
    await rig.put("s", "d/empty/", b"")
    await rig.mount("/s", "s")
    await rig.mount("/t", "t")
    rig.fs.start()


def keys(rig: Rig, name: str) -> set[str]:
    return {key for key in rig.memory(name)._objects if not key.endswith("/")}


async def move(rig: Rig, source: str, target: str) -> list[MoveEvent]:
    return [event async for event in Moves(rig.fs).move(source, target)]


async def test_a_folder_moves_whole_with_its_empty_folders(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await two_mounts(rig)
        events = await move(rig, "/s/d", "/t/new")
        assert (events[-1].done, events[-1].files_done, events[-1].files_total) == (True, 3, 3)
        assert keys(rig, "t") == {"new/a", "new/e/b", "new/e/c"}
        assert await rig.read("/t/new/e/c") == b"d/e/c"
        assert await rig.names("/t/new") == ["a", "e", "empty"]
        assert await rig.names("/s") == []


async def test_a_copy_that_fails_midway_is_undone(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await two_mounts(rig)
        put = rig.store("t").put

        async def refuse(key: str, *args: object, **options: object) -> object:
            if key.endswith("/c"):
                raise Unavailable("t is away")
            return await put(key, *args, **options)  # type: ignore[arg-type]

        rig.store("t").put = refuse  # type: ignore[method-assign, assignment]
        with pytest.raises(FsError, match="t is away"):
            await move(rig, "/s/d", "/t/new")
        assert keys(rig, "s") == {"d/a", "d/e/b", "d/e/c"}
        assert keys(rig, "t") == set()
        assert await rig.names("/t") == []


async def test_what_is_changed_while_it_is_moved_stays(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await two_mounts(rig)
        put = rig.store("t").put

        async def change(key: str, *args: object, **options: object) -> object:
            await rig.put("s", "d/a", b"somebody's change")
            return await put(key, *args, **options)  # type: ignore[arg-type]

        rig.store("t").put = change  # type: ignore[method-assign, assignment]
        events = await move(rig, "/s/d/a", "/t/a")
        assert [event.failed[0] for event in events if event.failed] == ["/s/d/a"]
        assert await rig.memory("s").get("d/a") == b"somebody's change"
        assert keys(rig, "t") == {"a"}


async def test_a_mount_with_uploads_to_come_is_busy(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.mount("/s", "s", write_mode="back")
        await rig.fs.write("/s/a", chunks(b"one"))  # and nothing sends it, since the file system has not been started
        with pytest.raises(Busy, match="1 file waits for its upload: forebay fs flush /s"):
            await rig.fs.unmount("/s")
        rig.fs.start()
        assert await rig.fs.uploader.drain("/s") == []
        await rig.fs.unmount("/s")
        assert await rig.memory("s").get("a") == b"one"


async def test_files_being_written_are_listed_counted_and_removed_once(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "d/sub/stored", b"12345")
        await rig.mount("/s", "s", write_mode="back")
        await rig.fs.write("/s/d/sub/draft", chunks(b"123"))
        paths = [line["path"] async for batch in list_below(rig.fs, "/") for line in batch]
        assert sorted(map(str, paths)) == ["/s", "/s/d", "/s/d/sub", "/s/d/sub/draft", "/s/d/sub/stored"]
        totals = [line async for batch in usage(rig.fs, "/") for line in batch][-1]
        assert (totals["files"], totals["bytes"]) == (2, 8)
        assert await rig.fs.remove("/s", recursive=True, force=True) >= 2
        rig.fs.start()
        await rig.fs.uploader.drain("/")
        assert (keys(rig, "s"), await rig.names("/s")) == (set(), [])


async def test_a_mount_inside_another_is_not_emptied_through_what_it_hides(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "d/in/hidden", b"")
        await rig.put("s", "d/x", b"")
        await rig.put("t", "y", b"")
        await rig.mount("/s", "s")
        await rig.mount("/s/d/in", "t")
        await rig.fs.remove("/s/d", recursive=True, force=True)
        assert (keys(rig, "s"), keys(rig, "t")) == ({"d/in/hidden"}, set())
        assert len(rig.fs.mounts) == 2
