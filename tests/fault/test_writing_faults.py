"""Files that are written while their store fails: nothing acknowledged is lost, and whoever waits is told why."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from fault.conftest import BUCKET, MakeStore
from fault.writing_rig import DOWN, Writing
from forebay.config.settings import Settings
from forebay.errors import Denied, FsError, NoSpace, NotFound, StaleVersion, Unavailable
from forebay.stores.base import Store
from forebay.stores.s3 import S3Store
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import Fault, Refuse, Rule, Script, reset
from forebay.testing.faulty_store import Hang
from forebay.testing.seaweed import SeaweedS3
from forebay.types import Attributes
from forebay.units import MIB
from forebay.vfs import drafting
from forebay.vfs.staging import Staging

SMALL = b"small"
LARGE = bytes(range(256)) * 4096 * 9  # in parts
SIZES = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
MODES = pytest.mark.parametrize("mode", ["through", "back"])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Writing]:
    async with Writing(tmp_path) as rig:
        yield rig


# ------------------------------------------------------------------ a store that is down


@SIZES
async def test_a_close_fails_with_the_store_and_the_bytes_arrive_when_it_is_back(rig: Writing, data: bytes) -> None:
    await rig.start("through")
    await rig.save("/s/f", b"before")
    await rig.settled()
    rig.down()
    with pytest.raises(Unavailable) as raised:
        await rig.save("/s/f", data)
    assert raised.value.errno == Unavailable.ERRNO
    await rig.until(lambda: rig.uploads() == {"/s/f": "failing"})
    assert await rig.stored("f") == b"before"
    await rig.restart()
    assert await rig.stored("f") == b"before"
    assert list(rig.uploads()) == ["/s/f"]
    rig.up()
    rig.fs.start()
    await rig.settled()
    assert (await rig.stored("f") or b"")[: len(data)] == data
    assert rig.uploads() == {}
    assert rig.staged() == []
    assert await rig.names("/s") == ["f"]
    assert (await rig.read("/s/f"))[: len(data)] == data


@pytest.mark.parametrize(
    "error", [Denied("no"), NotFound("no such bucket"), FsError("odd")], ids=lambda e: type(e).__name__
)
@MODES
@SIZES
async def test_a_refusal_is_told_as_it_is_and_the_bytes_are_kept(
    rig: Writing, mode: str, data: bytes, error: FsError
) -> None:
    await rig.start(mode)
    rig.down(error)
    if mode == "through":
        with pytest.raises(type(error)) as raised:
            await rig.save("/s/f", data)
        assert raised.value.errno == error.errno
    else:
        await rig.save("/s/f", data)
    await rig.until(lambda: rig.uploads() == {"/s/f": "failing"})
    assert [info.error for info in rig.fs.uploader.infos()] == [error.message]
    assert [info.error for info in await rig.fs.uploader.drain("/s")] == [error.message]
    rig.up()
    await rig.settled()
    assert await rig.stored("f") == data


async def test_after_a_store_was_down_what_was_written_arrives_in_order(rig: Writing) -> None:
    await rig.start("back")
    rig.down()
    await rig.save("/s/data", LARGE)
    await rig.pass_time(200)  # it fails several times, and is tried but seldom then
    await rig.save("/s/done", b"data is there")
    await rig.pass_time(3)
    assert await rig.stored("data") is await rig.stored("done") is None
    gate = asyncio.Event()
    rig.up()
    rig.faulty.script.append(Hang(gate))  # whatever is sent first
    await rig.pass_time(100)
    gate.set()
    await rig.until(lambda: "done" in rig.memory("s")._objects)
    assert await rig.stored("data") == LARGE
    await rig.settled()


async def test_a_file_that_is_refused_does_not_hold_up_the_others(rig: Writing) -> None:
    await rig.start("back")
    rig.faulty.script.extend([DOWN] * 2)  # the upload and its abort, or the put; the store answers after that
    await rig.save("/s/bad", LARGE)
    await rig.save("/s/good", SMALL)
    await rig.settled()
    assert (await rig.stored("bad"), await rig.stored("good")) == (LARGE, SMALL)


async def test_a_drain_tells_of_all_that_a_store_that_is_down_does_not_take(rig: Writing) -> None:
    await rig.start("back")
    rig.down()
    for index in range(40):
        await rig.save(f"/s/{index}", SMALL)
    failed = await asyncio.wait_for(rig.fs.uploader.drain("/s"), 30)
    assert sorted(info.path for info in failed) == sorted(f"/s/{index}" for index in range(40))
    assert {info.error for info in failed} == {DOWN.message}
    rig.up()
    assert await rig.fs.uploader.drain("/s") == []


# ------------------------------------------------------------------ a large object that is not here


@pytest.fixture
def patching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "FETCHED_BYTES", MIB)


@pytest.mark.usefixtures("patching")
@MODES
async def test_a_part_of_a_large_object_is_kept_while_its_store_is_down(rig: Writing, mode: str) -> None:
    await rig.put("s", "f", LARGE)
    await rig.start(mode)
    rig_open = await rig.open("/s/f")
    assert not rig_open.draft.content.is_whole
    rig_open.draft.content.write(10, b"patch")
    rig.down()
    with pytest.raises(Unavailable):
        await rig.close(rig_open)
    await rig.until(lambda: rig.uploads() == {"/s/f": "failing"})
    rig.up()
    await rig.settled()
    assert await rig.stored("f") == LARGE[:10] + b"patch" + LARGE[15:]
    assert rig.staged() == []


@pytest.mark.usefixtures("patching")
@MODES
async def test_a_part_of_a_large_object_whose_close_failed_goes_with_the_daemon_and_what_was_acknowledged_stays(
    rig: Writing, mode: str
) -> None:
    await rig.put("s", "f", LARGE)
    await rig.start(mode)
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, b"first")
    await rig.fs.uploader.flush(opened.draft)
    assert await rig.stored("f") == b"first" + LARGE[5:], "acknowledged means stored, in every mode"
    opened.draft.content.write(10, b"second")
    rig.down()
    with pytest.raises(Unavailable):
        await rig.close(opened)
    with capture_logs() as logs:
        await rig.restart()
    assert [log["path"] for log in logs if log["event"] == "upload.lost"] == ["/s/f"]
    rig.up()
    rig.fs.start()
    assert await rig.read("/s/f") == await rig.stored("f") == b"first" + LARGE[5:]
    assert rig.uploads() == {}


@pytest.mark.usefixtures("patching")
async def test_what_another_writes_over_a_large_object_while_it_is_sent_arrives(rig: Writing) -> None:
    await rig.put("s", "f", LARGE)
    await rig.start("through")
    one, other = await rig.open("/s/f"), await rig.open("/s/f")
    one.draft.content.write(10, b"one")
    gate = asyncio.Event()
    rig.faulty.script.append(Hang(gate))
    closing = asyncio.create_task(rig.close(one))
    while rig.faulty.script:
        await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0.001)
    other.draft.content.write(LARGE.__len__() - 3, b"other")
    gate.set()
    await closing
    await rig.close(other)
    await rig.settled()
    assert await rig.stored("f") == LARGE[:10] + b"one" + LARGE[13:-3] + b"other"


@pytest.mark.usefixtures("patching")
@pytest.mark.parametrize("is_removed", [False, True], ids=["changed", "removed"])
async def test_of_a_patch_of_an_object_that_is_gone_all_is_kept_that_there_is(rig: Writing, is_removed: bool) -> None:
    await rig.put("s", "f", LARGE)
    await rig.start("through")
    reader = rig.fs.open(await rig.stat_file("/s/f"))
    await reader.read(5 * MIB, 10)
    reader.close()
    await rig.landed()
    pages = rig.fs.cached_pages(await rig.stat_file("/s/f"))
    assert pages
    assert pages.bit_count() < 9, "some of it must not be cached"
    opened = await rig.open("/s/f")
    opened.draft.content.write(10, b"patch")
    if is_removed:
        await rig.memory("s").delete("f")
    else:
        await rig.put("s", "f", b"theirs")
    with pytest.raises(StaleVersion, match="zeros there") as raised:
        await rig.close(opened)
    await rig.settled()
    (conflict,) = [info for info in rig.fs.uploader.infos() if info.state == "conflict"]
    assert conflict.error == raised.value.message
    assert conflict.error.endswith(f"see {conflict.path}.ranges")
    here = b"".join(
        LARGE[page * MIB : (page + 1) * MIB] if pages >> page & 1 else bytes(MIB) for page in range(len(LARGE) // MIB)
    )
    assert await rig.read(conflict.path) == here[:10] + b"patch" + here[15:]
    assert "written 10 5" in (await rig.read(f"{conflict.path}.ranges")).decode().splitlines()
    lost = [line.split()[1:] for line in (await rig.read(f"{conflict.path}.ranges")).decode().splitlines()[3:]]
    assert sum(int(size) for _, size in lost) >= (9 - pages.bit_count()) * MIB - 5
    assert await rig.stored("f") == (None if is_removed else b"theirs")
    assert rig.staged() == []


# ------------------------------------------------------------------ others


@SIZES
async def test_what_others_wrote_meanwhile_stays_and_close_says_so(rig: Writing, data: bytes) -> None:
    await rig.put("s", "f", b"before")
    await rig.start("through")
    opened = await rig.open("/s/f", truncate=True)
    opened.draft.content.write(0, data)
    await rig.put("s", "f", b"theirs")
    with pytest.raises(StaleVersion, match="conflict") as raised:
        await rig.fs.uploader.flush(opened.draft)
    assert raised.value.errno == errno.ESTALE
    opened.draft.content.write(0, b"more")
    with pytest.raises(StaleVersion):  # what is written after that goes nowhere
        await rig.close(opened)
    await check_both(rig, data)


@SIZES
async def test_in_the_background_a_conflict_is_kept_and_told_of(rig: Writing, data: bytes) -> None:
    await rig.put("s", "f", b"before")
    await rig.start("back")
    rig.down()
    await rig.save("/s/f", data, truncate=True)
    await rig.put("s", "f", b"theirs")
    rig.up()
    await rig.until(lambda: "conflict" in rig.uploads().values())
    await check_both(rig, data)


async def check_both(rig: Writing, ours: bytes) -> None:
    await rig.settled()
    rig.up()
    (conflict,) = [info for info in rig.fs.uploader.infos() if info.state == "conflict"]
    assert conflict.path.startswith("/s/f.forebay-conflict-")
    assert conflict.path in conflict.error
    assert await rig.stored("f") == b"theirs"
    assert await rig.stored(conflict.path.removeprefix("/s/")) == ours
    assert await rig.read(conflict.path) == ours
    assert await rig.read("/s/f") == b"theirs"
    assert rig.staged() == []
    await rig.restart()
    assert list(rig.fs.drafts) == []


@MODES
@SIZES
async def test_a_conflict_copy_that_fails_is_made_later(rig: Writing, mode: str, data: bytes) -> None:
    await rig.put("s", "f", b"before")
    await rig.start(mode)
    opened = await rig.open("/s/f", truncate=True)
    opened.draft.content.write(0, data)
    await rig.put("s", "f", b"theirs")
    rig.faulty.script.extend([None] * 3 + [DOWN] * 6)  # somewhere in the middle
    try:
        await rig.close(opened)
    except FsError:
        assert mode == "through"
    await rig.until(lambda: list(rig.uploads().values()) == ["conflict"])
    await check_both(rig, data)


# ------------------------------------------------------------------ what comes after the bytes


@pytest.mark.parametrize("what", ["_set_attributes", "_host.learn_file"])
async def test_what_the_store_took_is_not_in_conflict_with_itself_when_the_rest_fails(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise FsError("the rest fails")

    await rig.start("through")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, b"one")
    with monkeypatch.context() as patch:
        holder, name = (rig.fs, "learn_file") if "learn" in what else (rig.fs.uploader.storing, what)
        patch.setattr(holder, name, fail)
        with pytest.raises(FsError, match="rest"):
            await rig.fs.uploader.flush(opened.draft)
    opened.draft.content.write(0, b"two")
    await rig.close(opened)
    await rig.settled()
    assert await rig.stored("f") == b"two"
    assert rig.uploads() == {}
    assert len(rig.memory("s")._objects) == 1


async def test_attributes_that_the_store_refuses_are_set_when_it_takes_them(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start("through")
    refused = [Denied("no")] * 3
    real = rig.fs.uploader.storing._set_attributes

    async def refuse(draft: object) -> None:
        if refused:
            raise refused.pop()
        await real(draft)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.fs.uploader.storing, "_set_attributes", refuse)
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, SMALL)
    opened.draft.amend(Attributes(mode=0o600))
    with pytest.raises(Denied):
        await rig.close(opened)
    await rig.settled()
    assert refused == []
    assert await rig.stored("f") == SMALL
    assert rig.memory("s").requests["put"] == 1


# ------------------------------------------------------------------ names that change meanwhile


async def test_a_file_that_is_renamed_while_parts_of_it_go_ahead_is_stored_under_its_new_name(rig: Writing) -> None:
    await rig.start("through")
    opened = await rig.open("/s/part")
    opened.draft.content.write(0, LARGE * 3)
    await rig.until(lambda: rig.memory("s").requests["upload.send"] > 0)
    await rig.fs.changes.rename("/s/part", "/s/whole")
    await rig.close(opened)
    await rig.settled()
    assert (await rig.stored("part"), await rig.stored("whole")) == (None, LARGE * 3)
    assert rig.memory("s").requests["upload.abort"] == 1


async def test_a_file_that_was_sent_although_nobody_said_so_is_removed_with_its_name(rig: Writing) -> None:
    await rig.start("through")
    rig.lose_answers()
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, SMALL)
    with pytest.raises(Unavailable):
        await rig.fs.uploader.flush(opened.draft)
    await rig.fs.changes.unlink("/s/f")
    await rig.close(opened)
    await rig.settled()
    assert await rig.stored("f") is None
    assert rig.staged() == []


async def test_a_file_that_was_removed_right_after_it_was_sent_does_not_come_back_after_a_crash(
    rig: Writing, tmp_path: Path
) -> None:
    await rig.start("back")
    await rig.save("/s/f", SMALL)
    await rig.settled()
    await rig.fs.changes.unlink("/s/f")
    assert await rig.after_a_crash(tmp_path / "crashed") == []


async def crash(*_: object, **__: object) -> None:
    raise FsError("all ends here")


async def test_a_rename_that_a_crash_cuts_short_leaves_the_one_or_the_other(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start("back")
    rig.down()
    await rig.save("/s/old", b"old")
    await rig.save("/s/new", b"new")
    monkeypatch.setattr(rig.fs.uploader, "forget", crash)
    with pytest.raises(FsError):
        await rig.fs.changes.rename("/s/new", "/s/old")
    await rig.restart()
    rig.up()
    rig.fs.start()
    await rig.settled()
    assert (await rig.stored("old"), await rig.stored("new")) == (b"new", None)
    assert rig.uploads() == {}
    assert rig.staged() == []


async def test_a_rename_of_a_stored_file_that_a_crash_cuts_short_is_not_in_conflict_with_what_it_replaces(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start("back")
    await rig.save("/s/new", b"new")
    await rig.settled()
    rig.down()
    await rig.save("/s/old", b"old")
    await rig.pass_time(5)
    rig.up()
    monkeypatch.setattr(rig.fs.uploader, "forget", crash)
    with pytest.raises(FsError):
        await rig.fs.changes.rename("/s/new", "/s/old")
    await rig.restart()
    rig.fs.start()
    await rig.settled()
    assert (await rig.stored("old"), await rig.stored("new")) == (b"new", None)
    assert await rig.read("/s/old") == b"new"
    assert rig.uploads() == {}
    assert rig.staged() == []


async def test_a_file_that_was_sent_for_its_rename_does_not_come_back_where_it_was_after_a_crash(
    rig: Writing, tmp_path: Path
) -> None:
    await rig.start("back")
    await rig.save("/s/a", b"first")
    await rig.settled()
    rig.down()
    await rig.save("/s/a", b"second")
    await rig.pass_time(5)
    rig.up()
    await rig.fs.changes.rename("/s/a", "/s/b")
    assert await rig.stored("b") == b"second"
    assert await rig.after_a_crash(tmp_path / "crashed") == []


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("mode", ["through", "back"])
async def test_what_is_written_where_a_rename_broke_off_is_not_taken_for_what_it_moves(
    rig: Writing, mode: str, restarts: bool
) -> None:
    await rig.start(mode)
    await rig.save("/s/a", b"first")
    await rig.settled()
    rename = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b"))
    rig.faulty.script.extend([None] * 3 + [Hang(asyncio.Event())])
    await rig.until(lambda: not rig.faulty.script)
    assert (await rig.stored("a"), await rig.stored("b")) == (b"first", b"first"), "it is copied, and not removed"
    rename.cancel()
    await asyncio.wait({rename})
    if restarts:
        await rig.restart()
        rig.fs.start()
    try:
        await rig.save("/s/a", b"second", truncate=True)
    except StaleVersion:  # the kernel asks again then
        await rig.save("/s/a", b"second", truncate=True)
    await rig.settled()
    await rig.restart()
    rig.fs.start()
    await rig.settled()
    assert (await rig.stored("a"), await rig.stored("b")) == (b"second", b"first")
    assert rig.uploads() == {}


async def test_a_rename_over_a_file_that_waits_keeps_the_other_one_after_a_restart(rig: Writing) -> None:
    await rig.start("back")
    rig.down()
    await rig.save("/s/old", b"old")
    await rig.save("/s/new", b"new")
    await rig.fs.changes.rename("/s/new", "/s/old")
    assert [draft.path for draft in rig.fs.drafts] == ["/s/old"]
    await rig.restart()
    rig.up()
    rig.fs.start()
    await rig.settled()
    assert (await rig.stored("old"), await rig.stored("new")) == (b"new", None)
    assert rig.uploads() == {}


async def test_a_whole_file_written_over_one_that_is_on_its_way_is_not_in_conflict_with_it(rig: Writing) -> None:
    await rig.start("back")
    gate = asyncio.Event()
    rig.faulty.script.append(Hang(gate))
    await rig.save("/s/f", b"one")
    while rig.faulty.script:
        await asyncio.sleep(0.001)

    writing = asyncio.create_task(rig.fs.write("/s/f", two()))
    for _ in range(20):
        await asyncio.sleep(0.001)
    gate.set()
    await writing
    await rig.settled()
    assert await rig.stored("f") == b"two"
    assert rig.uploads() == {}


async def two(*_: object) -> AsyncIterator[bytes]:
    yield b"two"


async def waiting(rig: Writing, mode: str) -> None:
    """The store has a file, and what was written of it after that waits."""
    await rig.start(mode)
    await rig.save("/s/f", b"one")
    await rig.settled()
    rig.down()
    with contextlib.suppress(Unavailable):
        await rig.save("/s/f", b"waits", truncate=True)
    await rig.until(lambda: all(draft.record is not None for draft in rig.fs.drafts) and not rig.fs.uploader._running)
    rig.up()


@MODES
@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_file_that_waits_is_sent_although_its_removal_failed_or_nobody_heard_of_it(
    rig: Writing, mode: str, is_done: bool, restarts: bool
) -> None:
    await waiting(rig, mode)
    delete = rig.memory("s").delete

    async def failing(key: str) -> None:
        if is_done:
            await delete(key)
        raise DOWN

    rig.memory("s").delete = failing  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await rig.fs.changes.unlink("/s/f")
    assert await rig.read("/s/f") == b"waits"
    rig.memory("s").delete = delete  # type: ignore[method-assign]
    await check_sent(rig, restarts=restarts)


async def check_sent(rig: Writing, *, restarts: bool) -> None:
    """What waits is sent, by the next life if this one ends before, and is all that there is."""
    if restarts:
        await rig.restart()
        rig.fs.start()
    await rig.settled()
    assert await rig.stored("f") == b"waits"
    assert rig.uploads() == {}
    assert await rig.names("/s") == ["f"]


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_file_that_waits_is_sent_although_a_whole_one_came_in_its_place_and_nobody_heard_of_it(
    rig: Writing, restarts: bool
) -> None:
    await waiting(rig, "through")
    hear_answers = rig.lose_answers()
    with pytest.raises(Unavailable):
        await rig.fs.write("/s/f", two())
    hear_answers()
    assert await rig.read("/s/f") == b"waits"
    await check_sent(rig, restarts=restarts)


async def test_a_whole_file_is_not_sent_before_the_journal_has_forgotten_what_it_replaces(rig: Writing) -> None:
    await waiting(rig, "back")
    before = rig.fs.drafts.find("/s/f")
    assert before is not None
    async with before.recording:  # somebody who has it open has just called fsync
        writing = asyncio.create_task(rig.fs.write("/s/f", two()))
        await rig.until(lambda: rig.fs.drafts.find("/s/f") is not before)
        rig.fs.uploader.hurry()
        await rig.pass_time(100)
        assert await rig.stored("f") == b"one"
    await writing
    await rig.settled()
    assert await rig.stored("f") == b"two"


@MODES
@pytest.mark.parametrize("change", ["unlink", "write"])
async def test_what_the_store_has_done_does_not_fail_for_want_of_room_in_the_journal(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, mode: str, change: str
) -> None:
    await waiting(rig, mode)
    append = rig.fs.journal.append

    async def full(about: str, fields: dict[str, Any], body: bytes | None = None) -> object:
        if fields.get("gone"):
            raise NoSpace("the disk is full")
        return await append(about, fields, body)

    monkeypatch.setattr(rig.fs.journal, "append", full)
    await (rig.fs.changes.unlink("/s/f") if change == "unlink" else rig.fs.write("/s/f", two()))
    await rig.settled()
    await rig.restart()
    rig.fs.start()
    await rig.settled()
    assert await rig.stored("f") == (None if change == "unlink" else b"two")
    assert rig.uploads() == {}
    assert rig.staged() == []


async def test_a_file_that_is_written_on_right_after_it_was_sent_is_not_in_conflict_with_itself_after_a_crash(
    rig: Writing, tmp_path: Path
) -> None:
    await rig.start("back")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, bytes(300_000))
    await rig.fs.uploader.flush(opened.draft)
    await rig.until(lambda: not rig.fs.uploader._running and rig.uploads() == {"/s/f": "open"})
    assert await rig.after_a_crash(tmp_path / "crashed") == []  # the record meant the file, which is another one soon
    await rig.close(opened)


# ------------------------------------------------------------------ a full disk


def fill(disk: Path, left_bytes: int = 0) -> None:
    """Take all room but that."""
    with (disk / "ballast").open("wb") as file, contextlib.suppress(OSError):
        while room_on(disk) > left_bytes:
            os.write(file.fileno(), bytes(4096))


def room_on(disk: Path) -> int:
    stat = os.statvfs(disk)
    return stat.f_bavail * stat.f_frsize


def relieve(disk: Path) -> None:
    (disk / "ballast").unlink()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root")


@needs_root
@MODES
async def test_a_write_to_a_full_disk_is_told_so_and_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, mode: str
) -> None:
    async with Writing(tmp_path / "home", writes_dir=str(small_disk / "writes")) as rig:
        await rig.start(mode)
        await rig.save("/s/before", SMALL)
        await rig.settled()
        opened = await rig.open("/s/f")
        opened.draft.content.write(0, SMALL)
        fill(small_disk)
        with pytest.raises(OSError) as raised:  # noqa: PT011 - any kind with this number
            opened.draft.content.write(len(SMALL), LARGE)
        assert raised.value.errno == errno.ENOSPC
        relieve(small_disk)
        opened.draft.content.write(len(SMALL), LARGE)
        await rig.close(opened)
        await rig.settled()
        assert await rig.stored("f") == SMALL + LARGE


@pytest.mark.parametrize("ends", ["sent", "restarted", "amended"])
async def test_what_a_full_disk_does_not_let_be_cut_stays_as_it_was_acknowledged(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    def full(staging: Staging, staging_id: int) -> int:
        raise NoSpace("the disk is full")

    await rig.start("back")
    rig.down()
    data = os.urandom(300_000)  # too much for a record's body: the journal means the file
    await rig.save("/s/f", data)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(Staging, "make", full)
            with pytest.raises(NoSpace):
                await rig.open("/s/f", truncate=True)
    if ends == "amended":
        await rig.close(await rig.open("/s/f"))
        await rig.fs.changes.rename("/s/f", "/s/g")
    if ends != "sent":
        await rig.restart()
        rig.fs.start()
    rig.up()
    await rig.settled()
    assert await rig.stored("g" if ends == "amended" else "f") == data
    assert rig.staged() == []


@needs_root
async def test_a_journal_that_has_no_room_fails_the_close_and_keeps_what_it_has(
    tmp_path: Path, small_disk: Path
) -> None:
    async with Writing(tmp_path / "home", writes_dir=str(small_disk / "writes")) as rig:
        await rig.start("back")
        fill(small_disk, 1 * MIB)  # not enough for a segment
        rig.down()
        with pytest.raises(NoSpace) as raised:
            await rig.save("/s/f", SMALL)
        assert raised.value.errno == errno.ENOSPC
        await rig.until(lambda: rig.uploads() == {"/s/f": "failing"})  # what is here is sent all the same
        relieve(small_disk)
        await rig.save("/s/g", SMALL)
        await rig.restart()
        rig.up()
        rig.fs.start()
        await rig.settled()
        assert (await rig.stored("f"), await rig.stored("g")) == (SMALL, SMALL)


@needs_root
async def test_what_was_acknowledged_survives_a_disk_that_fills_until_a_close_fails(
    tmp_path: Path, small_disk: Path
) -> None:
    kept: dict[str, bytes] = {}
    async with Writing(tmp_path / "home", writes_dir=str(small_disk / "writes")) as rig:
        await rig.start("back")
        rig.down()
        numbers = set()
        for index in range(60):
            path, data = f"/s/{index}", bytes([index]) * (1_000 if index % 2 else 1_500_000)
            try:
                await rig.save(path, data)
                kept[path] = data
            except OSError as error:
                numbers.add(error.errno)
        assert numbers == {errno.ENOSPC}
        assert kept
        await rig.restart()
        rig.up()
        rig.fs.start()
        await rig.settled()
        for path, data in kept.items():
            assert await rig.stored(path.removeprefix("/s/")) == data
        assert rig.staged() == []


@needs_root
async def test_a_start_on_a_full_disk_says_so_and_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    rig = Writing(tmp_path / "home", writes_dir=str(small_disk / "writes"))
    rig.begin()
    await rig.start("back")
    rig.down()
    await rig.save("/s/f", b"x" * 100_000)
    await rig.end()
    fill(small_disk)
    for name in rig.staged():
        (small_disk / "writes" / "files" / name).unlink()
    fill(small_disk)
    with pytest.raises(NoSpace, match="make room"):
        rig.begin()
    await rig.end()
    relieve(small_disk)
    rig.begin()
    rig.up()
    rig.fs.start()
    await rig.settled()
    assert await rig.stored("f") == b"x" * 100_000
    await rig.end()


# ------------------------------------------------------------------ a real server


class ThroughProxy(Writing):
    """A rig whose store is a real server's bucket, behind a proxy."""

    def __init__(self, folder: Path, store: S3Store, seaweed: SeaweedS3) -> None:
        super().__init__(folder)
        self.s3 = store
        self.seaweed = seaweed
        self.prefix = f"writing/{folder.parent.name}/"

    def _open_store(self, url: str, options: Mapping[str, str], *, settings: Settings) -> tuple[Store, str]:
        return self.s3, self.prefix

    async def stored(self, key: str) -> bytes | None:
        """See `Writing.stored`; asked beside the proxy."""
        status, body = self.seaweed.request("GET", f"/{BUCKET}/{self.prefix}{key}")
        return body if status == 200 else None

    def parts_left(self) -> int:
        """How many uploads are under way."""
        return self.seaweed.request("GET", f"/{BUCKET}?uploads=")[1].decode().count(f"<Key>{self.prefix}")


