"""A whole server without a kernel: requests are bytes, and what it would write to the device is kept."""

import asyncio
import errno
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from forebay.cache.cache import Cache
from forebay.clock import FakeClock
from forebay.config.settings import Settings
from forebay.frontends.fuse import abi
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.device import Device
from forebay.frontends.fuse.operations import REFUSED, Operations
from forebay.frontends.fuse.server import Server
from forebay.frontends.fuse.wire import Owner
from forebay.stores.memory import MemoryStore
from forebay.types import Buffer
from forebay.vfs.control import ControlDb
from forebay.vfs.entries import FolderEntry, MountOptions
from forebay.vfs.filesystem import FileSystem

UNIQUE = 0x1122334455667788


class KeptDevice(Device):
    """Keeps answers instead of writing them to a kernel."""

    def __init__(self) -> None:
        self.fd = os.open(os.devnull, os.O_RDWR)
        self.answers: list[tuple[int, int, bytes]] = []  # unique, errno, payload
        self.registered: list[int] = []
        self.taken_back: list[int] = []

    def write(self, answer: bytes, payload: Buffer = b"") -> bool:
        data = answer + bytes(memoryview(payload))
        length, error, unique = abi.OUT_HEADER.unpack_from(data)
        assert length == len(data), "the length in the header is the length of the answer"
        self.answers.append((unique, -error, data[abi.OUT_HEADER.size :]))
        return True

    def open_backing(self, fd: int) -> int:
        self.registered.append(len(self.registered) + 100)
        return self.registered[-1]

    def close_backing(self, backing_id: int) -> None:
        self.taken_back.append(backing_id)


class Kernel:
    """What a test asks as the kernel would."""

    def __init__(self, fs: FileSystem, root: FolderEntry, store: MemoryStore, clock: FakeClock) -> None:
        self.device = KeptDevice()
        self.operations = Operations(fs, self.device, root, Owner(1000, 1001))
        self.server = Server(self.device, self.operations.handlers(), REFUSED, clock, lambda: None)
        self.fs, self.store, self.clock = fs, store, clock

    def send(self, opcode: int, nodeid: int = 1, body: bytes = b"", *, unique: int = UNIQUE, pid: int = 0) -> None:
        header = abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), opcode, unique, nodeid, 0, 0, pid, 0, 0)
        self.server.serve(memoryview(header + body))

    async def ask(self, opcode: int, nodeid: int = 1, body: bytes = b"", *, pid: int = 0) -> tuple[int, bytes]:
        """Errno and payload of the one answer to a request."""
        before = len(self.device.answers)
        self.send(opcode, nodeid, body, pid=pid)
        async with asyncio.timeout(10):
            while len(self.device.answers) == before:
                await asyncio.sleep(0)
        (unique, error, payload) = self.device.answers[-1]
        assert len(self.device.answers) == before + 1
        assert unique == UNIQUE
        return error, payload

    async def lookup(self, name: bytes, folder: int = 1) -> int:
        """The node id of a name."""
        error, payload = await self.ask(Opcode.LOOKUP, folder, name + b"\0")
        assert error == 0, errno.errorcode[error]
        return cast("int", abi.ENTRY_OUT.unpack_from(payload)[0])

    async def open(self, node: int) -> tuple[int, int, int]:
        """Handle, open flags and backing id of an open for reading."""
        error, payload = await self.ask(Opcode.OPEN, node, abi.OPEN_IN.pack(0, 0))
        assert error == 0, errno.errorcode[error]
        return cast("tuple[int, int, int]", abi.OPEN_OUT.unpack(payload))

    async def read(
        self, fh: int, offset: int, size: int, opcode: int = Opcode.READ, *, pid: int = 0
    ) -> tuple[int, bytes]:
        return await self.ask(opcode, 1, abi.READ_IN.pack(fh, offset, size, 0, 0, 0, 0), pid=pid)

    async def release(self, fh: int) -> None:
        assert await self.ask(Opcode.RELEASE, 1, abi.RELEASE_IN.pack(fh, 0, 0, 0)) == (0, b"")


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    """`/m` is a store in memory with `a` (3 bytes), `empty`, `d/x` and `big` (3 MiB); the root shows it."""
    settings = Settings(home=tmp_path)
    control = ControlDb(tmp_path / "control.db")
    clock = FakeClock()
    cache = Cache(settings, clock)
    fs = FileSystem(settings, control, cache, clock)
    mount = await fs.mount("/m", "mem://test", MountOptions())
    store = cast("MemoryStore", mount.store)
    for key, data in {"a": b"one", "empty": b"", "d/x": b"x", "big": bytes(3 << 20)}.items():
        await store.put(key, data)
    root = await fs.stat("/m")
    assert isinstance(root, FolderEntry)
    kernel = Kernel(fs, root, store, clock)
    yield kernel
    await kernel.server.stop()
    kernel.operations.close()
    kernel.device.close()
    await fs.close()
    control.close()


def names_of(payload: bytes, *, plus: bool = False) -> list[tuple[bytes, int]]:
    """Names and cookies in the answer of READDIR or READDIRPLUS."""
    skip = abi.ENTRY_OUT.size + abi.ATTR.size if plus else 0
    found, position = [], 0
    while position < len(payload):
        _, cookie, length, _ = abi.DIRENT.unpack_from(payload, position + skip)
        start = position + skip + abi.DIRENT.size
        found.append((payload[start : start + length], cookie))
        position = start + (length + 7 & ~7)
    return found


def u32(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)
