"""One request per piece of data, whoever asks; windows that grow; failures that leave nothing behind."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.errors import Corrupt, Denied, FsError, StaleVersion, TimedOut, Unavailable
from forebay.stores.base import Store
from forebay.testing.faulty_store import Broken, Extended, FaultyStore, Hang, Truncated
from forebay.testing.rig import Rig, read_all, read_piece
from forebay.types import Buffer, ByteRange
from forebay.units import KIB, MIB
from forebay.vfs.openfile import OpenFile

SMALL = random.Random(1).randbytes(110 * KIB)
LARGE = random.Random(2).randbytes(24 * MIB + 12_345)


class CountingStore(FaultyStore):
    """Notes how many bodies are on their way at a time, and which ranges were asked for."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.under_way = self.under_way_max = 0
        self.spans: list[ByteRange] = []

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        self.spans.append(span)
        self.under_way += 1
        self.under_way_max = max(self.under_way, self.under_way_max)
        try:
            async for chunk in super().stream(key, span, version=version, chunk_bytes=chunk_bytes):
                yield chunk
        finally:
            self.under_way -= 1

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        if span is not None:
            self.spans.append(span)
        return await super().get(key, span, version=version)


async def opened(rig: Rig, path: str) -> OpenFile:
    return rig.fs.open_version(await rig.stat_file(path))


async def mounted(rig: Rig, data: bytes, **options: object) -> OpenFile:
    """A mount with the one file `x`, opened."""
    await rig.put("s", "x", data)
    await rig.mount("/s", "s", **options)
    return await opened(rig, "/s/x")


def bodies(rig: Rig) -> int:
    requests = rig.memory("s").requests
    return requests["get"] + requests["stream"]


@pytest.mark.parametrize("data", [SMALL, LARGE[: 2 * MIB]], ids=["110 KiB", "2 MiB"])
async def test_a_small_object_is_one_request_however_it_is_read(tmp_path: Path, data: bytes) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, data)
        assert await read_all(file, 16 * KIB) == data
        assert bodies(rig) == 1
        file.close()


