"""What went on at a mount every ten seconds of the last day.  Pure.

Only times in which something went on are kept, so a mount that nobody reads takes no memory; a day of reading takes
0.7 MB.
"""

from array import array
from typing import NamedTuple

from forebay.observe.traffic import Traffic

EVERY_S = 10.0
KEPT = 8640  # rows: a day of them
_SPARE = 360  # rows that may be too many before all are moved down


class Row(NamedTuple):
    """One time in which something went on; all numbers are of it alone."""

    end_s: float  # by the monotonic clock
    seconds: float
    hits: float = 0
    misses: float = 0
    from_store: float = 0  # bytes that readers got; see `Traffic`
    from_cache: float = 0
    from_memory: float = 0
    fetched: float = 0  # bytes that came from the store
    stall_s: float = 0  # readers waited for the store, altogether
    stalled_s: float = 0  # at least one of them did

    @property
    def read(self) -> float:
        """Bytes that readers got."""
        return self.from_store + self.from_cache + self.from_memory


_WIDTH = len(Row._fields)


def _sums(traffic: Traffic) -> tuple[float, ...]:
    return (
        traffic.hits,
        traffic.misses,
        traffic.read_from_store,
        traffic.read_from_cache,
        traffic.read_from_memory,
        traffic.bytes_from_store,
        traffic.stall.sum_s,
        traffic.stall.any_s,
    )


class Series:
    """See the module."""

    def __init__(self, traffic: Traffic, now_s: float) -> None:
        self._traffic = traffic
        self._rows = array("d")
        self._before = _sums(traffic)
        self._at_s = now_s

    def __len__(self) -> int:
        return min(len(self._rows) // _WIDTH, KEPT)

    def tick(self, now_s: float) -> None:
        """Keep what has gone on since the last tick."""
        self._traffic.stall.advance(now_s)
        self._traffic.opened.end_turn(now_s)
        sums = _sums(self._traffic)
        if sums != self._before:
            changes = [after - before for after, before in zip(sums, self._before, strict=True)]
            self._rows.extend((now_s, now_s - self._at_s, *changes))
            if len(self._rows) > (KEPT + _SPARE) * _WIDTH:
                del self._rows[: -KEPT * _WIDTH]
        self._before, self._at_s = sums, now_s

    def since(self, from_s: float) -> list[Row]:
        """The rows that ended after that moment, in order."""
        values = self._rows[-KEPT * _WIDTH :]
        rows = (Row(*values[start : start + _WIDTH]) for start in range(0, len(values), _WIDTH))
        return [row for row in rows if row.end_s > from_s]
