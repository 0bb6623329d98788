"""The same work with many things: as many tasks as there are things, and none more after a failure."""

import asyncio

import pytest

from forebay.errors import Unavailable
from forebay.vfs.parallel import each


@pytest.mark.parametrize(("count", "at_a_time"), [(0, 0), (1, 1), (3, 3), (20, 4)])
async def test_no_more_tasks_are_made_than_there_are_things_or_may_run(count: int, at_a_time: int) -> None:
    before, most, done = len(asyncio.all_tasks()), 0, list[int]()

    async def work(item: int) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()) - before)
        await asyncio.sleep(0)
        done.append(item)

    await each(range(count), work, parallel=4)
    assert most == at_a_time
    assert sorted(done) == list(range(count))


async def test_after_a_failure_nothing_is_begun_and_what_is_under_way_ends_first() -> None:
    begun, ended = list[int](), list[int]()

    async def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise Unavailable("down")
        await asyncio.sleep(0.01)
        ended.append(item)

    with pytest.raises(Unavailable):
        await each(range(10), work, parallel=3)
    assert begun == [0, 1, 2]
    assert ended == [0, 2]
