"""Hit ratios of the real policy code over traces of reads, and what would be the best: no clock, no disk, no store.

The decisions are those of `forebay.cache.policy`, `forebay.cache.coming` and `forebay.cache.s3fifo`; what is simulated
is the cache around them: all objects are of one size, and each read takes one tick.
"""

import random
from collections import OrderedDict
from collections.abc import Sequence
from heapq import heappop, heappush

from forebay.cache.coming import Coming, Order
from forebay.cache.numbers import Place
from forebay.cache.policy import IDLE_S, Dataset, Use, plan_eviction
from forebay.cache.s3fifo import S3Fifo

Read = tuple[int, int]  # of which job, which object


def epochs(
    objects: Sequence[int], count: int, *, jobs: int = 1, seed: int = 1, first_job: int = 0
) -> list[list[list[Read]]]:
    """What jobs read, by epoch and job: all objects, each epoch in a new order of each job's own."""
    chance = random.Random(seed)
    return [
        [[(job, found) for found in chance.sample(objects, len(objects))] for job in range(first_job, first_job + jobs)]
        for _ in range(count)
    ]


def in_turns(orders: Sequence[Sequence[Read]]) -> list[Read]:
    """One sample of each job after the other."""
    return [read for turn in zip(*orders, strict=True) for read in turn]


def best(trace: Sequence[Read], size: int) -> list[bool]:
    """For each read whether it hits, under Belady's MIN with all of the trace known; an object may be passed by."""
    later: dict[int, int] = {}
    following = [0] * len(trace)
    for index in range(len(trace) - 1, -1, -1):
        found = trace[index][1]
        following[index] = later.get(found, len(trace))
        later[found] = index
    cached: dict[int, int] = {}
    last: list[tuple[int, int]] = []
    hits = []
    for index, (_, found) in enumerate(trace):
        hits.append(found in cached)
        if found in cached or len(cached) < size:
            cached[found] = following[index]
        else:
            while cached.get(last[0][1]) != -last[0][0]:
                heappop(last)  # used since
            if -last[0][0] <= following[index]:
                continue
            del cached[heappop(last)[1]]
            cached[found] = following[index]
        heappush(last, (-following[index], found))
    return hits


class SimulatedCache:
    """A cache of `size` objects under a policy; `per_set` objects are one data set, the next ones another.

    A data set is idle after a tenth of the cache's size in reads: `IDLE_S`, at so many reads a second.
    """

    def __init__(self, size: int, policy: str, *, per_set: int) -> None:
        self._size = size
        self._policy = policy
        self._per_set = per_set
        self._tick_s = IDLE_S / max(1, size // 10)
        self._now_s = 0.0
        self._sets: dict[Dataset, OrderedDict[int, None]] = {}  # what is cached, least recently used first
        self._fifos: dict[Dataset, S3Fifo] = {}
        self._read_at: dict[Dataset, float] = {}
        self._count = 0

    def read(self, found: int) -> bool:
        """Read an object: a hit?"""
        dataset = Dataset(f"mem://{found // self._per_set}/", "")
        cached = self._sets.setdefault(dataset, OrderedDict())
        fifo = self._fifos.setdefault(dataset, S3Fifo())
        self._now_s += self._tick_s
        self._read_at[dataset] = self._now_s
        if found in cached:
            cached.move_to_end(found)
            fifo.read(found)
            return True
        if self._count < self._size or self._make_room(dataset):
            cached[found] = None
            fifo.add(found, found)
            self._count += 1
        return False

    def _make_room(self, asking: Dataset) -> bool:
        uses = [Use(dataset, len(cached), self._read_at[dataset]) for dataset, cached in self._sets.items()]
        plan = plan_eviction(asking, 1, uses, now_s=self._now_s, policy=self._policy)
        if not plan:
            return False
        dataset = plan[0][0]
        fifo, cached = self._fifos[dataset], self._sets[dataset]
        gone = fifo.pop() if self._policy == "s3fifo" else next(iter(cached))
        assert gone is not None
        fifo.remove(gone)
        del cached[gone]
        self._count -= 1
        return True


def hits_of(trace: Sequence[Read], size: int, policy: str, *, per_set: int) -> list[bool]:
    """For each read whether it hits, under a policy that is told nothing."""
    cache = SimulatedCache(size, policy, per_set=per_set)
    return [cache.read(found) for _, found in trace]


def hits_announced(orders: Sequence[Sequence[Sequence[Read]]], size: int, *, known: int, per_set: int) -> list[bool]:
    """For each read whether it hits, when jobs announce `known` epochs ahead, this one included.

    Args:
        orders: by epoch and job, as `epochs` gives them; read in turns.
    """
    coming = Coming()
    datasets: dict[int, Dataset] = {}
    for each in sorted({found for epoch in orders for order in epoch for _, found in order}):
        dataset = datasets[each] = Dataset(f"mem://{each // per_set}/", "")
        place = coming.numbers.place(Place(dataset.mount, "", dataset, "/", 0))
        coming.numbers.add(place, str(each))
    numbers = {
        each: number
        for each in datasets
        if (number := coming.numbers.find(datasets[each].mount, str(each))) is not None
    }
    followed = sorted(set(datasets.values()))
    told: dict[int, Order] = {}
    count = 0
    hits = []
    for index in range(len(orders)):
        for epoch in orders[0 if index == 0 else index + known - 1 : index + known]:
            for order in epoch:
                job = order[0][0]
                if job not in told:
                    coming.add(told.setdefault(job, Order()))
                coming.announce(told[job], [numbers[found] for _, found in order])
        for job, found in in_turns(orders[index]):
            reader, number = told[job], numbers[found]
            coming.advance(reader, reader.at + 1, behind=1)  # the loader has it, and opens it
            reader.ahead = reader.at
            coming.used(number)
            hits.append(coming.file_id(number) != 0)
            if hits[-1]:
                continue
            if count < size:
                count += 1
            else:
                last = coming.pop("disk", followed, coming.due(number, after_window=True))
                if last is None:
                    continue
                coming.release(last, last + 1)
            coming.hold("disk", number, number + 1)
    return hits
