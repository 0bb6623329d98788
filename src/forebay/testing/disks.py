"""Local disks that do not do as they are told: for tests of what must outlast a power cut."""

import os
import threading
from collections.abc import Callable

import pytest

from forebay.vfs import journal_log


def sync_by(patch: pytest.MonkeyPatch, sync: Callable[[int], object]) -> None:
    """Whenever the journal's log waits for the disk, it calls `sync` with a descriptor; what it writes is written."""

    def write_synced(fd: int, blocks: memoryview, offset: int) -> None:
        os.pwrite(fd, blocks, offset)
        sync(fd)

    patch.setattr(journal_log, "sync", sync)
    patch.setattr(journal_log, "write_synced", write_synced)


class Waiting:
    """A disk on which the journal's log waits until it is told to go on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.has_come, self.go_on = threading.Event(), threading.Event()
        sync_by(patch, self._sync)

    def _sync(self, _: int) -> None:
        self.has_come.set()
        assert self.go_on.wait(30)
