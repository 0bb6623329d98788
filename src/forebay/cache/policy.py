"""Who must leave when the cache is full.  Pure.

Deep learning reads every file once an epoch in a new random order.  For that pattern a cache that is filled once
and kept is optimal (it equals Belady's MIN), and LRU is far from it: 15 % hits against 50 % with half of the data
cached.  But a cache that never evicts is useless after the job moves to other data.  So:

`keep` (default): take room only from data sets that have been idle for a while, the longest idle first; if none
is idle, do not admit: the read goes through and nothing else is disturbed.
`lru`: the same, and then the least recently used files of the asking data set itself.
`s3fifo`: the same, but by `forebay.cache.s3fifo`: files that are read often outlive a scan.

Where jobs announce what they will read, `forebay.cache.coming` knows better: it is Belady's MIN itself.

A data set is a top folder of a mount.
"""

from collections.abc import Iterable
from typing import NamedTuple

POLICIES = ("keep", "lru", "s3fifo")
IDLE_S = 300.0
"""A data set of another mount is idle after this long without a read; two jobs that take turns never wait so long."""
IDLE_SAME_MOUNT_S = 3600.0
"""Of the same mount: longer, since a reader that goes folder by folder comes back to the first with the next epoch."""


class Dataset(NamedTuple):
    """The name of a data set."""

    mount: str  # where the mount's bytes are: store location and prefix
    folder: str  # top folder below the mount; "" for files that lie in its root


class Use(NamedTuple):
    """What one data set takes of the cache."""

    dataset: Dataset
    evictable_bytes: int  # not pinned and not open
    read_at_s: float  # last read, on the cache's clock


def plan_eviction(
    asking: Dataset, need_bytes: int, uses: Iterable[Use], *, now_s: float, policy: str
) -> list[tuple[Dataset, int]] | None:
    """Data sets to take bytes from, in order, until `need_bytes` are free; None: do not admit.

    >>> old, new = Dataset("s3://a/", ""), Dataset("s3://b/", "")
    >>> plan_eviction(new, 50, [Use(old, 100, 0.0), Use(new, 100, 999.0)], now_s=1000.0, policy="keep")
    [(Dataset(mount='s3://a/', folder=''), 50)]
    >>> plan_eviction(new, 50, [Use(old, 100, 900.0)], now_s=1000.0, policy="keep") is None
    True
    """
    known = sorted(uses, key=lambda use: use.read_at_s)
    candidates = [use for use in known if use.dataset != asking and _is_idle(use, asking, now_s)]
    if policy != "keep":
        candidates += [use for use in known if use.dataset == asking]
    plan: list[tuple[Dataset, int]] = []
    for use in candidates:
        if need_bytes <= 0:
            break
        take = min(need_bytes, use.evictable_bytes)
        if take > 0:
            plan.append((use.dataset, take))
            need_bytes -= take
    return plan if need_bytes <= 0 else None


def _is_idle(use: Use, asking: Dataset, now_s: float) -> bool:
    idle_s = IDLE_SAME_MOUNT_S if use.dataset.mount == asking.mount else IDLE_S
    return now_s - use.read_at_s >= idle_s
