"""What a program that writes waits for: a store that hangs holds up nobody who does not need it."""

import asyncio
import os
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fault.writing_rig import DOWN, MINE, Writing
from forebay.errors import Busy, NoSpace, StaleVersion, Unavailable
from forebay.stores import uploads
from forebay.stores.memory import MemoryUpload
from forebay.testing.faulty_store import Hang
from forebay.types import Attributes, Buffer, ObjectMeta
from forebay.units import MIB
from forebay.vfs import content, lull
from forebay.vfs.mounter import MountChanges
from forebay.vfs.sending import PARTS_IN_FLIGHT

SMALL, LARGE = b"small", bytes(range(256)) * 4096 * 9  # the second goes in parts
SIZES = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
WAIT_S = 30.0


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Writing]:
    async with Writing(tmp_path) as rig:
        yield rig


@SIZES
async def test_a_close_after_an_fsync_asks_the_store_for_nothing_if_nothing_is_new(rig: Writing, data: bytes) -> None:
    await rig.start("through")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, data)
    await rig.fs.uploader.flush(opened.draft)
    before = rig.memory("s").requests.copy()
    rig.faulty.script.append(Hang(asyncio.Event()))  # whatever is asked is never answered
    async with asyncio.timeout(WAIT_S):
        await rig.close(opened)
    assert rig.memory("s").requests == before
    rig.up()
    await rig.settled()
    assert await rig.stored("f") == data


