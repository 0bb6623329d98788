"""The same work with many things, some at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain, islice
from typing import TypeVar

from forebay.errors import FsError

Item = TypeVar("Item")


async def each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], *, parallel: int) -> None:
    """Do `work` with each item, `parallel` at a time.

    After a failure nothing more is begun, and what is under way comes to its end before the failure is raised: what
    is undone then must not be done after that.  When this is cancelled, so is what is under way, and waited for.

    Raises what `work` raised first.
    """
    left = iter(items)
    failed: list[FsError] = []

    async def work_on(first: Item) -> None:
        for item in chain([first], left):
            try:
                await work(item)
            except FsError as error:
                failed.append(error)
            if failed:
                return

    tasks = [asyncio.ensure_future(work_on(item)) for item in islice(left, parallel)]  # of one item, one task
    if not tasks:
        return
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    if failed:
        raise failed[0]
