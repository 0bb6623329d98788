"""What the kernel may keep of folders, and how many nodes it makes us hold."""

import asyncio
import struct

import pytest

from forebay.frontends.fuse import abi, operations, wire
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.nodes import Node
from fuse.conftest import Kernel

KEEP, CACHE = int(abi.Open.KEEP_CACHE), int(abi.Open.CACHE_DIR)


async def opendir(kernel: Kernel) -> tuple[int, int]:
    """Handle and flags of the root, opened."""
    error, payload = await kernel.ask(Opcode.OPENDIR, 1, bytes(8))
    assert error == 0
    fh, flags, _ = abi.OPEN_OUT.unpack(payload)
    return fh, flags


async def releasedir(kernel: Kernel, fh: int) -> None:
    assert await kernel.ask(Opcode.RELEASEDIR, 1, abi.RELEASE_IN.pack(fh, 0, 0, 0)) == (0, b"")


async def read(kernel: Kernel, fh: int, offset: int, opcode: int = Opcode.READDIRPLUS) -> bytes:
    """What process 7 gets of an open folder."""
    before = len(kernel.device.answers)
    kernel.send(opcode, 1, abi.READ_IN.pack(fh, offset, 4096, 0, 0, 0, 0), pid=7)
    async with asyncio.timeout(10):
        while len(kernel.device.answers) == before:
            await asyncio.sleep(0)
    _, error, payload = kernel.device.answers[-1]
    assert error == 0
    return payload


async def read_folder(kernel: Kernel, *, looks: bool) -> None:
    """As readdir(3) with the kernel's own choice of opcode: with attributes at the start, and on if they are used."""
    fh, _ = await opendir(kernel)
    assert await read(kernel, fh, 0)
    assert await read(kernel, fh, 6, Opcode.READDIRPLUS if looks else Opcode.READDIR) == b""
    await releasedir(kernel, fh)


async def test_the_kernel_keeps_its_names_as_long_as_the_listing_is_the_same(kernel: Kernel) -> None:
    fh, flags = await opendir(kernel)
    assert flags == CACHE
    await releasedir(kernel, fh)
    fh, flags = await opendir(kernel)
    assert flags == CACHE | KEEP
    await releasedir(kernel, fh)
    await kernel.fs.refresh("/m")
    assert (await opendir(kernel))[1] == CACHE


async def test_an_open_folder_shares_its_names_with_no_other_listing(kernel: Kernel) -> None:
    old, flags = await opendir(kernel)
    assert flags == CACHE
    await kernel.fs.refresh("/m")
    new, flags = await opendir(kernel)
    assert flags == KEEP  # neither fills nor uses nor ends what the old one reads
    await releasedir(kernel, old)
    assert (await opendir(kernel))[1] == CACHE
    await releasedir(kernel, new)


async def test_who_reads_names_only_is_told_of_no_nodes_in_the_next_folder(kernel: Kernel) -> None:
    await read_folder(kernel, looks=True)
    told = len(kernel.operations.nodes)
    assert told == 1 + 4
    for looks, lookups in ((False, 1), (True, 0), (True, 1)):
        before = {node.ino: node.lookups for node in nodes(kernel)}
        await read_folder(kernel, looks=looks)
        assert {node.ino: node.lookups - before[node.ino] for node in nodes(kernel)} == dict.fromkeys(before, lookups)


async def test_a_name_without_a_node_is_a_whole_entry_all_the_same(kernel: Kernel) -> None:
    await read_folder(kernel, looks=False)
    fh, _ = await opendir(kernel)
    packed = await read(kernel, fh, 0)
    fixed, names = abi.ENTRY_OUT.size + abi.ATTR.size, []
    while packed:
        assert packed[:fixed] == bytes(fixed)
        _, _, length, kind = abi.DIRENT.unpack_from(packed, fixed)
        start = fixed + abi.DIRENT.size
        names.append((packed[start : start + length], kind))
        packed = packed[start + (length + 7 & ~7) :]
    assert names == [
        (b".", abi.DT_DIR), (b"..", abi.DT_DIR),
        (b"a", abi.DT_REG), (b"big", abi.DT_REG), (b"d", abi.DT_DIR), (b"empty", abi.DT_REG),
    ]  # fmt: skip


async def test_of_too_many_nodes_the_kernel_is_asked_to_forget_the_eldest_files(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "NODES_MAX", 3)
    monkeypatch.setattr(operations, "PRUNED", 2)
    kernel.operations._crowd = 3
    asked: list[list[Node]] = []
    kernel.operations.on_crowd = asked.append
    first = await kernel.lookup(b"a")
    await kernel.lookup(b"d")
    assert asked == []
    await kernel.lookup(b"empty")
    assert [node.ino for node in asked.pop()] == [first, first + 2]
    fh, _ = await opendir(kernel)
    before = [node.lookups for node in nodes(kernel)]
    assert await read(kernel, fh, 0)
    assert [node.lookups for node in nodes(kernel)] == before  # no more of them than must be


def test_the_message_that_prunes_is_as_the_header_says() -> None:
    message = wire.pack_prune([5, 1 << 40])
    assert struct.unpack("=IiQIIQQQ", message) == (len(message), 9, 0, 2, 0, 0, 5, 1 << 40)


def nodes(kernel: Kernel) -> list[Node]:
    return [node for ino in range(2, 12) if (node := kernel.operations.nodes.find(ino)) is not None]
