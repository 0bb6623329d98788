"""What each opcode means: kernel ids to paths, entries to attributes, opens to cache files.

What changes something is in `writing.py`.

*Callers*: the server, on the loop.  *Locks*: none.  *Awaits*: the file system, in the coroutines that `Server` runs.
*Invariant*: what the kernel was told of and has not forgotten has a node.
"""

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar, cast
from weakref import ref

from forebay.errors import IsADirectory, NameTooLong, NotADirectory, StaleVersion
from forebay.frontends.fuse import abi, wire
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.device import Device
from forebay.frontends.fuse.failures import Failures
from forebay.frontends.fuse.handles import Handles
from forebay.frontends.fuse.nodes import ABSENCE_S_MAX, NODES_MAX, PRUNED, Node, NodeTable
from forebay.frontends.fuse.server import Answer, Handler
from forebay.frontends.fuse.unopened import UnopenedFiles
from forebay.frontends.fuse.wire import Owner, Request
from forebay.frontends.fuse.writing import Writing
from forebay.paths import NAME_BYTES_MAX
from forebay.types import Buffer
from forebay.vfs.drafts import is_draft
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, file_type, object_url
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.listing import Listing

REFUSED: dict[int, int] = {
    Opcode.IOCTL: errno.ENOTTY,  # no file here is a terminal: CPython asks at every open()
    Opcode.TMPFILE: errno.EOPNOTSUPP,
}
_OF_OPENS = (Opcode.OPEN, Opcode.FLUSH, Opcode.RELEASE)
_NOTHING_TO_DO = (Opcode.FSYNCDIR, Opcode.SYNCFS, Opcode.DESTROY)
_WRITES = os.O_ACCMODE | os.O_TRUNC
_DOTS = (b".", b"..")
_ENTRY_BYTES = abi.DIRENT.size + abi.ENTRY_OUT.size + abi.ATTR.size  # of READDIRPLUS, without the name
_ENTRY_BYTES_MIN = _ENTRY_BYTES + 8
CALLERS_MAX = 1_000  # whose way of reading folders is remembered
_USER = b"user."
Seen = TypeVar("Seen")
_XATTRS = ("user.forebay.url", "user.forebay.version", "user.forebay.cached_bytes")


class _KernelNames:
    """The kernel's own copy of a folder's names: which listing it is of, and how many open folders fill or use it."""

    __slots__ = ("listing", "opens")

    def __init__(self, listing: Listing) -> None:
        self.listing = ref(listing)
        self.opens = 0


