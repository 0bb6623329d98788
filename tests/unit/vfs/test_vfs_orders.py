"""Announced orders: fetched ahead in order and within bounds, kept by when it is read next, forgotten with its job."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from forebay.errors import Busy, Invalid
from forebay.stores.posix import posix_of
from forebay.testing.faulty_store import Hang
from forebay.testing.rig import Rig, read_all
from forebay.testing.simulation import best
from forebay.units import KIB, MIB
from forebay.vfs.orders import TAKEN_AT_ONCE, UNSEEN_BEHIND, WINDOW_SHARE, Job

FILE = 64 * KIB
LINK_BYTES = len("../d/0000")


def data_of(key: str) -> bytes:
    return random.Random(key).randbytes(FILE)


async def filled(rig: Rig, count: int, store: str = "s", **options: object) -> list[str]:
    """A mount of `count` files; their paths."""
    for index in range(count):
        await rig.put(store, f"d/{index:04}", data_of(f"{store}{index}"))
    await rig.mount(f"/{store}", store, **options)
    return [f"/{store}/d/{index:04}" for index in range(count)]


async def quiet(rig: Rig) -> None:
    """Wait until nothing is fetched ahead any more."""
    while rig.fs.orders.is_busy:
        await asyncio.sleep(0)
    await rig.landed()


async def read(rig: Rig, path: str) -> None:
    store, _, name = path[1:].partition("/d/")
    assert await rig.read(path) == data_of(f"{store}{int(name)}")


async def cached(rig: Rig, names: Sequence[str]) -> list[str]:
    return [name for name in names if rig.fs.is_cached(await rig.stat_file(name))]


def gets(rig: Rig, store: str = "s") -> int:
    return rig.memory(store).requests["get"]


async def fetches(rig: Rig, count: int) -> bool:
    """Does it fetch so many in all and no more, as far as the store answers now?"""
    while rig.store("s").script or gets(rig) < count:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    await rig.landed()
    return gets(rig) == count


async def epoch(rig: Rig, jobs: dict[Job, list[str]]) -> int:
    """Every job reads its order, sample by sample in turns; how many objects were fetched."""
    before = sum(rig.memory(name).requests["get"] for name in rig.stores)
    for names in zip(*jobs.values(), strict=True):
        for job, name in zip(jobs, names, strict=True):
            job.advance(1)
            await read(rig, name)
            await quiet(rig)
    return sum(rig.memory(name).requests["get"] for name in rig.stores) - before


async def test_a_job_that_ends_takes_its_own_fetches_with_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 6)
        for name in names:
            await rig.stat_file(name)
        answer = asyncio.Event()
        rig.store("s").script.extend([Hang(answer)] * 6)
        ends, stays = rig.fs.orders.open_job("ends", 0), rig.fs.orders.open_job("stays", 0)
        ends.announce(names[:3])
        stays.announce(names[3:])
        while rig.cache.throttle(rig.store("s")).requests < 6:
            await asyncio.sleep(0)
        ends.close()
        answer.set()
        await quiet(rig)
        assert await cached(rig, names) == names[3:]


async def test_what_is_announced_comes_before_it_is_read_and_in_its_order(tmp_path: Path) -> None:
    async with Rig(tmp_path, readahead_bytes=4 * FILE) as rig:
        names = await filled(rig, 20)
        random.Random(1).shuffle(names)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names)
        await quiet(rig)
        assert sorted(await cached(rig, names)) == sorted(names[:4])
        await read(rig, names[0])
        await read(rig, names[1])
        await quiet(rig)
        assert sorted(await cached(rig, names)) == sorted(names[:6])
        assert gets(rig) == 6


async def test_no_sample_is_fetched_before_one_whose_name_is_not_known_yet(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        later = await filled(rig, 4)
        first = [f"/s/new/{index}" for index in range(3)]
        for index, name in enumerate(first):
            await rig.put("s", name[3:], data_of(f"s{index}"))
        await rig.names("/s/d")
        answers = [asyncio.Event() for _ in first]
        for answer in answers:
            rig.store("s").script.extend([Hang(answer), None])  # of the object, and of a folder of that name
        job = rig.fs.orders.open_job("train", 0)
        job.announce([*first, *later])
        assert await fetches(rig, 0)
        answers[1].set()
        assert await fetches(rig, 0)
        answers[0].set()
        assert await fetches(rig, 2)
        assert await cached(rig, first[:2]) == first[:2]
        answers[2].set()
        await quiet(rig)
        assert await cached(rig, [*first, *later]) == [*first, *later]


async def test_a_name_that_nobody_tells_holds_up_nothing_once_its_sample_was_read(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 4)
        await rig.names("/s/d")
        rig.store("s").script.append(Hang(asyncio.Event()))
        job = rig.fs.orders.open_job("train", 0)
        job.announce(["/s/new/1", *names * UNSEEN_BEHIND])
        assert await fetches(rig, 0)
        job.advance(UNSEEN_BEHIND + 1)
        assert await fetches(rig, 4)


async def test_a_folder_of_which_something_was_cached_before_is_fetched_ahead_too(tmp_path: Path) -> None:
    async with Rig(tmp_path, prefetch=False) as rig:
        names = [f"/s/d/{folder}/{index}" for folder in "ab" for index in range(4)]
        for index, name in enumerate(names):
            await rig.put("s", name[3:], data_of(f"s{index}"))
        await rig.mount("/s", "s")
        await rig.read(names[7])
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names[:4])
        await quiet(rig)  # what is cached of the data set is known now
        job.announce(names[4:])
        await quiet(rig)
        assert await cached(rig, names) == names


@pytest.mark.parametrize(("jobs", "each"), [(1, 16), (2, 8)])
async def test_what_all_jobs_fetch_ahead_is_a_small_share_of_the_cache(tmp_path: Path, jobs: int, each: int) -> None:
    async with Rig(tmp_path, capacity_bytes=WINDOW_SHARE * 16 * FILE) as rig:
        names = await filled(rig, 60)
        opened = [rig.fs.orders.open_job(f"train{number}", 0) for number in range(jobs)]
        for number, job in enumerate(opened):
            job.announce(names[30 * number :][:30])
        await quiet(rig)
        assert await cached(rig, names) == [name for number in range(jobs) for name in names[30 * number :][:each]]


async def test_nothing_is_fetched_that_nobody_announced_or_asked_for(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 40)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names[:10])
        for name in names[:10] + names[30:33]:  # three misses would begin the folder prefetch
            await read(rig, name)
        await quiet(rig)
        assert sorted(await cached(rig, names)) == names[:10] + names[30:33]
        assert gets(rig) == 13


async def test_a_folder_prefetch_that_runs_ends_when_an_order_is_announced(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 500)
        for name in names[:3]:
            await read(rig, name)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names[:5])
        await quiet(rig)
        before = gets(rig)
        await read(rig, names[4])
        for _ in range(100):
            await asyncio.sleep(0)
        assert gets(rig) == before
        assert not rig.fs.prefetcher.is_running


async def test_one_job_hits_what_the_cache_holds_and_no_policy_could_do_more(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=20 * FILE) as rig:
        names = await filled(rig, 40)
        chance = random.Random(2)
        job = rig.fs.orders.open_job("train", 0)
        for number in range(4):
            order = chance.sample(names, len(names))
            job.announce(order)
            assert await epoch(rig, {job: order}) == (40 if number == 0 else 20)


@pytest.mark.parametrize(("known", "behind"), [(1, 0.15), (2, 0.01)])
async def test_two_jobs_on_the_same_data_fetch_as_little_as_they_can_if_the_next_epoch_is_known(
    tmp_path: Path, known: int, behind: float
) -> None:
    async with Rig(tmp_path, capacity_bytes=100 * FILE, readahead_bytes=FILE) as rig:
        names = await filled(rig, 200)
        chance = random.Random(3)
        orders = [[chance.sample(names, len(names)) for _ in range(4)] for _ in range(2)]
        trace = [
            (0, int(name[-4:]))
            for number in range(4)
            for turn in zip(orders[0][number], orders[1][number], strict=True)
            for name in turn
        ]
        least = best(trace, 100)[400:].count(False)
        jobs = [rig.fs.orders.open_job(f"train{number}", 0) for number in range(2)]
        fetched = []
        for number in range(4):
            for job, order in zip(jobs, orders, strict=True):
                if number == 0:
                    for ahead in order[: known - 1]:
                        job.announce(ahead)
                if number + known - 1 < 4:
                    job.announce(order[number + known - 1])
            fetched.append(await epoch(rig, {job: order[number] for job, order in zip(jobs, orders, strict=True)}))
        assert least <= sum(fetched[1:]) <= least + 3 * len(names) * behind


async def test_what_the_cache_does_not_admit_is_held_in_memory_until_it_is_read(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE) as rig:
        other = await filled(rig, 4, "other")
        for name in other:
            await read(rig, name)
        await quiet(rig)
        names = await filled(rig, 12)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names)
        await quiet(rig)
        assert gets(rig) == 12
        assert rig.fs.orders.memory_left == 16 * MIB - 12 * FILE
        for name in names:
            await read(rig, name)
        assert gets(rig) == 12
        assert rig.fs.orders.memory_left == 16 * MIB
        assert await cached(rig, names) == []
        assert await cached(rig, other) == other


async def test_memory_for_what_is_not_admitted_is_bounded(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=0) as rig:
        names = await filled(rig, 300)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names)
        await quiet(rig)
        assert gets(rig) <= 16 * MIB // FILE
        assert rig.cache.passing.bytes <= 16 * MIB
        for name in names:
            await read(rig, name)
        await quiet(rig)
        assert gets(rig) == 300


async def test_a_file_that_comes_sooner_is_never_evicted_for_one_that_comes_later(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, readahead_bytes=FILE) as rig:
        names = await filled(rig, 8)
        for name in names[:4]:
            await read(rig, name)
        await rig.fs.prefetcher.close()
        await quiet(rig)
        held = await cached(rig, names)
        assert len(held) == 4
        job = rig.fs.orders.open_job("train", 0)
        rest = [name for name in names if name not in held]
        job.announce([*held, *rest, *held])
        await quiet(rig)
        for name in rest:  # out of their turn: the held ones come sooner than these come again, which is never
            await read(rig, name)
        await quiet(rig)
        assert await cached(rig, names) == held


async def test_a_file_that_was_open_when_room_was_needed_leaves_once_it_is_closed(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=8 * FILE, readahead_bytes=FILE, prefetch=False) as rig:
        names = await filled(rig, 10)
        for name in names[:8]:
            await read(rig, name)
        await quiet(rig)
        last, kept = names[0], names[1:8]
        file = rig.fs.open(await rig.stat_file(last))
        job = rig.fs.orders.open_job("train", 0)
        job.announce([names[8], *kept, names[9], *kept, names[8], names[9]])
        await quiet(rig)
        assert await cached(rig, names) == names[:8], "room was needed for the first"
        file.close()
        for name in [names[8], *kept]:
            await read(rig, name)
        await quiet(rig)
        assert await cached(rig, names) == [*kept, names[9]]


async def test_a_closed_job_is_forgotten_with_all_it_announced(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=0) as rig:
        names = await filled(rig, 10)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names)
        await quiet(rig)
        job.close()
        job.close()
        assert rig.fs.orders.jobs == {}
        assert rig.fs.orders.memory_left == 16 * MIB
        assert len(rig.cache.room.coming.numbers) == 0
        assert rig.cache.passing.bytes == 0


async def test_a_job_ends_with_its_process(tmp_path: Path) -> None:
    async with Rig(tmp_path, readahead_bytes=FILE) as rig:
        names = await filled(rig, 10)
        trainer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        other = rig.fs.orders.open_job("other", 0)
        job = rig.fs.orders.open_job("train", trainer.pid)
        job.announce(names)
        await quiet(rig)
        trainer.kill()
        trainer.communicate()
        async with asyncio.timeout(30):
            while job.order in rig.fs.orders.jobs:
                await asyncio.sleep(0.01)
        assert list(rig.fs.orders.jobs.values()) == [other]
        await read(rig, names[0])
        await quiet(rig)
        assert gets(rig) == 1, "its window is forgotten too"


async def test_a_process_that_is_not_there_cannot_announce(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        with pytest.raises(Invalid, match="no process"):
            rig.fs.orders.open_job("train", gone.pid)


async def test_a_path_outside_all_mounts_cannot_be_announced(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        job = rig.fs.orders.open_job("train", 0)
        with pytest.raises(Invalid, match="in no mount"):
            job.announce(["/nowhere/1"])


async def test_more_than_can_be_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.vfs.orders.ANNOUNCED_MAX", 15)
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 10)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names)
        with pytest.raises(Busy, match="10 samples are announced"):
            job.announce(names)
        job.advance(5)
        job.announce(names)
        monkeypatch.setattr("forebay.vfs.orders.ANNOUNCED_MAX", 10 * TAKEN_AT_ONCE)
        job.announce(names * (TAKEN_AT_ONCE // 2))
        with pytest.raises(Busy):  # though most of it is not taken yet
            job.announce(names * (TAKEN_AT_ONCE // 2))


async def test_of_a_large_announcement_most_is_taken_while_others_are_served(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await filled(rig, 2)
        job = rig.fs.orders.open_job("train", 0)
        names = [f"/s/d/{number:04}" for number in range(10 * TAKEN_AT_ONCE)]
        job.announce(names[:-1])
        job.announce(names[-1:])
        job.advance(3 * TAKEN_AT_ONCE)
        ends = [job.order.end]
        while job.order.end < len(names):
            await asyncio.sleep(0)
            ends.append(job.order.end)
        assert max(after - before for before, after in pairwise(ends)) <= TAKEN_AT_ONCE == ends[0]
        numbers = rig.fs.orders.coming.numbers
        found = [numbers.path(job.order.number(position)) for position in range(len(names))]
        assert found == names, "in the order in which it was announced"
        assert (job.order.at, job.unread) == (3 * TAKEN_AT_ONCE, 7 * TAKEN_AT_ONCE)


async def test_a_path_outside_all_mounts_that_is_taken_later_is_told_by_the_next_call(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 2)
        job = rig.fs.orders.open_job("train", 0)
        job.announce([*names * TAKEN_AT_ONCE, "/nowhere/1"])
        await quiet(rig)
        with pytest.raises(Invalid, match="in no mount"):
            job.advance(1)
        with pytest.raises(Invalid, match="in no mount"):
            job.announce(names)


async def test_a_job_may_end_while_most_of_it_is_not_taken_yet(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 2)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names * TAKEN_AT_ONCE)
        job.close()
        await quiet(rig)
        assert not rig.fs.orders.jobs


async def test_a_name_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 4)
        job = rig.fs.orders.open_job("train", 0)
        job.announce([names[0], "/s/d/none", *names[1:]])
        await quiet(rig)
        assert await cached(rig, names) == names


async def linked(rig: Rig, targets: Sequence[str]) -> list[str]:
    """Links to paths of the mount /s, neither they nor any names known or cached; their paths."""
    names = [f"/s/l/{index:04}" for index in range(len(targets))]
    for name, target in zip(names, targets, strict=True):
        await rig.fs.changes.symlink(name, f"..{target.removeprefix('/s')}", posix_of(0o777, 0, 0))
    await rig.fs.free("/s/l")
    await rig.fs.refresh("/s")
    return names


async def test_what_is_announced_by_links_is_fetched_ahead_and_used_up_as_what_they_lead_to(tmp_path: Path) -> None:
    async with Rig(tmp_path, readahead_bytes=4 * FILE) as rig:
        names = await filled(rig, 20)
        links = await linked(rig, names)
        job = rig.fs.orders.open_job("train", 0)
        traffic = dict(rig.fs.tree.ledger)["/s"]
        waits = traffic.lookup_waits.count
        job.announce(links)
        await quiet(rig)
        assert (traffic.hits, traffic.misses, traffic.lookup_waits.count) == (0, 0, waits), "no reader has come yet"
        assert await cached(rig, names) == names[:4]
        assert await cached(rig, links) == links[:4], "whoever follows a link reads it first"
        await read(rig, names[0])
        await read(rig, names[1])
        await quiet(rig)
        assert await cached(rig, names) == names[:6]


async def test_links_that_lead_to_no_file_hold_nothing_up(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 3)
        odd = await linked(rig, ["/s/none", "/s/l/0001", "/s/d", "/../nowhere", "/s/d"])
        job = rig.fs.orders.open_job("train", 0)
        job.announce([names[0], *odd[:4], names[1], f"{odd[4]}/{names[2][-4:]}", f"{odd[4]}/none"])
        await quiet(rig)
        assert await cached(rig, names) == names


async def test_what_is_announced_by_links_once_more_is_fetched_ahead_with_the_links_once_more(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        names = await filled(rig, 3)
        links = await linked(rig, [*names[:2], "/s/d"])
        job = rig.fs.orders.open_job("train", 0)
        for _ in range(2):
            await rig.fs.free("/s")
            job.announce([*links[:2], f"{links[2]}/0002"])
            await quiet(rig)
            assert await cached(rig, names) == names
            assert await cached(rig, links) == links


async def test_by_links_the_cache_hits_as_often_as_by_the_paths_they_lead_to(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=10 * FILE + 20 * LINK_BYTES, readahead_bytes=FILE) as rig:
        names = await filled(rig, 20)
        links = await linked(rig, names)
        chance = random.Random(2)
        job = rig.fs.orders.open_job("train", 0)
        fetched = []
        for _ in range(4):
            order = chance.sample(range(20), 20)
            job.announce([links[index] for index in order])
            before = dict(rig.fs.tree.ledger)["/s"].bytes_from_store
            await epoch(rig, {job: [names[index] for index in order]})
            fetched.append((dict(rig.fs.tree.ledger)["/s"].bytes_from_store - before) // FILE)
        assert fetched == [20, 10, 10, 10]


async def test_names_below_a_shared_prefix_are_found(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for index in range(3):
            await rig.put("s", f"img-{index}", b"x")
        await rig.fs.orders.close()
        mount = await rig.mount("/m", "s")
        mount.prefix = "img-"
        job = rig.fs.orders.open_job("train", 0)
        job.announce(["/m/0", "/m/2"])
        numbers = rig.cache.room.coming.numbers
        assert [numbers.path(number) for number in range(2)] == ["/m/0", "/m/2"]
        assert numbers.find("mem://s", "img-2") == 1


async def test_a_window_that_is_never_opened_moves_on_with_what_the_job_tells(tmp_path: Path) -> None:
    """Such as a client that reads in a way that nobody sees."""
    async with Rig(tmp_path, readahead_bytes=200 * FILE) as rig:
        names = await filled(rig, 400)
        job = rig.fs.orders.open_job("train", 0)
        job.announce(names)
        await quiet(rig)
        before = gets(rig)
        assert before < 400
        for _ in range(40):
            job.advance(10)
            await quiet(rig)
        assert gets(rig) == 400


async def test_an_open_file_and_a_pin_are_passed_over(tmp_path: Path) -> None:
    async with Rig(tmp_path, capacity_bytes=4 * FILE, readahead_bytes=FILE, prefetch=False) as rig:
        names = await filled(rig, 8)
        for name in names[:4]:
            await read(rig, name)
        await quiet(rig)
        await rig.fs.pin(names[0])
        file = rig.fs.open(await rig.stat_file(names[1]))
        job = rig.fs.orders.open_job("train", 0)
        job.announce([*names[4:], *names[4:]])
        for name in names[4:]:
            await read(rig, name)
            await quiet(rig)
        assert (await cached(rig, names))[:2] == names[:2]
        assert len(await cached(rig, names)) == 4
        assert await read_all(file) == data_of("s1")
        file.close()
