"""The next local file of those that are written one after another: made while the last one is being written.

Making a file costs the local disk's file system more than all else that is done when one is created.  Whoever copies
many waits for that each time, and writes its bytes right after: so once a file has been given, the next one is made,
by whoever has a moment to spare, or by the loop.  If nobody wants it, it goes.

*Callers*: drafting, on the loop.  *Locks*: none.  *Awaits*: nothing; a timer looks whether files still come.
*On crash*: what was made ahead is empty and named by no record, and goes with the next start.
"""

import asyncio
import contextlib
import os

from forebay.errors import FsError
from forebay.vfs.staging import Staging

LOOK_S = 0.1  # files that come so soon after another are many; what nobody has taken goes after that, or twice that


class FilesAhead:
    """See the module."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._made: tuple[int, int] | None = None  # id and descriptor
        self._timer: asyncio.TimerHandle | None = None  # while files come
        self._came = False  # since the timer looked
        self._is_due = False  # the next one is to be made

    def take(self) -> tuple[int, int]:
        """Id and descriptor of an empty file, made now as far as its times tell.

        Raises:
            NoSpace, FsError: as `Staging.make`.
        """
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(LOOK_S, self._look)
        else:
            self._is_due = True
            loop.call_soon(self.make)
        self._came = True
        if self._made is None:
            staging_id = self._staging.new_id()
            return staging_id, self._staging.make(staging_id)
        (staging_id, fd), self._made = self._made, None
        os.utime(fd)
        return staging_id, fd

    def make(self) -> None:
        """Make the next file now, if there is to be one."""
        if self._is_due and self._made is None and self._timer is not None:
            self._is_due = False
            staging_id = self._staging.new_id()
            with contextlib.suppress(FsError):  # as on a full disk: who wants a file is told
                self._made = staging_id, self._staging.make(staging_id)

    def _look(self) -> None:
        if self._came:
            self._came = False
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)
        else:
            self.close()

    def close(self) -> None:
        """Remove what was made ahead."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._made is not None:
            (staging_id, fd), self._made = self._made, None
            os.close(fd)
            self._staging.remove(staging_id)
