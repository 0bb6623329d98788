"""Threads for libraries that block."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from forebay.errors import Unavailable
from forebay.stores.threads import Threads


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(2, name="test")
    yield threads
    threads.close()


async def test_a_call_gives_its_result_or_its_error(threads: Threads) -> None:
    assert await threads.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, 7, 0)


async def test_no_more_calls_run_at_a_time_than_there_are_threads(threads: Threads) -> None:
    gate, running = threading.Semaphore(0), threading.Semaphore(0)

    def wait() -> str:
        running.release()
        gate.acquire()
        return threading.current_thread().name

    calls = [asyncio.ensure_future(threads.run(wait)) for _ in range(4)]
    for _ in range(2):
        await asyncio.to_thread(running.acquire)
    assert not running.acquire(blocking=False)
    gate.release(4)
    assert {await call for call in calls} == {"test-1", "test-2"}


async def test_one_thread_is_enough_for_calls_one_after_the_other() -> None:
    threads = Threads(8, name="test")
    names = set()
    for _ in range(20):
        future = threads.submit(lambda: threading.current_thread().name)
        names.add(await asyncio.wrap_future(future))
        await asyncio.sleep(0.001)  # the thread says that it is idle after it has told the result
    assert len(names) < 8
    threads.close()


async def test_a_call_that_was_given_up_before_it_began_never_begins(threads: Threads) -> None:
    gate = threading.Event()
    blocked = [asyncio.ensure_future(threads.run(gate.wait)) for _ in range(2)]
    begun: list[int] = []
    waiting = asyncio.ensure_future(threads.run(begun.append, 1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*blocked)
    await threads.run(begun.append, 2)
    assert begun == [2]


async def test_a_thread_that_hangs_does_not_hold_up_the_end_of_the_process(threads: Threads) -> None:
    assert await threads.run(lambda: threading.current_thread().daemon)


async def test_nothing_is_taken_after_the_close(threads: Threads) -> None:
    threads.close()
    with pytest.raises(Unavailable):
        await threads.run(divmod, 7, 2)
