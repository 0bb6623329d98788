"""Open files of one mount: what each handle reads and writes, and in which of the kernel's two modes.

Every open of a node that is alive goes by passthrough, or every one through the page cache, as the kernel demands;
of those by passthrough all go to one local file.

*Callers*: operations, on the loop.  *Locks*: none.  *Awaits*: nothing.  *Invariant*: a handle is closed exactly once.
"""

import errno
from collections import Counter
from typing import NamedTuple

from forebay.errors import StaleVersion
from forebay.frontends.fuse import abi
from forebay.frontends.fuse.backing import PASSED, BackingFiles
from forebay.frontends.fuse.device import Device
from forebay.frontends.fuse.nodes import Node
from forebay.vfs.drafts import OpenDraft
from forebay.vfs.openfile import OpenFile

AnyFile = OpenFile | OpenDraft
_READ = int(abi.Open.KEEP_CACHE | abi.Open.NOFLUSH)  # a node is one version: its page cache is always right
_WRITTEN = 0  # of what is written the pages are asked for at each open; closing it is told
_PASSED_ON = int(abi.Open.PASSTHROUGH)


class _Open(NamedTuple):
    file: AnyFile
    node: Node
    is_passed: bool


class Handles:
    """See the module.  `passthrough` and `passes_writes` are switched on once they are known to work."""

    def __init__(self, device: Device) -> None:
        self.backing = BackingFiles(device)
        self.passthrough = False
        self.passes_writes = False
        self.served_from: Counter[str] = Counter()
        self._opens: dict[int, _Open] = {}
        self._paged: Counter[int] = Counter()  # opens through the page cache, by node id
        self._last_fh = 0

    def __len__(self) -> int:
        return self.backing.opens + sum(not each.is_passed for each in self._opens.values())

    def next_id(self) -> int:
        """A handle that no other open has or had."""
        self._last_fh += 1
        return self._last_fh

    def open(self, node: Node, file: AnyFile) -> bytes:
        """The answer to an OPEN that gives that file, which this closes if it fails.

        Raises:
            StaleVersion: other opens of the node are of another local file: its next lookup gives another node.
        """
        is_draft = isinstance(file, OpenDraft)
        if node.ino not in self._paged and self.passthrough and (self.passes_writes or not is_draft):
            if isinstance(file, OpenFile) and (answer := self.backing.open(node.ino, file)) is not None:
                self.served_from["passthrough opens"] += 1
                file.passed()
                return answer
            fd = file.local_fd()
            if fd is not None and (backing_id := self.backing.hold(node.ino, fd)) is not None:
                self.served_from["passthrough opens"] += 1
                if isinstance(file, OpenFile):
                    file.passed()
                return abi.OPEN_OUT.pack(self._add(node, file, is_passed=True), _PASSED_ON, backing_id)
        if self.backing.live(node.ino):
            file.close()
            raise StaleVersion(f"{node.entry.path} is open as another file; open it again", path=node.entry.path)
        self._paged[node.ino] += 1
        self.served_from["page cache opens"] += 1
        flags = _WRITTEN if is_draft else _READ
        return abi.OPEN_OUT.pack(self._add(node, file, is_passed=False), flags, 0)

    def _add(self, node: Node, file: AnyFile, *, is_passed: bool) -> int:
        fh = self.next_id()
        self._opens[fh] = _Open(file, node, is_passed)
        return fh

    def is_passed(self, node: Node) -> bool:
        """Does the kernel read or write a node's local file by itself?"""
        return self.backing.live(node.ino) > 0

    def of_node(self, node: Node) -> list[int]:
        """Handles of a node that go through the page cache."""
        if not self._paged[node.ino]:
            return []
        return [fh for fh, each in self._opens.items() if each.node is node and not each.is_passed]

    def replace(self, fh: int, file: AnyFile) -> None:
        """A handle reads another file from now on: its version is being written."""
        before = self._opens[fh]
        self._opens[fh] = before._replace(file=file)
        before.file.close()

    def file(self, fh: int) -> AnyFile:
        """What a handle is open on."""
        if fh & PASSED:
            found: AnyFile | None = self.backing.file(fh)
        else:
            each = self._opens.get(fh)
            found = None if each is None else each.file
        if found is None:
            raise OSError(errno.EBADF, "no such handle")
        return found

    def draft(self, fh: int) -> OpenDraft:
        """What a handle writes."""
        found = self.file(fh)
        if not isinstance(found, OpenDraft):
            raise OSError(errno.EBADF, "not open for writing")
        return found

    def close(self, fh: int) -> None:
        """One open less; a handle that is not open is ignored."""
        if fh & PASSED:
            self.backing.close(fh)
            return
        each = self._opens.pop(fh, None)
        if each is None:
            return
        if each.is_passed:
            self.backing.close(each.node.ino)
        else:
            self._paged[each.node.ino] -= 1
            if not self._paged[each.node.ino]:
                del self._paged[each.node.ino]
        each.file.close()

    def end(self) -> None:
        """Give everything back: the mount has ended."""
        for fh in list(self._opens):
            self.close(fh)
        self.backing.end()
