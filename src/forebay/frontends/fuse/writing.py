"""What the opcodes that change something mean; the rest of them is in `operations.py`.

*Callers*: the server, on the loop.  *Locks*: none.  *Awaits*: the file system.  *Invariants*: as of operations; the
nodes of names that a request changes are right before it is answered.
"""

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from forebay.errors import AlreadyExists, Invalid, ReadOnly, StaleVersion, Unsupported
from forebay.frontends.fuse import abi, wire
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.handles import Handles
from forebay.frontends.fuse.nodes import Node, NodeTable
from forebay.frontends.fuse.server import Answer, Handler
from forebay.frontends.fuse.wire import Request
from forebay.paths import check_name, join, split
from forebay.stores.posix import posix_of
from forebay.types import Attributes, Buffer, Posix
from forebay.vfs.drafts import OpenDraft, is_draft
from forebay.vfs.entries import FileEntry, FolderEntry, Found, is_link
from forebay.vfs.filesystem import FileSystem

_AT_ONCE_BYTES = 256 * 1024  # written here and now: less than a hand-over to a thread costs
_MADE_S = 1  # the attributes of a file that was just made hold
_RENAME_NOREPLACE = 1  # linux/fs.h
_XATTR_CREATE, _XATTR_REPLACE = 1, 2  # linux/xattr.h
OWN_XATTRS = "user.forebay."  # tell where a file is, and are nobody's to set
Made = TypeVar("Made")
XATTR_BYTES_MAX = 64 * 1024  # XATTR_SIZE_MAX


class Names(Protocol):
    """What changes ask of the other operations."""

    def node(self, ino: int) -> Node:
        """The node of an id, or ESTALE."""
        ...

    def tell(self, folder: str, name: str, found: Found, *, draft_attr_s: int = 0) -> Buffer:
        """The answer to a lookup, which counts as one; attributes of a file that is written hold `draft_attr_s`."""
        ...

    def attributes(self, node: Node) -> bytes:
        """`struct fuse_attr_out` of a node as it is now."""
        ...


