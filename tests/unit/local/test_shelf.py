"""Kept descriptors: what a path shows is what a lookup would give, whatever happens in between."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.frontends.local import shelf as module
from forebay.frontends.local.shelf import Opened, Shelf
from forebay.testing.rig import Rig
from forebay.vfs.drafts import OpenDraft

PATH = "/photos/a/1.jpg"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path) as rig:
        await rig.put("photos", "a/1.jpg", b"first")
        await rig.put("photos", "a/2.jpg", b"second")
        await rig.mount("/photos", "photos")
        for name in ("1.jpg", "2.jpg"):
            await rig.read(f"/photos/a/{name}")
        await rig.landed()
        yield rig


def data(opened: Opened | None) -> bytes | None:
    """What a program reads by itself; None: nothing."""
    if opened is None:
        return None
    descriptor = opened.descriptor
    found = None if descriptor is None else os.pread(descriptor.number, opened.size, 0)
    opened.file.close()
    return found


def shown(shelf: Shelf, rig: Rig, path: str = PATH) -> bytes | None:
    return data(shelf.open(path, rig.clock.monotonic()))


async def test_the_same_descriptor_is_given_again(rig: Rig) -> None:
    shelf = Shelf(rig.fs)
    first, second = (shelf.open(PATH, rig.clock.monotonic()) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.descriptor is second.descriptor
    assert (await rig.stat_file(PATH)).mount.open_files == 2
    assert data(first) == data(second) == b"first"
    assert (await rig.stat_file(PATH)).mount.open_files == 0


async def test_after_its_time_a_name_is_looked_up_again(rig: Rig) -> None:
    shelf = Shelf(rig.fs)
    assert shown(shelf, rig) == b"first"
    await rig.put("photos", "a/1.jpg", b"other")
    assert shown(shelf, rig) == b"first"  # believed, as by every other way
    rig.clock.advance(61)
    assert shown(shelf, rig) is None  # memory does not know any more
    await rig.read(PATH)
    await rig.landed()
    assert shown(shelf, rig) == b"other"


async def test_a_refresh_a_removal_and_an_unmount_are_seen_at_once(rig: Rig) -> None:
    shelf = Shelf(rig.fs)
    assert shown(shelf, rig) == b"first"
    await rig.fs.refresh(PATH)
    assert shown(shelf, rig) == b"first"
    await rig.fs.remove(PATH)
    assert shown(shelf, rig) is None
    assert shown(shelf, rig, "/photos/a/2.jpg") == b"second"
    await rig.fs.unmount("/photos")
    assert shown(shelf, rig, "/photos/a/2.jpg") is None


async def test_renames_of_files_and_folders_are_seen_at_once(rig: Rig) -> None:
    shelf = Shelf(rig.fs)
    second = "/photos/a/2.jpg"
    assert [shown(shelf, rig, path) for path in (PATH, second)] == [b"first", b"second"]
    await rig.fs.changes.rename(PATH, second)
    await rig.fs.stat(second)
    assert shown(shelf, rig) is None
    assert shown(shelf, rig, second) in (b"first", None)
    await rig.read(second)
    await rig.landed()
    assert shown(shelf, rig, second) == b"first"
    await rig.fs.changes.rename("/photos/a", "/photos/b")
    assert shown(shelf, rig, second) is None


async def test_what_is_being_written_is_shown_and_never_kept(rig: Rig) -> None:
    shelf = Shelf(rig.fs)
    assert shown(shelf, rig) == b"first"
    writer = await rig.fs.changes.open(await rig.stat_file(PATH), truncate=True)
    writer.draft.content.write(0, b"being written")
    opened = shelf.open(PATH, rig.clock.monotonic())
    assert opened is not None
    assert isinstance(opened.file, OpenDraft)
    assert data(opened) == b"being written"
    writer.draft.content.write(0, b"BEING")
    assert shown(shelf, rig) == b"BEING written"
    await rig.fs.uploader.flush(writer.draft)
    writer.close()
    await rig.fs.uploader.settle(writer.draft)
    assert shown(shelf, rig) == b"BEING written"


async def test_what_the_cache_drops_is_let_go(rig: Rig) -> None:
    shelf = Shelf(rig.fs)
    assert shown(shelf, rig) == b"first"
    assert len(shelf) == 1
    opened = shelf.open(PATH, rig.clock.monotonic())
    assert (await rig.fs.free("/photos"))[0] == 1  # the other one: this one is open
    assert data(opened) == b"first"
    assert (await rig.fs.free("/photos"))[0] == 1
    assert len(shelf) == 0
    assert shown(shelf, rig) is None


async def test_those_not_opened_for_longest_go_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MAX", 2)
    shelf = Shelf(rig.fs)
    paths = [f"/photos/c/{number}" for number in range(4)]
    for path in paths:
        await rig.put("photos", path.removeprefix("/photos/"), path.encode())
    for path in paths:
        await rig.read(path)
    await rig.landed()
    for path in [paths[0], paths[0], paths[1], paths[2], paths[3]]:
        assert shown(shelf, rig, path) == path.encode()
    assert len(shelf) == 2


async def test_paths_in_other_forms_are_not_known(rig: Rig) -> None:
    shelf = Shelf(rig.fs)
    for path in (
        "/photos/a/../a/1.jpg",
        "//photos/a/1.jpg",
        "/photos/a/1.jpg/",
        "photos/a/1.jpg",
        "",
        "/",
        "/photos/a",
    ):
        assert shown(shelf, rig, path) is None
