"""The journal: what was acknowledged on the local disk and is not in its store yet.

A record is on the disk when its `append` returns.  Appends that wait are written together, with one sync; a thread of
its own does that, or, for one alone while the disk is quick, who asks (`append_here`).  How the disk looks is said in
`journal_format.py`, how it is used in `journal_log.py`.  What need not outlast a power cut is written at once by
`append_now`, to files of its own (`unsynced_log.py`).

*Callers*: the write path, on the loop.  *Locks*: none; a queue.  *Awaits*: the thread.  *Invariants*: records are
written in the order of the calls; the newest record of a key is the only one that is live.
*On crash*: all records that were acknowledged and not retired are there, bit for bit.  One that was not acknowledged
may be there, and one that was retired may be there again, so whoever acts on records must be able to act twice.
"""

import asyncio
import contextlib
import operator
import queue
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from forebay.clock import Clock, SystemClock
from forebay.errors import FsError
from forebay.types import Buffer
from forebay.units import MIB
from forebay.vfs.journal_format import SEGMENT_BYTES, checked_body, decode_text, encode_text, entry_bytes
from forebay.vfs.journal_log import Item, Log
from forebay.vfs.quickness import Quickness
from forebay.vfs.unsynced_log import Line, UnsyncedLog

log = structlog.get_logger()

BATCH_BYTES = MIB  # of records in one write, as long as there are some: what one step of tidying copies
RETIRE_WITHIN_S = 1.0  # the disk learns of a retired record so soon; until then a crash brings it back


@dataclass(frozen=True, slots=True)
class Record:
    """What was appended."""

    seq: int  # grows for ever, in the order of the appends, not without gaps; negative: it is not synced
    about: str  # the key: a newer record with the same one takes this one's place
    fields: dict[str, Any]  # as JSON gives them back: lists, no tuples
    has_body: bool  # which is on the disk only: thousands of files may wait to be sent

    @property
    def is_synced(self) -> bool:
        """Does it outlast a power cut?"""
        return self.seq > 0


class _Job(NamedTuple):
    """One thing for the thread to do: to write a record, or (without an item) to finish all that came before."""

    item: Item | None
    answer: asyncio.Future[Any] | None
    is_last: bool = False
    body_of: int = 0  # the record whose body the item's is