class Writing:
    """See the module."""

    def __init__(self, fs: FileSystem, names: Names, nodes: NodeTable, handles: Handles) -> None:
        self._fs = fs
        self._turns = fs.changes.turns
        self._names = names
        self._nodes = nodes
        self._handles = handles
        self.on_moved: Callable[[list[tuple[int, str]]], None] = lambda _: None  # told of names to be asked for again
        self.is_alone: Callable[[], bool] = lambda: False  # does nobody wait but who asks right now?

    def handlers(self) -> dict[int, Handler]:
        """The handler of each opcode."""
        return {
            Opcode.SETATTR: self.setattr,
            Opcode.CREATE: self.create,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
            Opcode.SYMLINK: self.symlink,
            Opcode.LINK: self.link,
            Opcode.READLINK: self.readlink,
            Opcode.WRITE: self.write,
            Opcode.FLUSH: self.flush,
            Opcode.FSYNC: self.fsync,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.SETXATTR: self.setxattr,
            Opcode.REMOVEXATTR: self.removexattr,
        }

    # ------------------------------------------------------------------ files

    async def open(self, node: Node, flags: int) -> Buffer:
        """OPEN for writing."""
        try:
            opened = await self._begin(node, flags)
        except OSError as error:
            if error.errno == errno.ESTALE:
                self._nodes.detach(node)
            raise
        return self._handles.open(node, opened)

    async def _begin(self, node: Node, flags: int) -> OpenDraft:
        """Open a node's file for writing; the node is that draft from now on, for those who have it open too."""
        if node.has_moved:  # the store does not have its version, at its new place perhaps another one
            raise StaleVersion(f"{node.entry.path} was renamed; open it again", path=node.entry.path)
        entry = node.entry
        assert isinstance(entry, FileEntry)
        paged, is_passed = self._handles.of_node(node), self._handles.is_passed(node)
        opens = self._handles.backing.live(node.ino) if is_passed else len(paged)
        opened = await self._fs.changes.open(
            entry,
            access=flags & os.O_ACCMODE,
            truncate=bool(flags & os.O_TRUNC),
            opens=opens,
            must_share=is_passed,
        )
        if not is_draft(entry):
            self._adopt(node, opened, paged)
        return opened

    def _adopt(self, node: Node, opened: OpenDraft, paged: list[int]) -> None:
        """The node is the draft from now on, also for those who have the version open that it was."""
        for fh in paged:
            self._handles.replace(fh, self._fs.open(opened.entry))
        if node.entry.path == opened.entry.path:
            node.entry = opened.entry

    def create(self, request: Request) -> Answer:
        """CREATE: make and open."""
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(request.body)
        name = wire.parse_name(request.body[abi.CREATE_IN.size :])
        folder = self._names.node(request.nodeid).entry.path
        check_name(name)
        posix = posix_of(stat.S_IMODE(mode & ~umask) & 0o1777, request.uid, request.gid)
        was_absent, opened = self._nodes.expect(folder, name), None
        try:
            opened = self._fs.changes.create_now(folder, name, posix, access=flags & os.O_ACCMODE)
        finally:
            if opened is None and was_absent:
                self._nodes.tell_absent(folder, name)
        if opened is None:
            how = {"access": flags & os.O_ACCMODE, "truncate": bool(flags & os.O_TRUNC)}
            return self._create(request.nodeid, name, posix, exclusive=bool(flags & os.O_EXCL), **how)
        return self._created(folder, name, opened)

    async def _create(self, folder: int, name: str, posix: Posix, **how: Any) -> Buffer:  # noqa: ANN401
        opened = await self._make(folder, name, partial(self._fs.changes.create, posix=posix, **how))
        return self._created(split(opened.draft.path)[0], name, opened)

    async def _place(self, folder: int, name: str) -> str:
        """Where a name is; what is asked of that path at once comes before the next rename of a folder above."""
        while True:
            path = join(self._names.node(folder).entry.path, name)
            if not await self._turns.renames_at(path):
                return path

    async def _own_place(self, node: Node) -> str:
        """The same of a node itself."""
        while await self._turns.renames_above(node.entry.path):
            pass
        return node.entry.path

    async def _make(self, folder: int, name: str, make: Callable[[str], Awaitable[Made]]) -> Made:
        """Make a name in a folder, wherever that is by then."""
        while True:
            path = await self._place(folder, name)
            try:
                return await make(path)
            except StaleVersion:
                if await self._place(folder, name) == path:
                    raise

    def _created(self, folder: str, name: str, opened: OpenDraft) -> bytes:
        # The kernel knows of changes that go through this mount.  If no other shows the file, its attributes hold until
        # then, or until a program that opens it by other means has the name asked for again; who makes a file asks for
        # them at once, twice.
        attr_s = _MADE_S if len(self._fs.views) == 1 else 0
        told = self._names.tell(folder, name, Found(opened.entry, 1.0), draft_attr_s=attr_s)
        node = self._nodes.current(folder, name)
        return b"".join((memoryview(told), self._handles.open(node, opened)))

    def mknod(self, request: Request) -> Answer:
        """MKNOD: regular files only."""
        mode, _, umask, _ = abi.MKNOD_IN.unpack_from(request.body)
        self._fs.writer.writable(self._names.node(request.nodeid).entry.path)
        if not stat.S_ISREG(mode) and stat.S_IFMT(mode):
            raise OSError(errno.EPERM, "no devices, pipes and sockets here")
        return self._mknod(request, wire.parse_name(request.body[abi.MKNOD_IN.size :]), mode & ~umask)

    async def _mknod(self, request: Request, name: str, mode: int) -> Buffer:
        check_name(name)
        posix = posix_of(stat.S_IMODE(mode) & 0o1777, request.uid, request.gid)
        create = partial(self._fs.changes.create, posix=posix, exclusive=True)
        opened = await self._make(request.nodeid, name, create)
        try:
            await self._fs.uploader.flush(opened.draft)
            return self._names.tell(split(opened.draft.path)[0], name, Found(opened.entry, 1.0))
        finally:
            opened.close()

    def write(self, request: Request) -> Answer:
        """WRITE: of files that the kernel does not write by itself."""
        fh, offset, size, *_ = abi.WRITE_IN.unpack_from(request.body)
        data = request.body[abi.WRITE_IN.size :]
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes to write instead of {size}")
        content = self._handles.draft(fh).draft.content
        if size <= _AT_ONCE_BYTES:
            content.write(offset, data)
            return abi.WRITE_OUT.pack(size, 0)
        return self._write(fh, offset, bytes(data))

    async def _write(self, fh: int, offset: int, data: bytes) -> Buffer:
        await self._fs.uploader.pool(self._handles.draft(fh).draft.content.write, offset, data)
        return abi.WRITE_OUT.pack(len(data), 0)

    def flush(self, request: Request) -> Answer:
        """FLUSH: at each close(2)."""
        fh, *_ = abi.FLUSH_IN.unpack_from(request.body)
        return self._flush(fh, is_synced=False)

    def fsync(self, request: Request) -> Answer:
        """FSYNC."""
        fh, *_ = abi.FSYNC_IN.unpack_from(request.body)
        return self._flush(fh, is_synced=True)

    def _flush(self, fh: int, *, is_synced: bool) -> Answer:
        file = self._handles.file(fh)
        if not isinstance(file, OpenDraft) or not file.is_writer:
            return b""
        if not is_synced and self._fs.uploader.close_now(file.draft):
            return b""
        if self._fs.uploader.sync_now(file.draft, self.is_alone):
            return b""
        return self._flushed(file, is_synced)

    async def _flushed(self, file: OpenDraft, is_synced: bool) -> Buffer:
        await self._fs.uploader.flush(file.draft, is_synced=is_synced)
        return b""

    def fallocate(self, request: Request) -> Answer:
        """FALLOCATE."""
        fh, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(request.body)
        return self._fallocate(fh, mode, offset, length)

    async def _fallocate(self, fh: int, mode: int, offset: int, length: int) -> Buffer:
        await self._fs.uploader.pool(self._handles.draft(fh).draft.content.allocate, mode, offset, length)
        return b""

    # ------------------------------------------------------------------ attributes

    def setattr(self, request: Request) -> Answer:
        """SETATTR."""
        return self._setattr(self._names.node(request.nodeid), wire.parse_setattr(request.body))

    async def _setattr(self, node: Node, wanted: wire.SetAttr) -> Buffer:
        if wanted.size is not None:
            await self._truncate(node, wanted.fh, wanted.size)
        mtime_ns = self._fs.now_ns() if wanted.is_now else wanted.mtime_ns
        if mtime_ns is not None and wanted.size is not None and wanted.is_now:
            mtime_ns = None  # truncate(2) sets it by itself
        if (wanted.mode, wanted.uid, wanted.gid, mtime_ns) != (None, None, None, None):
            mode = None if wanted.mode is None else stat.S_IMODE(wanted.mode) & 0o1777
            attributes = Attributes(mode, wanted.uid, wanted.gid, mtime_ns)
            draft = self._fs.draft_of(node.entry)
            if draft is not None and draft.is_gone:
                draft.amend(attributes)
            else:
                node.entry = await self._fs.changes.set_attributes(await self._own_place(node), attributes)
        return self._names.attributes(node)

    async def _truncate(self, node: Node, fh: int | None, size: int) -> None:
        if fh is not None and isinstance(file := self._handles.file(fh), OpenDraft):
            file.draft.content.truncate(size)
            return
        if not isinstance(node.entry, FileEntry):
            raise Invalid(f"{node.entry.path} is a folder", path=node.entry.path)
        opened = await self._begin(node, os.O_WRONLY)
        try:
            opened.draft.content.truncate(size)
            await self._fs.uploader.flush(opened.draft)
        finally:
            opened.close()

    def setxattr(self, request: Request) -> Answer:
        """SETXATTR: `user.*` only."""
        size, flags = abi.SETXATTR_IN.unpack_from(request.body)
        rest = bytes(request.body[abi.SETXATTR_IN.size :])
        raw, end, value = rest.partition(b"\0")
        if not end or len(value) < size:
            raise ValueError("an attribute that is cut")
        return self._setxattr(
            self._names.node(request.nodeid), raw.decode("utf-8", "surrogateescape"), value[:size], flags
        )

    async def _setxattr(self, node: Node, name: str, value: bytes, flags: int) -> Buffer:
        _check_xattr(name)
        has = name in await self._fs.changes.xattrs(node.entry)
        if flags & _XATTR_CREATE and has:
            raise AlreadyExists(f"{name} is set already")
        if flags & _XATTR_REPLACE and not has:
            raise OSError(errno.ENODATA, "no such attribute")
        await self._own_place(node)
        await self._fs.changes.set_xattr(node.entry, name, value)
        return b""

    def removexattr(self, request: Request) -> Answer:
        """REMOVEXATTR."""
        return self._removexattr(self._names.node(request.nodeid), wire.parse_name(request.body))

    async def _removexattr(self, node: Node, name: str) -> Buffer:
        _check_xattr(name)
        if name not in await self._fs.changes.xattrs(node.entry):
            raise OSError(errno.ENODATA, "no such attribute")
        await self._own_place(node)
        await self._fs.changes.set_xattr(node.entry, name, None)
        return b""

    # ------------------------------------------------------------------ names

    def mkdir(self, request: Request) -> Answer:
        """MKDIR."""
        mode, umask = abi.MKDIR_IN.unpack_from(request.body)
        return self._mkdir(request, wire.parse_name(request.body[abi.MKDIR_IN.size :]), mode & ~umask)

    async def _mkdir(self, request: Request, name: str, mode: int) -> Buffer:
        check_name(name)
        path = await self._place(request.nodeid, name)
        folder, mount = split(path)[0], self._fs.tree.locate(path).mount
        if mount is None:
            raise ReadOnly(f"{folder} is no mount of a store; forebay fs mkdir makes folders there", path=path)
        attributes = Attributes(stat.S_IMODE(mode))
        if not (is_ours := (request.uid, request.gid) == (os.getuid(), os.getgid())):
            attributes = attributes._replace(uid=request.uid, gid=request.gid)
        # Where folders exist by themselves, a new one has whatever mode the store gives it.
        is_special = not is_ours or attributes.mode != 0o755 or mount.store.capabilities.folders
        entry = await self._fs.changes.mkdir(path, attributes if is_special else None)
        self._fs.tell(path)
        return self._names.tell(folder, name, Found(entry, 1.0))

    def unlink(self, request: Request) -> Answer:
        """UNLINK."""
        return self._unlink(request.nodeid, wire.parse_name(request.body))

    async def _unlink(self, folder: int, name: str) -> Buffer:
        path = await self._place(folder, name)
        await self._fs.changes.unlink(path)
        self._nodes.drop(*split(path))
        return b""

    def rmdir(self, request: Request) -> Answer:
        """RMDIR."""
        return self._rmdir(request.nodeid, wire.parse_name(request.body))

    async def _rmdir(self, folder: int, name: str) -> Buffer:
        path = await self._place(folder, name)
        await self._fs.rmdir(path)
        self._nodes.drop(*split(path))
        return b""

    def rename(self, request: Request) -> Answer:
        """RENAME."""
        (to,) = abi.RENAME_IN.unpack_from(request.body)
        return self._rename(request.nodeid, to, *wire.parse_names(request.body[abi.RENAME_IN.size :]), replace=True)

    def rename2(self, request: Request) -> Answer:
        """RENAME2: with RENAME_NOREPLACE; no store exchanges names."""
        to, flags, _ = abi.RENAME2_IN.unpack_from(request.body)
        if flags & ~_RENAME_NOREPLACE:
            raise Invalid("stores cannot exchange two names")
        names = wire.parse_names(request.body[abi.RENAME2_IN.size :])
        return self._rename(request.nodeid, to, *names, replace=not flags & _RENAME_NOREPLACE)

    async def _rename(self, old: int, new: int, old_name: str, new_name: str, *, replace: bool) -> Buffer:
        check_name(new_name)
        while True:
            source = join(self._names.node(old).entry.path, old_name)
            target = join(self._names.node(new).entry.path, new_name)
            if not (await self._turns.renames_at(source) or await self._turns.renames_at(target)):
                break
        await self._fs.changes.rename(source, target, replace=replace)
        again = self._nodes.moved(source, target)
        found = self._fs.peek(*split(target))
        node = self._nodes.current_or_none(*split(target))
        if found is not None and found.entry is not None and node is not None:
            node.entry = found.entry
        self.on_moved(again)
        if isinstance(found and found.entry, FolderEntry):  # other local folders show it too; of files they were told
            self._fs.tell(source)
            self._fs.tell(target, below=False)
        return b""

    def symlink(self, request: Request) -> Answer:
        """SYMLINK."""
        return self._symlink(request, *wire.parse_names(request.body))

    async def _symlink(self, request: Request, name: str, target: str) -> Buffer:
        check_name(name)
        owner = posix_of(0o777, request.uid, request.gid)
        symlink = partial(self._fs.changes.symlink, target=target, owner=owner)
        entry = await self._make(request.nodeid, name, symlink)
        return self._names.tell(split(entry.path)[0], name, Found(entry, 1.0))

    def link(self, request: Request) -> Answer:
        """LINK: no store has files of two names."""
        self._fs.writer.writable(self._names.node(request.nodeid).entry.path)
        raise OSError(errno.EPERM, "no hard links here")

    def readlink(self, request: Request) -> Answer:
        """READLINK."""
        entry = self._names.node(request.nodeid).entry
        if not isinstance(entry, FileEntry) or not is_link(entry):
            raise OSError(errno.EINVAL, "not a symbolic link")
        return self._fs.changes.readlink(entry)


def _check_xattr(name: str) -> None:
    if not name.startswith("user."):
        raise Unsupported("only attributes of users are kept")
    if name.startswith(OWN_XATTRS):
        raise OSError(errno.EPERM, "Forebay's own attributes cannot be set")
