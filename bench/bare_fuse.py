"""The least that a FUSE server in Python can cost: it shows a folder of the local disk, and does nothing else.

python bench/bare_fuse.py FOLDER MOUNTPOINT [--readonly] [--durable]

No names to look up at a store, no versions, no cache, no crash to survive, nothing to send: every answer is packed
beforehand or made of what lies in a dictionary, and files are read and written by passthrough.  What is between this
and the local disk is the price of asking a process at all; what is between this and Forebay is Forebay's own.
Says "ready" once it is mounted, and ends with the mount.

With --durable a close of a file of up to 128 KiB returns when the disk has its bytes: they are written once more, to
blocks of one file that exist already, past the page cache, in one call that syncs too.  That is the least that a close
can do which a power cut shall not undo: without a name, a checksum or a place to find them again.
"""

import asyncio
import errno
import mmap
import os
import select
import sys
from itertools import count
from pathlib import Path

from forebay.clock import SystemClock
from forebay.frontends.fuse import abi, mounting, wire
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.busywait import BusyWait
from forebay.frontends.fuse.device import Device, Gone
from forebay.frontends.fuse.handshake import MAX_BACKGROUND, MAX_PAGES, agree
from forebay.frontends.fuse.wire import Request

_PASSED = int(abi.Open.PASSTHROUGH | abi.Open.NOFLUSH)
_WRITTEN = int(abi.Open.PASSTHROUGH)
_ERRORS = {Opcode.IOCTL: errno.ENOTTY, Opcode.GETXATTR: errno.ENODATA}
_DONE = (Opcode.RELEASE, Opcode.FLUSH, Opcode.RELEASEDIR)
_UNANSWERED = (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT)
_VALID_S = 3600
_DURABLE_MAX = 128 << 10  # bytes of a file
_BLOCKS_BYTES = 16 << 20  # of the file of blocks: as long as a segment of Forebay's journal


