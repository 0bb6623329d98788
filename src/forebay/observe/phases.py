"""What limited a training, seen from the data side: the store, or what computes.  Pure.

A training over data in a store goes through three phases.  Its first epoch is limited by the store (`store-bound`);
while the cache fills, part of the bytes come from there, and readers still wait for the rest (`cache-filling`); once
they hardly wait any more, what computes is the limit, or the local disk (`compute-bound`).

The expected gain follows SiloD (Zhao et al., EuroSys 2023): with a share `c` of the data cached, a training runs at
min(what compute can use, what the store gives / (1 - c)).  Both are taken from what was seen: compute's from times in
which nobody waited, the store's from times in which somebody did.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from forebay.observe.series import Row

STORE, FILLING, COMPUTE = "store-bound", "cache-filling", "compute-bound"
PHASES = (STORE, FILLING, COMPUTE)

QUIET_SHARE = 0.1
"""Readers who wait in less than this share of the time hold nothing up: a loader keeps batches ahead."""
GAP_S = 60.0
"""A pause of readers up to this long is part of a training, which computes; a longer one is its end."""
SEEN_S = 20.0
"""A rate is believed when it was seen for two rows."""
GOAL = 0.95
"""The share of the gain of a full cache that `Finding.goal_cache_bytes` reaches."""
STALLED_MAX = 0.95
"""Readers who wait for more than this share of the time say nothing of how fast they could be without."""


@dataclass(frozen=True, slots=True)
class Phase:
    """All times of one kind together; bytes as `series.Row` counts them."""

    name: str
    seconds: float = 0.0
    from_store: float = 0.0
    from_cache: float = 0.0
    from_memory: float = 0.0
    fetched: float = 0.0
    stall_s: float = 0.0
    stalled_s: float = 0.0

    @property
    def read(self) -> float:
        """Bytes that readers got."""
        return self.from_store + self.from_cache + self.from_memory


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows of one phase in a row."""

    name: str
    begin_s: float  # by the clock of the rows
    seconds: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What rows say of one mount.  Rates are bytes per second; None: that was not seen."""

    phases: tuple[Phase, ...]  # one for each of `PHASES`
    stretches: tuple[Stretch, ...]
    seconds: float  # of reading and computing; longer pauses are left out
    hits: float
    misses: float
    read: float
    cache_share: float  # of the bytes read; 0 to 1
    stalled_share: float  # of the time
    demand_rate: float
    store_rate: float | None
    compute_rate: float | None
    is_data_bound: bool
    gain: float | None  # how many times as fast with all data cached; at least 1
    is_gain_a_guess: bool  # it is only what waiting costs, since times without waiting were not seen
    goal_cache_bytes: float | None  # a cache of this size reaches `GOAL` of what a full one reaches


def phase_of(row: Row) -> str:
    """The phase of one row.

    >>> phase_of(Row(10.0, 10.0, from_store=1e6, stalled_s=9.0)), phase_of(Row(10.0, 10.0, from_cache=1e6))
    ('store-bound', 'compute-bound')
    """
    if row.stalled_s < QUIET_SHARE * row.seconds:
        return COMPUTE
    return FILLING if row.read and row.from_cache >= row.read / 2 else STORE


def examine(rows: Sequence[Row], *, opened_bytes: float) -> Finding:
    """What the rows of one mount say; `opened_bytes` is the size of all different files opened in that time."""
    rows = _with_pauses([row for row in rows if row.read or row.stalled_s])
    phases = {name: _sum(name, [row for row in rows if phase_of(row) == name]) for name in PHASES}
    seconds, read = sum(row.seconds for row in rows), sum(row.read for row in rows)
    stalled_share = _share(sum(row.stalled_s for row in rows), seconds)
    demand_rate = _share(read, seconds)
    waited = [phases[STORE], phases[FILLING]]
    store_rate = _rate(sum(phase.fetched for phase in waited), sum(phase.seconds for phase in waited))
    compute_rate = _rate(phases[COMPUTE].read, phases[COMPUTE].seconds)
    gain = None
    if compute_rate and demand_rate:
        gain = max(1.0, compute_rate / demand_rate)
    elif read and stalled_share < STALLED_MAX:
        gain = 1 / (1 - stalled_share)
    return Finding(
        phases=tuple(phases.values()),
        stretches=tuple(_stretches(rows)),
        seconds=seconds,
        hits=sum(row.hits for row in rows),
        misses=sum(row.misses for row in rows),
        read=read,
        cache_share=_share(sum(row.from_cache for row in rows), read),
        stalled_share=stalled_share,
        demand_rate=demand_rate,
        store_rate=store_rate,
        compute_rate=compute_rate,
        is_data_bound=stalled_share >= QUIET_SHARE,
        gain=gain,
        is_gain_a_guess=gain is not None and not compute_rate,
        goal_cache_bytes=_goal(store_rate, compute_rate, opened_bytes),
    )


def _goal(store_rate: float | None, compute_rate: float | None, opened_bytes: float) -> float | None:
    """The cache with which store_rate / (1 - c) reaches `GOAL` of what compute can use."""
    if not compute_rate or store_rate is None:
        return None
    return max(0.0, 1 - store_rate / (GOAL * compute_rate)) * opened_bytes


def _with_pauses(rows: Sequence[Row]) -> list[Row]:
    """The rows, and one for each short pause between them."""
    found: list[Row] = []
    for row in rows:
        pause_s = row.end_s - row.seconds - found[-1].end_s if found else 0.0
        if 0 < pause_s <= GAP_S:
            found.append(Row(row.end_s - row.seconds, pause_s))
        found.append(row)
    return found


def _sum(name: str, rows: Iterable[Row]) -> Phase:
    columns = ("seconds", "from_store", "from_cache", "from_memory", "fetched", "stall_s", "stalled_s")
    rows = list(rows)
    return Phase(name, *(sum(getattr(row, column) for row in rows) for column in columns))


def _stretches(rows: Iterable[Row]) -> Iterable[Stretch]:
    last: Stretch | None = None
    for row in rows:
        name, begin_s = phase_of(row), row.end_s - row.seconds
        if last is not None and last.name == name and begin_s - (last.begin_s + last.seconds) < GAP_S:
            last = Stretch(name, last.begin_s, row.end_s - last.begin_s)
            continue
        if last is not None:
            yield last
        last = Stretch(name, begin_s, row.seconds)
    if last is not None:
        yield last


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _rate(size: float, seconds: float) -> float | None:
    return size / seconds if seconds >= SEEN_S else None
