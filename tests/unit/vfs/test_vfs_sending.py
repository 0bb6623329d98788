"""Files on their way to a store: in one request, in parts that may go ahead, or as a stream."""

import asyncio
import errno
import mmap
import os
import random
from array import array
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError, NotFound, StaleVersion, Unavailable
from forebay.stores import uploads
from forebay.stores.base import Capabilities, Store
from forebay.stores.local import LocalStore
from forebay.stores.memory import MemoryStore
from forebay.stores.uploads import part_bytes
from forebay.testing.faulty_store import FaultyStore, Hang
from forebay.types import Buffer
from forebay.units import MIB
from forebay.vfs import sending
from forebay.vfs.content import Content, PatchedContent, Snapshot, WholeContent, differs, sums_of
from forebay.vfs.sending import Changed, Sender, Target, parts_of

PART = 2 * MIB
RANDOM = random.Random(4)
OLD = RANDOM.randbytes(5 * PART + 1)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    monkeypatch.setattr(sending, "SINGLE_PUT_BYTES", PART)


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore("s", part_bytes_min=1)


@pytest.fixture
def store(memory: MemoryStore) -> FaultyStore:
    return FaultyStore(memory)


@pytest.fixture
def file(tmp_path: Path) -> WholeContent:
    return WholeContent(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))


def sender_of(
    store: Store, content: Content, *, base: str | None = None, base_sums: "array[int] | None" = None
) -> Sender:
    return Sender(Target(store, "k", base, base_sums, None), content, asyncio.to_thread)


async def advanced(sender: Sender, size: int) -> None:
    """Have all parts that lie wholly below `size` go ahead."""
    sender.advance(size)
    while sender._sending:
        await sender.until_one_ends()
        sender.advance(size)


async def bytes_in(store: Store, key: str = "k") -> bytes:
    return bytes(memoryview(await store.get(key)))


def test_parts_lie_end_to_end_and_grow_after_a_thousand() -> None:
    numbered = list(parts_of(2_001 * part_bytes(1) + 1))
    assert [number for number, _ in numbered] == list(range(1, len(numbered) + 1))
    assert [before.stop for _, before in numbered[:-1]] == [after.start for _, after in numbered[1:]]
    assert numbered[-1][1].stop == 2_001 * part_bytes(1) + 1
    assert part_bytes(1_001) == 2 * part_bytes(1_000) == 2 * part_bytes(1)
    assert list(parts_of(0)) == []


@pytest.mark.parametrize("size", [0, 1, PART])
async def test_a_small_file_is_one_request(memory: MemoryStore, file: WholeContent, size: int) -> None:
    file.write(0, OLD[:size])
    sent = await sender_of(memory, file).finish(None)
    assert await bytes_in(memory) == OLD[:size]
    assert memory.requests["put"] == 1
    assert memory.requests["upload"] == 0
    assert sent.sums == sums_of(file.fd)
    assert sent.meta.size == size


