"""`load`: everything, once, counted exactly; what fails is named; stopping leaves no task behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.errors import NotFound, Unavailable
from forebay.testing.faulty_store import Hang
from forebay.testing.rig import Rig
from forebay.vfs.entries import FileEntry
from forebay.vfs.load import AHEAD_MAX, LoadEvent, load


async def mounted(rig: Rig, count: int) -> None:
    for index in range(count):
        await rig.put("s", f"d/{index:03}", bytes(1_000 + index))
    await rig.mount("/s", "s")


async def events(rig: Rig, path: str = "/s") -> list[LoadEvent]:
    return [event async for event in rig.fs.load(path)]


def tasks() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("load.")}


async def test_everything_below_a_path_is_cached_with_one_request_each(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, 300)
        await rig.put("s", "empty", b"")
        last = (await events(rig))[-1]
        size = sum(1_000 + index for index in range(300))
        assert last == LoadEvent(files_done=301, files_total=301, bytes_done=size, bytes_total=size, done=True)
        assert rig.memory("s").requests["get"] == 300
        assert rig.memory("s").requests["head"] <= 1
        assert rig.cache.disks[0].used_bytes == size
        assert tasks() == set()


async def test_a_second_load_asks_for_nothing_that_is_here(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, 50)
        await events(rig, "/s/d")
        await rig.restart()
        assert (await events(rig, "/s/d"))[-1].files_done == 50
        assert rig.memory("s").requests["get"] == 50


async def test_each_file_that_fails_is_named_once_and_the_next_load_brings_it(tmp_path: Path) -> None:
    async with Rig(tmp_path, store_requests=1) as rig:
        await mounted(rig, 20)
        await rig.fs.stat("/s")
        rig.store("s").script.extend([None] * 3 + [Unavailable("no answer"), None, Unavailable("no answer")])
        seen = await events(rig)
        failed = [event.failed for event in seen if event.failed]
        assert [message for _, message in failed] == ["no answer"] * 2
        assert len({path for path, _ in failed}) == 2
        assert (seen[-1].files_done, seen[-1].files_total, seen[-1].done) == (18, 20, True)
        assert (await events(rig))[-1].files_done == 20
        assert rig.memory("s").requests["get"] == 20


async def test_a_full_cache_fails_the_files_it_has_no_room_for(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=5_100) as rig:
        await mounted(rig, 20)
        seen = await events(rig)
        failed = [event.failed for event in seen if event.failed]
        assert seen[-1].files_done + len(failed) == 20
        assert seen[-1].files_done >= 4
        assert all("full" in message for _, message in failed)


async def test_a_walk_that_fails_is_an_error_and_leaves_no_task(tmp_path: Path) -> None:
    async with Rig(tmp_path, page_keys=10) as rig:
        await mounted(rig, 50)
        rig.store("s").pages.extend([None, None, Unavailable("the listing broke")])
        with pytest.raises(Unavailable, match="the listing broke"):
            await events(rig)
        assert tasks() == set()
        with pytest.raises(NotFound):
            await events(rig, "/s/none")
        assert tasks() == set()


async def test_closing_a_load_stops_it_even_when_the_store_hangs(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, 50)
        await rig.fs.stat("/s")
        rig.store("s").script.extend([None] + [Hang(asyncio.Event())] * 60)
        loading = rig.fs.load("/s")
        assert not (await anext(loading)).done
        async with asyncio.timeout(5):
            await loading.aclose()  # type: ignore[attr-defined]
        assert tasks() == set()


async def test_closing_a_load_stops_it_even_while_its_fetches_are_given_up(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, 500)
        await rig.fs.stat("/s")
        rig.store("s").pages.extend([None] * 2)
        rig.store("s").script.extend([Hang(asyncio.Event())] * 1000)
        loading = rig.fs.load("/s")
        assert not (await anext(loading)).done
        settling = asyncio.create_task(rig.cache.settle())
        async with asyncio.timeout(5):
            await loading.aclose()  # type: ignore[attr-defined]
            await settling
        assert tasks() == set()


async def test_the_totals_are_told_as_soon_as_the_walk_is_over(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, 5)
        await rig.fs.stat("/s")
        answer = asyncio.Event()
        rig.store("s").script.extend([None, None] + [Hang(answer)] * 5)  # the listing and its end come first
        seen = []
        async for event in rig.fs.load("/s"):
            seen.append(event)
            answer.set()
        assert seen[0].files_total == 5
        assert seen[0].files_done == 0


async def test_the_walk_is_only_so_far_ahead_of_the_fetching(tmp_path: Path) -> None:
    walked = fetched = ahead = 0
    async with Rig(tmp_path) as rig:
        await mounted(rig, 1)
        page = [await rig.stat_file("/s/d/000")] * 1_000

        async def pages() -> AsyncIterator[list[FileEntry]]:
            nonlocal walked
            for _ in range(2 * AHEAD_MAX // len(page)):
                walked += len(page)
                yield page

        async def fetch(_file: FileEntry) -> None:
            nonlocal fetched, ahead
            ahead = max(ahead, walked - fetched)
            fetched += 1

        last = [event async for event in load(pages(), fetch, parallel=4)][-1]
        assert last.files_done == last.files_total == fetched == 2 * AHEAD_MAX
        assert AHEAD_MAX <= ahead <= AHEAD_MAX + len(page)