class Blocks:
    """A file that is written over again and again."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_BLOCKS_BYTES))
        self._fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        os.fsync(self._fd)
        self._buffer = memoryview(mmap.mmap(-1, _DURABLE_MAX))
        self._end = 0

    def keep(self, path: str) -> None:
        """Have the disk hold a file's bytes."""
        with open(path, "rb", buffering=0) as file:
            size = -(-file.readinto(self._buffer) // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._end + size > _BLOCKS_BYTES:
            self._end = 0
        os.pwritev(self._fd, [self._buffer[:size]], self._end, os.RWF_DSYNC)
        self._end += size


class Bare:
    """One folder, shown."""

    def __init__(self, folder: Path, fd: int, blocks: Blocks | None = None) -> None:
        self._device = Device(fd)
        self._inos = count(abi.ROOT_ID)
        self._paths: dict[int, str] = {}
        self._attrs: dict[int, bytes] = {}
        self._names: dict[int, dict[bytes, int]] = {}
        self._opened: dict[int, bytes] = {}  # answers to OPEN
        self._add(str(folder))
        self._handlers = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._getattr,
            Opcode.OPEN: self._open,
            Opcode.OPENDIR: lambda request: abi.OPEN_OUT.pack(request.nodeid, 0, 0),
            Opcode.READDIR: self._readdir,
            Opcode.CREATE: self._create,
            Opcode.MKDIR: self._mkdir,
        } | dict.fromkeys(_DONE, lambda _: b"")
        if blocks is not None:
            self._handlers[Opcode.FLUSH] = lambda request: blocks.keep(self._paths[request.nodeid]) or b""

    def _add(self, path: str) -> int:
        ino = next(self._inos)
        self._paths[ino] = path
        info = os.stat(path)
        times = [int(info.st_mtime)] * 3
        self._attrs[ino] = abi.ATTR.pack(
            ino, info.st_size, info.st_blocks, *times, 0, 0, 0, info.st_mode, 1, 0, 0, 0, 4096, 0
        )
        if os.path.isdir(path):
            self._names[ino] = {os.fsencode(name): self._add(f"{path}/{name}") for name in sorted(os.listdir(path))}
        return ino

    def serve(self) -> None:
        """Answer until the mount ends."""
        device, wait = self._device, BusyWait(self._device.fd, SystemClock())
        asleep = select.poll()
        asleep.register(device.fd, select.POLLIN)
        try:
            while True:
                data = device.read()
                if data is None:
                    asleep.poll()
                    continue
                self._answer(wire.parse_request(data))
                wait.wait()
        except Gone:
            return

    def _answer(self, request: Request) -> None:
        opcode, unique = request.opcode, request.unique
        handler = self._handlers.get(opcode)
        if handler is not None:
            answer = handler(request)
            self._device.write(wire.pack_reply(unique, len(answer)) + answer)
        elif opcode not in _UNANSWERED:
            self._device.write(wire.pack_error(unique, _ERRORS.get(opcode, errno.ENOSYS)))

    def _init(self, request: Request) -> bytes:
        offered = wire.parse_init(request.body)
        flags = agree(offered).flags & ~int(abi.Init.DO_READDIRPLUS)
        return wire.pack_init(offered, flags=flags, max_pages=MAX_PAGES, max_background=MAX_BACKGROUND, stack_depth=1)

    def _lookup(self, request: Request) -> bytes:
        ino = self._names[request.nodeid].get(bytes(request.body[:-1]))
        return wire.pack_absence(_VALID_S) if ino is None else self._entry(ino)

    def _entry(self, ino: int) -> bytes:
        return wire.pack_entry(ino, self._attrs[ino], _VALID_S)

    def _getattr(self, request: Request) -> bytes:
        return wire.pack_attr_out(self._attrs[request.nodeid], _VALID_S)

    def _open(self, request: Request) -> bytes:
        answer = self._opened.get(request.nodeid)
        if answer is None:
            answer = self._opened[request.nodeid] = self._pass(request.nodeid, os.O_RDONLY, _PASSED)
        return answer

    def _pass(self, ino: int, mode: int, flags: int) -> bytes:
        fd = os.open(self._paths[ino], mode)
        try:
            return abi.OPEN_OUT.pack(ino, flags, self._device.open_backing(fd))
        finally:
            os.close(fd)

    def _readdir(self, request: Request) -> bytes:
        _, offset, size = wire.parse_read(request.body)
        some = b""
        for cookie, (name, ino) in enumerate(self._names[request.nodeid].items(), 1):
            if cookie > offset:
                entry = wire.pack_dirent(name, ino, cookie, ino in self._names)
                if len(some) + len(entry) > size:
                    break
                some += entry
        return some

    def _create(self, request: Request) -> bytes:
        name = bytes(request.body[abi.CREATE_IN.size : -1])
        path = f"{self._paths[request.nodeid]}/{os.fsdecode(name)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            ino = self._names[request.nodeid][name] = self._add(path)
            return self._entry(ino) + abi.OPEN_OUT.pack(ino, _WRITTEN, self._device.open_backing(fd))
        finally:
            os.close(fd)

    def _mkdir(self, request: Request) -> bytes:
        name = bytes(request.body[abi.MKDIR_IN.size : -1])
        path = f"{self._paths[request.nodeid]}/{os.fsdecode(name)}"
        os.mkdir(path)
        ino = self._names[request.nodeid][name] = self._add(path)
        return self._entry(ino)


def main() -> None:
    folder, mountpoint, *words = sys.argv[1:]
    fd = asyncio.run(mounting.mount(mountpoint, folder, readonly="--readonly" in words))
    bare = Bare(Path(folder), fd, Blocks(Path(f"{folder}.blocks")) if "--durable" in words else None)
    print("ready", flush=True)
    bare.serve()


if __name__ == "__main__":
    main()
