"""The traffic of every mount, by path, and what was counted at mounts that are gone.  Pure: callers tell the time."""

from collections.abc import Iterator

from forebay.observe.series import Row, Series
from forebay.observe.traffic import Traffic, total


class Ledger:
    """See the module."""

    def __init__(self) -> None:
        self._mounts: dict[str, tuple[Traffic, Series]] = {}
        self._gone = Traffic().counts()

    def __iter__(self) -> Iterator[tuple[str, Traffic]]:
        for path in sorted(self._mounts):
            yield path, self._mounts[path][0]

    def open(self, path: str, traffic: Traffic, now_s: float) -> None:
        """A mount shows at a path from now on, and counts in `traffic`."""
        self._mounts[path] = traffic, Series(traffic, now_s)

    def close(self, path: str) -> None:
        """The mount there is gone; what it counted stays in the total."""
        traffic, _ = self._mounts.pop(path)
        self._gone = total([self._gone, traffic.counts()])

    def tick(self, now_s: float) -> None:
        """Keep what has gone on since the last tick (`series.EVERY_S` before)."""
        for _, series in self._mounts.values():
            series.tick(now_s)

    def since(self, path: str, from_s: float, now_s: float) -> list[Row]:
        """What went on at a mount after that moment, up to now."""
        _, series = self._mounts[path]
        series.tick(now_s)
        return series.since(from_s)

    def counts(self) -> dict[str, int]:
        """The plain counters of all mounts together; they only grow."""
        return total([self._gone, *(traffic.counts() for traffic, _ in self._mounts.values())])