async def test_two_readers_at_the_same_time_share_one_request(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        first = await mounted(rig, SMALL)
        second = await opened(rig, "/s/x")
        both = await asyncio.gather(read_all(first), read_all(second))
        assert set(both) == {SMALL}
        assert bodies(rig) == 1
        first.close()
        second.close()


async def test_a_reader_that_gives_up_does_not_disturb_the_others(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file, other = await mounted(rig, SMALL), await opened(rig, "/s/x")
        answer = asyncio.Event()
        rig.store("s").script.append(Hang(answer))
        impatient = asyncio.create_task(read_all(file))
        patient = asyncio.create_task(read_all(other))
        await asyncio.sleep(0.01)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        file.close()
        answer.set()
        assert await patient == SMALL
        assert bodies(rig) == 1
        other.close()


async def test_what_is_cached_is_read_without_the_store_and_through_a_descriptor(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, LARGE)
        assert file.local_fd() is None
        assert await read_all(file) == LARGE
        await rig.landed()
        asked = bodies(rig)
        fd = file.local_fd()
        assert fd is not None
        with open(fd, "rb", closefd=False) as local:
            assert local.read() == LARGE
        assert await read_all(file) == LARGE
        assert bodies(rig) == asked
        file.close()


async def test_a_flight_that_breaks_keeps_what_landed_whole_and_nothing_else(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, LARGE)
        rig.store("s").script.append(Broken(2 * MIB + 7))
        with pytest.raises(Unavailable):
            await file._file.read(8 * MIB, 5 * MIB, store=rig.store("s"), deadline_s=5)
        assert [tuple(run) for run in file._file.stored.residency.present()] == [(8, 10)]
        assert rig.cache.disks[0].used_bytes == 2 * MIB
        assert await read_all(file) == LARGE
        file.close()


@pytest.mark.parametrize("fault", [Truncated(10 * KIB), Extended(1), Broken(7)], ids=repr)
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_body_of_the_wrong_length_is_asked_for_again_and_never_cached(
    tmp_path: Path, data: bytes, fault: Truncated | Extended | Broken
) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, data)
        rig.store("s").script.extend([fault] * 50)
        with pytest.raises((Corrupt, Unavailable)):
            await file._file.read(0, len(data), store=rig.store("s"), deadline_s=5)
        await rig.landed()
        for run in file._file.stored.residency.present():  # pages that came whole before the fault
            assert await read_piece(file, run.first * MIB, MIB) == data[run.first * MIB :][:MIB]
        rig.store("s").script.clear()
        assert await read_all(file) == data
        file.close()


async def test_one_bad_answer_is_mended_by_asking_again(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, SMALL)
        rig.store("s").script.append(Truncated(100))
        assert await read_all(file) == SMALL
        assert bodies(rig) == 2
        file.close()


async def test_a_failure_of_what_was_fetched_ahead_is_not_the_readers(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, LARGE)
        rig.store("s").script.extend([None, Unavailable("of the window")])
        # The first read fetches the next page ahead; the second waits for that, it fails, and is asked for again.
        first, second = await asyncio.gather(read_piece(file, 0, MIB), read_piece(file, MIB, MIB))
        assert first + second == LARGE[: 2 * MIB]
        assert not rig.store("s").script
        file.close()


async def test_a_store_that_hangs_is_an_error_within_the_deadline_and_later_reads_work(tmp_path: Path) -> None:
    async with Rig(tmp_path, store_deadline_s=0.05) as rig:
        file = await mounted(rig, SMALL)
        rig.store("s").script.append(Hang(asyncio.Event()))
        with pytest.raises(TimedOut):
            await read_all(file)
        await rig.landed()
        assert await read_all(file) == SMALL
        file.close()


async def test_an_error_of_the_store_reaches_the_reader_as_it_is(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, SMALL)
        rig.store("s").script.append(Denied("that key may not read"))
        with pytest.raises(Denied, match="that key may not read"):
            await read_all(file)
        assert rig.cache.disks[0].used_bytes == 0
        file.close()


@pytest.mark.parametrize("change", ["overwrite", "delete"])
async def test_an_open_file_stays_on_its_version_or_fails_with_estale(tmp_path: Path, change: str) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, LARGE)
        assert await read_piece(file, 0, MIB) == LARGE[:MIB]
        await rig.landed()
        if change == "overwrite":
            await rig.put("s", "x", LARGE[::-1])
        else:
            await rig.memory("s").delete("x")
        assert await read_piece(file, 0, MIB) == LARGE[:MIB]
        with pytest.raises(StaleVersion):
            await read_piece(file, 20 * MIB, MIB)
        file.close()