@pytest.mark.parametrize("size", [PART + 1, 2 * PART, len(OLD)])
async def test_a_large_file_goes_in_parts_a_few_at_a_time(memory: MemoryStore, file: WholeContent, size: int) -> None:
    file.write(0, OLD[:size])
    sent = await sender_of(memory, file).finish(None)
    assert await bytes_in(memory) == OLD[:size]
    assert memory.requests["upload.send"] == -(-size // PART)
    assert sent.sums == sums_of(file.fd)


async def test_no_more_than_a_few_parts_are_on_their_way(store: FaultyStore, file: WholeContent) -> None:
    file.write(0, OLD)
    gate = asyncio.Event()
    store.script.extend([None, *[Hang(gate)] * 6])
    task = asyncio.create_task(sender_of(store, file).finish(None))
    async with asyncio.timeout(30):
        while len(store.script) > 2:
            await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert len(store.script) == 6 - sending.PARTS_IN_FLIGHT
    gate.set()
    await task


async def test_a_store_without_parts_gets_a_stream(tmp_path: Path, file: WholeContent) -> None:
    (tmp_path / "store").mkdir()
    store = LocalStore(tmp_path / "store")
    file.write(0, OLD)
    sent = await sender_of(store, file).finish(None)
    assert await bytes_in(store) == OLD
    assert sent.sums == sums_of(file.fd)
    await store.close()


async def test_parts_that_went_ahead_are_not_sent_again_unless_they_have_changed(
    memory: MemoryStore, file: WholeContent
) -> None:
    file.write(0, OLD[: 3 * PART])
    sender = sender_of(memory, file)
    await advanced(sender, 3 * PART - 1)
    assert memory.requests["upload.send"] == 2
    file.write(3 * PART, OLD[3 * PART :])
    file.write(PART + 5, b"changed")
    with pytest.raises(NotFound):
        await memory.head("k")
    sent = await sender.finish(None)
    assert await bytes_in(memory) == OLD[: PART + 5] + b"changed" + OLD[PART + 12 :]
    assert memory.requests["upload.send"] == 2 + 4 + 1
    assert sent.sums == sums_of(file.fd)


@pytest.mark.parametrize("size", [0, 5, PART, PART + 5, 2 * PART, 3 * PART - 1])
async def test_a_file_that_is_cut_after_parts_went_ahead_has_none_of_what_was_cut_off(
    memory: MemoryStore, file: WholeContent, size: int
) -> None:
    file.write(0, OLD)
    sender = sender_of(memory, file)
    await advanced(sender, 3 * PART)
    file.truncate(size)
    sent = await sender.finish(None)
    assert await bytes_in(memory) == OLD[:size]
    assert sent.sums == sums_of(file.fd)
    assert memory.requests["upload"] == memory.requests["upload.abort"] + memory.requests["upload.complete"]


async def test_parts_of_a_cached_file_that_did_not_change_are_copied(memory: MemoryStore, file: WholeContent) -> None:
    before = await memory.put("k", OLD)
    file.write(0, OLD)
    base_sums = sums_of(file.fd)
    file.write(3 * PART + 1, b"changed")
    file.write(len(OLD), b"more")
    sent = await sender_of(memory, file, base=before.version, base_sums=base_sums).finish(None)
    assert await bytes_in(memory) == OLD[: 3 * PART + 1] + b"changed" + OLD[3 * PART + 8 :] + b"more"
    assert memory.requests["upload.send"] == 2  # the part that changed, and the last one, which is longer
    assert sent.sums == sums_of(file.fd)


async def test_only_what_was_written_of_a_file_that_is_not_here_travels(memory: MemoryStore, tmp_path: Path) -> None:
    before = await memory.put("k", OLD)
    reads = 0

    async def read(offset: int, length: int) -> Buffer:
        nonlocal reads
        reads += length
        return OLD[offset : offset + length]

    fd = os.open(tmp_path / "patched", os.O_RDWR | os.O_CREAT)
    content = PatchedContent(fd, len(OLD), read, lambda: None)
    content.write(PART - 1, b"##")
    await sender_of(memory, content, base=before.version).finish(None)
    assert await bytes_in(memory) == OLD[: PART - 1] + b"##" + OLD[PART + 1 :]
    assert reads == 2 * PART - 2
    assert memory.requests["upload.send"] == 2
    content.close()


@pytest.mark.parametrize("size", [5, 3 * PART])
@pytest.mark.parametrize("is_checked_by_the_store", [True, False])
async def test_what_others_have_written_is_never_replaced(
    store: FaultyStore, memory: MemoryStore, file: WholeContent, size: int, is_checked_by_the_store: bool
) -> None:
    if not is_checked_by_the_store:
        store.capabilities = Capabilities(parts=True, conditional_put=False)
    file.write(0, OLD[:size])
    known = await memory.put("k", b"known")
    theirs = await memory.put("k", b"theirs")
    for base in (None, known.version):
        sender = sender_of(store, file, base=base)
        with pytest.raises(StaleVersion):
            await sender.finish(None)
        await sender.abort()
    assert await bytes_in(memory) == b"theirs"
    await sender_of(store, file, base=theirs.version).finish(None)
    assert await bytes_in(memory) == OLD[:size]


async def test_a_file_of_which_others_removed_the_old_version_is_not_taken_for_missing(
    memory: MemoryStore, file: WholeContent
) -> None:
    before = await memory.put("k", OLD)
    file.write(0, OLD)
    base_sums = sums_of(file.fd)
    file.write(0, b"changed")
    await memory.delete("k")
    sender = sender_of(memory, file, base=before.version, base_sums=base_sums)
    with pytest.raises(StaleVersion):
        await sender.finish(None)
    await sender.abort()


async def test_a_part_that_fails_is_told_by_its_kind_though_the_abort_fails_too(
    store: FaultyStore, memory: MemoryStore, file: WholeContent
) -> None:
    file.write(0, OLD)
    store.script.extend([None, Denied("no"), *[Unavailable("down")] * 20])
    sender = sender_of(store, file)
    with pytest.raises(FsError) as raised:
        await sender.finish(None)
    assert raised.value.errno in (errno.EACCES, Unavailable.ERRNO)
    await sender.abort()
    with pytest.raises(NotFound):
        await memory.head("k")


async def test_a_sender_that_is_cancelled_leaves_no_part_on_its_way(
    store: FaultyStore, memory: MemoryStore, file: WholeContent
) -> None:
    file.write(0, OLD)
    store.script.extend([None, *[Hang(asyncio.Event())] * 4])
    sender = sender_of(store, file)
    task = asyncio.create_task(sender.finish(None))
    while store.script:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("part ")] == []
    await sender.abort()
    assert memory.requests["upload.abort"] == 1


