"""Who reads a large file that is written, changes attributes or makes a name where a folder is just being renamed.

They meet the rename at each of its stages: what they did is at the new place afterwards, or they are told to look
again, as the kernel does then, and nothing is left or made anew at the old place.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fault.test_folder_renames import STAGES, check_moved, failing, gated, mounted
from fault.test_rename_recovery import prepared
from fault.writing_rig import Writing
from forebay.errors import StaleVersion, Unavailable
from forebay.stores.memory import MemoryStore
from forebay.testing.rig import Rig
from forebay.units import MIB
from forebay.vfs import drafting
from forebay.vfs.drafts import OpenDraft

LARGE = random.Random("large").randbytes(20 * MIB + 1)
PATCHED = LARGE[:10] + b"patch" + LARGE[15:]
COPYING = [*STAGES[False], ("delete", True)]
MEETINGS = pytest.mark.parametrize(
    ("renames", "name", "after"), [(True, *stage) for stage in STAGES[True]] + [(False, *stage) for stage in COPYING]
)
COPYING_MEETINGS = pytest.mark.parametrize(("name", "after"), COPYING)
MODES = pytest.mark.parametrize("mode", ["through", "back"])
LONG_AGO = 1_234_567_890_000_000_000

_numbers = itertools.count()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Writing]:
    async with Writing(tmp_path) as rig:
        yield rig


# ------------------------------------------------------------------ a large file, only a part of which is here


@pytest.fixture
def patching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "FETCHED_BYTES", MIB)


async def patched(rig: Rig, path: str) -> OpenDraft:
    """A large file, open; a few bytes of it are written."""
    opened = await rig.fs.changes.open(await rig.stat_file(path), truncate=False)
    assert not opened.draft.content.is_whole
    opened.draft.content.write(10, b"patch")
    return opened


@pytest.mark.usefixtures("patching")
@pytest.mark.parametrize("what", ["its folder", "itself"])
@MEETINGS
async def test_who_writes_a_part_of_a_large_file_reads_the_rest_of_it_while_it_is_renamed_and_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool, name: str, after: bool, what: str
) -> None:
    home, data = prepared(tmp_path)
    (data / "a" / "large").write_bytes(LARGE)
    async with mounted(home, data, "back", renames=renames) as rig:
        opened = await patched(rig, "/s/a/large")
        gate = gated(monkeypatch, name, after=after)
        names = ("/s/a", "/s/b/c") if what == "its folder" else ("/s/a/large", "/s/b/moved")
        renaming = asyncio.create_task(rig.fs.changes.rename(*names))
        await gate.came()
        reading = asyncio.create_task(opened.read(8 * MIB, 100))
        assert await gate.pass_through(renaming, reading) == [None, LARGE[8 * MIB :][:100]]
        assert await opened.read(0, 100) == PATCHED[:100]
        assert await opened.read(16 * MIB, 100) == LARGE[16 * MIB :][:100]
        await rig.fs.uploader.flush(opened.draft)
        opened.close()
        assert rig.fs.uploader.storing.conflicts == []
    assert (data / ("b/c/large" if what == "its folder" else "b/moved")).read_bytes() == PATCHED
    assert not (data / "a" / "large").exists()


@pytest.mark.usefixtures("patching")
async def test_a_read_of_a_large_file_that_is_written_goes_on_though_the_file_is_renamed_meanwhile(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.start("through")
    opened = await patched(rig, "/s/a/1")
    await rig.fs.uploader.flush(opened.draft)
    gate = gated(monkeypatch, "get", after=True, of=MemoryStore)
    reading = asyncio.create_task(opened.read(8 * MIB, 100))
    await gate.came()
    await rig.fs.changes.rename("/s/a", "/s/b")
    assert await gate.pass_through(reading) == [LARGE[8 * MIB :][:100]]
    await rig.close(opened)
    await check_moved(rig, _1=PATCHED)


@pytest.mark.usefixtures("patching")
@MODES
@pytest.mark.parametrize("is_moved_first", [True, False], ids=["moved first", "sent first"])
async def test_what_was_not_written_of_a_large_file_is_copied_by_its_store_from_where_a_rename_has_brought_it(
    rig: Writing, mode: str, is_moved_first: bool
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.start(mode)
    opened = await rig.open("/s/a/1")
    if not is_moved_first:
        opened.draft.content.write(9 * MIB, LARGE[9 * MIB :][:5])
    await rig.fs.changes.rename("/s/a", "/s/b")
    opened.draft.content.write(10, b"patch")
    rig.memory("s").requests.clear()
    await rig.close(opened)
    assert rig.memory("s").requests["upload.send"] == 1, "of three parts two are copied"
    await check_moved(rig, _1=PATCHED)


@pytest.mark.usefixtures("patching")
@MODES
async def test_a_part_of_a_large_file_that_is_written_where_a_rename_failed_half_way_is_at_its_end(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.put("s", "a/2", b"other")
    await rig.start(mode)
    opened = await rig.open("/s/a/1")
    with monkeypatch.context() as patch:
        failing(rig, patch).open()
        with pytest.raises(Unavailable):
            await rig.fs.changes.rename("/s/a", "/s/b")
    opened.draft.content.write(10, b"patch")
    await rig.close(opened)
    await check_moved(rig, _1=PATCHED, _2=b"other")


@pytest.mark.usefixtures("patching")
async def test_a_large_file_that_others_cut_where_a_rename_failed_half_way_is_not_taken_for_what_was_open(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.put("s", "a/2", b"other")
    await rig.start("through")
    opened = await patched(rig, "/s/a/1")
    with monkeypatch.context() as patch:
        failing(rig, patch).open()
        with pytest.raises(Unavailable):
            await rig.fs.changes.rename("/s/a", "/s/b")
    opened.draft.content.write(10, b"PATCH")
    await rig.put("s", "b/1", b"theirs")
    with pytest.raises(StaleVersion):
        await rig.close(opened)
    assert await rig.stored("b/1") == b"theirs"
    assert len(rig.fs.uploader.storing.conflicts) == 1
