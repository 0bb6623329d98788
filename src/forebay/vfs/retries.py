"""When what failed is tried again: one file, or all that goes to a store that does not answer.  Pure."""

import math
from collections.abc import Hashable
from typing import NamedTuple

from forebay.clock import Clock

RETRY_S, RETRY_MAX_S = 1.0, 60.0  # after a failure, doubled each time


class _Due(NamedTuple):
    at: float  # on the monotonic clock
    pause_s: float  # after the next failure


_NOW = _Due(-math.inf, RETRY_S)


class Retries:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[Hashable, _Due] = {}

    def is_due(self, *things: Hashable) -> bool:
        """May all of them be tried now?"""
        now = self._clock.monotonic()
        return all(self._due.get(thing, _NOW).at <= now for thing in things)

    def failed(self, thing: Hashable) -> float:
        """One has failed; how long it waits now, seconds."""
        pause_s = self._due.get(thing, _NOW).pause_s
        self._due[thing] = _Due(self._clock.monotonic() + pause_s, min(2 * pause_s, RETRY_MAX_S))
        return pause_s

    def forget(self, thing: Hashable) -> None:
        """It may be tried at once, and has not failed."""
        self._due.pop(thing, None)

    def wait_s(self) -> float | None:
        """How long until the next one may be tried, seconds; None: none waits."""
        now = self._clock.monotonic()
        return min((due.at - now for due in self._due.values() if due.at > now), default=None)
