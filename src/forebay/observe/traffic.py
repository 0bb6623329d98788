"""What goes on at one mount, in numbers that only grow.  Pure: whoever counts tells the time.

Counting is an addition where something happens; who wants to know looks at the sums now and then.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields

from forebay.observe.distinct import Distinct

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a near store's fastest answer to the default `store_deadline_s`."""


class Histogram:
    """How often something took how long: `counts[i]` of them up to `BOUNDS_S[i]` seconds, the last one longer."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """It took so long once."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    @contextmanager
    def timed(self, monotonic: Callable[[], float]) -> Iterator[None]:
        """Add how long what is done within this takes."""
        began_s = monotonic()
        try:
            yield
        finally:
            self.add(monotonic() - began_s)

    @property
    def count(self) -> int:
        """How often in all."""
        return sum(self.counts)


class Stall:
    """Readers who wait for a store.

    `sum_s` is how long they waited altogether, `any_s` how long at least one did, both up to the last call.
    """

    __slots__ = ("_now_s", "any_s", "sum_s", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.sum_s = self.any_s = 0.0
        self._now_s = 0.0

    def begin(self, now_s: float) -> None:
        """One more waits."""
        self.advance(now_s)
        self.waiting += 1

    def end(self, now_s: float) -> None:
        """One waits no more."""
        self.advance(now_s)
        self.waiting -= 1

    def advance(self, now_s: float) -> None:
        """Bring the sums up to now."""
        if self.waiting:
            passed_s = now_s - self._now_s
            self.sum_s += passed_s * self.waiting
            self.any_s += passed_s
        self._now_s = now_s


@dataclass(slots=True, eq=False)
class Traffic:
    """See the module.  "Opened" and "read" are by readers: local folders and clients, not loads."""

    hits: int = 0  # files opened with all their bytes here
    misses: int = 0
    # What readers got.  A file that the kernel reads by itself (passthrough) counts as read whole when it is opened.
    # A byte that was fetched for readers, be it ahead of them, is from the store when it is read for the first time.
    read_from_store: int = 0
    read_from_cache: int = 0
    read_from_memory: int = 0  # of files for which the cache had no room
    bytes_from_store: int = 0  # fetched, by loads too
    bytes_read_through: int = 0  # of these, not admitted to the cache
    flights: int = 0
    flights_failed: int = 0
    files_prefetched: int = 0
    flight_times: Histogram = field(default_factory=Histogram)  # to the last byte, waiting for their turn included
    read_waits: Histogram = field(default_factory=Histogram)  # reads that waited for the store
    disk_waits: Histogram = field(default_factory=Histogram)  # reads that waited for the cache's disk
    lookup_waits: Histogram = field(default_factory=Histogram)  # names for which the store was asked
    listing_waits: Histogram = field(default_factory=Histogram)  # readers of folders who waited for a page of the store
    stall: Stall = field(default_factory=Stall)  # reads, names and listings
    opened: Distinct = field(default_factory=Distinct)  # versions of files, with their sizes

    @contextmanager
    def _waits(self, times: Histogram, monotonic: Callable[[], float]) -> Iterator[None]:
        began_s = monotonic()
        self.stall.begin(began_s)
        try:
            yield
        finally:
            ended_s = monotonic()
            self.stall.end(ended_s)
            times.add(ended_s - began_s)

    def waits_for_bytes(self, monotonic: Callable[[], float]) -> AbstractContextManager[None]:
        """Within this a reader waits for bytes from the store."""
        return self._waits(self.read_waits, monotonic)

    def waits_for_name(self, monotonic: Callable[[], float]) -> AbstractContextManager[None]:
        """Within this somebody waits for what the store says of a name."""
        return self._waits(self.lookup_waits, monotonic)

    def waits_for_listing(self, monotonic: Callable[[], float]) -> AbstractContextManager[None]:
        """Within this a reader of a folder waits for more of what the store lists."""
        return self._waits(self.listing_waits, monotonic)

    def counts(self) -> dict[str, int]:
        """The plain counters by name."""
        return {name: getattr(self, name) for name in COUNTERS}


COUNTERS = tuple(each.name for each in fields(Traffic) if each.type is int)


def total(traffics: list[dict[str, int]]) -> dict[str, int]:
    """The sum of plain counters, name by name.

    >>> total([Traffic(hits=1).counts(), Traffic(hits=2, misses=1).counts()])["hits"]
    3
    """
    return {name: sum(each[name] for each in traffics) for name in COUNTERS}