@pytest.fixture
async def real(tmp_path: Path, make_store: MakeStore, seaweed: SeaweedS3) -> AsyncIterator[ThroughProxy]:
    async with ThroughProxy(tmp_path / "home", make_store(20), seaweed) as rig:
        yield rig


COMPLETE = "uploadId=(?!.*partNumber)"
ONCE: list[tuple[str, str, Fault]] = [
    ("PUT", "partNumber=1", Refuse(503)),
    ("PUT", "partNumber=2", reset()),
    ("POST", COMPLETE, reset()),  # it was done, and its answer is lost
    ("POST", COMPLETE, Refuse(500)),
]


@pytest.mark.parametrize(("method", "target", "fault"), ONCE, ids=str)
@MODES
async def test_a_request_that_fails_once_is_nobodys_business(
    real: ThroughProxy, proxy: FaultProxy, mode: str, method: str, target: str, fault: Fault
) -> None:
    await real.start(mode)
    opened = await real.open("/s/f")
    opened.draft.content.write(0, LARGE)
    proxy.script = Script(Rule(fault, method, target, times=1))
    await real.close(opened)
    await real.settled()
    assert await real.stored("f") == LARGE
    assert await real.read("/s/f") == LARGE
    assert real.uploads() == {}
    assert real.parts_left() == 0


