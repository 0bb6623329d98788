"""The folder of files that are being written and are not cached versions yet.

Its files are precious as long as the journal names them; any other is what a crash left of a write that nobody was
told of.  It should be on the same disk as the cache: then files move between the two without a copy.

*Callers*: drafts, on the loop.  *Locks*: none.  *Awaits*: nothing; making and removing a file is quick.
*On crash*: files stay; `sweep` removes those that no record of the journal names.
"""

import contextlib
import errno
import os
from collections.abc import Collection
from pathlib import Path

from forebay.clock import Clock
from forebay.errors import Denied, FsError, NoSpace
from forebay.opened import sync_folder

_OPEN = os.O_RDWR | os.O_CLOEXEC


class Staging:
    """See the module."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        """Take the folder, made if need be.

        Raises:
            Denied: it cannot be used; the message says what to do.
        """
        self._folder = folder
        self._last_id = clock.time_ns()  # so that no id of an earlier daemon comes again
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"the folder for files being written cannot be used: {folder}: {error.strerror}"
            raise Denied(f"{message}; choose another with `writes_dir`", path=str(folder)) from error

    def new_id(self) -> int:
        """An id that no file here has or had."""
        self._last_id += 1
        return self._last_id

    def path(self, staging_id: int) -> str:
        """Where the file of that id lies."""
        return f"{self._folder}/{staging_id:016x}"

    def make(self, staging_id: int) -> int:
        """A descriptor of a new, empty file.

        Raises:
            NoSpace: the disk is full.
            FsError: it cannot be made for another reason.
        """
        try:
            return os.open(self.path(staging_id), _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else FsError
            raise kind(f"no file can be written in {self._folder}: {error.strerror}") from error

    def open(self, staging_id: int) -> int:
        """A descriptor of a file that is here.

        Raises:
            FileNotFoundError: it is not.
        """
        return os.open(self.path(staging_id), _OPEN)

    def remove(self, staging_id: int) -> None:
        """Remove a file, if it is here; who has it open keeps it."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(staging_id))

    def sync_names(self) -> None:
        """Have the names of new files outlast a power cut.  Blocks."""
        sync_folder(self._folder)

    def sweep(self, kept: Collection[int]) -> int:
        """Remove every file but those; return how many went.  Only at the start."""
        gone = 0
        for entry in os.scandir(self._folder):
            if entry.is_file(follow_symlinks=False) and not (_is_id(entry.name) and int(entry.name, 16) in kept):
                os.unlink(entry.path)
                gone += 1
        return gone


def _is_id(name: str) -> bool:
    return len(name) == 16 and all(letter in "0123456789abcdef" for letter in name)
