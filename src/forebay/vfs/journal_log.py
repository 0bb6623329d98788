"""The journal's log on the disk: appended to, recovered, and kept small.  Blocks.

Segments in use form a chain by generation.  Records are written to the last one; the first ones are free as soon as
nothing in them is live, and are written over.  What holds the first one back is copied forward when the chain is
longer than its live bytes explain.

A record is live until it is retired, or a newer record with its key is on the disk.  Overwriting blocks that were
written before costs one flush of the disk and no change of the file system's metadata, so segments are filled with
zeros once and then recycled.  Entries are written past the page cache where the file system lets them: what is never
read again need not be copied there, and to wait for the disk then takes a quarter less.

*Callers*: `journal.py`, from one thread at a time, in one process (the daemon holds its home's lock); a segment that
is made ahead is nobody else's until it is done.  *Locks*: none.
*Invariants*: a segment is synced before the next is begun, a header before the first entry; whatever leaves memory's
list of live records by being replaced was synced in its new place before; a block that holds an acknowledged record is
not written to until that record is retired.
*On crash*: what was not synced may be there or not; a retired record may be live again.  A write that failed is like a
write that was not synced.
"""

import contextlib
import errno
import mmap
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import structlog

from forebay import failpoints
from forebay.errors import Denied, FsError, NoSpace
from forebay.opened import opened, sync_folder
from forebay.units import MIB
from forebay.vfs.journal_disk import FULL, reserve, sync, takes_direct, write_at, write_synced
from forebay.vfs.journal_format import (
    ENTRIES_START,
    ENTRY_MAX,
    HEADER_SLOTS,
    RETIRED_MAX,
    SEGMENT_BYTES,
    SEGMENT_MIN,
    UNUSED,
    VERSION,
    Entry,
    Header,
    decode_entry,
    decode_header,
    decode_text,
    encode_entry,
    encode_header,
    entry_bytes,
    read_entries,
    was_acknowledged,
)

log = structlog.get_logger()

SPARES_MAX = 16  # free segments that are kept: one to go on with, the others for a burst of 2,000 files of 110 KiB
_SPARES_SHARE = 1 / 16  # of what is free on the disk: on one that is nearly full, files need the room more
COPIED_BYTES = MIB  # live bytes copied forward in one step, for which an append may have to wait: some milliseconds
_WRITTEN_MAX = MIB + ENTRY_MAX  # bytes in one write: a batch, which ends with the record that passes its bound
_FILLED_BYTES = MIB  # zeros in one write
_NEW_NAME = "new.tmp"
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Item(NamedTuple):
    """A record to be written; without a text: none, for the sake of what is retired."""

    about: str
    text: bytes
    body: bytes | memoryview | None
    seq: int = 0  # of a record that is written again


_NOTHING = Item("", b"", None)


class Found(NamedTuple):
    """A record that a start has found."""

    seq: int
    text: bytes
    has_body: bool


