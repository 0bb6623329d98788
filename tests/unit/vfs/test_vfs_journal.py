"""The journal: what was acknowledged is there at the next start, and its size follows what is pending."""

import asyncio
import contextlib
import errno
import fcntl
import os
import random
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.clock import FakeClock
from forebay.errors import Denied, FsError, Invalid, NoSpace
from forebay.testing.disks import Waiting, sync_by
from forebay.units import MIB
from forebay.vfs import journal_disk, journal_log, unsynced_log
from forebay.vfs.journal import Journal, Record
from forebay.vfs.journal_format import (
    BLOCK_BYTES,
    BODY_MAX,
    ENTRIES_START,
    ENTRY_MAX,
    SEGMENT_MIN,
    TEXT_MAX,
    Entry,
    decode_entry,
    decode_text,
    encode_entry,
    encode_text,
)
from forebay.vfs.journal_log import Item, Log
from forebay.vfs.quickness import RUN_MIN

SEGMENT = 256 * 1024
BODY = random.Random(1).randbytes(100_000)  # two of them fit into a segment


def opened(folder: Path, segment_bytes: int = SEGMENT) -> Journal:
    return Journal(folder, segment_bytes=segment_bytes)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


async def left_in(folder: Path, segment_bytes: int = SEGMENT) -> list[Record]:
    journal = opened(folder, segment_bytes)
    found = journal.recovered()
    await journal.close()
    return found


async def bodies_in(folder: Path) -> list[bytes | None]:
    journal = opened(folder)
    found = [journal.body(record) for record in journal.recovered()]
    await journal.close()
    return found


