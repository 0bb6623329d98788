"""What names cost in requests, counted at the store: nobody walks what was not asked for, and nobody asks twice."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.errors import Invalid, Unavailable
from forebay.stores.base import Store
from forebay.stores.registry import open_store
from forebay.testing.fault_server import FaultServer, fault_server
from forebay.testing.rig import Rig
from forebay.vfs.entries import MountOptions
from forebay.vfs.load_names import NamesEvent


class S3Rig(Rig):
    """A rig whose mounts are of a real S3 adapter, on a server that counts."""

    server: FaultServer

    def _open_store(self, url: str, options: Mapping[str, str], *, settings: Settings) -> tuple[Store, str]:
        return open_store(url, options, settings=settings)

    async def mount_s3(self, freshness: str = "ttl") -> None:
        options = {"s3.endpoint": self.server.endpoint, "s3a.accessKeyID": "a", "s3a.secretKey": "b"}
        words = MountOptions(options=tuple(options.items()), freshness=freshness)
        await self.fs.mount("/s", "s3://bucket", words)
        self.server.seen.clear()
        self.server.targets.clear()

    def asked(self) -> int:
        return self.server.requests.total()


async def test_listing_a_folder_never_walks_its_neighbour_of_a_longer_name(tmp_path: Path) -> None:
    async with fault_server() as server, S3Rig(tmp_path) as rig:
        rig.server = server
        server.objects = {"a/x": b"", "aa/y": b"", "a0": b"", "ab": b""} | {f"aa/{n:05}": b"" for n in range(3_000)}
        await rig.mount_s3()
        assert await rig.names("/s/a") == ["x"]
        assert await rig.names("/s/a") == ["x"]
        assert not any("aa" in target for target in server.targets)
        assert rig.asked() == 3  # what /s/a is (a HEAD and a LIST), and its listing


@pytest.mark.parametrize(("count", "pages"), [(1, 1), (999, 1), (1_000, 1), (1_001, 2), (4_500, 5)])
async def test_a_folder_of_n_costs_n_in_thousands_and_its_stats_nothing(tmp_path: Path, count: int, pages: int) -> None:
    async with fault_server() as server, S3Rig(tmp_path) as rig:
        rig.server = server
        server.objects = {f"{number:05}": b"x" for number in range(count)}
        await rig.mount_s3()
        assert len(await rig.names("/s")) == count
        assert server.requests == {"GET": pages}
        for number in range(count):
            assert (await rig.stat_file(f"/s/{number:05}")).size == 1
        for number in range(200):
            assert (await rig.fs.lookup("/s", f"none{number}")).entry is None
        assert len(await rig.names("/s")) == count
        assert rig.asked() == pages


async def test_an_absence_is_asked_for_once(tmp_path: Path) -> None:
    async with fault_server() as server, S3Rig(tmp_path) as rig:
        rig.server = server
        server.objects = {"a": b""}
        await rig.mount_s3()
        for _ in range(3):
            assert (await rig.fs.lookup("/s", "none")).entry is None
        assert server.requests == {"HEAD": 1, "GET": 1}


TREE = [f"{top}/{sub}/{number}" for top in range(6) for sub in range(5) for number in range(3)]
FOLDERS = 1 + 6 + 30


async def load_names(rig: Rig, path: str = "/s") -> list[NamesEvent]:
    return [event async for event in rig.fs.load_names(path)]


async def every_name(rig: Rig, path: str) -> list[str]:
    found: list[str] = []
    for name in await rig.names(path):
        below = f"{path}/{name}"
        found += [below] if name.isdigit() and below.count("/") == 4 else await every_name(rig, below)
        await rig.fs.stat(below)
    return found


async def test_a_tree_whose_names_were_loaded_needs_no_request_again_nor_after_a_restart(tmp_path: Path) -> None:
    async with fault_server() as server, S3Rig(tmp_path) as rig:
        rig.server = server
        server.objects = {key: b"12" for key in TREE}
        await rig.mount_s3("immutable")
        last = (await load_names(rig))[-1]
        assert last == NamesEvent(FOLDERS, FOLDERS, len(TREE), 2 * len(TREE), done=True)
        assert server.requests == {"GET": FOLDERS}
        for _ in range(2):
            assert sorted(await every_name(rig, "/s")) == sorted(f"/s/{key}" for key in TREE)
            assert (await rig.fs.lookup("/s/3/4", "none")).entry is None
            assert (await load_names(rig))[-1] == last
            await rig.restart()
        assert rig.asked() == FOLDERS


async def test_a_walk_asks_for_each_folder_once_though_it_is_listed_ahead(tmp_path: Path) -> None:
    async with fault_server() as server, S3Rig(tmp_path) as rig:
        rig.server = server
        server.objects = {key: b"12" for key in TREE}
        await rig.mount_s3()
        assert len(await every_name(rig, "/s")) == len(TREE)
        assert rig.asked() == FOLDERS


async def test_a_walk_has_its_next_folders_listed_while_it_is_busy_with_this_one(tmp_path: Path) -> None:
    async with fault_server() as server, S3Rig(tmp_path) as rig:
        rig.server = server
        server.objects = {f"{folder:02}/{number}": b"" for folder in range(40) for number in range(3)}
        await rig.mount_s3()
        await rig.names("/s")
        for folder, ahead in ((0, 0), (1, 2), (2, 4)):
            await rig.names(f"/s/{folder:02}")
            while tasks := list(rig.fs.metadata._tasks):
                await asyncio.gather(*tasks)
            assert rig.asked() == 1 + (folder + 1) + ahead
        for folder in range(3, 40):
            await rig.names(f"/s/{folder:02}")
        assert rig.asked() == 1 + 40


async def test_who_opens_one_folder_has_no_other_listed(tmp_path: Path) -> None:
    async with fault_server() as server, S3Rig(tmp_path) as rig:
        rig.server = server
        server.objects = {key: b"12" for key in TREE}
        await rig.mount_s3()
        await rig.names("/s")
        await rig.names("/s/3")
        await rig.names("/s/1")
        assert rig.asked() == 3


async def test_each_folder_that_fails_is_named_once_and_the_next_load_goes_on(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for key in TREE:
            await rig.put("s", key, b"12")
        await rig.mount("/s", "s", freshness="immutable")
        rig.store("s").pages.extend([None] * 20 + [Unavailable("no answer")] * 3)
        events = await load_names(rig)
        failed = [event.failed for event in events if event.failed]
        assert {message for _, message in failed} == {"no answer"}
        assert len({path for path, _ in failed}) == len(failed) == 3
        assert events[-1].folders_done + 3 == events[-1].folders_found
        before = rig.memory("s").requests["list"]
        assert (await load_names(rig))[-1] == NamesEvent(FOLDERS, FOLDERS, len(TREE), 2 * len(TREE), done=True)
        assert rig.memory("s").requests["list"] - before <= FOLDERS - events[-1].folders_done


async def test_names_that_cannot_be_kept_are_not_loaded(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put("s", "a", b"")
        await rig.mount("/s", "s", freshness="always")
        with pytest.raises(Invalid, match="--freshness ttl or immutable"):
            await load_names(rig)