class Operations:
    """See the module.  `passthrough` is switched on once it is known to work."""

    def __init__(self, fs: FileSystem, device: Device, root: FolderEntry, owner: Owner) -> None:
        self._fs = fs
        self._owner = owner
        self.nodes = NodeTable(root)
        self.handles = Handles(device)
        self.writing = Writing(fs, self, self.nodes, self.handles)
        self._unopened = UnopenedFiles(fs.open)
        self._failures = Failures()
        self.on_crowd: Callable[[list[Node]], None] = lambda _: None  # told of nodes that the kernel should forget
        self._crowd = NODES_MAX  # more nodes than this are a crowd
        self._folders: dict[int, tuple[Listing, _KernelNames | None]] = {}  # open ones, and the copy that they fill
        self._kernel_names: dict[int, _KernelNames] = {}  # by node id
        self._names_only: set[int] = set()  # callers that read folders and look at nothing in them

    def handlers(self, *, opens: bool = True) -> dict[int, Handler]:
        """The handler of each opcode that can succeed; without `opens` the kernel asks for none twice."""
        table: dict[int, Callable[[Request], Answer]] = {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.GETATTR: self.getattr,
            Opcode.ACCESS: self.access,
            Opcode.OPEN: self.open,
            Opcode.READ: self.read,
            Opcode.RELEASE: self.release,
            Opcode.LSEEK: self.lseek,
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.STATFS: self.statfs,
            Opcode.GETXATTR: self.getxattr,
            Opcode.LISTXATTR: self.listxattr,
        }
        table |= self.writing.handlers() | dict.fromkeys(_NOTHING_TO_DO, _nothing)
        return table if opens else {opcode: handler for opcode, handler in table.items() if opcode not in _OF_OPENS}

    def close(self) -> None:
        """Give back every open file: the mount has ended."""
        self.handles.end()
        self._unopened.end()
        self._folders.clear()
        self._kernel_names.clear()
        self.nodes.clear()  # up to 150 MB, which must not wait for a search of the garbage that a session is

    # ------------------------------------------------------------------ names

    def node(self, ino: int) -> Node:
        """The node of an id.

        Raises:
            OSError: ESTALE, the kernel has forgotten it.
        """
        node = self.nodes.find(ino)
        if node is None:
            raise OSError(errno.ESTALE, "the kernel has forgotten that node")
        return node

    def lookup(self, request: Request) -> Answer:
        """LOOKUP: from memory at once, else by asking the store."""
        name = wire.parse_name(request.body)
        node = self.node(request.nodeid)
        found = self._fs.peek(node.entry.path, name)
        if found is None:
            return self._lookup(node, name)
        return self.tell(node.entry.path, name, found)

    async def _lookup(self, node: Node, name: str) -> Buffer:
        folder, found = await self._look(node, lambda folder: self._fs.lookup(folder, name))
        return self.tell(folder, name, found)

    async def _look(self, node: Node, find: Callable[[str], Awaitable[Seen]]) -> tuple[str, Seen]:
        """A node's path and what is found there, once neither it nor a folder above was renamed meanwhile."""
        while True:
            path = node.entry.path
            with self._fs.changes.turns.look(path) as look:
                found = await find(path)
            if not look.has_moved:
                return path, found

    def tell(self, folder: str, name: str, found: Found, *, draft_attr_s: int = 0) -> Buffer:
        """The answer to a lookup, which counts as one; attributes of a file that is written hold `draft_attr_s`."""
        if self._fs.changes.turns.is_renamed(folder):  # what is said of it now may be wrong when that has ended
            found = found._replace(ttl_s=0.0)
        if found.entry is None:
            if len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
                raise NameTooLong(f"a name in {folder} is longer than {NAME_BYTES_MAX} bytes")
            self.nodes.tell_absent(folder, name)
            return wire.pack_absence(min(found.ttl_s, ABSENCE_S_MAX))
        node = self.nodes.tell(folder, name, found.entry)
        self._thin_out()
        return self._pack_entry(node, found.ttl_s, draft_attr_s)

    def _thin_out(self) -> None:
        """Of more nodes than memory has room for, have the kernel forget the eldest; its answers are FORGETs."""
        if len(self.nodes) > self._crowd:
            self._crowd = len(self.nodes) + PRUNED // 10  # no more of it until these may have gone
            self.on_crowd(self.nodes.eldest_files(PRUNED))

    def _pack_entry(self, node: Node, ttl_s: float, draft_attr_s: int = 0) -> bytes:
        attr = wire.pack_attr(node.ino, node.entry, self._owner)
        if isinstance(node.entry, FileEntry) and is_draft(node.entry):
            return wire.pack_entry(node.ino, attr, ttl_s, draft_attr_s)
        return wire.pack_entry(node.ino, attr, ttl_s)

    def forget(self, request: Request) -> Answer:
        """FORGET: no answer."""
        (lookups,) = abi.FORGET_IN.unpack_from(request.body)
        self._forget(request.nodeid, lookups)
        return None

    def batch_forget(self, request: Request) -> Answer:
        """BATCH_FORGET: no answer."""
        for ino, lookups in wire.parse_batch_forget(request.body):
            self._forget(ino, lookups)
        return None

    def _forget(self, ino: int, lookups: int) -> None:
        self.nodes.forget(ino, lookups)
        if self.nodes.find(ino) is None:
            self.handles.backing.forget(ino)
            self._kernel_names.pop(ino, None)
            if len(self.nodes) < NODES_MAX:
                self._crowd = NODES_MAX

    def getattr(self, request: Request) -> Answer:
        """GETATTR: of the version that the node is."""
        return self.attributes(self.node(request.nodeid))

    def attributes(self, node: Node) -> bytes:
        """`struct fuse_attr_out` of a node: of a file that is written as it is now, else of its version."""
        if isinstance(node.entry, FileEntry) and is_draft(node.entry):
            draft = self._fs.draft_of(node.entry)
            if draft is not None:
                node.entry = draft.entry()
                return wire.pack_attr_out(wire.pack_attr(node.ino, node.entry, self._owner), 0)
        return wire.pack_attr_out(wire.pack_attr(node.ino, node.entry, self._owner))

    def access(self, request: Request) -> Answer:
        """ACCESS: the kernel checks modes itself (default_permissions); a mount may be read-only."""
        mask, _ = abi.ACCESS_IN.unpack_from(request.body)
        if mask & os.W_OK:
            self._fs.writer.writable(self.node(request.nodeid).entry.path)
        return b""

    # ------------------------------------------------------------------ files

    def open(self, request: Request) -> Answer:
        """OPEN: by passthrough if the file is complete and the kernel takes it, else through the page cache."""
        flags, _ = abi.OPEN_IN.unpack_from(request.body)
        if flags & _WRITES:
            node = self._file_node(request.nodeid)
            self._fs.writer.writable(node.entry.path)
            return self.writing.open(node, flags)
        answer = self.handles.backing.reopen(request.nodeid)
        if answer is not None:
            self.handles.served_from["passthrough opens"] += 1
            return answer
        node = self._file_node(request.nodeid)
        if node.has_moved and not self._fs.is_cached(cast(FileEntry, node.entry)):
            raise StaleVersion(f"{node.entry.path} was renamed; open it again", path=node.entry.path)
        try:
            return self.handles.open(node, self._fs.open(cast(FileEntry, node.entry)))
        except StaleVersion:
            self.nodes.detach(node)
            raise

    def _file_node(self, ino: int) -> Node:
        node = self.node(ino)
        if not isinstance(node.entry, FileEntry):
            raise IsADirectory(f"{node.entry.path} is a folder", path=node.entry.path)
        return node

    def read(self, request: Request) -> Answer:
        """READ: what is here at once, else from disk or store."""
        fh, offset, size = wire.parse_read(request.body)
        if fh:
            file = self.handles.file(fh)
            data, read = file.read_now(offset, size), file.read
        else:  # nobody opened it
            node = self._file_node(request.nodeid)
            data, read = self._unopened.read(node, offset, size), partial(self._unopened.read_later, node)
        if data is None:
            self.handles.served_from["reads that waited"] += 1
            return self._read(request.pid, request.nodeid, read, offset, size)
        self.handles.served_from["reads at once"] += 1
        return data

    async def _read(self, pid: int, ino: int, read: "_Read", offset: int, size: int) -> Buffer:
        began = self._fs.monotonic()
        if code := self._failures.repeated(pid, ino, began):
            raise OSError(code, "a read of it has failed just now")
        try:
            return await read(offset, size)
        except OSError as error:
            self._failures.add(pid, ino, error.errno or errno.EIO, began=began, now=self._fs.monotonic())
            raise

    def release(self, request: Request) -> Answer:
        """RELEASE: the kernel does not wait for the answer."""
        fh, *_ = abi.RELEASE_IN.unpack_from(request.body)
        self.handles.close(fh)
        return b""

    def lseek(self, request: Request) -> Answer:
        """LSEEK: only SEEK_DATA and SEEK_HOLE come here; objects have no holes."""
        fh, offset, whence, _ = abi.LSEEK_IN.unpack_from(request.body)
        entry = self.handles.file(fh).entry if fh else self._file_node(request.nodeid).entry
        size = cast("FileEntry", entry).size
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, "not a seek for data or holes")
        if offset >= size:
            raise OSError(errno.ENXIO, "past the end")
        return abi.LSEEK_OUT.pack(offset if whence == os.SEEK_DATA else size)

    # ------------------------------------------------------------------ folders

    def opendir(self, request: Request) -> Answer:
        """OPENDIR: one listing for all reads of this handle."""
        node = self.node(request.nodeid)
        if isinstance(node.entry, FileEntry):
            raise NotADirectory(f"{node.entry.path} is a file", path=node.entry.path)
        return self._opendir(node)

    async def _opendir(self, node: Node) -> Buffer:
        _, listing = await self._look(node, lambda path: self._fs.open_folder(path, reads=True))
        flags, names = self._share_names(node.ino, listing)
        fh = self.handles.next_id()
        self._folders[fh] = listing, names
        return abi.OPEN_OUT.pack(fh, flags, 0)

    def _share_names(self, ino: int, listing: Listing) -> tuple[int, "_KernelNames | None"]:
        """Whether the kernel may fill, or use, its copy of a folder's names: never one of two listings at a time."""
        names = self._kernel_names.get(ino)
        if names is None or names.listing() is not listing:
            if names is not None and names.opens:
                return int(abi.Open.KEEP_CACHE), None  # others read the other one: leave it alone
            names = self._kernel_names[ino] = _KernelNames(listing)
            flags = abi.Open.CACHE_DIR
        else:
            flags = abi.Open.CACHE_DIR | abi.Open.KEEP_CACHE
        names.opens += 1
        return int(flags), names

    def readdir(self, request: Request) -> Answer:
        """READDIR: names only."""
        return self._readdir(request, plus=False)

    def readdirplus(self, request: Request) -> Answer:
        """READDIRPLUS: names with attributes, each counted as a lookup."""
        return self._readdir(request, plus=True)

    def _wants_nodes(self, request: Request, offset: int, *, plus: bool) -> bool:
        """Will the caller look at what it is told of?

        The kernel asks for attributes at the start of every folder, and goes on to do so if they were of use.  A
        caller that looks at names only, such as find(1), is told of no nodes at the start of its next folder either:
        making them costs more than all else, and the kernel would hold, and so have us hold, every one.
        """
        if not request.pid:  # it lives in another pid namespace
            return True
        if not offset:
            return request.pid not in self._names_only
        if plus:
            self._names_only.discard(request.pid)
        elif len(self._names_only) < CALLERS_MAX:
            self._names_only.add(request.pid)
        else:
            self._names_only.clear()
        return True

    def _readdir(self, request: Request, *, plus: bool) -> Answer:
        fh, offset, size = wire.parse_read(request.body)
        if fh not in self._folders:
            raise OSError(errno.EBADF, "no such handle")
        listing, _ = self._folders[fh]
        pack_some: _PackSome = _pack_dirents
        if plus:
            wants_nodes = self._wants_nodes(request, offset, plus=plus)
            is_here = self.node(request.nodeid).entry.path == listing.path  # else the folder was renamed since
            pack_some = self._pack_entries if wants_nodes and is_here else _pack_bare
        else:
            self._wants_nodes(request, offset, plus=plus)
        if not listing.ready(_first(offset)):
            return self._readdir_later(listing, request.nodeid, offset, size, pack_some)
        return self._pack_names(listing, request.nodeid, offset, size, pack_some)

    async def _readdir_later(
        self, listing: Listing, ino: int, offset: int, size: int, pack_some: "_PackSome"
    ) -> Buffer:
        await listing.counted(self._fs.monotonic)(_first(offset))
        return self._pack_names(listing, ino, offset, size, pack_some)

    def _pack_names(self, listing: Listing, ino: int, offset: int, size: int, pack_some: "_PackSome") -> Buffer:
        """Entries from `offset` on, as many as fit: 0 is ".", 1 is "..", then the listing's own."""
        if listing.error is not None and offset - 2 >= len(listing):
            raise listing.error
        packed = bytearray()
        while offset < len(_DOTS):
            pack = wire.pack_dirent if pack_some is _pack_dirents else wire.pack_direntplus
            dots = pack(_DOTS[offset], ino, offset + 1, stat.S_IFDIR)
            if len(packed) + len(dots) > size:
                return packed
            packed += dots
            offset += 1
        while count := pack_some(packed, listing, offset, size):
            offset += count
        return packed

    def _pack_entries(self, packed: bytearray, listing: Listing, offset: int, size: int) -> int:
        """Put in what READDIRPLUS tells of a few entries, and return how many; 0 if none is ready, or fits."""
        some = listing.some(offset - 2, offset - 2 + (size - len(packed)) // _ENTRY_BYTES_MIN)
        believed_s = 0.0 if self._fs.changes.turns.is_renamed(listing.path) else self._fs.believed_s(listing)
        count = 0
        for name, entry in some:
            raw = name.encode("utf-8", "surrogateescape")
            if len(packed) + _ENTRY_BYTES + (len(raw) + 7 & ~7) > size:
                return 0 if count == 0 else count
            count += 1
            kind = file_type(entry)
            if len(self.nodes) >= NODES_MAX:  # the kernel asks for those that somebody looks at
                packed += wire.pack_direntplus(raw, abi.UNKNOWN_INO, offset + count, kind)
                continue
            node = self.nodes.tell(listing.path, name, entry)
            ttl_s = self._told_s(listing, name, entry) if believed_s is None else believed_s
            packed += wire.pack_direntplus(raw, node.ino, offset + count, kind, self._pack_entry(node, ttl_s))
        return count

    def _told_s(self, listing: Listing, name: str, entry: Entry) -> float:
        """How long one entry of a listing that is not the latest may be believed."""
        found = self._fs.peek(listing.path, name)
        return found.ttl_s if found is not None and found.entry == entry else 0.0

    def releasedir(self, request: Request) -> Answer:
        """RELEASEDIR."""
        fh, *_ = abi.RELEASE_IN.unpack_from(request.body)
        _, names = self._folders.pop(fh, (None, None))
        if names is not None:
            names.opens -= 1
        return b""

    # ------------------------------------------------------------------ about

    def statfs(self, request: Request) -> Answer:
        """STATFS: of the cache, which is what can run full here."""
        capacity, free = self._fs.statfs()
        return wire.pack_statfs(capacity, free)

    def getxattr(self, request: Request) -> Answer:
        """GETXATTR: what Forebay knows of a file, as `user.forebay.*`, and what users have set."""
        size, _ = abi.GETXATTR_IN.unpack_from(request.body)
        raw = request.body[abi.GETXATTR_IN.size :]
        if raw[: len(_USER)] != _USER:  # not ENODATA, so that `ls -l` asks once, and not twice for every file
            # First of all: the kernel asks for `security.capability` of every file that is written.
            raise OSError(errno.EOPNOTSUPP, "only attributes of users are kept")
        name = wire.parse_name(raw)
        entry = self.node(request.nodeid).entry
        if not isinstance(entry, FileEntry) or name not in _XATTRS:
            return self._getxattr(entry, name, size)
        if name == "user.forebay.url":
            value = object_url(entry)
        elif name == "user.forebay.version":
            value = entry.version
        else:
            value = str(self._fs.residency(entry))
        return _sized(value.encode("utf-8", "surrogateescape"), size)

    async def _getxattr(self, entry: Entry, name: str, size: int) -> Buffer:
        value = (await self._fs.changes.xattrs(entry)).get(name)
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return _sized(value, size)

    def listxattr(self, request: Request) -> Answer:
        """LISTXATTR: what users have set; our own are not listed, for `mv` and `rsync -X` would try to set them."""
        size, _ = abi.GETXATTR_IN.unpack_from(request.body)
        return self._listxattr(self.node(request.nodeid).entry, size)

    async def _listxattr(self, entry: Entry, size: int) -> Buffer:
        names = await self._fs.changes.xattrs(entry)
        return _sized(b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in names), size)


