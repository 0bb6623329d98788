"""Time as an argument: the only module that reads a clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """What components ask for the time."""

    def monotonic(self) -> float:
        """Seconds that never go back, from an arbitrary start."""
        ...

    def time_ns(self) -> int:
        """Nanoseconds since 1970 UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    monotonic = staticmethod(time.monotonic)
    time_ns = staticmethod(time.time_ns)


class FakeClock:
    """A clock that tests move by hand."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now_s += seconds

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self.now_s

    def time_ns(self) -> int:
        """See `Clock.time_ns`."""
        return int(self.now_s * 1e9)