async def test_who_writes_on_is_told_of_a_conflict_as_soon_as_it_is_known(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although what is in the journal has not changed since, which would do otherwise."""
    known, go_on = asyncio.Event(), asyncio.Event()
    learn_file = rig.fs.learn_file

    async def learn(path: str, *rest: object, **more: object) -> None:
        if "conflict" in path:
            known.set()
            await go_on.wait()
        await learn_file(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.fs, "learn_file", learn)
    await rig.put("s", "f", b"before")
    await rig.start("back")
    opened = await rig.open("/s/f", truncate=True)
    opened.draft.content.write(0, b"ours")
    await rig.put("s", "f", b"theirs")
    await rig.fs.uploader.flush(opened.draft)
    async with asyncio.timeout(WAIT_S):
        await known.wait()
    with pytest.raises(StaleVersion, match="conflict"):
        await rig.fs.uploader.flush(opened.draft)
    go_on.set()
    opened.close()
    await rig.settled()


# ------------------------------------------------------------------ a store that hangs, in mode `back`


async def hanging(rig: Writing, data: bytes, path: str = "/s/f") -> asyncio.Event:
    """A file that was closed, and whose upload hangs until the event is set."""
    gate = asyncio.Event()
    rig.faulty.script.append(Hang(gate))
    await rig.save(path, data)
    await sent_on(rig)
    return gate


async def sent_on(rig: Writing) -> None:
    """Return when the store has been asked what hangs."""
    async with asyncio.timeout(WAIT_S):
        while rig.faulty.script:
            await asyncio.sleep(0.001)


async def at_the_end(rig: Writing, **expected: bytes | None) -> None:
    """Wait until nothing is on its way any more; then the store has that, and nothing beside it."""
    await rig.settled()
    async with asyncio.timeout(WAIT_S):
        while rig.fs.uploader.leaving._tasks or rig.fs.uploader.leaving._endings:
            await asyncio.sleep(0.001)
    assert {key: await rig.stored(key) for key in expected} == expected
    there = {key for key in rig.memory("s")._objects if not key.endswith("/")}
    assert there == {key for key, data in expected.items() if data is not None}
    assert [name for name in await rig.names("/s") if name in expected or "conflict" in name] == sorted(there)
    assert rig.uploads() == {}
    assert rig.staged() == []


@SIZES
async def test_an_fsync_needs_the_journal_alone(rig: Writing, tmp_path: Path, data: bytes) -> None:
    await rig.start("back")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, data)
    gate = asyncio.Event()
    rig.faulty.script.append(Hang(gate))
    await rig.fs.uploader.flush(opened.draft)
    await sent_on(rig)
    opened.draft.content.write(0, b"SECOND")
    async with asyncio.timeout(WAIT_S):
        await rig.fs.uploader.flush(opened.draft)
        await rig.close(opened)
    assert await rig.after_a_crash(tmp_path / "crashed") == ["/s/f"]
    gate.set()
    await at_the_end(rig, f=b"SECOND" + data[6:])


@SIZES
async def test_what_was_written_while_a_file_was_sent_is_not_in_conflict_with_that_after_a_crash(
    rig: Writing, data: bytes
) -> None:
    await rig.start("back")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, data)
    gate = asyncio.Event()
    steps = 1 if data is SMALL else 4  # the last one: the upload, two parts, its completion
    rig.faulty.script.extend([None] * (steps - 1) + [Hang(gate)])
    await rig.fs.uploader.flush(opened.draft)
    await sent_on(rig)
    opened.draft.content.write(0, b"SECOND")
    await rig.fs.uploader.flush(opened.draft)
    journal = rig.fs.journal
    retired: list[object] = []
    journal.retire, journal.append = retired.append, never  # type: ignore[method-assign,assignment]  # all ends here
    gate.set()
    await rig.until(lambda: "f" in rig.memory("s")._objects)
    assert await rig.stored("f") == data
    opened.close()
    await rig.restart()
    rig.fs.start()
    await at_the_end(rig, f=b"SECOND" + data[6:])


@SIZES
@pytest.mark.parametrize("change", ["rename over it", "overwrite", "write on", "unlink"])
async def test_what_is_done_to_a_file_that_an_earlier_daemon_has_sent_is_not_in_conflict_with_that(
    rig: Writing, data: bytes, change: str
) -> None:
    await rig.start("back")
    journal = rig.fs.journal
    await rig.save("/s/f", data)
    journal.retire, journal.append = [].append, never  # type: ignore[method-assign,assignment]  # all ends here
    await rig.until(lambda: "f" in rig.memory("s")._objects)
    await rig.restart()
    expected: bytes | None = b"new"
    if change == "rename over it":
        await rig.save("/s/new", b"new")
        await rig.fs.changes.rename("/s/new", "/s/f")
    elif change == "overwrite":
        await rig.save("/s/f", b"new", truncate=True)
    elif change == "write on":
        await rig.save("/s/f", b"new")
        expected = b"new" + data[3:]
    else:
        await rig.fs.changes.unlink("/s/f")
        expected = None
    rig.fs.start()
    await at_the_end(rig, f=expected)


async def test_a_large_file_is_read_back_before_it_is_sent(rig: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lull, "LULL_S", 0.01)
    monkeypatch.setattr(lull, "HELD_MAX_S", 1_000.0)
    await rig.start("back")
    await rig.save("/s/f", LARGE)
    reader = rig.fs.open(await rig.stat_file("/s/f"))
    await rig.pass_time(50)
    assert rig.memory("s").requests["upload"] == 0
    reader.close()
    await at_the_end(rig, f=LARGE)


async def test_who_flushes_does_not_wait_for_those_who_read_back(rig: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lull, "LULL_S", 1_000.0)
    monkeypatch.setattr(lull, "HELD_MAX_S", 1_000.0)
    await rig.start("back")
    await rig.save("/s/f", LARGE)
    reader = rig.fs.open(await rig.stat_file("/s/f"))
    async with asyncio.timeout(WAIT_S):
        assert await rig.fs.uploader.drain("/s") == []
    assert await rig.stored("f") == LARGE
    reader.close()


@pytest.mark.parametrize("mode", ["through", "back"])
async def test_of_a_file_that_is_written_while_it_is_sent_the_store_shows_no_mixture(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", MIB)
    shown: list[bytes | None] = []
    complete = MemoryUpload.complete

    async def completed(self: MemoryUpload, **conditions: Any) -> ObjectMeta:
        meta = await complete(self, **conditions)
        shown.append(await rig.stored("f"))
        return meta

    monkeypatch.setattr(MemoryUpload, "complete", completed)
    await rig.start(mode)
    rig.memory("s").part_bytes_min = 1
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, LARGE)
    gate = asyncio.Event()
    rig.faulty.script.extend([None, *[Hang(gate)] * PARTS_IN_FLIGHT])
    closing = asyncio.create_task(rig.fs.uploader.flush(opened.draft))
    await sent_on(rig)
    opened.draft.content.write(0, LARGE[::-1])
    gate.set()
    await closing
    await rig.until(lambda: not rig.fs.uploader._running)
    await rig.close(opened)
    await at_the_end(rig, f=LARGE[::-1])
    assert shown == [LARGE[::-1]]


async def test_who_waits_for_a_file_that_is_written_all_the_time_does_not_wait_for_ever(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums_in = content.sums_in

    def written_again(data: Buffer) -> "array[int]":
        opened.draft.content.write(0, os.urandom(8))
        return sums_in(data)

    await rig.start("through")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, LARGE)
    monkeypatch.setattr(content, "sums_in", written_again)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.uploader.flush(opened.draft)
    assert (await rig.stored("f") or b"")[8:] == LARGE[8:]
    monkeypatch.undo()
    opened.draft.content.write(0, LARGE)
    await rig.close(opened)
    await at_the_end(rig, f=LARGE)


async def never(*_: object) -> None:
    """An answer that does not come."""
    await asyncio.Event().wait()


@SIZES
async def test_a_file_is_removed_while_its_upload_hangs_and_does_not_come_back(rig: Writing, data: bytes) -> None:
    await rig.start("back")
    gate = await hanging(rig, data)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.unlink("/s/f")
    assert await rig.names("/s") == []
    assert (await rig.fs.lookup("/s", "f")).entry is None
    gate.set()
    await at_the_end(rig, f=None)


@SIZES
async def test_a_new_file_takes_the_name_of_one_that_leaves(rig: Writing, data: bytes) -> None:
    await rig.start("back")
    gate = await hanging(rig, data)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.unlink("/s/f")
        await rig.save("/s/f", b"new")
    assert await rig.read("/s/f") == b"new"
    gate.set()
    await at_the_end(rig, f=b"new")


async def test_an_upload_that_ends_after_its_file_was_removed_is_removed_by_the_next_daemon(rig: Writing) -> None:
    await rig.start("back")
    await hanging(rig, SMALL)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.unlink("/s/f")
    await rig.end()
    await rig.put("s", "f", SMALL)  # the store had it all
    rig.begin()
    assert (await rig.fs.lookup("/s", "f")).entry is None
    rig.fs.start()
    await at_the_end(rig, f=None)
    await rig.restart()  # and only once
    await rig.put("s", "f", SMALL)
    await rig.fs.refresh("/s")
    rig.fs.start()
    await at_the_end(rig, f=SMALL)


async def test_what_is_to_be_removed_from_the_store_is_shown_and_waited_for(rig: Writing) -> None:
    await rig.start("back")
    gate = await hanging(rig, SMALL)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.unlink("/s/f")
    assert rig.fs.uploader.infos() == [("/s/f", len(SMALL), "removing", "")]
    flush = asyncio.create_task(rig.fs.uploader.drain("/s"))
    await asyncio.wait({flush}, timeout=0.01)
    assert not flush.done()
    gate.set()
    assert await flush == []
    assert await rig.stored("f") is None
    assert rig.uploads() == {}


async def test_a_flush_tells_of_what_a_store_that_is_down_does_not_remove(rig: Writing) -> None:
    await rig.start("back")
    gate = await hanging(rig, SMALL)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.unlink("/s/f")
    rig.down()
    gate.set()
    for _ in range(2):  # the second one tries at once, however long the queue waits by then
        async with asyncio.timeout(WAIT_S):
            (failed,) = await rig.fs.uploader.drain("/s")
        assert failed == ("/s/f", len(SMALL), "removing", str(DOWN))
    rig.up()
    async with asyncio.timeout(WAIT_S):
        assert await rig.fs.uploader.drain("/s") == []
    assert await rig.stored("f") is None


async def test_what_others_put_where_something_leaves_stays(rig: Writing) -> None:
    await rig.start("back")
    gate = await hanging(rig, SMALL)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.unlink("/s/f")
    await rig.put("s", "f", b"other")
    gate.set()
    await rig.until(lambda: not rig.fs.uploader.leaving._tasks)
    assert await rig.stored("f") == b"other"


@SIZES
async def test_a_file_is_renamed_while_its_upload_hangs(rig: Writing, data: bytes) -> None:
    await rig.start("back")
    gate = await hanging(rig, data, "/s/part")
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.rename("/s/part", "/s/whole")
    assert await rig.names("/s") == ["whole"]
    assert await rig.read("/s/whole") == data
    gate.set()
    await at_the_end(rig, part=None, whole=data)


@SIZES
async def test_a_file_is_renamed_over_one_whose_upload_hangs(rig: Writing, data: bytes) -> None:
    await rig.start("back")
    gate = await hanging(rig, data, "/s/old")
    async with asyncio.timeout(WAIT_S):
        await rig.save("/s/new", b"new")
        await rig.fs.changes.rename("/s/new", "/s/old")
    assert await rig.read("/s/old") == b"new"
    gate.set()
    await at_the_end(rig, old=b"new", new=None)


@SIZES
async def test_a_whole_file_is_put_over_one_whose_upload_hangs(rig: Writing, data: bytes) -> None:
    async def new() -> AsyncIterator[bytes]:
        yield b"new"

    await rig.start("back")
    gate = await hanging(rig, data)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.write("/s/f", new())
    gate.set()
    await at_the_end(rig, f=b"new")


@SIZES
async def test_a_file_is_opened_to_be_cut_while_its_upload_hangs(rig: Writing, data: bytes) -> None:
    await rig.start("back")
    gate = await hanging(rig, data)
    async with asyncio.timeout(WAIT_S):
        await rig.save("/s/f", b"new", truncate=True)
    assert await rig.read("/s/f") == b"new"
    gate.set()
    await at_the_end(rig, f=b"new")


async def test_modes_are_changed_while_an_upload_hangs(rig: Writing) -> None:
    await rig.start("back")
    gate = await hanging(rig, SMALL)
    async with asyncio.timeout(WAIT_S):
        await rig.fs.changes.set_attributes("/s/f", Attributes(mode=0o600))
    gate.set()
    await at_the_end(rig, f=SMALL)
    entry = await rig.stat_file("/s/f")
    assert entry.posix is not None
    assert entry.posix.mode & 0o777 == 0o600


# ------------------------------------------------------------------ a store that is down, in mode `back`


@pytest.mark.parametrize("freshness", ["immutable", "ttl"])
async def test_in_a_folder_that_was_made_here_files_come_and_go_without_the_store(rig: Writing, freshness: str) -> None:
    await rig.start("back", freshness=freshness)
    await rig.fs.mkdir("/s/made")
    rig.down()
    asked = sum(rig.memory("s").requests.values())
    await rig.save("/s/made/a", SMALL)
    await rig.save("/s/made/b", b"b")
    await rig.save("/s/made/c", b"c")
    await rig.fs.changes.rename("/s/made/a", "/s/made/d")
    await rig.fs.changes.rename("/s/made/b", "/s/b")
    await rig.fs.changes.unlink("/s/made/c")
    assert await rig.names("/s/made") == ["d"]
    assert await rig.read("/s/b") == b"b"
    assert sum(rig.memory("s").requests.values()) == asked
    rig.up()
    await rig.settled()
    assert (await rig.stored("made/d"), await rig.stored("b"), await rig.stored("made/c")) == (SMALL, b"b", None)


# ------------------------------------------------------------------ folders


@SIZES
@pytest.mark.parametrize("ends", ["before", "meanwhile"])
async def test_of_a_folder_that_is_renamed_while_an_upload_ends_nothing_is_left_or_lost(
    rig: Writing, data: bytes, ends: str
) -> None:
    await rig.start("back")
    await rig.fs.mkdir("/s/old")
    await rig.put("s", "old/other", b"other")
    gate = await hanging(rig, data, "/s/old/f")
    renaming = asyncio.create_task(rig.fs.changes.rename("/s/old", "/s/new"))
    if ends == "before":
        gate.set()
    for _ in range(50):
        await asyncio.sleep(0.001)
    gate.set()
    async with asyncio.timeout(WAIT_S):
        await renaming
    assert await rig.read("/s/new/f") == data
    assert await rig.names("/s") == ["new"]
    await rig.settled()
    keys = {key for key in rig.memory("s")._objects if not key.endswith("/")}
    assert keys == {"new/f", "new/other"}
    assert await rig.stored("new/f") == data


@pytest.mark.parametrize("is_known", [True, False])
async def test_who_makes_a_file_in_a_folder_that_is_renamed_waits_and_makes_none_at_the_old_place(
    rig: Writing, is_known: bool
) -> None:
    await rig.start("through")
    await rig.fs.mkdir("/s/old")
    await rig.put("s", "old/other", b"other")
    if not is_known:
        rig.fs.metadata.forget("/s/old")
    gate = asyncio.Event()
    rig.faulty.script.append(Hang(gate))  # the marker above, or the first copy
    renaming = asyncio.create_task(rig.fs.changes.rename("/s/old", "/s/new"))
    await sent_on(rig)
    assert rig.fs.changes.create_now("/s/old", "begun", MINE) is None
    making = asyncio.create_task(rig.fs.changes.create("/s/old/begun", MINE, exclusive=True))
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert not making.done()
    gate.set()
    async with asyncio.timeout(WAIT_S):
        await renaming
        with pytest.raises(StaleVersion):  # a local folder makes it at the new place
            await making
    keys = {key for key in rig.memory("s")._objects if not key.endswith("/")}
    assert keys == {"new/other"}
    assert not list(rig.fs.drafts)


# ------------------------------------------------------------------ a journal that is full


async def test_a_rename_that_the_journal_has_no_room_for_changes_nothing(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise NoSpace("the disk is full")

    await rig.start("back")
    rig.down()
    await rig.save("/s/old", SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(rig.fs.journal, "amend", full)
        with pytest.raises(NoSpace):
            await rig.fs.changes.rename("/s/old", "/s/new")
    assert await rig.read("/s/old") == SMALL
    assert (await rig.fs.lookup("/s", "new")).entry is None
    await rig.restart()
    rig.up()
    rig.fs.start()
    await at_the_end(rig, old=SMALL, new=None)


# ------------------------------------------------------------------ conflicts with nobody


async def test_a_file_written_again_after_an_answer_was_lost_is_not_in_conflict_with_itself(rig: Writing) -> None:
    await rig.start("through")
    hear_answers = rig.lose_answers()
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, b"one")
    with pytest.raises(Unavailable):
        await rig.fs.uploader.flush(opened.draft)
    hear_answers()
    opened.draft.content.write(0, b"two")
    await rig.close(opened)
    await at_the_end(rig, f=b"two")


async def test_a_conflict_that_is_met_again_after_a_crash_is_kept_once(rig: Writing) -> None:
    await rig.put("s", "f", b"before")
    await rig.start("back")
    rig.down()
    await rig.save("/s/f", b"ours", truncate=True)
    await rig.put("s", "f", b"theirs")
    rig.up()
    ended = asyncio.get_running_loop().create_future()

    async def append(*_: object) -> None:
        await ended

    retired: list[object] = []
    rig.fs.journal.retire, rig.fs.journal.append = retired.append, append  # type: ignore[method-assign,assignment]
    await rig.until(lambda: len(rig.memory("s")._objects) == 2)
    ended.cancel()  # who waits for the journal waits until it has answered: here, until all ends
    await rig.restart()
    rig.fs.start()
    await rig.settled()
    assert sorted(key.partition(".")[0] for key in rig.memory("s")._objects) == ["f", "f"]


# ------------------------------------------------------------------ unmounting


async def test_an_unmount_waits_for_what_has_just_been_closed_and_written(rig: Writing) -> None:
    await rig.start("back")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, SMALL)
    await rig.fs.uploader.flush(opened.draft)
    asyncio.get_running_loop().call_later(0.1, opened.close)  # as the kernel does, after close(2) has returned
    await rig.fs.unmount("/s")
    assert await rig.stored("f") == SMALL


async def test_an_unmount_says_what_it_waited_for_in_vain(rig: Writing) -> None:
    await rig.start("back")
    gate = await hanging(rig, SMALL)
    with pytest.raises(Busy, match="1 file waits for its upload: forebay fs flush /s"):
        await rig.fs.unmount("/s")
    await rig.fs.changes.unlink("/s/f")
    with pytest.raises(Busy, match="is being removed from the store"):
        await rig.fs.unmount("/s")
    gate.set()
    await rig.fs.unmount("/s")
    assert await rig.stored("f") is None


# ------------------------------------------------------------------ attributes that Forebay keeps


async def test_attributes_are_on_the_disk_after_an_fsync_and_before_the_journal_forgets_them(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def note(holder: object, name: str, what: str) -> None:
        real = getattr(holder, name)

        def noted(*words: object) -> None:
            done.append(what)
            real(*words)

        monkeypatch.setattr(holder, name, noted)

    note(rig.fs.kept._db, "sync", "synced")
    note(rig.fs.journal, "retire", "forgotten")
    await rig.start("through")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, SMALL)
    await rig.fs.uploader.flush(opened.draft)
    assert done == []
    await rig.fs.uploader.flush(opened.draft, is_synced=True)
    assert done == ["synced"]
    opened.close()
    await rig.settled()
    await rig.fs.update_mount("/s", MountChanges(write_mode="back"))
    await rig.save("/s/g", SMALL)
    await rig.settled()
    assert done == ["synced", "synced", "forgotten"]
