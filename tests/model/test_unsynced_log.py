"""Records that need not outlast a power cut, against a dictionary: through kills, full disks and new files."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forebay.vfs import unsynced_log
from forebay.vfs.journal_format import encode_text
from forebay.vfs.unsynced_log import Line, UnsyncedLog

KEYS = st.sampled_from(["a", "b", "c", "d"])


class UnsyncedLogMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-model-"))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(unsynced_log, "SPENT_MAX", 300)
        self.number = 0
        self.live: dict[str, tuple[int, Line]] = {}
        self.may_come_back: dict[str, Line] = {}  # dropped, and a full disk was not told of it
        self.log = UnsyncedLog(self.folder)

    @rule(key=KEYS, size=st.integers(0, 200))
    def append(self, key: str, size: int) -> None:
        self.number += 1
        line = Line(self.number, encode_text(key, {"text": "\n" + size * "x"}))
        number = self.log.append(key, line)
        self.live.pop(key, None)
        self.live[key] = number, line
        self.may_come_back.pop(key, None)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.log.drop(key)
        self.live.pop(key, None)

    @rule(key=KEYS)
    def drop_what_was_replaced(self, key: str) -> None:
        if key in self.live:
            self.log.drop(key, self.live[key][0] + 1)

    @rule(key=KEYS, taken=st.integers(0, 40), drops=st.booleans())
    def fill_the_disk(self, key: str, taken: int, drops: bool) -> None:
        """It takes some bytes of a line, and no more."""

        def write(fd: int, data: bytes) -> int:
            if not taken:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write_some(fd, data[: min(taken, len(data) - 1)])

        write_some = os.write
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", write)
            if drops:
                if key in self.live:
                    self.may_come_back[key] = self.live.pop(key)[1]
                self.log.drop(key)
            else:
                with pytest.raises(OSError, match="No space"):
                    self.log.append(key, Line(self.number + 1, encode_text(key, {})))

    @rule()
    def sync(self) -> None:
        self.log.tell()
        self.may_come_back.clear()
        self.log.sync()
        assert len(list(self.folder.iterdir())) <= 1

    @rule()
    def kill(self) -> None:
        """The next process finds all of it, in the order of writing."""
        self.log.close()
        self.log = UnsyncedLog(self.folder)
        found = [line for _, line in self.log.records()]
        kept = [line for _, line in self.live.values()]
        assert [line for line in found if line in kept] == kept
        assert all(line in self.may_come_back.values() for line in found if line not in kept)
        for number, line in self.log.records():
            if line not in kept:
                self.log.drop(next(key for key, one in self.may_come_back.items() if one == line), number)
        self.may_come_back.clear()
        self.live = dict(zip(self.live, self.log.records(), strict=True))

    @invariant()
    def it_holds_what_counts(self) -> None:
        assert self.log.records() == list(self.live.values())

    def teardown(self) -> None:
        self.log.close()
        self.patch.undo()
        shutil.rmtree(self.folder)


TestUnsyncedLog = UnsyncedLogMachine.TestCase
TestUnsyncedLog.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
