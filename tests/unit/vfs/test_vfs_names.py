"""Lookups and listings: what they cost, how long they are believed, and odd names."""

import asyncio
from pathlib import Path

import pytest

from forebay.errors import NotADirectory, NotFound, TimedOut, Unavailable
from forebay.testing.faulty_store import Hang
from forebay.testing.rig import Rig
from forebay.vfs.entries import FileEntry, FolderEntry
from forebay.vfs.metadata import LIST_AFTER_MISSES


async def mounted(rig: Rig, *keys: str, **options: object) -> None:
    for key in keys:
        await rig.put("s", key, key.encode("utf-8", "surrogateescape"))
    await rig.mount("/s", "s", **options)
    rig.memory("s").requests.clear()


def asked(rig: Rig) -> int:
    requests = rig.memory("s").requests
    return requests["head"] + requests["list"]


async def exists(rig: Rig, path: str) -> bool:
    try:
        await rig.fs.stat(path)
    except NotFound:
        return False
    return True


async def test_a_stat_in_a_listed_folder_costs_no_request(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "d/a", "d/b", "d/e/f")
        assert await rig.names("/s/d") == ["a", "b", "e"]
        listed = asked(rig)
        assert isinstance(await rig.fs.stat("/s/d/a"), FileEntry)
        assert isinstance(await rig.fs.stat("/s/d/e"), FolderEntry)
        assert not await exists(rig, "/s/d/missing")
        assert asked(rig) == listed


async def test_a_lookup_in_an_unknown_folder_is_one_head_and_one_list(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "d/a", *(f"d/{index:04}" for index in range(2_500)))
        entry = await rig.fs.stat("/s/d/a")
        assert (rig.memory("s").requests["head"], rig.memory("s").requests["list"]) == (1, 1)
        assert await rig.fs.stat("/s/d/a") == entry
        assert asked(rig) == 2


