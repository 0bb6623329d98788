"""What is counted of a reading: from where its bytes came, and how long it had to wait."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import pytest

from forebay.daemon.listing import list_below, list_folder, usage
from forebay.daemon.wire import Json
from forebay.errors import Unavailable
from forebay.frontends.local.calls import Calls
from forebay.observe.traffic import Traffic
from forebay.testing.faulty_store import Hang
from forebay.testing.rig import Rig, read_all, read_piece
from forebay.types import ByteRange
from forebay.units import KIB, MIB
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.listing import Listing
from forebay.vfs.load import LoadEvent

SMALL, LARGE = bytes(110 * KIB), bytes(24 * MIB + 12_345)


def traffic(rig: Rig, path: str = "/s") -> Traffic:
    return dict(rig.fs.tree.ledger)[path]


def sources(rig: Rig, path: str = "/s") -> tuple[int, int, int]:
    """Bytes that readers got from store, cache and memory."""
    found = traffic(rig, path)
    return found.read_from_store, found.read_from_cache, found.read_from_memory


async def load(rig: Rig, path: str) -> LoadEvent:
    return [event async for event in rig.fs.load(path)][-1]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("piece_bytes", [37 * KIB, MIB])
async def test_each_byte_is_from_the_store_once_and_then_from_the_cache(
    tmp_path: Path, data: bytes, piece_bytes: int
) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", data)
        await rig.mount("/s", "s")
        for round_ in range(3):
            file = rig.fs.open(await rig.stat_file("/s/x"))
            assert len(await read_all(file, piece_bytes)) == len(data)
            file.close()
            assert sources(rig) == (len(data), round_ * len(data), 0)
        await rig.landed()
        found = traffic(rig)
        assert (found.hits, found.misses, found.bytes_from_store) == (2, 1, len(data))
        assert found.flight_times.count == found.flights


async def test_two_readers_at_once_get_the_bytes_of_one_request_once_from_the_store(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/s", "s")
        entry = await rig.stat_file("/s/x")
        files = [rig.fs.open(entry) for _ in range(2)]
        await asyncio.gather(*(read_all(file) for file in files))
        assert sources(rig) == (len(SMALL), len(SMALL), 0)
        for file in files:
            file.close()


async def test_what_is_fetched_ahead_of_a_reader_is_from_the_store(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for index in range(20):
            await rig.put("s", f"d/{index:02}", SMALL)
        await rig.mount("/s", "s")
        for index in range(20):
            await rig.read(f"/s/d/{index:02}")
            await rig.landed()
        assert traffic(rig).files_prefetched > 0
        assert sources(rig) == (20 * len(SMALL), 0, 0)
        assert traffic(rig).bytes_from_store == 20 * len(SMALL)


async def test_what_was_loaded_is_from_the_cache(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", LARGE)
        await rig.mount("/s", "s")
        assert (await load(rig, "/s")).files_done == 1
        assert sources(rig) == (0, 0, 0)
        await rig.read("/s/x")
        assert sources(rig) == (0, len(LARGE), 0)
        assert traffic(rig).hits == 1


async def test_of_a_full_cache_bytes_are_from_the_store_and_then_from_memory(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=MIB) as rig:
        data = bytes(3 * MIB)
        await rig.put("s", "x", data)
        await rig.mount("/s", "s")
        file = rig.fs.open(await rig.stat_file("/s/x"))
        await read_piece(file, 0, 100 * KIB)
        await rig.landed()
        assert traffic(rig).bytes_read_through > 0
        fetched = traffic(rig).bytes_from_store
        while sum(sources(rig)) < fetched + MIB:
            await read_piece(file, 0, 100 * KIB)
        store, cache, memory = sources(rig)
        assert (store, cache) == (traffic(rig).bytes_from_store, 0)
        assert memory > 0
        file.close()


async def test_of_a_file_of_which_only_the_head_is_read_the_next_reading_is_of_the_cache(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/s", "s")
        for round_ in range(3):
            file = rig.fs.open(await rig.stat_file("/s/x"))
            await read_piece(file, 0, KIB)
            file.close()
            await rig.landed()
            assert sources(rig) == (KIB, round_ * KIB, 0)


async def test_what_a_failed_request_did_not_bring_is_from_the_cache_of_nobody(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/s", "s")
        entry = await rig.stat_file("/s/x")
        rig.store("s").script.extend([Unavailable("down")] * 3)
        with pytest.raises(Unavailable):
            await rig.read("/s/x")
        assert (traffic(rig).flights_failed, sources(rig)) == (1, (0, 0, 0))
        rig.store("s").script.clear()
        await load(rig, "/s")
        file = rig.fs.open(entry)
        await read_all(file)
        file.close()
        assert sources(rig) == (0, len(SMALL), 0), "the request that failed left nothing to be read"


async def test_readers_who_wait_for_the_store_are_timed_and_those_who_need_not_are_not(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/s", "s")
        entry = await rig.stat_file("/s/x")
        stall = traffic(rig).stall
        names_s = stall.sum_s
        answer = asyncio.Event()
        rig.store("s").script.append(Hang(answer))
        files = [rig.fs.open(entry) for _ in range(2)]
        readers = [asyncio.create_task(file.read(0, KIB)) for file in files]
        while stall.waiting < 2:
            await asyncio.sleep(0)
        rig.clock.advance(3.0)
        answer.set()
        await asyncio.gather(*readers)
        assert (stall.waiting, stall.sum_s - names_s, stall.any_s - names_s) == (0, 6.0, 3.0)
        assert (traffic(rig).read_waits.count, traffic(rig).read_waits.sum_s) == (2, 6.0)
        await rig.landed()
        rig.clock.advance(10.0)
        assert files[0].read_now(0, KIB) is not None
        await files[0].read(0, KIB)
        assert stall.sum_s - names_s == 6.0, "what is here is waited for at the disk at most"
        assert traffic(rig).disk_waits.count == 1
        for file in files:
            file.close()


async def test_a_name_that_the_store_is_asked_for_is_waited_for(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/s", "s")
        await rig.stat_file("/s/x")
        asked = traffic(rig).lookup_waits.count
        assert asked == 1
        await rig.stat_file("/s/x")
        assert traffic(rig).lookup_waits.count == asked, "known names are not waited for"


async def test_who_waits_in_a_listing_waits_for_the_store_and_who_loads_names_does_not(tmp_path: Path) -> None:
    async with Rig(tmp_path, page_keys=10) as rig:
        for number in range(25):
            await rig.put("s", f"d/{number:02}", b"")
        await rig.mount("/s", "s")
        stall, store = traffic(rig).stall, rig.store("s")

        async def listed_in_3s(path: str, *, reads: bool) -> None:
            """Its second page takes 3 s."""
            await rig.fs.stat(path)
            answer = asyncio.Event()
            store.pages.extend([None, Hang(answer)])
            listing = await rig.fs.open_folder(path, reads=reads)
            reading = asyncio.create_task(read_names(listing, reads=reads))
            while store.pages or (reads and not stall.waiting):
                await asyncio.sleep(0)
            rig.clock.advance(3.0)
            answer.set()
            assert await reading == 25

        async def read_names(listing: Listing, *, reads: bool) -> int:
            wait = listing.counted(rig.fs.monotonic) if reads else None
            return sum([len(some) async for some in listing.batches(wait=wait)])

        await listed_in_3s("/s/d", reads=True)
        assert (stall.waiting, stall.sum_s, traffic(rig).listing_waits.sum_s) == (0, 3.0, 3.0)
        await rig.fs.refresh("/s/d")
        await listed_in_3s("/s/d", reads=False)
        assert (stall.sum_s, traffic(rig).listing_waits.sum_s) == (3.0, 3.0)
        waits = traffic(rig).listing_waits.count
        assert await read_names(await rig.fs.open_folder("/s/d", reads=True), reads=True) == 25
        assert traffic(rig).listing_waits.count == waits, "what is known is not waited for"


Lists = Callable[[FileSystem, str], AsyncGenerator[Sequence[Json], None]]


def for_a_program(call: str) -> Lists:
    return lambda fs, path: Calls(fs, fs.orders).long[call]({"path": path})


@pytest.mark.parametrize(
    "lists",
    [list_folder, list_below, usage, for_a_program("list"), for_a_program("walk")],
    ids=["ls", "ls -R", "du", "list", "walk"],
)
async def test_a_user_or_program_that_waits_for_a_listing_waits_for_the_store_once(
    tmp_path: Path, lists: Lists
) -> None:
    async with Rig(tmp_path, page_keys=10) as rig:
        for number in range(25):
            await rig.put("s", f"d/{number:02}", b"")
        await rig.mount("/s", "s")
        await rig.fs.stat("/s/d")
        stall, store, answer = traffic(rig).stall, rig.store("s"), asyncio.Event()

        async def listed() -> int:
            return len([line async for batch in lists(rig.fs, "/s/d") for line in batch])

        store.pages.extend([None, Hang(answer)])  # the second page
        user = asyncio.create_task(listed())
        while store.pages:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert stall.waiting == 1
        rig.clock.advance(3.0)
        answer.set()
        assert await user > 0
        assert (stall.waiting, stall.sum_s, traffic(rig).listing_waits.sum_s) == (0, 3.0, 3.0)
        waits = traffic(rig).listing_waits.count
        assert [event async for event in rig.fs.load("/s/d")]
        assert traffic(rig).listing_waits.count == waits, "who loads is no reader"


async def test_names_that_are_asked_for_ahead_of_readers_are_not_waited_for(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/s", "s")
        job = rig.fs.orders.open_job("train", 0)
        job.announce(["/s/x"])
        while rig.fs.orders.is_busy:
            await asyncio.sleep(0)
        assert traffic(rig).bytes_from_store == len(SMALL)
        assert (traffic(rig).lookup_waits.count, traffic(rig).stall.sum_s) == (0, 0.0)


async def test_a_mount_that_is_made_again_begins_at_nothing_and_the_total_goes_on(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/s", "s")
        await rig.read("/s/x")
        await rig.landed()
        before = rig.fs.tree.ledger.counts()
        await rig.fs.unmount("/s")
        assert dict(rig.fs.tree.ledger) == {}
        assert rig.fs.tree.ledger.counts() == before
        await rig.mount("/s", "s")
        assert traffic(rig).counts() == Traffic().counts()
        await rig.read("/s/x")
        assert (traffic(rig).hits, rig.fs.counters()["hits"]) == (1, before["hits"] + 1)


async def test_two_mounts_of_one_place_are_counted_apart(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "x", SMALL)
        await rig.mount("/one", "s")
        await rig.mount("/two", "s")
        await rig.read("/one/x")
        await rig.read("/two/x")
        assert (sources(rig, "/one"), sources(rig, "/two")) == ((len(SMALL), 0, 0), (0, len(SMALL), 0))
        assert rig.fs.cache.held_bytes(rig.fs.mounts[0].place) == len(SMALL)


async def test_bytes_that_are_read_past_the_cache_are_neither_cached_nor_counted(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for key, data in {"x": SMALL, "y": LARGE}.items():
            await rig.put("s", key, data)
        await rig.mount("/s", "s")
        for key, data in {"x": SMALL, "y": LARGE}.items():
            entry = await rig.stat_file(f"/s/{key}")
            for span in (ByteRange(0, len(data)), ByteRange(5, 7), ByteRange(1, len(data) - 1)):
                got = [bytes(memoryview(piece)) async for piece in rig.fs.stream_past_cache(entry, span)]
                assert b"".join(got) == data[span.start : span.stop]
            assert rig.fs.residency(entry) == 0
        assert (sources(rig), traffic(rig).bytes_from_store) == ((0, 0, 0), 0)
        assert all(throttle.requests == 0 for throttle in rig.cache.throttles.values())
