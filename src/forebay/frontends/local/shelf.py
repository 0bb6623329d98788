"""Complete cache files that programs read by descriptor: one descriptor for each path, kept from open to open.

The next epoch's read of the same file then costs the daemon no search, no system call and no object.  What a path shows
is believed here as long as a lookup promised, and only until any name is changed here or forgotten; then it is looked
up again, in memory.  What is kept is not open: the cache may evict it, and says so.  When there are too many, those
not opened for longest go first.

*Callers*: batches, on the loop.  *Locks*: none; nothing here waits.  *Invariant*: an entry that is given is what a
lookup would give now.
"""

import resource
from typing import NamedTuple

from forebay.cache.pagefile import Descriptor
from forebay.vfs.drafts import AnyFile
from forebay.vfs.entries import FileEntry, Found, is_link
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.openfile import OpenFile

KEPT_MAX = 20_000  # about 2 KB each, in the kernel and here; as many as `cache.LIVE_MAX`
SHARE_OF_OPEN_FILES = 4  # kept descriptors take a fourth of what the process may have open


class Opened(NamedTuple):
    """A file that is open now, and how a program reads it."""

    file: AnyFile  # closed by whoever asked
    descriptor: Descriptor | None  # None: not by itself, since not all of it is here
    size: int


class _Kept:
    """`opened.file` is closed, save while programs read it."""

    __slots__ = ("entry", "opened", "turn", "until", "was_opened")

    def __init__(self, entry: FileEntry, opened: Opened, until: float, turn: int) -> None:
        self.entry = entry
        self.opened = opened
        self.until = until  # believed, by the monotonic clock
        self.turn = turn  # of changes that were told, when it was looked up
        self.was_opened = False  # since it was last looked at for eviction


class Shelf:
    """See the module."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._kept: dict[str, _Kept] = {}
        self._paths_of: dict[int, list[str]] = {}  # by local id: two mounts may show one object
        self._turn = 0
        self._most = min(KEPT_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE_OF_OPEN_FILES)
        fs.on_change.append(self._changed)
        fs.cache.on_drop.append(self._dropped)

    def __len__(self) -> int:
        return len(self._kept)

    def open(self, path: str, now: float) -> Opened | None:
        """Open the file at a path if memory knows it; `now` by the monotonic clock."""
        kept = self._kept.get(path)
        if kept is not None:
            # `_now_turn`, written out: every read of a small file comes by here.
            is_current = kept.turn == self._turn + self._fs.metadata.changed_turn and now < kept.until
            file = kept.opened.file
            if (is_current or self._is_same(kept, path, now)) and isinstance(file, OpenFile) and file.reopen():
                file.passed_again()
                kept.was_opened = True
                return kept.opened
            self._forget(path)
        found = self._peek(path)
        if found is None or not isinstance(found.entry, FileEntry) or is_link(found.entry):
            return None
        return self._open_new(path, found, found.entry, now)

    def describe(self, file: AnyFile) -> Opened:
        """How a program reads a file that is open, without keeping that; what it reads by itself counts as read."""
        try:
            descriptor = file.reader()
        except OSError:  # such as EMFILE: it is read through the socket
            descriptor = None
        if descriptor is not None and isinstance(file, OpenFile):
            file.passed()
        return Opened(file, descriptor, file.entry.size)

    def _now_turn(self) -> int:
        # Two numbers that only grow: so the sum is as before only if both are.
        return self._turn + self._fs.metadata.changed_turn

    def _peek(self, path: str) -> Found | None:
        # Not `normalize`, which costs as much as all else: a path in another form is not known, and looked up later.
        folder, _, name = path.rpartition("/")
        return self._fs.peek(folder or "/", name)

    def _is_same(self, kept: _Kept, path: str, now: float) -> bool:
        found = self._peek(path)
        if found is None or found.entry != kept.entry:
            return False
        kept.until, kept.turn = now + found.ttl_s, self._now_turn()
        return True

    def _open_new(self, path: str, found: Found, entry: FileEntry, now: float) -> Opened:
        opened = self.describe(self._fs.open(entry))
        if opened.descriptor is not None and isinstance(opened.file, OpenFile) and found.ttl_s > 0:
            self._kept[path] = _Kept(entry, opened, now + found.ttl_s, self._now_turn())
            self._paths_of.setdefault(opened.file.local_id, []).append(path)
            if len(self._kept) > self._most:
                self._forget_oldest()
        return opened

    # ------------------------------------------------------------------ what goes

    def _changed(self, path: str, below: bool) -> None:
        """See `FileSystem.on_change`."""
        if below:
            self._turn += 1
        elif path in self._kept:
            self._kept[path].turn = -1

    def _dropped(self, local_id: int) -> None:
        """See `Cache.on_drop`."""
        for path in list(self._paths_of.get(local_id, ())):
            self._forget(path)

    def _forget(self, path: str) -> None:
        kept = self._kept.pop(path)
        paths = self._paths_of[kept.opened.file.local_id]
        paths.remove(path)
        if not paths:
            del self._paths_of[kept.opened.file.local_id]

    def _forget_oldest(self) -> None:
        # The second chance: an order that every open changes would cost each of them.
        for _ in range(2 * len(self._kept)):
            path = next(iter(self._kept))
            kept = self._kept[path]
            if not kept.was_opened:
                self._forget(path)
                return
            kept.was_opened = False
            self._kept[path] = self._kept.pop(path)
