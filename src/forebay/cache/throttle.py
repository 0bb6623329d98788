"""Bounded requests and bytes in flight, with the readers who wait in front of the work done ahead.

*Callers*: flights, on the loop.  *Awaits*: one future per caller that must wait.  *Invariants*: at most
`requests_max` slots and, beyond the first, `bytes_max` bytes are taken; background work leaves a quarter of the
slots to readers; a reader never waits behind background work that has not started.
"""

import asyncio
from collections import deque
from contextlib import suppress
from types import TracebackType


def background_share(requests_max: int) -> int:
    """How many of so many requests may be background work: a quarter is left to readers."""
    return max(1, requests_max - requests_max // 4)


class Throttle:
    """See the module."""

    def __init__(self, *, requests_max: int, bytes_max: int) -> None:
        self._requests_max = requests_max
        self._background_max = background_share(requests_max)
        self._bytes_max = bytes_max
        self.requests = 0
        self.bytes = 0
        self._readers: deque[tuple[asyncio.Future[None], int]] = deque()
        self._background: deque[tuple[asyncio.Future[None], int]] = deque()

    def __repr__(self) -> str:
        waiting = self.readers_waiting + self.background_waiting
        return f"<Throttle {self.requests} requests, {self.bytes} bytes, {waiting} waiting>"

    @property
    def readers_waiting(self) -> int:
        """How many readers' requests wait for their turn."""
        return len(self._readers)

    @property
    def background_waiting(self) -> int:
        """How many requests of work ahead wait for their turn."""
        return len(self._background)

    def slot(self, size: int, *, background: bool) -> "Slot":
        """Hold one request of `size` bytes (`async with`); wait for it if the bounds are reached."""
        return Slot(self, size, background)

    async def take(self, size: int, *, background: bool) -> None:
        """Begin to hold one."""
        is_behind = self._readers or (background and self._background)
        if is_behind or not self._fits(size, background=background):
            await self._wait(size, self._background if background else self._readers)
        else:
            self._take(size)

    async def _wait(self, size: int, queue: deque[tuple[asyncio.Future[None], int]]) -> None:
        turn = asyncio.get_running_loop().create_future()
        queue.append((turn, size))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # `give` may have passed over it already
                    queue.remove((turn, size))
            else:
                self.give(size)  # the turn had come in the same moment
            raise

    def _fits(self, size: int, *, background: bool) -> bool:
        limit = self._background_max if background else self._requests_max
        return self.requests < limit and (self.requests == 0 or self.bytes + size <= self._bytes_max)

    def _take(self, size: int) -> None:
        self.requests += 1
        self.bytes += size

    def give(self, size: int) -> None:
        """End to hold one, and begin what now fits."""
        self.requests -= 1
        self.bytes -= size
        for queue, background in ((self._readers, False), (self._background, True)):
            while queue and self._fits(queue[0][1], background=background):
                turn, waiting_size = queue.popleft()
                if not turn.done():
                    self._take(waiting_size)
                    turn.set_result(None)
            if queue:
                return


class Slot:
    """What `Throttle.slot` gives."""

    __slots__ = ("_background", "_size", "_throttle")

    def __init__(self, throttle: Throttle, size: int, background: bool) -> None:
        self._throttle = throttle
        self._size = size
        self._background = background

    async def __aenter__(self) -> None:
        await self._throttle.take(self._size, background=self._background)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._throttle.give(self._size)
