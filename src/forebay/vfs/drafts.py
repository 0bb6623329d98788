"""Files that are being written: what a path shows from the first write until the store has it.

A draft hides the object of its path.  It lives as long as somebody has it open or the store lacks what it holds;
then its local file becomes the cached version, and the path shows the object again.

*Callers*: `forebay.vfs.changes` and frontends, on the loop.  *Locks*: two of each draft, held over awaits on purpose,
so that what they guard comes one after another: `lock`, while it is sent or its name changes; `recording`, while the
journal is told of it, which may be taken while the other is held, and not the other way round.  *Invariants*: a path
has one draft at most; a draft with neither handle nor anything to send is gone.
*On crash*: a draft that the journal names comes back as the local file is then; any other was acknowledged to nobody.
"""

import asyncio
import os
import stat
from array import array
from collections.abc import Callable, Iterator
from weakref import WeakValueDictionary

from forebay.cache.pagefile import Descriptor
from forebay.errors import StaleVersion
from forebay.paths import is_within, split
from forebay.stores.posix import posix_of
from forebay.types import Attributes, Buffer, ObjectMeta, Posix
from forebay.vfs.attributes import FILE_MODE, FOLDER_MODE
from forebay.vfs.content import Content, Snapshot
from forebay.vfs.entries import FileEntry, Mount
from forebay.vfs.journal import Record
from forebay.vfs.openfile import OpenFile
from forebay.vfs.sending import Offer, Sender

DRAFT_VERSION = "draft-"  # how the versions of drafts begin


def is_draft(entry: FileEntry) -> bool:
    """Is an entry a file that is being written, and no version of an object?"""
    return entry.version.startswith(DRAFT_VERSION)


class Draft:
    """See the module.  With slots: a dictionary of so many names costs more to make than all the rest of a draft."""

    __slots__ = (
        "__weakref__",
        "aside",
        "base",
        "base_sums",
        "claims",
        "conflict",
        "content",
        "error",
        "handles",
        "has_new_attributes",
        "id",
        "is_ended",
        "is_gone",
        "is_lingering",
        "is_unseen",
        "key",
        "lock",
        "may_be_sent",
        "meta",
        "mount",
        "offered",
        "path",
        "posix",
        "record",
        "recorded",
        "recording",
        "replaces_any",
        "sender",
        "sent",
        "set_time",
        "staging",
        "stored",
        "version",
        "writers",
    )

    def __init__(self, draft_id: int, mount: Mount, path: str, key: str, content: Content) -> None:
        self.id = draft_id  # one file to frontends
        self.version = f"{DRAFT_VERSION}{draft_id:x}"  # what stands for a version while it is written
        self.staging = draft_id  # its local file
        self.aside: int | None = None  # the local file of what the journal has, if that is another one
        self.mount = mount
        self.path = path
        self.key = key
        self.content = content
        self.posix: Posix | None = None
        self.set_time: tuple[int, int] | None = None  # a time that was set, and the local file's own at that moment
        self.base: str | None = None  # the version in the store that it replaces; None: there is none
        self.replaces_any = False  # whatever is there: somebody said so
        self.base_sums: array[int] | None = None
        self.stored: Snapshot | None = None  # as the store has it
        self.meta: ObjectMeta | None = None  # of that
        self.recorded: Snapshot | None = None  # as the journal has it
        self.record: Record | None = None
        self.sent: Snapshot | None = None  # what the journal had when it was last sent
        self.offered: list[Offer] = []  # what the store may have, although it has not said so: none of them is others'
        self.may_be_sent = False  # by an earlier daemon, as the journal has it, which is not among these yet
        self.error = ""  # why it is not in the store yet
        self.conflict = ""  # what was said when somebody else had changed the object
        self.handles = 0
        self.writers = 0  # of those
        self.is_gone = False  # it was removed or replaced while it was open
        self.has_new_attributes = False  # which the store does not have
        self.is_ended = False  # it has become a cached version, or has gone for good
        self.is_lingering = False  # it will be opened in a moment
        self.is_unseen = False  # nobody has been shown it: if it cannot be stored, it goes
        self.claims = 0  # of those who change its name: it is not sent meanwhile
        self.sender: Sender | None = None  # while it is sent
        self.lock = asyncio.Lock()
        self.recording = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Draft {self.id:x} {self.path!r} {self.writers} of {self.handles} handles write>"

    @property
    def mtime_ns(self) -> int:
        """When it was last written, or what somebody set after that."""
        return self._time(self.content.look()[1])

    @mtime_ns.setter
    def mtime_ns(self, value: int) -> None:
        self.set_time = value, self.content.look()[1]

    def _time(self, own: int) -> int:
        return self.set_time[0] if self.set_time is not None and self.set_time[1] == own else own

    def amend(self, wanted: Attributes) -> None:
        """Modes, owner or time are to be others."""
        self.posix = changed_posix(self.posix, wanted)
        if wanted.mtime_ns is not None:
            self.mtime_ns = wanted.mtime_ns
        self.has_new_attributes = True

    def entry(self) -> FileEntry:
        """As it is now."""
        size, own_time = self.content.look()
        return FileEntry(self.path, self.mount, self.key, size, self._time(own_time), self.version, self.posix)


