"""The journal's log against a dict, on a disk that loses power, tears what was not synced, and refuses writes."""

import errno
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forebay.errors import FsError, NoSpace
from forebay.vfs import journal_log
from forebay.vfs.journal_format import BLOCK_BYTES, decode_text, encode_text
from forebay.vfs.journal_log import SPARES_MAX, Item, Log

SEGMENT = 256 * 1024
KEYS = ("/a", "/b", "/c\udcff", "/d", "/e")
SIZES = (None, 0, 1, 5_000, 70_000, 110_000, 128 * 1024)

Value = tuple[int, bytes | None]  # what makes a record itself: a number of the test's own, and the body
Asked = list[tuple[str, int | None]]
writes = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(SIZES)), min_size=1, max_size=5)


class PowerCut(BaseException):
    """The machine stops here."""


class Disk:
    """Stands between the log and the real disk: keeps what a write replaced until it is synced."""

    def __init__(self) -> None:
        self.unsynced: dict[int, list[tuple[str, int, bytes, bytes]]] = {}  # by inode: old bytes and new ones
        self.left = -1  # operations until `failure`; negative: never
        self.failure: BaseException = PowerCut()

    def fail_after(self, operations: int, failure: BaseException) -> None:
        self.left, self.failure = operations, failure

    def _count(self) -> None:
        if self.left == 0:
            self.left = -1
            raise self.failure
        self.left -= self.left > 0

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith(".log"):  # a new one gets its name after its sync
            change = path, offset, os.pread(fd, len(data), offset), data
            self.unsynced.setdefault(os.fstat(fd).st_ino, []).append(change)
        os.pwrite(fd, data, offset)
        self._count()

    def sync(self, fd: int) -> None:
        self._count()
        self.unsynced.pop(os.fstat(fd).st_ino, None)

    def write_synced(self, fd: int, blocks: memoryview, offset: int) -> None:
        with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as file:  # not past the page cache: blocks are torn here
            self.write_at(file.fileno(), bytes(blocks), offset)
            self.sync(file.fileno())

    def lose(self, chance: random.Random) -> None:
        """Of what was not synced, some blocks are on the disk, some are not, some are torn."""
        for changes in self.unsynced.values():
            for path, offset, old, new in changes:
                if not os.path.exists(path):  # a spare that was removed
                    continue
                keeps_all = chance.random() < 0.2
                data = bytearray(new)
                for start in range(0, len(new), BLOCK_BYTES):
                    stop = min(start + BLOCK_BYTES, len(new))
                    torn = chance.randrange(start, stop), start + chance.randrange(64)  # there the header is
                    cut = stop if keeps_all else min(stop, chance.choice((start, stop, *torn)))
                    data[cut:stop] = old[cut:stop]
                with open(path, "r+b") as file:
                    os.pwrite(file.fileno(), data, offset)
        self.unsynced.clear()


class JournalMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-model-"))
        self.disk = Disk()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(journal_log, "write_at", self.disk.write_at)
        self.patch.setattr(journal_log, "sync", self.disk.sync)
        self.patch.setattr(journal_log, "write_synced", self.disk.write_synced)
        self.number = 0
        self.highest = 0  # sequence number of all acknowledged
        self.possible: dict[str, set[Value | None]] = {key: {None} for key in KEYS}  # what a start may find
        self.live: dict[str, int] = {}  # sequence number by key
        self.latest: dict[str, Value] = {}  # of the live records
        self.retired: dict[str, set[Value]] = {key: set() for key in KEYS}
        self.log = Log(self.folder, SEGMENT)

    # ------------------------------------------------------------------ what is asked for

    def append(self, asked: Asked) -> list[int | FsError]:
        items = []
        for key, size in asked:
            self.number += 1
            body = None if size is None else random.Random(self.number).randbytes(size)
            self.possible[key].add((self.number, body))  # until it is acknowledged, it may be there or not
            items.append((Item(key, encode_text(key, {"n": self.number}), body), (self.number, body)))
        outcomes = self.log.append([item for item, _ in items])
        for (item, value), outcome in zip(items, outcomes, strict=True):
            if not isinstance(outcome, FsError):
                assert outcome > self.highest
                self.highest = outcome
                self.live[item.about], self.latest[item.about] = outcome, value
                later = [other for other in self.possible[item.about] if other and other[0] > value[0]]
                self.possible[item.about] = {value, *later}
        return outcomes

    @rule(asked=writes)
    def append_all(self, asked: Asked) -> None:
        assert all(isinstance(outcome, int) for outcome in self.append(asked))

    @rule(asked=writes, after=st.integers(0, 7), number=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def append_while_the_disk_refuses(self, asked: Asked, after: int, number: int) -> None:
        self.disk.fail_after(after, OSError(number, os.strerror(number)))
        outcomes = self.append(asked)
        self.disk.left = -1
        kinds = [type(outcome) for outcome in outcomes if isinstance(outcome, FsError)]
        assert all(kind is (NoSpace if number == errno.ENOSPC else FsError) for kind in kinds)

    @precondition(lambda self: self.live)
    @rule(number=st.integers(0, 99))
    def retire(self, number: int) -> None:
        key = sorted(self.live)[number % len(self.live)]
        self.log.retire(self.live.pop(key))
        self.possible[key].add(None)
        self.retired[key].add(self.latest[key])

    @rule(tells=st.booleans())
    def tidy(self, tells: bool) -> None:
        """After what was retired was told, or after an append."""
        if tells:
            self.log.write_retired()
        self.log.tidy(lambda: True)
        assert len(self.log._chain) <= self.log.segments_max
        assert len(self.log._spares) <= SPARES_MAX

    # ------------------------------------------------------------------ ends and starts

    def open(self) -> None:
        """Start again, compare, and go on from what was found."""
        self.log.leave()
        self.log = Log(self.folder, SEGMENT)
        found: dict[str, Value] = {}
        for seq, text, has_body in self.log.recovered:
            body = self.log.body(seq) if has_body else None
            key, fields = decode_text(text)
            number: Any = fields["n"]
            assert key not in found
            found[key] = number, body
        seqs = [seq for seq, _, _ in self.log.recovered]
        assert seqs == sorted(seqs)
        for key in KEYS:
            assert found.get(key) in self.possible[key]
            self.possible[key] = {found.get(key)}
            self.retired[key].clear()  # what has come back is as good as new
        self.latest = found
        self.live = {decode_text(text)[0]: seq for seq, text, _ in self.log.recovered}

    @rule()
    def restart(self) -> None:
        self.log.write_retired()
        for key, values in self.retired.items():
            self.possible[key] -= values
        self.open()

    @rule()
    def kill(self) -> None:
        """The process dies: the page cache is as it was."""
        self.open()

    @rule(asked=writes, after=st.integers(0, 9), seed=st.integers(0, 1 << 32), tells=st.booleans())
    def power_cut_in_an_append(self, asked: Asked, after: int, seed: int, tells: bool) -> None:
        self.lose_power(after, seed, asked, tells=tells)

    @rule(after=st.integers(0, 12), seed=st.integers(0, 1 << 32))
    def power_cut_in_tidying(self, after: int, seed: int) -> None:
        self.lose_power(after, seed, [], tells=True)

    def lose_power(self, after: int, seed: int, asked: Asked, *, tells: bool) -> None:
        self.disk.fail_after(after, PowerCut())
        try:
            self.append(asked)
            if tells:
                self.log.write_retired()
            self.log.tidy(lambda: True)
        except PowerCut:
            pass
        self.disk.left = -1
        self.disk.lose(random.Random(seed))
        self.open()

    @invariant()
    def its_counts_are_exact(self) -> None:
        log = self.log
        assert {place.about: seq for seq, place in log._live.items()} == self.live == log._latest
        assert sum(place.size for place in log._live.values()) == log._live_bytes
        assert {seq for segment in log._chain for seq in segment.live} == set(log._live)
        assert not any(segment.live for segment in log._spares)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.log.leave()
            self.patch.undo()
            shutil.rmtree(self.folder)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
