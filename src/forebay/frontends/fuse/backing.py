"""Complete cache files that the kernel reads by itself: one registration for each node, kept from open to open.

The next epoch's open of the same file then costs no system call, no search and no object: this is the path that
decides how fast small files are read.  When there are too many, those not opened for longest go first.  A registered
file that the cache deletes is taken back at once, since it would hold its disk space.
"""

import contextlib
import os

from forebay.frontends.fuse import abi
from forebay.frontends.fuse.device import Device
from forebay.vfs.openfile import OpenFile

KEPT_MAX = 20_000  # about 2 KB each: the kernel's open file and inode, and ours; as many as `cache.LIVE_MAX`
PASSED = 1 << 63  # in the handles of these opens, over the node's id
_FLAGS = int(abi.Open.PASSTHROUGH | abi.Open.NOFLUSH)


class _Backing:
    """The file of one node.  `file` is open while `opens` is positive."""

    __slots__ = (
        "answer",
        "backing_id",
        "file",
        "inode",
        "is_changing",
        "is_unwanted",
        "opens",
        "size",
        "traffic",
        "was_opened",
    )

    def __init__(self, node_id: int, backing_id: int, file: OpenFile | None, inode: int) -> None:
        self.answer = abi.OPEN_OUT.pack(PASSED | node_id, _FLAGS, backing_id)
        self.backing_id = backing_id
        self.file = file  # None: whoever has it open holds it
        self.traffic = None if file is None else file.entry.mount.traffic
        self.size = 0 if file is None else file.entry.size
        self.inode = inode  # of the local file
        self.opens = 1
        self.was_opened = True  # since it was last looked at for eviction
        self.is_changing = False  # somebody writes it, or has: it is not only `file`
        self.is_unwanted = False  # to be taken back with the last close


class BackingFiles:
    """See the module.  On the loop.

    Invariant: a node has one backing id while it is open, as the kernel demands.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept: dict[int, _Backing] = {}  # by node id
        self._nodes_of: dict[int, list[int]] = {}  # node ids by local id: two mounts may show one object

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def opens(self) -> int:
        """Opens that are alive."""
        return sum(backing.opens for backing in self._kept.values())

    def reopen(self, node_id: int) -> bytes | None:
        """The answer to one more open of a node; None if its file is not registered."""
        backing = self._kept.get(node_id)
        if backing is None or backing.is_changing:
            return None
        if backing.opens:
            if backing.file is not None:
                backing.file.opened_again()
        elif backing.file is None or not backing.file.reopen():
            self._take_back(node_id)
            return None
        if (traffic := backing.traffic) is not None:
            traffic.hits += 1
            traffic.read_from_cache += backing.size
        backing.opens += 1
        backing.was_opened = True
        return backing.answer

    def open(self, node_id: int, file: OpenFile) -> bytes | None:
        """Register a node's open file; the answer to that open, or None if it is not complete or the kernel refuses."""
        fd = file.local_fd()
        if fd is None or self.live(node_id):
            return None
        backing = self._register(node_id, fd, file)
        if backing is None:
            return None
        self._nodes_of.setdefault(file.local_id, []).append(node_id)
        if len(self._kept) > KEPT_MAX:
            self._take_back_oldest()
        return backing.answer

    def _register(self, node_id: int, fd: int, file: OpenFile | None) -> _Backing | None:
        if node_id in self._kept:
            self._take_back(node_id)
        try:
            backing_id = self._device.open_backing(fd)
        except OSError:
            return None  # such as ENFILE: this open goes through the page cache
        backing = self._kept[node_id] = _Backing(node_id, backing_id, file, os.fstat(fd).st_ino)
        return backing

    def live(self, node_id: int) -> int:
        """Opens of a node that are alive."""
        backing = self._kept.get(node_id)
        return 0 if backing is None else backing.opens

    def hold(self, node_id: int, fd: int) -> int | None:
        """One more open of a node on a local file, whose handle is the caller's; the backing id.

        None if the kernel refuses, or other opens of the node, which are alive, are of another file.  Ends with
        `close` of the node's id.
        """
        backing = self._kept.get(node_id)
        if backing is not None and backing.opens:
            if backing.inode != os.fstat(fd).st_ino:
                return None
            backing.opens += 1
        else:
            backing = self._register(node_id, fd, None)
            if backing is None:
                return None
        backing.is_changing = backing.is_unwanted = True
        return backing.backing_id

    def file(self, handle: int) -> OpenFile | None:
        """The open file of such a handle."""
        backing = self._kept.get(handle ^ PASSED)
        return backing.file if backing is not None and backing.opens else None

    def close(self, handle: int) -> None:
        """One open less; a handle that is not open is ignored."""
        node_id = handle & ~PASSED
        backing = self._kept.get(node_id)
        if backing is None or not backing.opens:
            return
        backing.opens -= 1
        if not backing.opens:
            if backing.file is not None:
                backing.file.close()
            if backing.is_unwanted:
                self._take_back(node_id)

    def forget(self, node_id: int) -> None:
        """The kernel will not ask for that node any more, save to close it."""
        backing = self._kept.get(node_id)
        if backing is None:
            return
        if backing.opens:
            backing.is_unwanted = True
        else:
            self._take_back(node_id)

    def drop(self, local_id: int) -> None:
        """The cache deleted a file."""
        for node_id in list(self._nodes_of.get(local_id, ())):
            self.forget(node_id)

    def _take_back_oldest(self) -> None:
        # The second chance: a register that is moved at every open would cost each of them.
        for _ in range(2 * len(self._kept)):
            node_id = next(iter(self._kept))
            backing = self._kept[node_id]
            if not backing.opens and not backing.was_opened:
                self._take_back(node_id)
                return
            backing.was_opened = False
            self._kept[node_id] = self._kept.pop(node_id)

    def _take_back(self, node_id: int) -> None:
        backing = self._kept.pop(node_id)
        if backing.file is not None:
            nodes = self._nodes_of[backing.file.local_id]
            nodes.remove(node_id)
            if not nodes:
                del self._nodes_of[backing.file.local_id]
        with contextlib.suppress(OSError):  # the mount may have ended
            self._device.close_backing(backing.backing_id)

    def end(self) -> None:
        """Give everything back: the mount has ended."""
        for node_id in list(self._kept):
            backing = self._kept[node_id]
            if backing.opens and backing.file is not None:
                backing.file.close()
            self._take_back(node_id)