class Segment:
    """A file of the log, and what it is used for."""

    __slots__ = ("header", "live", "path", "slot")

    def __init__(self, path: Path, header: Header = UNUSED, slot: int = -1) -> None:
        self.path = path
        self.header = header
        self.slot = slot  # of the header; -1: none
        self.live: set[int] = set()  # sequence numbers of the live records in it

    def read(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()

    def write_header(self, header: Header) -> None:
        """Say durably what it is used for now: this or what was said before, if it is interrupted."""
        slot = (self.slot + 1) % HEADER_SLOTS
        with opened(self.path, os.O_RDWR) as fd:
            write_at(fd, encode_header(header), slot * (ENTRIES_START // HEADER_SLOTS))
            sync(fd)
        self.header, self.slot = header, slot


class Place(NamedTuple):
    """Where a live record is."""

    segment: Segment
    offset: int
    size: int  # bytes in the segment
    about: str


def _at_once(make: Callable[[], Segment]) -> Future[Segment]:
    made: Future[Segment] = Future()
    try:
        made.set_result(make())
    except OSError as error:
        made.set_exception(error)
    return made


class Log:
    """See the module.  Methods that write raise OSError; `explained` makes it one of our kinds."""

    def __init__(
        self,
        folder: Path,
        segment_bytes: int = SEGMENT_BYTES,
        *,
        spawn: Callable[[Callable[[], Segment]], Future[Segment]] = _at_once,
    ) -> None:
        """Open or create, and recover.

        Args:
            spawn: has a segment made ahead, in a thread that appends need not wait for.

        Raises:
            FsError: a file is damaged in a way that no crash explains, or made by a newer Forebay.
            Denied, NoSpace: the folder cannot be made, or its files cannot be opened.
        """
        assert segment_bytes >= SEGMENT_MIN
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._chain: deque[Segment] = deque()
        self._spares: deque[Segment] = deque()
        self._spawn = spawn
        self._ahead: Future[Segment] | None = None  # a spare that is being made
        self._fd = -1  # of the chain's last segment, while it is written to
        self._end = 0  # where it goes on
        self._generation = 0  # of the newest segment
        self._lsn = 1  # of the next entry
        self._live: dict[int, Place] = {}
        self._latest: dict[str, int] = {}  # sequence number by key
        self._live_bytes = 0
        self._unwritten: list[int] = []  # retired, and not known to the disk
        self._last_name = 0
        # Of what is written: at a page's start, as O_DIRECT demands, and shared, so that a fork moves no pages.
        self._buffer = mmap.mmap(-1, _WRITTEN_MAX)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            (folder / _NEW_NAME).unlink(missing_ok=True)
            direct = os.O_DIRECT if takes_direct(folder, self._buffer) else 0
            self._flags = os.O_RDWR | os.O_CLOEXEC | os.O_DSYNC | direct
            self.recovered = self._recover()
        except FsError:
            raise
        except OSError as error:
            raise self.explained(error) from error

    def explained(self, error: OSError) -> FsError:
        """What the disk's refusal means to who wanted to write."""
        if isinstance(error, FsError):
            return error
        where = f"the journal of pending writes in {self._folder}"
        if error.errno in FULL:
            return NoSpace(f"no space left for {where}; free some on its disk", path=str(self._folder))
        if error.errno in _REFUSED:
            message = (
                f"{where} cannot be written: {error.strerror}; give this user the right to, or choose another home"
            )
            return Denied(message, path=str(self._folder))
        return FsError(f"{where} cannot be written: {error.strerror}; check its disk", path=str(self._folder))

    # ------------------------------------------------------------------ recovery

    def _recover(self) -> list[Found]:
        """Find the chain, the spare segments and the live records; those, in order."""
        found = [self._look_at(path) for path in sorted(self._folder.glob("*.log"))]
        newest = max((segment.header for segment, _ in found), key=lambda header: header.generation, default=UNUSED)
        for segment, first in found:
            if first is not None and first.generation > newest.generation:
                raise self._damaged(segment.path, 0, "its header cannot be read")
        by_generation: dict[int, Segment] = {}
        for segment, _ in found:
            generation = segment.header.generation
            if generation == 0 or generation < newest.oldest:
                self._spares.append(segment)
            elif generation in by_generation:
                raise self._damaged(segment.path, 0, f"it is a second copy of {by_generation[generation].path.name}")
            else:
                by_generation[generation] = segment
        self._generation, self._lsn = newest.generation, max(newest.start, 1)
        for generation in range(newest.oldest, newest.generation + 1) if newest.generation else ():
            if generation not in by_generation:
                raise self._damaged(self._folder, 0, f"segment {generation} is missing or its header cannot be read")
            self._chain.append(by_generation[generation])
        records: dict[int, Found] = {}
        for segment in self._chain:
            self._replay(segment, records)
        return [records[seq] for seq in sorted(records)]

    def _look_at(self, path: Path) -> tuple[Segment, Entry | None]:
        """A segment by its header, and the first entry in it."""
        with opened(path, os.O_RDWR) as fd:  # it will be written to
            size = os.fstat(fd).st_size
            if size != self._segment_bytes:
                raise self._damaged(path, size, f"it must have {self._segment_bytes} bytes")
            start = os.pread(fd, SEGMENT_MIN, 0)
        if path.stem.isdecimal():
            self._last_name = max(self._last_name, int(path.stem))
        header, slot = decode_header(start)
        if header.version > VERSION:
            message = f"{path} was made by a newer Forebay; use that version, or another home"
            raise FsError(message, path=str(path))
        return Segment(path, header, slot), decode_entry(start, ENTRIES_START)

    def _replay(self, segment: Segment, records: dict[int, Found]) -> None:
        """Apply a segment's entries to the list of live records, and check that none is missing."""
        is_last = segment is self._chain[-1]
        if is_last:
            with opened(segment.path, os.O_RDWR) as fd:
                sync(fd)  # what a killed process wrote may be in the page cache only
        stop_lsn = 0 if is_last else self._next_of(segment).header.start
        data = segment.read()
        offset, lsn = ENTRIES_START, segment.header.start
        for at, entry in read_entries(data, segment.header):
            if entry.lsn == stop_lsn:  # from here on, what was written was not acknowledged
                break
            for seq in entry.retired:
                self._drop(seq)
                records.pop(seq, None)
            if entry.seq:
                self._take_in(segment, at, entry, records)
            offset, lsn = at + entry.size, entry.lsn + 1
        if lsn < stop_lsn or (is_last and was_acknowledged(data, segment.header, offset, lsn)):
            raise self._damaged(segment.path, offset, "a record cannot be read, and later ones can")
        self._lsn = lsn

    def _take_in(self, segment: Segment, offset: int, entry: Entry, records: dict[int, Found]) -> None:
        about, _ = decode_text(entry.text)
        latest = self._latest.get(about, 0)
        if latest > entry.seq:
            return  # a copy of what had been replaced
        if latest != entry.seq:
            records.pop(latest, None)
        self._place(about, entry.seq, Place(segment, offset, entry.size, about))
        records[entry.seq] = Found(entry.seq, entry.text, entry.body is not None)

    def _next_of(self, segment: Segment) -> Segment:
        return self._chain[segment.header.generation - self._chain[0].header.generation + 1]

    def _damaged(self, path: Path, offset: int, reason: str) -> FsError:
        return FsError(
            f"the journal of pending writes is damaged: {path}, byte {offset}: {reason}. It holds writes that may not "
            f"be in their store yet, so nothing was changed: restore it, or move {self._folder} away to go on without.",
            path=str(path),
        )

    # ------------------------------------------------------------------ which records are live

    def _place(self, about: str, seq: int, place: Place) -> None:
        """A record is on the disk there, and replaces an older one."""
        latest = self._latest.get(about)
        if latest is not None:
            self._drop(latest)
        self._latest[about] = seq
        self._live[seq] = place
        self._live_bytes += place.size
        place.segment.live.add(seq)

    def _drop(self, seq: int) -> bool:
        """A record is not live any more; was it?"""
        place = self._live.pop(seq, None)
        if place is None:
            return False
        place.segment.live.remove(seq)
        self._live_bytes -= place.size
        del self._latest[place.about]
        return True

    def retire(self, seq: int) -> None:
        """A record is not needed any more, which the disk learns with the next entry.  Does not block."""
        if self._drop(seq):
            self._unwritten.append(seq)

    def body(self, seq: int) -> bytes:
        """The body of a record that is live.  Raises OSError."""
        place = self._live.get(seq)
        if place is None:
            raise FsError(
                f"record {seq} of the journal in {self._folder} is not there any more", path=str(self._folder)
            )
        with opened(place.segment.path, os.O_RDONLY) as fd:
            return bytes(self._read(fd, seq, place).body or b"")

    def _read(self, fd: int, seq: int, place: Place) -> Entry:
        entry = decode_entry(os.pread(fd, place.size, place.offset))
        if entry is None or entry.seq != seq:
            raise self._damaged(place.segment.path, place.offset, "a record cannot be read any more")
        return entry

    # ------------------------------------------------------------------ writing

    def append(self, items: Sequence[Item]) -> list[int | FsError]:
        """Write records; for each its sequence number when it is on the disk, or why it is not."""
        outcomes: list[int | FsError] = []
        try:
            while len(outcomes) < len(items):
                outcomes += self._write(items[len(outcomes) :])
        except OSError as error:
            outcomes += [self.explained(error)] * (len(items) - len(outcomes))
        return outcomes

    def has_room(self, item: Item) -> bool:
        """Does a record fit into the segment that is written to, so that one write and one sync are all it takes?"""
        return self._fd >= 0 and self._fitting([item], min(len(self._unwritten), RETIRED_MAX)) == 1

    def write_retired(self) -> None:
        """Tell the disk of all that is retired.  Raises OSError."""
        while self._unwritten:
            self._write([_NOTHING])

    def _write(self, items: Sequence[Item]) -> list[int]:
        """Write as many as fit into one segment and one write, at least one; their sequence numbers."""
        retired = tuple(self._unwritten[:RETIRED_MAX])
        if self._fd < 0 or not self._fitting(items, len(retired)):
            self._begin()
        entries = []
        for number, item in enumerate(items[: self._fitting(items, len(retired))]):
            lsn = self._lsn + number
            seq = (item.seq or lsn) if item.text else 0
            told = retired if number == 0 else ()
            entries.append(Entry(self._generation, lsn, seq, self._lsn - 1, told, item.text, item.body))
        try:
            write_synced(self._fd, self._joined(entries), self._end)
        except OSError:
            self.leave()  # nobody knows what the disk holds there: the next entry goes to another segment
            raise
        failpoints.hit("journal.synced")
        del self._unwritten[: len(retired)]
        segment = self._chain[-1]
        for item, entry in zip(items, entries, strict=False):
            if entry.seq:
                self._place(item.about, entry.seq, Place(segment, self._end, entry.size, item.about))
            self._end += entry.size
        self._lsn += len(entries)
        return [entry.seq for entry in entries]

    def _joined(self, entries: Sequence[Entry]) -> memoryview:
        """All their bytes, in the buffer."""
        view, at = memoryview(self._buffer), 0
        for entry in entries:
            for piece in encode_entry(entry):
                view[at : at + len(piece)] = piece
                at += len(piece)
        return view[:at]

    def _fitting(self, items: Sequence[Item], retired: int) -> int:
        """How many of them fit into the rest of the segment, and into one write."""
        end, stop = self._end, min(self._segment_bytes, self._end + _WRITTEN_MAX)
        for number, item in enumerate(items):
            end += entry_bytes(0 if number else retired, len(item.text), item.body)
            if end > stop:
                return number
        return len(items)

    def leave(self) -> None:
        """Write no more to the segment that is written to; the next entry begins another one."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    # ------------------------------------------------------------------ segments

    def _begin(self) -> None:
        """Go on in another segment; those before the first with a live record are free then.  Raises OSError."""
        segment = self._take()
        is_recycled = segment.slot >= 0
        dead = next((number for number, used in enumerate(self._chain) if used.live), len(self._chain))
        oldest = self._chain[dead].header.generation if dead < len(self._chain) else self._generation + 1
        try:
            segment.write_header(Header(self._generation + 1, self._lsn, oldest))
            fd = os.open(segment.path, self._flags)
        except OSError:
            # Its header may be on the disk and end the segment before it here: nothing may be written there any more,
            # and this segment must be the next one that is tried.
            self.leave()
            self._spares.appendleft(segment)
            raise
        if is_recycled:
            failpoints.hit("journal.recycled")
        self.leave()
        self._free(dead)
        self._chain.append(segment)
        self._fd, self._end, self._generation = fd, ENTRIES_START, self._generation + 1

    def _take(self) -> Segment:
        """A segment to go on in."""
        if not self._spares:
            self._release()
        if not self._spares:
            with contextlib.suppress(OSError):  # the disk may have been full then: it is tried anew
                self._take_ahead()
        if self._spares:
            return self._spares.popleft()
        if len(self._chain) == 1 and not self._live:
            self.leave()
            return self._chain.pop()  # nothing in it is needed: it follows itself
        segment = self._make()
        self._ahead = None  # which had failed, if there was one
        return segment

    def _take_ahead(self) -> None:
        """Take the spare that is being made, if there is one, and wait for it.  Raises OSError."""
        if self._ahead is not None:
            self._spares.append(self._ahead.result())
            self._ahead = None

    def _make(self) -> Segment:
        """A new segment, whose blocks are written once, so that writing them again changes bytes only."""
        self._last_name += 1
        path, new = self._folder / f"{self._last_name:08d}.log", self._folder / _NEW_NAME
        zeros = bytes(min(_FILLED_BYTES, self._segment_bytes))
        try:
            with opened(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
                reserve(fd, self._segment_bytes)
                for offset in range(0, self._segment_bytes, len(zeros)):
                    write_at(fd, zeros[: self._segment_bytes - offset], offset)
                os.fsync(fd)
            new.rename(path)
            sync_folder(self._folder)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise
        failpoints.hit("journal.segment_made")
        return Segment(path)

    def _release(self) -> None:
        """Free the chain's first segments in which nothing is live.  Raises OSError."""
        last = len(self._chain) - 1
        dead = next((number for number, used in enumerate(self._chain) if used.live or number == last), 0)
        if dead <= 0:
            return
        newest = self._chain[-1]
        newest.write_header(newest.header._replace(oldest=self._chain[dead].header.generation))
        failpoints.hit("journal.released")
        self._free(dead)

    def _free(self, count: int) -> None:
        """The newest header says that the chain's first segments are not needed: keep some of them to write over."""
        for _ in range(count):
            self._spares.append(self._chain.popleft())
        self._trim()

    def _trim(self) -> None:
        """Remove what is spare beyond the bound; never the first, whose header may count: see `_begin`."""
        if len(self._spares) <= 1:
            return
        with contextlib.suppress(OSError):  # it is found again at the next start
            stat = os.statvfs(self._folder)
            room = int(stat.f_bavail * stat.f_frsize * _SPARES_SHARE) // self._segment_bytes
            while len(self._spares) > max(1, min(room, SPARES_MAX)):
                self._spares.pop().path.unlink()

    # ------------------------------------------------------------------ keeping it small

    @property
    def segments_max(self) -> int:
        """How long the chain may be for the live bytes that it holds.

        Two neighbours always hold more entries than fit into one, so live bytes without gaps take less than
        twice their size; and one more for the segment that is written to, and one for what was before it.
        """
        return 3 + 2 * self._live_bytes // (self._segment_bytes - ENTRIES_START)

    @property
    def is_tidy(self) -> bool:
        """Has `tidy` nothing to do?"""
        return not self._is_made() and len(self._chain) <= self.segments_max and not self._needs_another()

    def _is_made(self) -> bool:
        """Is the spare there that was to be made ahead?  If that failed it is tried anew once one is needed."""
        return self._ahead is not None and self._ahead.done() and self._ahead.exception() is None

    def _needs_another(self) -> bool:
        """Is a segment to be made now, rather than when an append waits for it?"""
        is_filling = self._fd >= 0 and self._end > self._segment_bytes // 4
        return is_filling and not self._spares and bool(self._chain[0].live) and self._ahead is None

    def tidy(self, is_idle: Callable[[], bool]) -> None:
        """Free what can be freed: one step at least, and all of it while nobody waits.  Raises OSError.

        Steps keep pace: what one batch of appends adds is at most what one step copies.
        """
        if self._is_made():
            self._take_ahead()
        self._trim()  # a start may find more than are to be kept, and the disk may have less room than before
        while len(self._chain) > self.segments_max:
            if self._chain[0].live:
                self._copy_forward(self._chain[0])
            else:
                self._release()
            if not is_idle():
                return
        if self._needs_another():
            self._ahead = self._spawn(self._make)
            if self._is_made():
                self._take_ahead()

    def _copy_forward(self, segment: Segment) -> None:
        """Write some live records of a segment again, at the end.

        In a write of their own: with an append that replaces one of them, a copy could come after it.
        """
        items: list[Item] = []
        size = 0
        with opened(segment.path, os.O_RDONLY) as fd:
            for seq in sorted(segment.live):
                place = self._live[seq]
                size += place.size
                if items and size > COPIED_BYTES:
                    break
                entry = self._read(fd, seq, place)
                items.append(Item(place.about, entry.text, entry.body, seq))
        while items:
            del items[: len(self._write(items))]
        failpoints.hit("journal.copied")