async def test_a_large_file_read_in_order_comes_in_parts_in_parallel_that_grow(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        store = rig.stores["s"] = CountingStore(rig.store("s").inner)
        data = LARGE * 4
        file = await mounted(rig, data)
        assert await read_all(file) == data
        sizes = [span.size // MIB for span in store.spans]
        assert sizes[:2] == [1, 1]
        assert max(sizes) == 8
        assert len(sizes) < 30
        assert store.under_way_max >= 3
        assert sum(span.size for span in store.spans) == len(data)  # each byte once
        file.close()


async def test_several_streams_in_one_file_are_each_read_ahead(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        data = LARGE * 4
        file = await mounted(rig, data)
        starts = [0, 40 * MIB, 80 * MIB]
        for step in range(12):
            for start in starts:
                offset = start + step * MIB
                assert await read_piece(file, offset, MIB) == data[offset : offset + MIB]
        assert bodies(rig) < 30  # 36 reads of a page each
        file.close()


async def test_random_reads_of_a_large_file_fetch_their_pages_only(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        store = rig.stores["s"] = CountingStore(rig.store("s").inner)
        file = await mounted(rig, LARGE)
        for page in (17, 3, 9, 23):
            offset = page * MIB + 500
            assert await read_piece(file, offset, 4096) == LARGE[offset : offset + 4096]
        await rig.landed()
        assert store.spans == [ByteRange(page * MIB, (page + 1) * MIB) for page in (17, 3, 9, 23)]
        assert rig.fs.residency(file.entry) == 4 * MIB
        file.close()


async def test_a_file_the_cache_does_not_admit_is_read_through_in_bounded_memory(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=2 * MIB, memory_bytes=16 * MIB) as rig:
        file = await mounted(rig, LARGE)
        passing, most, whole = rig.cache.passing, 0, bytearray()
        while piece := await read_piece(file, len(whole), 128 * KIB):
            whole += piece
            most = max(most, passing.bytes)
        assert whole == LARGE
        assert 0 < most <= 8 * MIB
        assert rig.cache.disks[0].used_bytes <= 2 * MIB
        await rig.landed()
        file.close()
        assert passing.bytes == 0


async def test_many_readers_of_one_file_that_is_not_admitted_all_get_their_bytes(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=0, memory_bytes=16 * MIB) as rig:
        file = await mounted(rig, LARGE)
        chance = random.Random(5)
        offsets = [chance.randrange(24) * MIB + chance.randrange(MIB) for _ in range(60)]
        pieces = await asyncio.gather(*(read_piece(file, offset, MIB) for offset in offsets))
        assert pieces == [LARGE[offset : offset + MIB] for offset in offsets]
        file.close()


async def test_a_read_larger_than_the_memory_for_what_passes_gets_all_its_bytes(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=0, memory_bytes=16 * MIB) as rig:
        file = await mounted(rig, LARGE)
        assert await read_piece(file, 5, 20 * MIB) == LARGE[5 : 20 * MIB + 5]
        file.close()


async def test_small_files_that_are_not_admitted_are_one_request_for_each_opening(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=0) as rig:
        file = await mounted(rig, SMALL)
        assert await read_all(file, 16 * KIB) == SMALL
        assert await read_all(file, 16 * KIB) == SMALL
        assert bodies(rig) == 1
        await rig.landed()
        file.close()
        assert await rig.read("/s/x") == SMALL
        assert bodies(rig) == 2


async def test_the_end_of_a_file_and_what_lies_past_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, SMALL)
        assert await read_piece(file, len(SMALL) - 3, 100) == SMALL[-3:]
        assert await read_piece(file, len(SMALL), 100) == b""
        assert await read_piece(file, len(SMALL) + 10**9, 100) == b""
        file.close()


async def test_an_empty_object_is_complete_and_costs_no_request(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, b"")
        assert await read_all(file) == b""
        assert file.local_fd() is None
        assert bodies(rig) == 0
        await rig.fs.fetch(file.entry)
        file.close()


async def test_a_read_wider_than_the_inline_buffer_is_not_cut(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = await mounted(rig, LARGE)
        assert await read_piece(file, 0, len(LARGE)) == LARGE
        await rig.landed()
        assert await read_piece(file, 1, 10 * MIB) == LARGE[1 : 10 * MIB + 1]
        file.close()


async def test_stopping_with_reads_under_way_ends_them_with_an_error(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.begin()
    file = await mounted(rig, SMALL)
    rig.store("s").script.append(Hang(asyncio.Event()))
    reading = asyncio.create_task(read_all(file))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await rig.end()
        with pytest.raises(FsError):
            await reading
    file.close()


async def test_fetching_a_file_whole_while_it_is_read_asks_for_each_byte_once(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        store = rig.stores["s"] = CountingStore(rig.store("s").inner)
        file = await mounted(rig, LARGE)
        data, _, _ = await asyncio.gather(read_all(file), rig.fs.fetch(file.entry), rig.fs.fetch(file.entry))
        assert data == LARGE
        assert rig.fs.is_cached(file.entry)
        assert sum(span.size for span in store.spans) == len(LARGE)
        file.close()
