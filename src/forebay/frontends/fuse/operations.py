"""What each opcode means: kernel ids to paths, entries to attributes, opens to cache files.

The mount is read-only: whatever would change something is answered with EROFS.

*Callers*: the server, on the loop.  *Locks*: none.  *Awaits*: the file system, in the coroutines that `Server` runs.
*Invariants*: a handle is closed exactly once; opens of one node that are alive at a time all use passthrough, or
all the page cache, as the kernel demands.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable

from forebay.errors import IsADirectory, NameTooLong, NotADirectory, ReadOnly
from forebay.frontends.fuse import abi, wire
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.backing import PASSED, BackingFiles
from forebay.frontends.fuse.device import Device
from forebay.frontends.fuse.nodes import ABSENCE_S_MAX, Node, NodeTable
from forebay.frontends.fuse.server import Answer, Handler
from forebay.frontends.fuse.wire import Owner, Request
from forebay.paths import NAME_BYTES_MAX
from forebay.types import Buffer
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, object_url
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.folders import Listing
from forebay.vfs.openfile import OpenFile

_CHANGES = (
    Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME,
    Opcode.RENAME2, Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.FALLOCATE,
    Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64, Opcode.TMPFILE,
)  # fmt: skip
REFUSED: dict[int, int] = {
    Opcode.IOCTL: errno.ENOTTY,  # no file here is a terminal: CPython asks at every open()
    Opcode.READLINK: errno.EINVAL,  # there are no symbolic links
    **dict.fromkeys(_CHANGES, errno.EROFS),
}
_NOTHING_TO_DO = (Opcode.FLUSH, Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.SYNCFS, Opcode.DESTROY)
_PAGED = int(abi.Open.KEEP_CACHE | abi.Open.NOFLUSH)  # a node is one version: its page cache is always right
_ACCESS_MODE = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND
_DOTS = (".", "..")
_XATTRS = ("user.forebay.url", "user.forebay.version", "user.forebay.cached_bytes")


class Operations:
    """See the module.  `passthrough` is switched on once it is known to work."""

    def __init__(self, fs: FileSystem, device: Device, root: FolderEntry, owner: Owner) -> None:
        self._fs = fs
        self._owner = owner
        self.nodes = NodeTable(root)
        self.backing = BackingFiles(device)
        self.passthrough = False
        self.served_from: Counter[str] = Counter()
        self._paged: dict[int, tuple[OpenFile, int]] = {}  # opens through the page cache: the file, and its node's id
        self._paged_opens: Counter[int] = Counter()  # by node id
        self._folders: dict[int, Listing] = {}
        self._last_fh = 0

    @property
    def open_files(self) -> int:
        """Files that somebody has open."""
        return len(self._paged) + self.backing.opens

    def handlers(self) -> dict[int, Handler]:
        """The handler of each opcode that can succeed."""
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
        return table | dict.fromkeys(_NOTHING_TO_DO, _nothing)

    def close(self) -> None:
        """Give back every open file: the mount has ended."""
        for fh in list(self._paged):
            self._close_paged(fh)
        self.backing.end()
        self._folders.clear()

    # ------------------------------------------------------------------ names

    def _node(self, ino: int) -> Node:
        node = self.nodes.find(ino)
        if node is None:
            raise OSError(errno.ESTALE, "the kernel has forgotten that node")
        return node

    def lookup(self, request: Request) -> Answer:
        """LOOKUP: from memory at once, else by asking the store."""
        name = wire.parse_name(request.body)
        folder = self._node(request.nodeid).entry.path
        found = self._fs.peek(folder, name)
        if found is None:
            return self._lookup(folder, name)
        return self._tell(folder, name, found)

    async def _lookup(self, folder: str, name: str) -> Buffer:
        return self._tell(folder, name, await self._fs.lookup(folder, name))

    def _tell(self, folder: str, name: str, found: Found) -> Buffer:
        if found.entry is None:
            if len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
                raise NameTooLong(f"a name in {folder} is longer than {NAME_BYTES_MAX} bytes")
            self.nodes.tell_absent(folder, name)
            return wire.pack_absence(min(found.ttl_s, ABSENCE_S_MAX))
        return self._pack_entry(self.nodes.tell(folder, name, found.entry), found.ttl_s)

    def _pack_entry(self, node: Node, ttl_s: float) -> bytes:
        return wire.pack_entry(node.ino, wire.pack_attr(node.ino, node.entry, self._owner), ttl_s)

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
            self.backing.forget(ino)

    def getattr(self, request: Request) -> Answer:
        """GETATTR: of the version that the node is."""
        node = self._node(request.nodeid)
        return wire.pack_attr_out(wire.pack_attr(node.ino, node.entry, self._owner))

    def access(self, request: Request) -> Answer:
        """ACCESS: the kernel checks modes itself (default_permissions); writing is for nobody."""
        mask, _ = abi.ACCESS_IN.unpack_from(request.body)
        if mask & os.W_OK:
            raise ReadOnly("the mount is read-only")
        return b""

    # ------------------------------------------------------------------ files

    def open(self, request: Request) -> Answer:
        """OPEN: by passthrough if the file is complete and the kernel takes it, else through the page cache."""
        flags, _ = abi.OPEN_IN.unpack_from(request.body)
        if flags & _ACCESS_MODE:
            raise ReadOnly("the mount is read-only")
        answer = self.backing.reopen(request.nodeid)
        if answer is None:
            return self._open(self._node(request.nodeid))
        self.served_from["passthrough opens"] += 1
        return answer

    def _open(self, node: Node) -> bytes:
        if not isinstance(node.entry, FileEntry):
            raise IsADirectory(f"{node.entry.path} is a folder", path=node.entry.path)
        file = self._fs.open(node.entry)
        if self.passthrough and not self._paged_opens[node.ino]:
            answer = self.backing.open(node.ino, file)
            if answer is not None:
                self.served_from["passthrough opens"] += 1
                return answer
        self._last_fh += 1
        self._paged[self._last_fh] = file, node.ino
        self._paged_opens[node.ino] += 1
        self.served_from["page cache opens"] += 1
        return abi.OPEN_OUT.pack(self._last_fh, _PAGED, 0)

    def read(self, request: Request) -> Answer:
        """READ: what is here at once, else from disk or store."""
        fh, offset, size = wire.parse_read(request.body)
        file = self._file(fh)
        data = file.read_now(offset, size)
        if data is None:
            self.served_from["reads that waited"] += 1
            return file.read(offset, size)
        self.served_from["reads at once"] += 1
        return data

    def _file(self, fh: int) -> OpenFile:
        file = self.backing.file(fh) if fh & PASSED else self._paged.get(fh, (None, 0))[0]
        if file is None:
            raise OSError(errno.EBADF, "no such handle")
        return file

    def release(self, request: Request) -> Answer:
        """RELEASE: the kernel does not wait for the answer."""
        fh, *_ = abi.RELEASE_IN.unpack_from(request.body)
        if fh & PASSED:
            self.backing.close(fh)
        elif fh in self._paged:
            self._close_paged(fh)
        return b""

    def _close_paged(self, fh: int) -> None:
        file, ino = self._paged.pop(fh)
        self._paged_opens[ino] -= 1
        if not self._paged_opens[ino]:
            del self._paged_opens[ino]
        file.close()

    def lseek(self, request: Request) -> Answer:
        """LSEEK: only SEEK_DATA and SEEK_HOLE come here; objects have no holes."""
        fh, offset, whence, _ = abi.LSEEK_IN.unpack_from(request.body)
        size = self._file(fh).entry.size
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, "not a seek for data or holes")
        if offset >= size:
            raise OSError(errno.ENXIO, "past the end")
        return abi.LSEEK_OUT.pack(offset if whence == os.SEEK_DATA else size)

    # ------------------------------------------------------------------ folders

    def opendir(self, request: Request) -> Answer:
        """OPENDIR: one listing for all reads of this handle."""
        node = self._node(request.nodeid)
        if isinstance(node.entry, FileEntry):
            raise NotADirectory(f"{node.entry.path} is a file", path=node.entry.path)
        return self._opendir(node.entry.path)

    async def _opendir(self, path: str) -> Buffer:
        listing = await self._fs.open_folder(path)
        self._last_fh += 1
        self._folders[self._last_fh] = listing
        return abi.OPEN_OUT.pack(self._last_fh, 0, 0)

    def readdir(self, request: Request) -> Answer:
        """READDIR: names only."""
        return self._readdir(request, plus=False)

    def readdirplus(self, request: Request) -> Answer:
        """READDIRPLUS: names with attributes, each counted as a lookup."""
        return self._readdir(request, plus=True)

    def _readdir(self, request: Request, *, plus: bool) -> Answer:
        fh, offset, size = wire.parse_read(request.body)
        listing = self._folders.get(fh)
        if listing is None:
            raise OSError(errno.EBADF, "no such handle")
        if offset >= 2 and not listing.ready(offset - 2):
            return self._readdir_later(listing, request.nodeid, offset, size, plus=plus)
        return self._pack_names(listing, request.nodeid, offset, size, plus=plus)

    async def _readdir_later(self, listing: Listing, ino: int, offset: int, size: int, *, plus: bool) -> Buffer:
        await listing.wait(offset - 2)
        return self._pack_names(listing, ino, offset, size, plus=plus)

    def _pack_names(self, listing: Listing, ino: int, offset: int, size: int, *, plus: bool) -> Buffer:
        """Entries from `offset` on, as many as fit: 0 is ".", 1 is "..", then the listing's own."""
        if listing.error is not None and offset - 2 >= len(listing):
            raise listing.error
        packed = bytearray()
        fixed = abi.DIRENT.size + (abi.ENTRY_OUT.size + abi.ATTR.size if plus else 0)
        while offset < 2 + len(listing):
            name, entry = (_DOTS[offset], None) if offset < 2 else listing[offset - 2]
            raw = name.encode("utf-8", "surrogateescape")
            if len(packed) + fixed + (len(raw) + 7 & ~7) > size:
                break
            offset += 1
            if entry is None:
                pack = wire.pack_direntplus if plus else wire.pack_dirent
                packed += pack(raw, ino, offset, True)
            elif plus:
                packed += self._pack_name_plus(listing, name, entry, raw, offset)
            else:
                packed += wire.pack_dirent(raw, abi.UNKNOWN_INO, offset, isinstance(entry, FolderEntry))
        return packed

    def _pack_name_plus(self, listing: Listing, name: str, entry: Entry, raw: bytes, cookie: int) -> bytes:
        found = self._fs.peek(listing.path, name)
        ttl_s = found.ttl_s if found is not None and found.entry == entry else 0.0
        node = self.nodes.tell(listing.path, name, entry)
        is_folder = isinstance(entry, FolderEntry)
        return wire.pack_direntplus(raw, node.ino, cookie, is_folder, self._pack_entry(node, ttl_s))

    def releasedir(self, request: Request) -> Answer:
        """RELEASEDIR."""
        fh, *_ = abi.RELEASE_IN.unpack_from(request.body)
        self._folders.pop(fh, None)
        return b""

    # ------------------------------------------------------------------ about

    def statfs(self, request: Request) -> Answer:
        """STATFS: of the cache, which is what can run full here."""
        capacity, free = self._fs.statfs()
        return wire.pack_statfs(capacity, free, len(self.nodes))

    def getxattr(self, request: Request) -> Answer:
        """GETXATTR: what Forebay knows of a file, as `user.forebay.*`."""
        size, _ = abi.GETXATTR_IN.unpack_from(request.body)
        name = wire.parse_name(request.body[abi.GETXATTR_IN.size :])
        entry = self._node(request.nodeid).entry
        if not isinstance(entry, FileEntry) or name not in _XATTRS:
            raise OSError(errno.ENODATA, "no such attribute")
        if name == "user.forebay.url":
            value = object_url(entry)
        elif name == "user.forebay.version":
            value = entry.version
        else:
            value = str(self._fs.residency(entry))
        return _sized(value.encode("utf-8", "surrogateescape"), size)

    def listxattr(self, request: Request) -> Answer:
        """LISTXATTR."""
        size, _ = abi.GETXATTR_IN.unpack_from(request.body)
        names = _XATTRS if isinstance(self._node(request.nodeid).entry, FileEntry) else ()
        return _sized(b"".join(name.encode() + b"\0" for name in names), size)


def _sized(value: bytes, size: int) -> Buffer:
    """The answer to a caller with room for `size` bytes; 0 asks how many there are."""
    if size == 0:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "the buffer is too small")
    return value


def _nothing(request: Request) -> Answer:
    return b""