async def test_a_part_that_takes_long_does_not_hold_up_those_after_it(
    store: FaultyStore, memory: MemoryStore, file: WholeContent
) -> None:
    file.write(0, OLD)
    gate = asyncio.Event()
    store.script.extend([None, Hang(gate)])
    sender = sender_of(store, file)
    async with asyncio.timeout(30):
        while memory.requests["upload.send"] < 4:
            sender.advance(len(OLD))
            await asyncio.sleep(0.001)
    gate.set()
    sent = await sender.finish(file.stamp())
    assert await bytes_in(memory) == OLD
    assert memory.requests["upload.send"] == 6
    assert sent.sums == sums_of(file.fd)


@pytest.mark.parametrize("are_ahead", [0, 3 * PART])
async def test_a_file_that_is_written_while_it_is_sent_does_not_become_visible(
    store: FaultyStore, memory: MemoryStore, file: WholeContent, are_ahead: int
) -> None:
    file.write(0, OLD)
    sender = sender_of(store, file)
    await advanced(sender, are_ahead)
    gate = asyncio.Event()
    store.script.append(Hang(gate))
    task = asyncio.create_task(sender.finish(file.stamp()))
    while store.script:
        await asyncio.sleep(0.001)
    file.write(0, b"changed")
    gate.set()
    with pytest.raises(Changed):
        await task
    await sender.abort()
    with pytest.raises(NotFound):
        await memory.head("k")


@pytest.mark.parametrize("size", [PART - 1, 3 * PART])
@pytest.mark.parametrize("are_ahead", [0, 2 * PART])
async def test_what_is_stored_through_a_mapping_after_it_was_read_is_known_to_be_new(
    memory: MemoryStore, file: WholeContent, size: int, are_ahead: int
) -> None:
    file.write(0, OLD[:size])
    file.may_be_mapped = True
    with mmap.mmap(file.fd, size) as mapped:
        mapped[5], mapped[size - 5] = 1, 2  # their pages are dirty: stores into them change nothing that is told
        sender = sender_of(memory, file)
        await advanced(sender, min(are_ahead, size))
        stamp = file.stamp()
        sent = await sender.finish(stamp)
        for at in (5, size - 5):
            assert not differs(file, Snapshot(stamp, sent.sums))
            mapped[at] ^= 255
            assert differs(file, Snapshot(stamp, sent.sums))
            stamp, sent = file.stamp(), sent._replace(sums=sums_of(file.fd))


async def test_what_fails_ahead_of_the_end_is_sent_at_the_end(
    store: FaultyStore, memory: MemoryStore, file: WholeContent
) -> None:
    file.write(0, OLD)
    store.script.extend([None, Unavailable("down")])
    sender = sender_of(store, file)
    await advanced(sender, 2 * PART)
    assert isinstance(sender.failed, Unavailable)
    sent = await sender.finish(file.stamp())
    assert await bytes_in(memory) == OLD
    assert sent.sums == sums_of(file.fd)


async def test_a_file_that_is_cut_while_it_is_sent_is_an_error(store: FaultyStore, file: WholeContent) -> None:
    file.write(0, OLD)
    gate = asyncio.Event()
    store.script.append(Hang(gate))
    sender = sender_of(store, file)
    task = asyncio.create_task(sender.finish(None))
    while store.script:
        await asyncio.sleep(0.001)
    file.truncate(PART)
    gate.set()
    with pytest.raises(FsError, match="cut"):
        await task
    await sender.abort()
