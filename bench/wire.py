"""A far and thin link within the server that it leads to: its bytes are late, and nobody copies them to make them so.

A proxy in between carries every byte twice, on the processors of those who are measured.  Here the server waits before
it answers, and before it reads on.  Every answer is a round trip late; all connections share one rate each way.
"""

import asyncio
from collections import deque

BURST_S = 0.002  # a link that waited for this loop, whose timers are as coarse as 1 ms, may catch up by so much
TICK_S = 0.001  # the loop's timers are no finer: one that is due sooner would have it spin
SLICE_BYTES = 256 << 10  # after which another connection has its turn


class _Direction:
    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self.free_at = 0.0

    def take(self, count: int, now: float) -> float:
        """When so many more bytes have passed."""
        self.free_at = max(self.free_at, now - BURST_S) + count / self._bytes_per_s
        return self.free_at


class Wire:
    """See the module.  Times are of the running loop, in seconds."""

    def __init__(self, *, rtt_s: float, bytes_per_s: float) -> None:
        self.rtt_s = rtt_s
        self._loop = asyncio.get_running_loop()
        self._up, self._down = _Direction(bytes_per_s), _Direction(bytes_per_s)
        self._flying: deque[tuple[float, asyncio.WriteTransport, memoryview]] = deque()  # in the order of arrival
        self._arriving: deque[tuple[asyncio.WriteTransport, memoryview]] = deque()  # a slice of each in turn
        self._is_pumping = False

    def came(self, count: int, transport: asyncio.ReadTransport) -> None:
        """So many bytes were read: no more are read there before these would have come."""
        now = self._loop.time()
        due = self._up.take(count, now)
        if due > now + BURST_S:
            self.pause(transport, due - now)

    def pause(self, transport: asyncio.ReadTransport, wait_s: float) -> None:
        """Read nothing there for a while."""
        transport.pause_reading()
        self._loop.call_later(wait_s, self._resume, transport)

    @staticmethod
    def _resume(transport: asyncio.ReadTransport) -> None:
        if not transport.is_closing():
            transport.resume_reading()

    def send(self, data: bytes, transport: asyncio.WriteTransport) -> None:
        """Answer what has been read so far."""
        ready = max(self._loop.time(), self._up.free_at) + self.rtt_s
        self._flying.append((ready, transport, memoryview(data)))
        if not self._is_pumping:
            self._is_pumping = True
            self._loop.call_at(ready, self._pump)

    def _pump(self) -> None:
        now = self._loop.time()
        while self._flying and self._flying[0][0] <= now:
            self._arriving.append(self._flying.popleft()[1:])
        while self._arriving and self._down.free_at <= now:
            transport, data = self._arriving.popleft()
            self._down.take(min(len(data), SLICE_BYTES), now)
            if not transport.is_closing():
                transport.write(data[:SLICE_BYTES])
                if len(data) > SLICE_BYTES:
                    self._arriving.append((transport, data[SLICE_BYTES:]))
        self._is_pumping = bool(self._arriving or self._flying)
        if self._is_pumping:
            due = self._down.free_at if self._arriving else self._flying[0][0]
            self._loop.call_at(max(due, now + TICK_S), self._pump)