@SIZES
async def test_a_server_that_is_down_during_a_close_gets_the_bytes_when_it_is_back(
    real: ThroughProxy, proxy: FaultProxy, data: bytes
) -> None:
    await real.start("through")
    opened = await real.open("/s/f")
    opened.draft.content.write(0, data)
    proxy.stop()
    with pytest.raises(FsError) as raised:
        await real.close(opened)
    assert raised.value.errno in (errno.EIO, errno.ETIMEDOUT)
    await real.until(lambda: real.uploads() == {"/s/f": "failing"})
    assert await real.stored("f") is None
    proxy.start()
    await real.settled()
    assert await real.stored("f") == data
    assert real.parts_left() == 0


async def test_a_bucket_that_denies_is_told_at_close_and_what_was_kept_arrives_later(
    real: ThroughProxy, proxy: FaultProxy
) -> None:
    await real.start("through")
    opened = await real.open("/s/f")
    opened.draft.content.write(0, LARGE)
    proxy.script = Script(*(Rule(Refuse(403, code="AccessDenied"), method) for method in ("PUT", "POST")))
    with pytest.raises(Denied) as raised:
        await real.close(opened)
    assert raised.value.errno == errno.EACCES
    await real.until(lambda: real.uploads() == {"/s/f": "failing"})
    proxy.script = Script()
    await real.settled()
    assert await real.stored("f") == LARGE
    assert real.parts_left() == 0
