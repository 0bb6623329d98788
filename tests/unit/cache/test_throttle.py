"""Bounds that hold, readers before background work, and nobody lost in the queue."""

import asyncio
from contextlib import AsyncExitStack

from forebay.cache.throttle import Throttle


async def holder(throttle: Throttle, size: int, done: asyncio.Event, *, background: bool, log: list[str]) -> None:
    async with throttle.slot(size, background=background):
        log.append("background" if background else "reader")
        await done.wait()


async def test_no_more_requests_than_allowed_are_under_way() -> None:
    throttle, done, log = Throttle(requests_max=4, bytes_max=100), asyncio.Event(), []  # type: ignore[var-annotated]
    tasks = [asyncio.create_task(holder(throttle, 1, done, background=False, log=log)) for _ in range(9)]
    await asyncio.sleep(0)
    assert throttle.requests == len(log) == 4
    done.set()
    await asyncio.gather(*tasks)
    assert (throttle.requests, throttle.bytes) == (0, 0)


async def test_bytes_are_bounded_but_one_request_of_any_size_goes() -> None:
    throttle = Throttle(requests_max=4, bytes_max=100)
    async with throttle.slot(500, background=False):
        waiting = asyncio.create_task(holder(throttle, 1, asyncio.Event(), background=False, log=[]))
        await asyncio.sleep(0)
        assert throttle.requests == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert throttle.bytes == 0


async def test_background_work_leaves_slots_to_readers() -> None:
    throttle, done, log = Throttle(requests_max=4, bytes_max=100), asyncio.Event(), []  # type: ignore[var-annotated]
    tasks = [asyncio.create_task(holder(throttle, 1, done, background=True, log=log)) for _ in range(4)]
    await asyncio.sleep(0)
    assert log == ["background"] * 3
    tasks.append(asyncio.create_task(holder(throttle, 1, done, background=False, log=log)))
    await asyncio.sleep(0)
    assert log[-1] == "reader"
    done.set()
    await asyncio.gather(*tasks)


async def test_a_reader_goes_before_background_work_that_came_earlier() -> None:
    throttle, done, log = Throttle(requests_max=1, bytes_max=100), asyncio.Event(), []  # type: ignore[var-annotated]
    done.set()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(throttle.slot(1, background=False))
        tasks = [asyncio.create_task(holder(throttle, 1, done, background=True, log=log))]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(holder(throttle, 1, done, background=False, log=log)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert log == ["reader", "background"]


async def test_one_that_gives_up_in_the_queue_takes_nothing_with_it() -> None:
    throttle = Throttle(requests_max=1, bytes_max=100)
    async with throttle.slot(1, background=False):
        gone = asyncio.create_task(holder(throttle, 1, asyncio.Event(), background=False, log=[]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(1), throttle.slot(1, background=False):
        assert throttle.requests == 1


async def test_a_large_request_that_waits_is_not_overtaken_by_small_ones_for_ever() -> None:
    throttle, done, log = Throttle(requests_max=9, bytes_max=100), asyncio.Event(), []  # type: ignore[var-annotated]
    done.set()
    async with throttle.slot(50, background=False):
        large = asyncio.create_task(holder(throttle, 90, done, background=False, log=log))
        await asyncio.sleep(0)
        small = asyncio.create_task(holder(throttle, 10, done, background=True, log=log))
        await asyncio.sleep(0)
        assert log == []
    await asyncio.gather(large, small)
    assert log == ["reader", "background"]
