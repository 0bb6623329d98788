"""One mount from the kernel's first request to its last: the pieces put together.

*Callers*: `forebay.frontends.fuse.mounts`, on the loop.  *Awaits*: running requests, when it closes.
*Invariants*: the file system's callbacks are registered as long as the session lives; the device is closed last.
"""

import asyncio
import contextlib
import ctypes
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from forebay.clock import Clock
from forebay.frontends.fuse import abi, wire
from forebay.frontends.fuse.device import Device
from forebay.frontends.fuse.handshake import MAX_BACKGROUND, WANTED, WANTED_FOR_SMALL_FILES, Agreement, agree
from forebay.frontends.fuse.nodes import Node
from forebay.frontends.fuse.notifier import Notifier
from forebay.frontends.fuse.operations import REFUSED, Operations
from forebay.frontends.fuse.server import Answer, Server
from forebay.frontends.fuse.wire import Owner, Request
from forebay.vfs.control import FolderKind, FuseMount
from forebay.vfs.entries import FolderEntry
from forebay.vfs.filesystem import FileSystem

_OVERLAYFS_MAGIC = 0x794C7630  # linux/magic.h
_libc = ctypes.CDLL(None, use_errno=True)


class Session:
    """See the module."""

    def __init__(
        self,
        fs: FileSystem,
        fd: int,
        mount: FuseMount,
        root: FolderEntry,
        clock: Clock,
        *,
        cache_folders: Iterable[Path],
        on_end: Callable[["Session"], None],
    ) -> None:
        self.mountpoint = mount.mountpoint
        self.path = root.path
        self.kind = mount.kind
        self.mode_reason = "the kernel has not begun yet"  # why cached files do not go by passthrough; "" if they do
        self.readahead_bytes = 0
        self.is_ending = False  # by our own hand
        self.agreed: asyncio.Future[Agreement] = asyncio.get_running_loop().create_future()
        self._fs = fs
        self._cache_folders = [str(folder) for folder in cache_folders]
        self._device = Device(fd)
        self._notifier = Notifier(fd)
        self.operations = Operations(fs, self._device, root, Owner(os.getuid(), os.getgid()))
        small_files = mount.kind is FolderKind.SMALL_FILES
        self._wanted = WANTED_FOR_SMALL_FILES if small_files else WANTED
        handlers = self.operations.handlers(opens=not small_files) | {abi.Opcode.INIT: self._init}
        self.server = Server(self._device, handlers, REFUSED, clock, lambda: on_end(self))

    @property
    def mode(self) -> str:
        """How cached files are read."""
        return "passthrough" if self.operations.handles.passthrough else "page cache"

    @property
    def agreement(self) -> Agreement:
        """What the kernel agreed to; once `agreed` is done."""
        return self.agreed.result()

    def start(self) -> None:
        """Begin to serve."""
        self._fs.views.append(self._told)
        self._fs.on_change.append(self._changed)
        self._fs.cache.on_drop.append(self.operations.handles.backing.drop)
        self._fs.on_settle.append(self.operations.nodes.settled)
        self.operations.on_crowd = self._thin_out
        self.operations.writing.on_moved = self._ask_again
        self.operations.writing.is_alone = self.server.is_alone
        self.server.on_spare = self._fs.changes.make_ahead
        self.server.start()

    def _init(self, request: Request) -> Answer:
        offered = wire.parse_init(request.body)
        if offered.major > abi.MAJOR:  # the kernel then asks again, in our version
            return wire.pack_init(
                offered._replace(minor=abi.MINOR), flags=0, max_pages=1, max_background=1, stack_depth=0
            )
        try:
            agreement = agree(offered, self._wanted)
        except OSError as error:
            self.agreed.set_exception(error)
            raise
        self.agreed.set_result(agreement)
        return wire.pack_init(
            offered,
            flags=agreement.flags,
            max_pages=agreement.max_read_bytes // wire.BLOCK_BYTES,
            max_background=MAX_BACKGROUND,
            stack_depth=max(map(_stack_depth, self._cache_folders), default=1) if agreement.passthrough else 0,
        )

    def try_passthrough(self) -> None:
        """Use passthrough if the kernel takes files of every cache folder, and tells of opens."""
        if self.kind is FolderKind.SMALL_FILES:
            self.mode_reason = ""
            return
        self.mode_reason = self._passthrough_refusal()
        self.operations.handles.passthrough = not self.mode_reason
        self.operations.handles.passes_writes = self.agreement.passthrough_writes

    def _passthrough_refusal(self) -> str:
        if not self.agreement.passthrough:
            return "the kernel has no passthrough (Linux 6.9 or newer has)"
        for folder in self._cache_folders:
            with tempfile.TemporaryFile(dir=folder) as probe:
                try:
                    self._device.close_backing(self._device.open_backing(probe.fileno()))
                except PermissionError:
                    return "the daemon lacks CAP_SYS_ADMIN"
                except OSError as error:
                    return f"the kernel refuses files of {folder}: {error.strerror}"
        return ""

    def _changed(self, path: str, below: bool) -> None:
        self._ask_again(self.operations.nodes.known_names(path, below=below))

    def _ask_again(self, names: Iterable[tuple[int, str]], *, expire_only: bool = True) -> None:
        """Have the kernel ask again for names, for each of which it locks the folder for a moment."""
        for ino, some in groupby(names, key=itemgetter(0)):
            softly = expire_only and self.agreement.expire_only
            messages = [wire.pack_inval_entry(ino, name, expire_only=softly) for _, name in some]
            self.server.waiters.once_answered(ino, partial(self._notifier.send, messages))

    async def _told(self) -> None:
        """Return when the kernel has all messages that were to be sent until now."""
        sent = asyncio.get_running_loop().create_future()
        self.server.waiters.after_those(partial(self._notifier.mark, sent))
        await sent

    def _thin_out(self, nodes: list[Node]) -> None:
        """Ask the kernel to forget files, but for those in use; before Linux 6.18 by taking their names away."""
        if self.agreement.minor >= abi.MINOR_PRUNE:
            self._notifier.send([wire.pack_prune([node.ino for node in nodes])])
            return
        for node in nodes:
            names = self.operations.nodes.known_names(node.entry.path, below=False)
            self._ask_again(names, expire_only=False)

    async def close(self) -> None:
        """End, once the mount is gone or going: what still waits is answered, open files are given back."""
        with contextlib.suppress(ValueError):
            self._fs.on_change.remove(self._changed)
            self._fs.views.remove(self._told)
            self._fs.on_settle.remove(self.operations.nodes.settled)
            self._fs.cache.on_drop.remove(self.operations.handles.backing.drop)
        await self.server.stop()
        self.operations.close()
        await asyncio.to_thread(self._notifier.close)
        self._device.close()
        if not self.agreed.done():
            self.agreed.cancel()


def _stack_depth(folder: str) -> int:
    """How many stacked file systems a cache file lies in, our mount included (`max_stack_depth` of FUSE_INIT)."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs; its first field is the type, a long
    if _libc.statfs(os.fsencode(folder), buffer) != 0:
        return 1
    return 2 if ctypes.c_long.from_buffer(buffer).value == _OVERLAYFS_MAGIC else 1