class OpenDraft:
    """One open of a draft; closed exactly once.  It has what `OpenFile` has, and writes."""

    __slots__ = ("_closed", "_scratch", "draft", "is_writer")

    def __init__(self, draft: Draft, scratch: memoryview, closed: Callable[["OpenDraft"], None], access: int) -> None:
        """`access` is one of `O_RDONLY`, `O_WRONLY` and `O_RDWR`."""
        self.is_writer = access != os.O_RDONLY
        draft.handles += 1
        draft.writers += self.is_writer
        draft.content.may_be_mapped |= access == os.O_RDWR
        draft.mount.open_files += 1
        self.draft = draft
        self._scratch = scratch
        self._closed = closed

    @property
    def entry(self) -> FileEntry:
        """The file as it is now."""
        return self.draft.entry()

    @property
    def local_id(self) -> int:
        """Names the local file; never one of the cache's."""
        return -self.draft.id

    def local_fd(self) -> int | None:
        """The local file, if it holds every byte."""
        return self.draft.content.fd if self.draft.content.is_whole else None

    def reader(self) -> Descriptor | None:
        """See `OpenFile.reader`."""
        return self.opened_again(os.O_RDONLY)

    def opened_again(self, flags: int) -> Descriptor | None:
        """The local file opened once more, if it holds every byte; `flags` of open(2)."""
        fd = self.local_fd()
        return None if fd is None else Descriptor(os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC))

    def read_now(self, offset: int, size: int) -> Buffer | None:
        """See `OpenFile.read_now`."""
        if size > len(self._scratch):
            return None
        count = self.draft.content.read_now(offset, self._scratch[:size])
        return None if count < 0 else self._scratch[:count]

    async def read(self, offset: int, size: int) -> Buffer:
        """See `OpenFile.read`."""
        try:
            return await self.draft.content.read(offset, size)
        except StaleVersion:
            async with self.draft.lock:  # who renames it holds this until the rest is read at its new place
                pass
            return await self.draft.content.read(offset, size)

    def close(self) -> None:
        """Give it back."""
        self.draft.handles -= 1
        self.draft.writers -= self.is_writer
        self.draft.mount.open_files -= 1
        self._closed(self)

    def reopen(self) -> bool:
        """A draft is opened by its path each time."""
        return False


class DraftTable:
    """Drafts by path.  Pure but for what drafts hold."""

    def __init__(self) -> None:
        self._by_folder: dict[str, dict[str, Draft]] = {}
        self._displaced: WeakValueDictionary[str, Draft] = WeakValueDictionary()  # others, by version

    def of(self, entry: FileEntry) -> Draft | None:
        """The draft of an entry, whatever has become of its name; None if it has become a version."""
        draft = self.find(entry.path)
        if draft is None or draft.version != entry.version:
            draft = self._displaced.get(entry.version)
        return None if draft is None or draft.is_ended else draft

    def __iter__(self) -> Iterator[Draft]:
        for names in list(self._by_folder.values()):
            yield from list(names.values())

    def find(self, path: str) -> Draft | None:
        """The draft at a path."""
        folder, name = split(path)
        return self.in_folder(folder).get(name)

    def in_folder(self, folder: str) -> dict[str, Draft]:
        """Drafts right in a folder, by name."""
        return self._by_folder.get(folder, {})

    def below(self, path: str) -> list[Draft]:
        """Drafts at or below a path, in the order of their making."""
        found = [draft for draft in self if is_within(draft.path, path)]
        return sorted(found, key=lambda draft: draft.id)

    def has_below(self, path: str) -> bool:
        """Is any draft below a path?  A folder of which no object exists yet is there because of them."""
        return any(names and is_within(folder, path) for folder, names in self._by_folder.items())

    def add(self, draft: Draft) -> None:
        """Show a draft at its path."""
        folder, name = split(draft.path)
        names = self._by_folder.setdefault(folder, {})
        if (before := names.get(name)) is not None:
            self._displaced[before.version] = before
        names[name] = draft

    def remove(self, draft: Draft) -> None:
        """Show it no more, if it is the one that its path shows."""
        folder, name = split(draft.path)
        names = self._by_folder.get(folder, {})
        if names.get(name) is draft:
            del names[name]
            self._displaced[draft.version] = draft
            if not names:
                del self._by_folder[folder]

    def move(self, draft: Draft, path: str, key: str) -> None:
        """Show it elsewhere."""
        self.remove(draft)
        draft.path, draft.key = path, key
        self.add(draft)


def changed_posix(now: Posix | None, wanted: Attributes, *, folder: bool = False) -> Posix | None:
    """Modes and owners with what is wanted put in; None if that is what the mount shows anyway."""
    if now is None and (wanted.mode, wanted.uid, wanted.gid) == (None, None, None):
        return None
    uid, gid = (os.getuid(), os.getgid()) if now is None else (now.uid, now.gid)
    mode = now.mode if now is not None else FOLDER_MODE if folder else FILE_MODE
    if wanted.mode is not None:
        mode = stat.S_IFMT(mode) | stat.S_IMODE(wanted.mode)
    return posix_of(mode, uid if wanted.uid is None else wanted.uid, gid if wanted.gid is None else wanted.gid)


AnyFile = OpenFile | OpenDraft
