"""Files that the kernel reads without having opened them."""

import asyncio
import errno

import pytest

from forebay.frontends.fuse import abi, unopened
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.operations import REFUSED
from forebay.frontends.fuse.server import Server
from fuse.conftest import Kernel


@pytest.fixture
def small(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The same mount, as a local folder for small files; what nobody reads is closed soon."""
    monkeypatch.setattr(unopened, "IDLE_S", 0.01)
    handlers = kernel.operations.handlers(opens=False)
    kernel.server = Server(kernel.device, handlers, REFUSED, kernel.clock, lambda: None)
    return kernel


def open_files(kernel: Kernel) -> int:
    (mount,) = kernel.fs.tree.mounts
    return mount.open_files


async def read(kernel: Kernel, node: int, offset: int, size: int) -> tuple[int, bytes]:
    return await kernel.ask(Opcode.READ, node, abi.READ_IN.pack(0, offset, size, 0, 0, 0, 0))


async def test_the_kernel_is_told_not_to_ask_for_opens_nor_for_what_ends_them(small: Kernel) -> None:
    node = await small.lookup(b"a")
    for opcode, body in ((Opcode.OPEN, abi.OPEN_IN.pack(0, 0)), (Opcode.FLUSH, bytes(24))):
        assert await small.ask(opcode, node, body) == (errno.ENOSYS, b"")


async def test_a_read_to_the_end_closes_the_file(small: Kernel) -> None:
    node = await small.lookup(b"a")
    for _ in range(2):
        assert await read(small, node, 0, 4096) == (0, b"one")
        assert open_files(small) == 0


async def test_a_file_that_is_read_in_part_is_open_until_nobody_has_read_it_for_a_while(small: Kernel) -> None:
    node = await small.lookup(b"big")
    assert await read(small, node, 0, 4096) == (0, bytes(4096))
    assert await read(small, node, 4096, 4096) == (0, bytes(4096))
    assert open_files(small) == 1
    async with asyncio.timeout(10):
        while open_files(small):
            await asyncio.sleep(0.01)
    assert await read(small, node, 8192, 4096) == (0, bytes(4096))


async def test_readers_of_one_file_share_it_and_the_last_one_closes_it(small: Kernel) -> None:
    node = await small.lookup(b"big")
    size = 3 << 20
    parts = [(0, 4096), (size - 4096, 8192), (4096, 4096)]
    for unique, (offset, length) in enumerate(parts):
        small.send(Opcode.READ, node, abi.READ_IN.pack(0, offset, length, 0, 0, 0, 0), unique=unique + 1)
    async with asyncio.timeout(10):
        while len(small.device.answers) < 1 + len(parts):  # and that of the lookup
            assert open_files(small) <= 1
            await asyncio.sleep(0)
    assert [(error, bytes(data)) for _, error, data in small.device.answers[1:]] == [(0, bytes(4096))] * 3
    async with asyncio.timeout(10):
        while open_files(small):
            await asyncio.sleep(0.01)


async def test_what_is_open_is_closed_with_the_mount(small: Kernel) -> None:
    node = await small.lookup(b"big")
    await read(small, node, 0, 4096)
    assert open_files(small) == 1
    small.operations.close()
    assert open_files(small) == 0


async def test_a_folder_is_no_file_and_a_forgotten_node_is_stale(small: Kernel) -> None:
    assert (await read(small, await small.lookup(b"d"), 0, 10))[0] == errno.EISDIR
    assert (await read(small, 4711, 0, 10))[0] == errno.ESTALE


async def test_a_file_that_is_not_open_has_no_holes(small: Kernel) -> None:
    node = await small.lookup(b"a")
    for whence, place in ((3, 1), (4, 3)):  # SEEK_DATA, SEEK_HOLE
        error, answer = await small.ask(Opcode.LSEEK, node, abi.LSEEK_IN.pack(0, 1, whence, 0))
        assert (error, abi.LSEEK_OUT.unpack(answer)) == (0, (place,))
