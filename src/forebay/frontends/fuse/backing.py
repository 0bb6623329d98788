"""Which complete cache files the kernel reads by itself, and under which backing id.

A registration outlives the opens that use it, so that the next epoch's open of the same file costs no system call;
the least recently used idle ones go first.  A registered file that the cache deletes is taken back at once: it
would hold its disk space.
"""

import contextlib
from collections import OrderedDict

from forebay.frontends.fuse.device import Device
from forebay.vfs.openfile import OpenFile

IDLE_MAX = 8192  # about 1.5 KB of kernel memory each: the open file and its inode


class _Backing:
    __slots__ = ("backing_id", "opens")

    def __init__(self, backing_id: int) -> None:
        self.backing_id = backing_id
        self.opens = 0


class BackingFiles:
    """See the module.  On the loop.

    Invariant: a file has one backing id while it is open, as the kernel demands of all opens of one node.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._open: dict[int, _Backing] = {}  # by local id
        self._idle: OrderedDict[int, _Backing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open) + len(self._idle)

    def acquire(self, file: OpenFile) -> int | None:
        """The backing id for one more open of a file; None if it is not complete or the kernel refuses it."""
        local_id = file.local_id
        backing = self._open.get(local_id)
        if backing is None:
            backing = self._idle.pop(local_id, None) or self._register(file)
            if backing is None:
                return None
            self._open[local_id] = backing
        backing.opens += 1
        return backing.backing_id

    def _register(self, file: OpenFile) -> _Backing | None:
        fd = file.local_fd()
        if fd is None:
            return None
        try:
            return _Backing(self._device.open_backing(fd))
        except OSError:
            return None  # such as ENFILE: this open goes through the page cache

    def release(self, local_id: int) -> None:
        """One open less."""
        backing = self._open[local_id]
        backing.opens -= 1
        if backing.opens:
            return
        del self._open[local_id]
        self._idle[local_id] = backing
        if len(self._idle) > IDLE_MAX:
            self._close(self._idle.popitem(last=False)[1])

    def drop(self, local_id: int) -> None:
        """The cache deleted a file that nobody has open."""
        backing = self._idle.pop(local_id, None)
        if backing is not None:
            self._close(backing)

    def _close(self, backing: _Backing) -> None:
        with contextlib.suppress(OSError):  # the mount may have ended
            self._device.close_backing(backing.backing_id)