class Journal:
    """See the module."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, clock: Clock | None = None) -> None:
        """Open or create, and recover.  Blocks, for as long as it takes to read what is in use.

        Args:
            segment_bytes: size of one file of the log; the same at each start.

        Raises:
            FsError: damaged in a way that no crash explains, or made by a newer Forebay; nothing is changed.
            Denied, NoSpace: it cannot be written.
        """
        self._folder = folder
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="journal-segments")
        self._log = Log(folder, segment_bytes, spawn=self._maker.submit)
        try:
            self._unsynced = UnsyncedLog(folder)
        except OSError as error:
            raise self._log.explained(error) from error
        self._last_seq = 0
        self._recovered = self._recover()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._asked = 0  # jobs, counted on the loop
        self._done = 0  # of those, counted in the thread: while the numbers are the same, the log is the loop's
        self._clock = SystemClock() if clock is None else clock
        self._quickness = Quickness()
        self._retired: deque[int] = deque()  # for the thread, which need not wake up for each
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._is_untidy = False  # the log knows
        self._is_closed = False

    def _recover(self) -> dict[int, Record]:
        """The records of both logs, in the order of the appends; a synced one is newer than another of its key."""
        records = [Record(seq, *decode_text(text), has_body) for seq, text, has_body in self._log.recovered]
        self._log.recovered = []
        keys = {record.about for record in records}
        placed = [((record.seq, 0), record) for record in records]
        for number, line in self._unsynced.records():
            record = Record(number, *decode_text(line.text), has_body=False)
            if record.about in keys:
                self._unsynced.drop(record.about)
            else:
                placed.append(((line.after, -number), record))
        placed.sort(key=operator.itemgetter(0))
        self._last_seq = max((record.seq for record in records), default=0)
        return {record.seq: record for _, record in placed}

    # ------------------------------------------------------------------ on the loop

    def recovered(self) -> list[Record]:
        """The records that were live at the start, in order, but for those retired since: they are held until then."""
        return list(self._recovered.values())

    def body(self, record: Record) -> bytes | None:
        """The body of a record that was recovered, before there is another one.  Blocks.

        Raises:
            FsError: it cannot be read any more.
        """
        try:
            return self._log.body(record.seq) if record.has_body else None
        except OSError as error:
            raise self._log.explained(error) from error

    async def append(self, about: str, fields: dict[str, Any], body: Buffer | None = None) -> Record:
        """Keep a record in place of the one with the same key; it is on the disk when this returns.

        Cancelled or failed, it may be there after a crash all the same; append to the same key again to replace it.

        Args:
            fields: as JSON gives them back: lists, no tuples.

        Raises:
            Invalid: a body of more than 128 KiB, or fields that are not JSON or more than 64 KiB of it.
            NoSpace: the disk is full; later appends are tried anew.
            FsError: the disk failed, or the journal is closed.
        """
        item = Item(about, encode_text(about, fields), checked_body(body))
        return self._appended(await self._ask(item), item, fields)

    def append_here(self, about: str, fields: dict[str, Any], body: Buffer) -> Record | None:
        """Keep a record as `append` does, before this returns; None if that may take long: use `append`.

        Raises:
            Invalid, NoSpace, FsError: as `append`.
        """
        self._check_open()
        if self._asked != self._done or not self._quickness.is_quick:
            return None
        item = Item(about, encode_text(about, fields), memoryview(body))
        self._take_retired()
        if not self._log.has_room(item):
            return None
        [outcome] = self._append([item], is_usual=True)
        if not self._log.is_tidy:
            self._put(_Job(None, None))
        if isinstance(outcome, FsError):
            raise outcome
        return self._appended(outcome, item, fields)

    async def amend(self, record: Record, fields: dict[str, Any]) -> Record:
        """Keep other fields in place of a live, synced record's, with the same body.

        Raises:
            Invalid, NoSpace, FsError: as `append`; the journal says what it said.
        """
        item = Item(record.about, encode_text(record.about, fields), None)
        seq = await self._ask(item, body_of=record.seq if record.has_body else 0)
        return self._appended(seq, item, fields, has_body=record.has_body)

    def _appended(self, seq: int, item: Item, fields: dict[str, Any], *, has_body: bool = False) -> Record:
        self._last_seq = max(self._last_seq, seq)
        self._unsynced.drop(item.about)
        return Record(seq, item.about, fields, has_body or item.body is not None)

    def append_now(self, about: str, fields: dict[str, Any]) -> Record:
        """Keep a record as `append` does, but not over a power cut, and without waiting.

        Args:
            about: a key that has no synced record.
            fields: as of `append`.

        Raises:
            Invalid, NoSpace, FsError: as `append`.
        """
        self._check_open()
        try:
            seq = self._unsynced.append(about, Line(self._last_seq, encode_text(about, fields)))
        except OSError as error:
            raise self._log.explained(error) from error
        return Record(seq, about, fields, has_body=False)

    def retire(self, record: Record) -> None:
        """The record is not needed any more: it is in its store, or nobody wants it.  Not durable at once.

        A record that was replaced or retired before stays so.
        """
        self._recovered.pop(record.seq, None)
        if record.is_synced:
            self._retired.append(record.seq)
        else:
            self._unsynced.drop(record.about, record.seq)
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(RETIRE_WITHIN_S, self._write_retired)

    def _write_retired(self) -> None:
        self._timer = None
        self._unsynced.tell()
        self._put(_Job(None, None))

    async def settle(self) -> None:
        """Return when all that was asked for is on the disk, retired records included, and space was freed.

        Raises:
            NoSpace, FsError: the disk refuses; what was retired may come back.
        """
        self._unsynced.tell()
        await self._ask(None)

    async def close(self) -> None:
        """Finish, and end the thread; appends are refused from now on."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._put(_Job(None, None, is_last=True))
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._maker.shutdown)
        self._unsynced.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise FsError(f"the journal of pending writes in {self._folder} is closed", path=str(self._folder))

    def _ask(self, item: Item | None, *, body_of: int = 0) -> asyncio.Future[Any]:
        self._check_open()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(_Job(item, answer, body_of=body_of))
        return answer

    def _put(self, job: _Job) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
            self._thread.start()
        self._asked += 1
        self._jobs.put(job)

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        is_open = True
        while is_open:
            jobs = self._waiting()
            is_open = not jobs[-1].is_last
            try:
                self._do(jobs)
            except Exception as error:  # the thread's outermost boundary: all who ask get an answer
                self._log.leave()
                log.exception("journal.failed", path=str(self._folder))
                failed = FsError(f"the journal of pending writes in {self._folder} failed: {type(error).__name__}")
                _tell((job, failed) for job in jobs)
            self._done += len(jobs)
        self._log.leave()

    def _waiting(self) -> list[_Job]:
        """The jobs for one turn, at least one: appends up to some size, or up to a job that is none."""
        jobs, size = [self._jobs.get()], 0
        while (item := jobs[-1].item) is not None:
            size += entry_bytes(0, len(item.text), item.body)
            if size >= BATCH_BYTES or self._jobs.empty():
                break
            jobs.append(self._jobs.get())
        return jobs

    def _do(self, jobs: list[_Job]) -> None:
        self._take_retired()
        appends, outcomes = [], []
        for job in jobs:
            if job.item is not None and not _is_cancelled(job):
                try:
                    appends.append((job, self._whole(job.item, job.body_of)))
                except OSError as error:
                    outcomes.append((job, self._log.explained(error)))
        items = [item for _, item in appends]
        done = self._append(items, is_usual=len(items) == 1 and self._log.has_room(items[0]))
        _tell([*outcomes, *zip((job for job, _ in appends), done, strict=True)])
        failed: FsError | None = None
        is_whole = jobs[-1].item is None
        try:
            if is_whole:
                self._unsynced.sync()  # first: what was retired here had replaced what was not synced
                self._log.write_retired()
            self._log.tidy(self._jobs.empty)
        except OSError as error:
            failed = self._log.explained(error)
            if not self._is_untidy:  # it is tried every second on a disk that is full
                log.warning("journal.not_tidy", path=str(self._folder), reason=failed.message)
        self._is_untidy = failed is not None or (self._is_untidy and not is_whole)
        _tell((job, failed) for job in jobs if job.item is None)

    def _take_retired(self) -> None:
        while self._retired:
            self._log.retire(self._retired.popleft())

    def _append(self, items: list[Item], *, is_usual: bool) -> list[int | FsError]:
        """Write them; one alone, in the segment that is written to, tells how quick the disk is."""
        began = self._clock.monotonic()
        outcomes = self._log.append(items)
        if is_usual:
            self._quickness.took(self._clock.monotonic() - began)
        return outcomes

    def _whole(self, item: Item, body_of: int) -> Item:
        return item._replace(body=self._log.body(body_of)) if body_of else item


def _is_cancelled(job: _Job) -> bool:
    return job.answer is not None and job.answer.cancelled()


def _tell(outcomes: Iterable[tuple[_Job, Any]]) -> None:
    """Answer those who wait, in one call of their loop."""
    answers = [(job.answer, outcome) for job, outcome in outcomes if job.answer is not None]
    if answers:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            answers[0][0].get_loop().call_soon_threadsafe(_answer, answers)


def _answer(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for answer, outcome in answers:
        if answer.done():  # who asked has gone
            continue
        if isinstance(outcome, FsError):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
