"""Two jobs that read the same data at the same time, with a cache of half of it: how much comes from the store.

Both announce the epoch that they read and the next one, as a sampler does whose order is known by its seed.  A policy
that keeps half lets 1.0 of the data set through an epoch.  Belady's MIN lets the least through: how much that is for
jobs that take turns stands beside the runs, and for how many orders it is more than the figure allows; the further the
jobs drift apart, the more it is.
"""

import random
import sys
from functools import partial

from common import HERE, SMALL_BYTES, Figure, Result, World, save, say
from forebay.testing.jobs import fetched_by_epoch
from forebay.testing.simulation import best, in_turns

COUNT = 2_000
EPOCHS = 5
JOBS = 2
KNOWN = 2
PAIRS = 12  # of other orders, for which the least is told too


def measure(world: World) -> Result:
    world.small_files("twojobs", COUNT)
    cache = world.scratch / "twojobs-cache"
    room = COUNT * SMALL_BYTES // 2
    with world.another_forebay("twojobs-home", cache_dirs=f"{cache}:{room}", cache_reserve=0) as home:
        mountpoint = world.mount("twojobs")
        command = [sys.executable, str(HERE / "announced_reader.py"), str(home), str(mountpoint)]
        commands = [[*command, str(seed), str(KNOWN), str(EPOCHS)] for seed in range(JOBS)]
        fetched = fetched_by_epoch(commands, EPOCHS, partial(_fetched_bytes, world))
        world.unmount("twojobs")
    traffic = [size / (COUNT * SMALL_BYTES) for size in fetched]
    later = traffic[1:]
    return Result(
        name="two_jobs",
        how=f"{COUNT:,} files of 110 KiB, {JOBS} jobs with orders of their own, announced with the next epoch's, "
        f"cache of half of the files; epochs 2 to {EPOCHS}; bytes that came from the store",
        figures=[
            Figure("two jobs, same data, half cached: from the store", 0.55, sum(later) / len(later), at_most=True)
        ],
        runs={
            "share of the data set, each epoch": traffic,
            "the least there is, by turns": _least(0),
            "the least for other orders, epochs 2 to 5": [
                sum(_least(first)[1:]) / (EPOCHS - 1) for first in range(JOBS, JOBS * (PAIRS + 1), JOBS)
            ],
        },
        unit="of the data set",
        parameters={"files": COUNT, "bytes": SMALL_BYTES, "jobs": JOBS, "epochs": EPOCHS, "known_epochs": KNOWN},
    )


def _least(first: int) -> list[float]:
    """What must come from the store in each epoch, of the data set, if the jobs read their orders by turns.

    The orders are those of the seeds from `first` on.
    """
    chances = [random.Random(seed) for seed in range(first, first + JOBS)]
    trace = []
    for _ in range(EPOCHS):
        orders = [chance.sample(range(COUNT), COUNT) for chance in chances]
        trace += in_turns([[(job, found) for found in order] for job, order in enumerate(orders)])
    hits, reads = best(trace, COUNT // 2), JOBS * COUNT
    return [hits[start : start + reads].count(False) / COUNT for start in range(0, len(hits), reads)]


def _fetched_bytes(world: World) -> int:
    fetched: int = world.status()["counters"]["bytes_from_store"]
    return fetched


if __name__ == "__main__":
    say("two jobs on the same data")
    with World() as world:
        save(measure(world))