async def test_what_was_appended_comes_back_as_append_returned_it(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    given: list[tuple[str, dict[str, object], bytes | None]] = [
        ("/a\udcff\n", {"path": "/x\udc80", "size": 1 << 62, "list": [1, 2], "none": None}, BODY),
        ("", {}, None),
        ("/empty", {"é": "日本"}, b""),
        ("/most", {}, bytes(BODY_MAX)),
    ]
    kept = [await journal.append(*one) for one in given]
    await journal.close()
    assert await left_in(tmp_path / "j") == kept
    assert [(record.about, record.fields) for record in kept] == [(about, fields) for about, fields, _ in given]
    assert await bodies_in(tmp_path / "j") == [body for _, _, body in given]
    assert [record.seq for record in kept] == sorted({record.seq for record in kept})


async def test_a_body_may_be_any_buffer_and_is_as_it_was_at_the_call(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    body = bytearray(b"before")
    waiting = asyncio.ensure_future(journal.append("/a", {}, memoryview(body)))
    await asyncio.sleep(0)
    body[:] = b"after!"
    await waiting
    await journal.close()
    assert await bodies_in(tmp_path) == [b"before"]


async def test_a_record_that_is_amended_has_other_fields_and_its_body(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    first = [await journal.append(f"/{number}", {"n": 1}, body) for number, body in enumerate((BODY, b"", None))]
    other = await journal.append("/other", {}, BODY)
    kept = [await journal.amend(record, {"n": 2}) for record in first]
    journal.retire(other)
    await journal.close()
    assert await left_in(tmp_path) == kept
    assert await bodies_in(tmp_path) == [BODY, b"", None]


async def test_who_amends_what_was_retired_is_told_and_no_other_suffers(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    gone = await journal.append("/gone", {}, BODY)
    journal.retire(gone)
    amended = asyncio.ensure_future(journal.amend(gone, {"n": 2}))
    kept = await journal.append("/kept", {})
    with pytest.raises(FsError, match="any more"):
        await amended
    await journal.close()
    assert await left_in(tmp_path) == [kept]


async def test_the_newest_record_of_a_key_is_the_only_one_left(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    old = await journal.append("/a", {"n": 1}, BODY)
    new = await journal.append("/a", {"n": 2})
    journal.retire(old)  # comes late, and means nothing any more
    await journal.close()
    assert await left_in(tmp_path) == [new]


async def test_a_record_that_was_retired_does_not_come_back_nor_what_it_had_replaced(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    await journal.append("/a", {"n": 1}, BODY)
    journal.retire(await journal.append("/a", {"n": 2}, BODY))
    kept = await journal.append("/b", {})
    await journal.close()
    assert await left_in(tmp_path) == [kept]


async def test_a_retired_record_is_written_soon_without_any_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebay.vfs.journal.RETIRE_WITHIN_S", 0.01)
    journal = opened(tmp_path)
    journal.retire(await journal.append("/a", {}))
    while journal._timer is not None:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        while await left_in(tmp_path):  # the same folder, while the other one has it open: reads only
            await asyncio.sleep(0.01)
    await journal.close()


async def killed(folder: Path, into: Path) -> list[tuple[str, dict[str, object]]]:
    """Keys and fields of what the next process finds if this one is killed now."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("new.tmp"))  # a start removes it; it may go meanwhile
    return [(record.about, record.fields) for record in await left_in(into)]


async def test_a_record_that_need_not_be_synced_waits_for_nothing_and_outlasts_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path / "j")
    with monkeypatch.context() as patch:
        disk = Waiting(patch)
        appending = asyncio.ensure_future(journal.append("/a", {"n": 1}))
        await asyncio.to_thread(disk.has_come.wait)  # the thread waits for the disk
        unsynced = journal.append_now("/b\udcff\n", {"n": [2]})
        assert not unsynced.is_synced
        shutil.copytree(tmp_path / "j", tmp_path / "killed")
        disk.go_on.set()
        assert (await appending).is_synced
    await journal.close()
    assert [record.about for record in await left_in(tmp_path / "killed")] == ["/b\udcff\n"]
    assert [record.about for record in await left_in(tmp_path / "j")] == ["/b\udcff\n", "/a"]
    with pytest.raises(FsError):
        journal.append_now("/c", {})


async def test_of_unsynced_records_and_synced_ones_the_newest_of_a_key_is_left(tmp_path: Path) -> None:
    journal = opened(tmp_path / "j")
    journal.append_now("/twice", {"n": 1})
    twice = journal.append_now("/twice", {"n": 2})
    journal.append_now("/then synced", {"n": 1})
    await journal.append("/then synced", {"n": 2})
    journal.retire(journal.append_now("/retired", {}))
    replaced = journal.append_now("/retired before", {"n": 1})
    journal.append_now("/retired before", {"n": 2})
    journal.retire(replaced)
    left = [("/twice", {"n": 2}), ("/then synced", {"n": 2}), ("/retired before", {"n": 2})]
    assert await killed(tmp_path / "j", tmp_path / "first") == left
    assert await killed(tmp_path / "first", tmp_path / "second") == left, "reading it changes nothing"
    journal.retire(twice)
    await journal.close()
    assert [record.about for record in await left_in(tmp_path / "j")] == ["/then synced", "/retired before"]


async def test_a_line_that_was_cut_is_no_record_and_takes_no_other_with_it(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for number in range(3):
        journal.append_now(f"/{number}", {})
    await journal.close()
    (lines,) = tmp_path.glob("*.lines")
    os.truncate(lines, lines.stat().st_size - 1)
    with capture_logs() as logs:
        journal = opened(tmp_path)
    assert [(line["event"], line["lines"]) for line in logs] == [("journal.unreadable", 1)]
    journal.append_now("/3", {})
    await journal.close()
    assert [record.about for record in await left_in(tmp_path)] == ["/0", "/1", "/3"]


async def test_unsynced_records_take_room_for_as_long_as_they_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsynced_log, "SPENT_MAX", 10_000)
    journal = opened(tmp_path / "j")
    kept = journal.append_now("/kept", {"text": "x" * 1_000})
    for number in range(500):
        journal.retire(journal.append_now(f"/{number}", {"text": "x" * 1_000}))
    assert await killed(tmp_path / "j", tmp_path / "killed") == [(kept.about, kept.fields)]
    await journal.settle()
    (lines,) = (tmp_path / "j").glob("*.lines")
    assert lines.stat().st_size < 20_000
    await journal.close()
    assert await left_in(tmp_path / "j") == [kept]


async def test_that_an_unsynced_record_is_retired_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path / "j")
    record = journal.append_now("/a", {})

    def fail(log: unsynced_log.UnsyncedLog, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(unsynced_log.UnsyncedLog, "_write", fail)
        journal.retire(record)
        with pytest.raises(NoSpace):
            await journal.settle()
    await journal.settle()
    assert await killed(tmp_path / "j", tmp_path / "killed") == []
    await journal.close()


async def test_what_was_recovered_can_be_retired_and_is_not_held_any_longer(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    kept = [await journal.append(f"/{index}", {}, BODY) for index in range(3)]
    await journal.close()
    journal = opened(tmp_path)
    assert journal.recovered() == kept
    journal.retire(kept[1])
    assert journal.recovered() == [kept[0], kept[2]]
    later = await journal.append("/later", {})
    assert later.seq > kept[2].seq
    await journal.close()
    assert await left_in(tmp_path) == [kept[0], kept[2], later]


async def test_appends_that_wait_are_written_with_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    await journal.append("/first", {})
    await journal.close()
    journal = opened(tmp_path)
    monkeypatch.setattr(journal, "_put", journal._jobs.put)  # its thread is not started: the test does its work
    waiting = [asyncio.ensure_future(journal.append(f"/{index}", {})) for index in range(16)]
    await asyncio.sleep(0)
    synced: list[int] = []
    sync_by(monkeypatch, synced.append)
    journal._do(journal._waiting())
    seqs = [record.seq for record in await asyncio.gather(*waiting)]
    assert len(synced) == 2  # of the header of a new segment, and of all records
    assert seqs == sorted(seqs)


async def quick(folder: Path, segment_bytes: int = SEGMENT) -> Journal:
    """A journal whose disk was quick for a while."""
    journal = Journal(folder, segment_bytes=segment_bytes, clock=FakeClock())
    for _ in range(1 + RUN_MIN):  # the first of them begins a segment
        journal.retire(await journal.append("/before", {}))
    await idle(journal)
    return journal


async def idle(journal: Journal) -> None:
    """Return when its thread has nothing to do."""
    await journal.settle()
    async with asyncio.timeout(30):
        while journal._asked != journal._done:
            await asyncio.sleep(0.001)


async def test_who_asks_writes_by_itself_with_one_sync_while_the_disk_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = opened(tmp_path / "other")
    assert unknown.append_here("/a", {}, b"") is None
    await unknown.close()
    journal = await quick(tmp_path / "j")
    threads: list[str] = []
    with monkeypatch.context() as patch:
        sync_by(patch, lambda fd: threads.append(threading.current_thread().name))
        body = bytearray(BODY)
        kept = journal.append_here("/a\udcff", {"n": [1]}, memoryview(body))
    assert threads == [threading.current_thread().name]
    body[:] = bytes(len(body))
    assert await killed(tmp_path / "j", tmp_path / "killed") == [("/a\udcff", {"n": [1]})]
    assert await bodies_in(tmp_path / "killed") == [BODY]
    assert kept is not None
    assert kept.is_synced
    amended = await journal.amend(kept, {"n": [2]})
    await journal.close()
    assert await left_in(tmp_path / "j") == [amended]


async def test_nobody_writes_by_itself_while_the_thread_has_something_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await quick(tmp_path)
    with monkeypatch.context() as patch:
        disk = Waiting(patch)
        appending = asyncio.ensure_future(journal.append("/a", {}))
        await asyncio.sleep(0)
        assert journal.append_here("/b", {}, b"") is None
        disk.go_on.set()
        first = await appending
    await idle(journal)
    second = journal.append_here("/b", {}, b"")
    await journal.close()
    assert await left_in(tmp_path) == [first, second]


async def test_who_writes_by_itself_waits_for_no_segment_and_has_the_next_one_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebay.vfs.journal.RETIRE_WITHIN_S", 3600.0)  # nor is that a reason to make one
    journal = await quick(tmp_path, 2 * SEGMENT)
    assert len(files(tmp_path)) == 1, "what came before fills less than a quarter"
    kept = [journal.append_here("/0", {}, BODY)]
    async with asyncio.timeout(10):
        while len(files(tmp_path)) == 1:
            await asyncio.sleep(0.001)
    await idle(journal)
    while (record := journal.append_here(f"/{len(kept)}", {}, BODY)) is not None:
        kept.append(record)
        await idle(journal)
    assert len(kept) == 4, "as many as fit beside what is there"
    kept.append(await journal.append("/more", {}, BODY))
    await journal.close()
    assert await left_in(tmp_path, 2 * SEGMENT) == kept


async def test_who_writes_by_itself_is_told_of_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await quick(tmp_path)

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        sync_by(full, fail)
        with pytest.raises(NoSpace):
            journal.append_here("/a", {}, BODY)
        assert journal.append_here("/b", {}, BODY) is None, "the next entry goes to another segment"
    kept = await journal.append("/c", {}, BODY)
    await journal.close()
    assert await left_in(tmp_path) == [kept]
    with pytest.raises(FsError, match="closed"):
        journal.append_here("/d", {}, b"")


@pytest.mark.parametrize(
    ("fields", "body", "told"),
    [
        ({}, bytes(BODY_MAX + 1), "128.0 KiB"),
        ({"x": "y" * TEXT_MAX}, None, "64.0 KiB"),
        ({"x": object()}, None, "must be JSON"),
        ({"x": float("nan")}, None, "must be JSON"),
    ],
)
async def test_what_cannot_be_kept_is_refused_and_changes_nothing(
    tmp_path: Path, fields: dict[str, object], body: bytes | None, told: str
) -> None:
    journal = opened(tmp_path)
    with pytest.raises(Invalid, match=told):
        await journal.append("/a", fields, body)
    kept = await journal.append("/b", {})
    await journal.close()
    assert await left_in(tmp_path) == [kept]


async def test_a_closed_journal_refuses_and_may_be_closed_again(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    await journal.close()
    await journal.close()
    with pytest.raises(FsError, match="closed"):
        await journal.append("/a", {})


async def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "writes" / "journal"
    journal = opened(folder)
    for index in range(5):
        await journal.append(f"/{index}", {}, BODY)
    await journal.close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files(folder)} == {0o600}


async def test_its_size_follows_what_is_pending_and_not_what_was(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    kept = [await journal.append("/kept/first", {}, BODY)]  # would hold everything after it for ever
    for turn in range(6):
        burst = [await journal.append(f"/{index}", {"turn": turn}, BODY) for index in range(40)]
        kept.append(await journal.append(f"/kept/{turn}", {}))
        await journal.settle()
        assert len(files(tmp_path)) >= 20
        for record in burst:
            journal.retire(record)
        await journal.settle()
        assert len(files(tmp_path)) <= 4 + journal_log.SPARES_MAX  # 3, and one for 100,000 live bytes
    await journal.close()
    assert await left_in(tmp_path) == kept


def with_room_for(segments: int) -> os.statvfs_result:
    """What statvfs(2) says of a disk on which so many more have room."""
    free = segments * SEGMENT // BLOCK_BYTES
    return os.statvfs_result((BLOCK_BYTES, BLOCK_BYTES, 1 << 30, free, free, 0, 0, 0, 0, 255))


@pytest.mark.parametrize(("room", "kept"), [(1000, journal_log.SPARES_MAX), (80, 5), (15, 1), (0, 1)])
def test_spare_segments_take_a_small_share_of_what_is_free_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, kept: int
) -> None:
    left = 1000
    monkeypatch.setattr(os, "statvfs", lambda path: with_room_for(left))
    log = Log(tmp_path, SEGMENT)
    burst = log.append([item(f"/{number}", BODY) for number in range(60)])
    for seq in burst:
        assert isinstance(seq, int)
        log.retire(seq)
    log.write_retired()
    log.tidy(lambda: True)
    assert len(files(tmp_path)) == 1 + journal_log.SPARES_MAX
    left = room  # others fill the disk
    log.append([item("/kept")])
    log.tidy(lambda: True)
    log.leave()
    assert len(files(tmp_path)) == 1 + kept
    assert abouts_in(tmp_path) == ["/kept"]


async def test_a_journal_with_nothing_pending_writes_over_what_it_has(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    for index in range(50):
        journal.retire(await journal.append(f"/{index % 3}", {}, BODY))
    await journal.close()
    assert len(files(tmp_path)) <= 2
    assert await left_in(tmp_path) == []


async def test_an_append_needs_no_wait_for_a_segment_that_is_made_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, go_on = threading.Event(), threading.Event()
    make, makers = Log._make, list[str]()

    def slowly(log: Log) -> journal_log.Segment:
        makers.append(threading.current_thread().name.partition("_")[0])
        if makers[-1] == "journal-segments":
            making.set()
            assert go_on.wait(30)
        return make(log)

    monkeypatch.setattr(Log, "_make", slowly)
    journal = opened(tmp_path)
    kept = [await journal.append("/0", {}, BODY)]
    await asyncio.to_thread(making.wait)
    kept.append(await journal.append("/1", {}, BODY))  # which fits into the segment there is
    appending = asyncio.ensure_future(journal.append("/2", {}, BODY))
    go_on.set()
    kept.append(await appending)
    assert makers.count("journal") == 1, "the first segment: what is being made is waited for, not made again"
    await journal.close()
    assert await left_in(tmp_path) == kept


async def test_a_segment_that_has_no_room_is_tried_again_when_it_is_needed_and_nobody_suffers_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)
    tried = 0

    def full(log: Log) -> journal_log.Segment:
        nonlocal tried
        tried += 1
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with capture_logs() as logs:
        with monkeypatch.context() as patch:
            kept = [await journal.append("/0", {})]
            await journal.settle()
            patch.setattr(Log, "_make", full)
            kept.append(await journal.append("/1", {}, BODY))
            for number in range(2, 8):
                kept.append(await journal.append(f"/{number}", {}))
                await journal.settle()
            assert tried == 1
            with pytest.raises(NoSpace):
                await journal.append("/large", {}, bytes(BODY_MAX))
            await journal.settle()
            assert tried == 2
        kept.append(await journal.append("/8", {}, bytes(BODY_MAX)))  # there is room again
        await journal.close()
        assert len(files(tmp_path)) == 3, "and another one is made ahead again"
    assert logs == []
    assert await left_in(tmp_path) == kept


def test_a_segment_that_has_no_room_takes_none_from_others_while_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refused(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    log = Log(tmp_path, SEGMENT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        patch.setattr(journal_log, "write_at", lambda fd, data, offset: written.append(offset))
        assert [type(outcome) for outcome in log.append([item("/a", BODY)])] == [NoSpace]
    assert written == []
    monkeypatch.setattr(os, "posix_fallocate", refused)  # where no room can be reserved, that is none of its business
    log.append([item("/b", BODY)])
    log.leave()
    assert abouts_in(tmp_path) == ["/b"]


async def test_it_grows_no_more_when_it_is_never_idle(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    kept = await journal.append("/kept", {}, BODY)

    async def worker(name: str) -> None:
        for _ in range(60):
            journal.retire(await journal.append(name, {}, BODY))

    await asyncio.gather(*(worker(f"/{number}") for number in range(4)))
    assert len(files(tmp_path)) <= 12  # of the 120 that were filled
    await journal.close()
    assert await left_in(tmp_path) == [kept]


async def test_many_starts_do_not_make_it_longer(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    kept = [await journal.append("/a", {}, BODY)]
    for index in range(12):
        await journal.close()
        journal = opened(tmp_path)
        assert journal.recovered() == kept
        kept.append(await journal.append(f"/{index}", {}))
    await journal.settle()
    assert len(files(tmp_path)) <= 4 + journal_log.SPARES_MAX
    await journal.close()


# ---------------------------------------------------------------- damage


async def filled(folder: Path) -> list[Record]:
    """Records in three segments, and perhaps a spare one."""
    journal = opened(folder)
    kept = [await journal.append(f"/{index}", {}, BODY) for index in range(6)]
    await journal.close()
    assert len(files(folder)) in (3, 4)
    return kept


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


SECOND_ENTRY = ENTRIES_START + 25 * BLOCK_BYTES  # behind the first BODY


@pytest.mark.parametrize(
    ("harm", "file"),
    [
        (lambda found: flip(found[0], ENTRIES_START + 5000), 0),
        (lambda found: flip(found[1], SECOND_ENTRY + 5000), 1),
        (lambda found: flip(found[2], ENTRIES_START + 5000), 2),  # the last but one of all
        (lambda found: flip(found[2], 10), 2),
        (lambda found: flip(found[0], 10), None),
        (lambda found: found[1].unlink(), None),
        (lambda found: os.truncate(found[1], SEGMENT - 1), 1),
        (lambda found: found[1].write_bytes(found[0].read_bytes()), 1),
    ],
    ids=["first", "middle", "newest", "newest header", "header", "missing", "short", "twice"],
)
async def test_damage_stops_the_start_names_the_file_and_changes_nothing(
    tmp_path: Path, harm: Callable[[list[Path]], None], file: int | None
) -> None:
    await filled(tmp_path)
    found = files(tmp_path)
    harm(found)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with pytest.raises(FsError, match="journal of pending writes is damaged") as caught:
        opened(tmp_path)
    assert str(found[file] if file is not None else tmp_path) in caught.value.message
    assert f"move {tmp_path} away" in caught.value.message
    assert {path: path.read_bytes() for path in files(tmp_path)} == before


@pytest.mark.parametrize("offset", [0, 100, 30_000])
async def test_a_torn_last_record_is_dropped_and_the_next_one_takes_its_place(tmp_path: Path, offset: int) -> None:
    kept = await filled(tmp_path)
    flip(files(tmp_path)[2], SECOND_ENTRY + offset)
    for _ in range(3):
        journal = opened(tmp_path)
        assert journal.recovered() == kept[:5]
        await journal.close()
    journal = opened(tmp_path)
    kept[5:] = [await journal.append("/5", {}, b"again")]
    await journal.close()
    assert await left_in(tmp_path) == kept


async def test_a_newer_format_is_told_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("forebay.vfs.journal_format.Header.__new__.__defaults__", (2,))
        await filled(tmp_path)
    with pytest.raises(FsError, match="made by a newer Forebay"):
        opened(tmp_path)


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FsError, match="cannot be written"):
        opened(tmp_path / "file" / "journal")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: Path, mode: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "chmod", refuse)  # root, who may run this, is refused nothing
    with pytest.raises(Denied, match="give this user the right"):
        opened(tmp_path / "journal")


# ---------------------------------------------------------------- a disk that fails


async def test_a_failed_sync_fails_its_appends_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    kept = [await journal.append("/a", {}, BODY)]

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        sync_by(broken, fail)
        with pytest.raises(FsError, match="Input/output error; check its disk"):
            await journal.append("/a", {}, b"failed")
        with pytest.raises(FsError, match="Input/output error"):  # at the header of the segment after it
            await journal.append("/b", {}, b"failed")
    kept.append(await journal.append("/c", {}, BODY))
    await journal.close()
    assert await left_in(tmp_path) == kept  # what failed is void, though its bytes are there


def item(about: str, body: bytes | None = None) -> Item:
    return Item(about, encode_text(about, {}), body)


def abouts_in(folder: Path) -> list[str]:
    return [decode_text(text)[0] for _, text, _ in Log(folder, SEGMENT).recovered]


@pytest.mark.parametrize("is_pending", [True, False], ids=["pending", "retired"])
def test_what_failed_does_not_come_back_with_what_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_pending: bool
) -> None:
    log = Log(tmp_path, SEGMENT)
    [first] = log.append([item("/first")])
    if not is_pending:
        assert isinstance(first, int)
        log.retire(first)  # the segment will follow itself

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        sync_by(broken, fail)
        assert {type(outcome) for outcome in log.append([item("/failed/a"), item("/failed/b")])} == {FsError}
    # Written at the end, or from the start over the first two: with /failed/b behind it, which is the next by its LSN.
    log.append([item("/later", bytes(0 if is_pending else BLOCK_BYTES))])
    log.leave()
    assert abouts_in(tmp_path) == (["/first", "/later"] if is_pending else ["/later"])


def test_a_segment_in_which_nothing_is_live_follows_itself(tmp_path: Path) -> None:
    log = Log(tmp_path, SEGMENT)
    for _ in range(10):
        [seq] = log.append([item("/a", BODY)])
        assert isinstance(seq, int)
        log.retire(seq)
    log.append([item("/kept", BODY)])
    log.leave()
    assert len(files(tmp_path)) == 1
    assert abouts_in(tmp_path) == ["/kept"]


@pytest.mark.parametrize("survived", range(12))
def test_a_torn_header_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int) -> None:
    """The power goes while a header is written, whichever it is: of a new segment, a recycled one, a moved start."""
    whole, left = journal_disk.write_at, survived

    def torn(fd: int, data: bytes, offset: int) -> None:
        nonlocal left
        is_header = data.startswith(b"FOREBAYJ")
        left -= is_header
        if is_header and left < 0:
            os.pwrite(fd, data[:40], offset)  # all but the checksum
            raise InterruptedError
        whole(fd, data, offset)

    monkeypatch.setattr(journal_log, "write_at", torn)
    log = Log(tmp_path, SEGMENT)
    kept: set[str] = set()
    for number in range(40):
        with contextlib.suppress(InterruptedError):
            items = [item(f"/{number}", BODY), item(f"/long/{number % 3}")]
            for one, seq in zip(items, log.append(items), strict=True):
                if not isinstance(seq, FsError):
                    kept.add(one.about)
                    if one is items[0] and number % 8:
                        log.retire(seq)
                        kept.remove(one.about)
            if left >= 0:
                log.tidy(lambda: True)
        if left < 0:
            break
    assert left < 0
    log.leave()
    assert kept <= set(abouts_in(tmp_path))


async def test_a_header_that_failed_voids_no_later_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    kept = [await journal.append(f"/{index}", {}, BODY) for index in range(2)]
    await journal.settle()

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        sync_by(broken, fail)
        with pytest.raises(FsError, match="Input/output error"):
            await journal.append("/large", {}, BODY)  # the header of the next segment is written, and not synced
    kept.append(await journal.append("/small", {}))  # would fit into the segment before
    assert await left_in(tmp_path) == kept  # as after a kill
    await journal.close()


async def test_a_start_removes_spare_segments_that_a_crash_has_left(tmp_path: Path) -> None:
    kept = await filled(tmp_path)
    last = files(tmp_path)[-1]
    for number in range(10, 14 + journal_log.SPARES_MAX):
        (tmp_path / f"{number:08d}.log").write_bytes(bytes(SEGMENT))
    (tmp_path / "new.tmp").write_bytes(b"half")
    journal = opened(tmp_path)
    await journal.settle()
    await journal.close()
    assert len(files(tmp_path)) == 3 + journal_log.SPARES_MAX
    assert last in files(tmp_path)
    assert not (tmp_path / "new.tmp").exists()
    assert await left_in(tmp_path) == kept


async def test_what_could_not_be_retired_on_the_disk_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)
    records, kept = [await journal.append(f"/{number}", {}) for number in range(2)], await journal.append("/b", {})

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for record in records:
        with monkeypatch.context() as broken, capture_logs() as logs:
            sync_by(broken, fail)
            journal.retire(record)
            for _ in range(3):
                with pytest.raises(FsError, match="Input/output error"):
                    await journal.settle()
        assert [entry["event"] for entry in logs] == ["journal.not_tidy"], "it is said once, until it works again"
        await journal.settle()
    await journal.close()
    assert await left_in(tmp_path) == [kept]


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_record_is_written_where_each_write_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_direct: bool
) -> None:
    monkeypatch.setattr(journal_log, "takes_direct", lambda *_: is_direct)
    log = Log(tmp_path, SEGMENT)
    log.append([item("/0")])  # begins a segment
    whole, written = os.pwrite, list[int]()

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        written.append(fcntl.fcntl(fd, fcntl.F_GETFL))
        return whole(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        log.append([item("/1", BODY), item("/2")])
    log.leave()
    assert [bool(flags & os.O_DSYNC) for flags in written] == [True]
    assert [bool(flags & os.O_DIRECT) for flags in written] == [is_direct]


def test_a_write_that_ends_early_keeps_nothing_and_the_next_record_stands_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path, SEGMENT)
    log.append([item("/first")])
    whole = os.pwrite
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, data[: 2 * BLOCK_BYTES], offset))
        assert {type(outcome) for outcome in log.append([item("/a"), item("/b"), item("/c")])} == {NoSpace}
    log.append([item("/later")])
    log.leave()
    assert abouts_in(tmp_path) == ["/first", "/later"]


def test_where_nothing_is_written_past_the_page_cache_records_are_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, refused = os.open, 0

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        nonlocal refused
        if flags & os.O_DIRECT:
            refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return whole(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    log = Log(tmp_path, SEGMENT)
    for number in range(3):
        log.append([item(f"/{number}", BODY)])
    log.leave()
    assert refused == 1, "it is asked once"
    assert abouts_in(tmp_path) == ["/0", "/1", "/2"]


def test_records_of_many_megabytes_are_written_in_pieces_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path)
    write_synced, sizes = journal_disk.write_synced, list[int]()

    def write(fd: int, blocks: memoryview, offset: int) -> None:
        sizes.append(len(blocks))
        write_synced(fd, blocks, offset)

    monkeypatch.setattr(journal_log, "write_synced", write)
    bodies = [os.urandom(BODY_MAX) for _ in range(40)]
    seqs = log.append([item(f"/{number}", body) for number, body in enumerate(bodies)])
    log.leave()
    assert MIB < max(sizes) <= len(log._buffer) < 2 * MIB, "a batch goes at once, and more takes no more memory"
    found = Log(tmp_path)
    assert [seq for seq, _, _ in found.recovered] == seqs
    assert [found.body(seq) for seq, _, _ in found.recovered] == bodies


async def test_a_bug_in_the_thread_answers_those_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = opened(tmp_path)
    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(journal._log, "append", lambda items: 1 / 0)
        with pytest.raises(FsError, match="ZeroDivisionError"):
            await journal.append("/a", {})
    assert [entry["event"] for entry in logs] == ["journal.failed"]
    kept = await journal.append("/b", {})
    await journal.close()
    assert await left_in(tmp_path) == [kept]


def test_an_entry_is_read_back_whole_or_not_at_all() -> None:
    entry = Entry(3, 7, 5, 6, (1, 2), b'["a",{}]', b"body" * 2000)
    data = b"".join(encode_entry(entry))
    assert len(data) == entry.size
    assert len(data) % BLOCK_BYTES == 0
    assert decode_entry(data) == entry
    used = len(data.rstrip(b"\0"))
    assert all(decode_entry(data[:stop]) is None for stop in range(0, used, 97))
    for offset in range(0, used, 61):
        assert decode_entry(data[:offset] + bytes([data[offset] ^ 4]) + data[offset + 1 :]) is None


def test_the_largest_record_fits_into_the_smallest_segment() -> None:
    assert ENTRIES_START + ENTRY_MAX == SEGMENT_MIN <= SEGMENT