def _first(offset: int) -> int:
    """The index of the first entry that an answer must have, if there is one: "." and ".." do not come alone.

    For whether the kernel goes on to ask for attributes depends on what becomes of those in its first answer.
    """
    return max(offset - len(_DOTS), 0)


def _pack_dirents(packed: bytearray, listing: Listing, offset: int, size: int, *, plus: bool = False) -> int:
    """Put in what READDIR tells of a few entries, and return how many; 0 if none is ready, or fits.

    With `plus` as an answer of READDIRPLUS that tells of no nodes: the kernel looks up what somebody wants to know.
    """
    count = 0
    room = size - len(packed)
    pack = wire.pack_direntplus if plus else wire.pack_dirent
    for name, kind in listing.names(offset - 2):
        packed_name = pack(name.encode("utf-8", "surrogateescape"), abi.UNKNOWN_INO, offset + count + 1, kind)
        room -= len(packed_name)
        if room < 0:
            break
        packed += packed_name
        count += 1
    return count


_pack_bare = partial(_pack_dirents, plus=True)
_PackSome = Callable[[bytearray, Listing, int, int], int]
_Read = Callable[[int, int], Awaitable[Buffer]]


def _sized(value: bytes, size: int) -> Buffer:
    """The answer to a caller with room for `size` bytes; 0 asks how many there are."""
    if size == 0:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "the buffer is too small")
    return value


def _nothing(request: Request) -> Answer:
    return b""