async def test_an_absence_is_remembered(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        assert not await exists(rig, "/s/b")
        before = asked(rig)
        assert not await exists(rig, "/s/b")
        assert asked(rig) == before


async def test_two_lookups_of_one_name_at_the_same_time_ask_once(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        await asyncio.gather(*(rig.fs.stat("/s/a") for _ in range(5)))
        assert asked(rig) == 2


async def test_after_a_few_lookups_in_a_folder_it_is_listed_and_the_rest_cost_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, *(f"d/{index}" for index in range(40)))
        for index in range(LIST_AFTER_MISSES + 1):
            await rig.fs.stat(f"/s/d/{index}")
        await asyncio.gather(*rig.fs.metadata._tasks)
        before = asked(rig)
        for index in range(40):
            await rig.fs.stat(f"/s/d/{index}")
        assert asked(rig) == before


async def test_a_folder_too_large_to_keep_is_not_listed_for_lookups_but_is_for_people(tmp_path: Path) -> None:
    async with Rig(tmp_path, metadata_entries=1_000, page_keys=100) as rig:
        await mounted(rig, *(f"d/{index:05}" for index in range(1_500)))
        for index in range(30):
            await rig.fs.stat(f"/s/d/{index:05}")
        await asyncio.gather(*rig.fs.metadata._tasks)
        assert len(rig.fs.metadata.folders) <= 1_000
        assert rig.memory("s").requests["list"] < 30 + 10
        assert len(await rig.names("/s/d")) == 1_500


async def test_what_is_known_of_names_is_bounded(tmp_path: Path) -> None:
    async with Rig(tmp_path, metadata_entries=1_000) as rig:
        await mounted(rig, *(f"{folder}/{index:03}" for folder in range(30) for index in range(100)))
        for folder in range(30):
            assert len(await rig.names(f"/s/{folder}")) == 100
            assert len(rig.fs.metadata.folders) <= 1_000
        for folder in range(30):
            for index in range(100):
                await exists(rig, f"/s/{folder}/absent{index}")
                assert len(rig.fs.metadata.folders) <= 1_200  # the folder in use always stays


async def test_within_the_ttl_a_change_is_not_seen_and_after_it_is(tmp_path: Path) -> None:
    async with Rig(tmp_path, ttl_s=60.0) as rig:
        await mounted(rig, "a")
        before = await rig.stat_file("/s/a")
        await rig.put("s", "a", b"changed")
        rig.clock.advance(59.0)
        assert await rig.stat_file("/s/a") == before
        rig.clock.advance(2.0)
        assert (await rig.stat_file("/s/a")).size == len(b"changed")


async def test_always_asks_at_every_use(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a", freshness="always")
        for size in range(1, 4):
            await rig.put("s", "a", bytes(size))
            assert (await rig.stat_file("/s/a")).size == size
        await rig.put("s", "b", b"")
        assert await rig.names("/s") == ["a", "b"]
        await rig.memory("s").delete("b")
        assert await rig.names("/s") == ["a"]


async def test_always_joins_no_listing_that_began_before(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a", freshness="always")
        answer = asyncio.Event()
        rig.store("s").script.append(Hang(answer))
        earlier = await rig.fs.open_folder("/s")
        while rig.store("s").script:  # until the store is asked
            await asyncio.sleep(0)
        await rig.put("s", "b", b"")
        async with asyncio.timeout(5):
            assert await rig.names("/s") == ["a", "b"]
            answer.set()
            await earlier.wait(0)


async def test_immutable_is_never_asked_again_until_told(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a", freshness="immutable")
        before = await rig.stat_file("/s/a")
        await rig.put("s", "a", b"changed")
        rig.clock.advance(1e9)
        assert await rig.stat_file("/s/a") == before
        await rig.fs.refresh("/s")
        assert (await rig.stat_file("/s/a")).size == len(b"changed")


async def test_an_immutable_mount_reads_on_from_the_cache_when_the_store_is_down(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a", freshness="immutable")
        assert await rig.read("/s/a") == b"a"
        await rig.landed()
        rig.store("s").script.extend([Unavailable("down")] * 100)
        assert await rig.read("/s/a") == b"a"


async def test_a_refresh_tells_frontends_and_fails_for_what_is_gone(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "d/a")
        await rig.names("/s/d")
        told: list[str] = []
        rig.fs.on_change.append(lambda path, *_: told.append(path))
        await rig.memory("s").delete("d/a")
        with pytest.raises(NotFound):
            await rig.fs.refresh("/s/d/a")
        assert told == ["/s/d/a"]
        assert await rig.names("/s") == [] or not await exists(rig, "/s/d/a")


async def test_an_answer_that_began_before_a_refresh_is_not_believed_after_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        answer = asyncio.Event()
        rig.store("s").script.append(Hang(answer))
        listing = await rig.fs.open_folder("/s")
        await asyncio.sleep(0.01)
        await rig.put("s", "b", b"")
        await rig.fs.refresh("/s")
        answer.set()
        async with asyncio.timeout(5):
            await listing.wait(0)
        assert await rig.names("/s") == ["a", "b"]


async def test_a_lookup_that_began_before_a_refresh_does_not_bring_back_what_it_saw(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        answer = asyncio.Event()
        rig.store("s").script.extend([None, Hang(answer)])  # it has seen the old version, and waits for its listing
        looking = asyncio.create_task(rig.fs.lookup("/s", "a"))
        async with asyncio.timeout(5):
            while rig.store("s").script:
                await asyncio.sleep(0.001)
        await rig.put("s", "a", b"changed")
        await rig.fs.refresh("/s/a")
        answer.set()
        await looking
        assert (await rig.stat_file("/s/a")).size == len(b"changed")


async def test_a_read_that_finds_its_version_gone_makes_the_next_stat_ask(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        await rig.names("/s")
        await rig.put("s", "a", b"changed")
        with pytest.raises(OSError, match="changed"):
            await rig.read("/s/a")
        assert await rig.read("/s/a") == b"changed"


async def test_an_object_and_a_folder_of_one_name_show_as_the_folder_everywhere(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a", "a-b", "a/x")
        assert isinstance(await rig.fs.stat("/s/a"), FolderEntry)
        assert await rig.names("/s") == ["a", "a-b"]
        assert isinstance(await rig.fs.stat("/s/a"), FolderEntry)
        assert rig.fs.hidden("/s") == 1


@pytest.mark.parametrize("page_keys", [1, 2, 1_000])
async def test_keys_that_no_file_name_can_show_are_hidden_and_counted(tmp_path: Path, page_keys: int) -> None:
    async with Rig(tmp_path, page_keys=page_keys) as rig:
        odd = ["d/", "d//x", "d/../y", "d/.", "d/" + "n" * 256, "d/nul\0"]
        good = ["d/\n", "d/a\nb", "d/b\udcff", "d/" + "n" * 255, "d/sub/", "d/é", "d/ "]
        await mounted(rig, *odd, *good)
        shown = ["\n", " ", "a\nb", "b\udcff", "n" * 255, "sub", "é"]
        assert sorted(await rig.names("/s/d")) == sorted(shown)
        assert rig.fs.hidden("/s/d") == 5  # the marker "d/" is the folder itself
        assert await rig.read("/s/d/b\udcff") == b"d/b\xff"
        assert await rig.read("/s/d/a\nb") == b"d/a\nb"
        hidden: list[int] = []
        files = [file.key async for page in rig.fs.walk("/s", on_hidden=hidden.append) for file in page]
        assert sum(hidden) == 5
        assert sorted(files) == sorted(key for key in good if not key.endswith("/"))


@pytest.mark.parametrize("name", ["n" * 256, ".", "..", "b\udcff", "nul\0"])
async def test_a_name_that_cannot_be_is_absent_without_asking(tmp_path: Path, name: str) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        found = await rig.fs.lookup("/s", name)
        assert found.entry is None
        assert asked(rig) == 0 or name == "b\udcff"  # this store could have it


async def test_a_large_folder_shows_its_first_page_before_the_last_has_come(tmp_path: Path) -> None:
    async with Rig(tmp_path, page_keys=10) as rig:
        await mounted(rig, *(f"{index:03}" for index in range(35)))
        rig.store("s").script.extend([None, None, Hang(asyncio.Event())])
        listing = await rig.fs.open_folder("/s")
        await listing.wait(19)
        assert not listing.done
        assert listing[19][0] == "019"


async def test_a_listing_that_fails_midway_says_so_and_the_next_one_works(tmp_path: Path) -> None:
    async with Rig(tmp_path, page_keys=10) as rig:
        await mounted(rig, *(f"{index:03}" for index in range(35)))
        rig.store("s").script.extend([None, None, Unavailable("gone away")])
        with pytest.raises(Unavailable, match="gone away"):
            await rig.names("/s")
        assert len(await rig.names("/s")) == 35


async def test_a_lookup_the_store_does_not_answer_ends_within_the_deadline(tmp_path: Path) -> None:
    async with Rig(tmp_path, store_deadline_s=0.05) as rig:
        await mounted(rig, "a")
        rig.store("s").script.extend([Hang(asyncio.Event()), Hang(asyncio.Event())])
        with pytest.raises(TimedOut, match="mem://s"):
            await rig.fs.stat("/s/a")
        assert await exists(rig, "/s/a")


async def test_a_lookup_the_store_refuses_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        for fault in ([Unavailable("x")], [None, Unavailable("x")], [Unavailable("x")] * 2):
            rig.store("s").script.extend(fault)
            with pytest.raises(Unavailable):
                await rig.fs.stat("/s/a")
        assert await exists(rig, "/s/a")


async def test_listing_a_file_or_nothing_says_what_is_wrong(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await mounted(rig, "a")
        with pytest.raises(NotADirectory, match="/s/a is a file"):
            await rig.fs.open_folder("/s/a")
        with pytest.raises(NotFound, match="/s/none"):
            await rig.fs.open_folder("/s/none")


async def test_a_walk_leaves_every_folder_known(tmp_path: Path) -> None:
    keys = ["a", "d-", "d/", "d//x", "d/a", "d/e/a", "d/e/b", "d/z", "d0", "e/f/g"]
    async with Rig(tmp_path, page_keys=2) as rig, Rig(tmp_path / "other") as listed:
        await mounted(rig, *keys)
        await mounted(listed, *keys)
        assert [file.key async for files in rig.fs.walk("/s") for file in files] == [
            key for key in keys if key not in ("d/", "d//x")
        ]
        before = asked(rig)
        for folder in ("/s", "/s/d", "/s/d/e", "/s/e", "/s/e/f"):
            assert sorted(await rig.names(folder)) == sorted(await listed.names(folder))
            assert rig.fs.hidden(folder) == listed.fs.hidden(folder)
        assert not await exists(rig, "/s/d/none")
        assert asked(rig) == before


async def test_a_walk_that_is_not_finished_says_nothing_of_what_it_has_not_passed(tmp_path: Path) -> None:
    async with Rig(tmp_path, page_keys=3) as rig:
        await mounted(rig, "a/1", "a/2", "b/1", "b/2", "b/3", "c/1")
        async for _ in rig.fs.walk("/s"):
            break
        assert rig.fs.peek("/s/a", "1") is not None
        assert rig.fs.peek("/s/a", "none") == (None, 60.0)
        assert rig.fs.peek("/s/b", "2") is None
        assert await rig.names("/s/b") == ["1", "2", "3"]
        assert await rig.names("/s") == ["a", "b", "c"]


async def test_a_walk_that_began_before_a_refresh_is_not_believed_after_it(tmp_path: Path) -> None:
    async with Rig(tmp_path, page_keys=1) as rig:
        await mounted(rig, "a", "b")
        async for _ in rig.fs.walk("/s"):
            await rig.put("s", "A", b"")
            await rig.fs.refresh("/s")
        assert await rig.names("/s") == ["A", "a", "b"]
