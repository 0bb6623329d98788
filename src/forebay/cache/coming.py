"""What jobs have announced that they will read, and which cached object is needed last.  Pure.

The best that a cache can do is Belady's MIN: the object whose next use is farthest goes first.  A job that announces
its order makes that known.  Several jobs go at their own pace, so "when" is counted on one clock, the samples that
all jobs together have taken: what a job will read in 100 samples is due in 200 if another job is as fast.

What a job has read, and has not announced again, it will read some time in its next epoch: half an epoch after the
end of what is known of its order, on the average.  What was not in the last epoch that a job has announced whole, and
what nobody has announced, is never due: so a job that moves to other data takes the place of its old ones at once.

What is announced by a symbolic link is what it leads to, from the moment when that is known; the link itself, an object
too, is due with it.

Memory, measured with a million objects: 8 bytes for each announced sample, 8 for each object that a job knows, 45 for
its number and name, and 92 for each cached one.
"""

from array import array
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from forebay.cache.numbers import Numbers
from forebay.cache.policy import Dataset

NEVER = 1 << 40
"""When an object is due that nobody has announced."""
BEHIND_MAX = 16_384
"""A sample that was handed out and not opened so many samples later will not be: loaders hold fewer (prefetch factor
x workers x batch)."""
_PACE_EVERY = 1_024  # samples between two looks at the jobs' paces
_PACE_SLACK = 1.1  # a pace that changes by less leaves what was reckoned by it alone
_WHOLE = 0.95  # so much of the length of the last epoch is a whole one: the last batch may be dropped
_SHARE_MIN = 1e-3  # of a job that pauses
_TRIM = 65_536


class Order:
    """What one job will read, in order.  Positions count from its first sample; in the arrays 0 means none."""

    def __init__(self) -> None:
        self.at = 0  # so many samples have been taken
        self.ahead = 0  # those before this position are fetched by now, or about to be
        self.share = 1.0  # of all that the jobs take, this one's part
        self.taken = _PACE_EVERY  # of late, by which its pace is reckoned
        self.epochs = 0  # that have begun
        self._start = 0  # of the epoch that is being announced
        self._length = 0  # of the one before it, in samples; 0 before there is one
        self._base = 0  # position of the first element of the two arrays by position
        self._numbers = array("I")
        self._following = array("I")  # by position: one past the next position of the same object
        self._next = array("I")  # by object: one past the position of its next use
        self._last = array("I")  # by object: one past its last known position, read or not
        self.floor = 0  # what comes before has been used

    @property
    def end(self) -> int:
        """One past the last announced position."""
        return self._base + len(self._numbers)

    def append(self, number: int) -> None:
        """One more sample."""
        self._reach(number)
        position = self.end + 1
        last = self._last[number]
        is_repeated = last > self._start
        if is_repeated or 0 < self._length < position - self._start:
            self._length = position - 1 - self._start if is_repeated else self._length
            self._start = position - 1
            self.epochs += 1
        if not self._next[number]:
            self._next[number] = position
        else:
            self._following[last - 1 - self._base] = position
        self._last[number] = position
        self._numbers.append(number)
        self._following.append(0)

    def _reach(self, number: int) -> None:
        """Have room for what is known of an object."""
        if number >= len(self._next):
            more = bytes(4 * (number + 1 - len(self._next) + len(self._next) // 8))
            self._next.frombytes(more)
            self._last.frombytes(more)

    def redirect(self, number: int, target: int) -> None:
        """What was announced as one object is read as another, wherever it has not been used."""
        self._reach(max(number, target))
        moved, uses = self._uses(number), sorted((*self._uses(number), *self._uses(target)))
        for use in moved:
            self._numbers[use - 1 - self._base] = target
        for use, after in pairwise((*uses, 0)):
            self._following[use - 1 - self._base] = after
        self._next[number], self._next[target] = 0, uses[0] if uses else 0
        self._last[target] = uses[-1] if uses else max(self._last[number], self._last[target])
        self._last[number] = 0

    def _uses(self, number: int) -> list[int]:
        """One past each position at which an object is used."""
        found, use = [], self._next[number]
        while use:
            found.append(use)
            use = self._following[use - 1 - self._base]
        return found

    def number(self, position: int) -> int:
        """The object at a position that is not used up."""
        return self._numbers[position - self._base]

    def is_used(self, position: int) -> bool:
        """Has a position been used up?"""
        return position < self.floor or not 0 < self._next[self.number(position)] <= position + 1

    def next_use(self, number: int) -> int | None:
        """The next position of an object; None if none is known."""
        found = self._next[number] if number < len(self._next) else 0
        return found - 1 if found else None

    def use(self, number: int) -> None:
        """The next use of an object is over."""
        self._next[number] = self._following[self._next[number] - 1 - self._base]

    def distance(self, number: int, *, beyond: int = 0) -> float | None:
        """In how many samples of this job an object is used; None if it is not to be expected.

        Args:
            beyond: only uses from that position on count.
        """
        if number >= len(self._next) or not self._last[number]:
            return None
        found = self._next[number]
        while found and found <= beyond:
            found = self._following[found - 1 - self._base]
        if found:
            return max(0, found - 1 - self.at)
        announced = self.end - self._start
        length = self._length or announced
        lacking = length - announced if announced < _WHOLE * length else 0  # of this epoch
        if self._last[number] > self._start:
            return self.end - self.at + lacking + length / 2
        return self.end - self.at + lacking / 2 if lacking else None

    def advance(self, position: int, *, behind: int) -> Iterator[int]:
        """Samples before a position have been taken; give the objects of those that will not be opened any more.

        Args:
            behind: how many samples before `position` may still be opened.
        """
        self.taken += position - self.at
        self.at = position
        floor = max(self.floor, position - behind)
        for passed in range(self.floor, floor):
            number = self._numbers[passed - self._base]
            if self._next[number] == passed + 1:
                self.use(number)
                yield number
        self.floor = floor
        if floor - self._base > _TRIM:
            del self._numbers[: floor - self._base]
            del self._following[: floor - self._base]
            self._base = floor


class Coming:
    """See the module.  A *shelf* is a cache disk: each gives room by itself."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.orders: list[Order] = []
        self.datasets: set[Dataset] = set()  # those of which every cached object is held here
        self._now = 0  # samples that all jobs have taken
        self._looked_at = 0
        self._epochs_of: dict[int, int] = {}  # by shelf: of all jobs, when its heaps were last reckoned anew
        self._files = array("Q")  # by object: its cache file, 0 if it is not cached
        self._shelf_of = bytearray()
        self._due = array("Q")  # by object: as it stands in its heap
        self._shelves: list[object] = []
        self._heaps: list[dict[Dataset, list[int]]] = []  # by shelf; the latest first: (NEVER - due) << 32 | number
        self._held: list[dict[Dataset, int]] = []
        self._aside: set[int] = set()  # objects that are in use

    # ------------------------------------------------------------------ orders

    def add(self, order: Order) -> None:
        """One more job: as fast as the others on the average, until more is known."""
        if self.orders:
            order.taken = sum(other.taken for other in self.orders) // len(self.orders)
        self.orders.append(order)
        self._reckon_paces()

    def remove(self, order: Order) -> None:
        """A job has ended: what only it would have read is not due any more."""
        self.orders.remove(order)
        self._reckon_paces()
        for shelf, heaps in enumerate(self._heaps):
            for dataset in heaps:
                self._renew(shelf, dataset)

    def announce(self, order: Order, numbers: Sequence[int]) -> None:
        """A job will read these next, after what it has announced before."""
        for number in numbers:
            order.append(number)
        for number in numbers:
            self._moved(number)

    def lead(self, link: int, target: int) -> None:
        """A symbolic link leads to an object: whoever announced the one reads the other."""
        self.numbers.lead(link, target)
        for order in self.orders:
            order.redirect(link, target)
        self._moved(link)
        self._moved(target)

    def used(self, number: int) -> tuple[Order, int] | None:
        """An object was opened: by which job, as far as can be told, and at which position of its order."""
        found: tuple[Order, int] | None = None
        soonest = 0.0
        for order in self.orders:
            position = order.next_use(number)
            if position is None or position >= max(order.ahead, order.at + BEHIND_MAX):
                continue  # too far ahead to be the reason
            until = position - order.at  # handed out longest ago, or next in turn
            if found is None or until < soonest:
                found, soonest = (order, position), until
        if found is not None:
            found[0].use(number)
            self._moved(number)
        return found

    def advance(self, order: Order, position: int, *, behind: int = BEHIND_MAX) -> None:
        """A job has taken the samples before a position; see `Order.advance`."""
        self._now += position - order.at
        for number in order.advance(position, behind=behind):
            self._moved(number)
        if self._now - self._looked_at >= _PACE_EVERY:
            self._look_at_paces()

    def _look_at_paces(self) -> None:
        """Reckon them by about as many samples as are announced: the last of these are that far off.

        Of a few samples it would mislead: jobs that are as fast as each other are now and then ahead by hundreds.
        """
        self._looked_at = self._now
        self._reckon_paces()
        if sum(order.taken for order in self.orders) > 2 * sum(order.end - order.at for order in self.orders):
            for order in self.orders:
                order.taken = max(1, order.taken // 2)

    def _reckon_paces(self) -> None:
        total = sum(order.taken for order in self.orders)
        for order in self.orders:
            share = max(_SHARE_MIN, order.taken / total)
            if not 1 / _PACE_SLACK < share / order.share < _PACE_SLACK:
                order.share = share

    def due(self, number: int, *, after_window: bool = False) -> int:
        """When an object is read next, on the clock of all jobs.

        Args:
            after_window: not what is fetched ahead now, but the time after that, for which keeping it would pay.
        """
        soonest, number = float(NEVER), self.numbers.target(number)
        for order in self.orders:
            distance = order.distance(number, beyond=order.ahead if after_window else 0)
            if distance is not None:
                soonest = min(soonest, self._now + distance / order.share)
        return min(NEVER, int(soonest))

    # ------------------------------------------------------------------ what is cached

    def hold(self, shelf: object, number: int, file_id: int) -> None:
        """An object is cached."""
        if number >= len(self._files):
            more = number + 1 - len(self._files) + len(self._files) // 8
            self._files.frombytes(bytes(8 * more))
            self._due.frombytes(bytes(8 * more))
            self._shelf_of.extend(bytes(more))
        if shelf not in self._shelves:
            self._shelves.append(shelf)
            self._heaps.append({})
            self._held.append({})
        index, dataset = self._shelves.index(shelf), self.numbers.dataset(number)
        if not self._files[number]:
            self._held[index][dataset] = self._held[index].get(dataset, 0) + 1
        self._files[number] = file_id
        self._shelf_of[number] = index
        self._push(index, dataset, number, self.due(number))

    def set_aside(self, number: int) -> None:
        """An object that is in use now stands last in line, until it is not, or is opened again."""
        self._aside.add(number)
        self._push(self._shelf_of[number], self.numbers.dataset(number), number, self._now)

    def put_back(self, location: str, key: str) -> None:
        """An object is not in use any more: if it was set aside, it stands where it belongs again."""
        if self._aside and (number := self.numbers.find(location, key)) in self._aside:
            assert number is not None
            self._aside.remove(number)
            self._moved(number)

    def unfollow(self, dataset: Dataset) -> None:
        """Nobody announces anything of a data set any more."""
        self.datasets.discard(dataset)
        for heaps, held in zip(self._heaps, self._held, strict=True):
            for entry in heaps.pop(dataset, ()):
                self._files[entry & 0xFFFFFFFF] = 0
            held.pop(dataset, None)

    def release(self, number: int, file_id: int) -> None:
        """An object is not cached any more, in that file."""
        if self.file_id(number) == file_id:
            self._files[number] = 0
            self._held[self._shelf_of[number]][self.numbers.dataset(number)] -= 1

    def file_id(self, number: int) -> int:
        """The cache file of an object; 0 if it has none."""
        return self._files[number] if number < len(self._files) else 0

    def pop(self, shelf: object, datasets: Sequence[Dataset], than: int) -> int | None:
        """The cached object of these data sets that is needed last, if that is after `than`; it stands in line no more.

        The caller releases it, or sets it aside.
        """
        if shelf not in self._shelves:
            return None
        index = self._shelves.index(shelf)
        heaps = self._heaps[index]
        while True:
            tops = [(heap[0], dataset) for dataset in datasets if (heap := self._top(index, dataset))]
            if not tops:
                return None
            entry, dataset = min(tops)
            number, due = entry & 0xFFFFFFFF, NEVER - (entry >> 32)
            fresh = self.due(number)
            if fresh <= than and self._has_aged(index):
                continue
            if fresh < due:  # it was reckoned before more was known
                heappop(heaps[dataset])
                self._push(index, dataset, number, fresh)
                continue
            if fresh <= than:
                return None
            heappop(heaps[dataset])
            return number

    def _has_aged(self, shelf: int) -> bool:
        """Has an epoch begun since the heaps were reckoned, so that something may be due later?  They are renewed."""
        epochs = sum(order.epochs for order in self.orders)
        if epochs == self._epochs_of.get(shelf, 0):
            return False
        self._epochs_of[shelf] = epochs
        for dataset in self._heaps[shelf]:
            self._renew(shelf, dataset)
        return True

    def _top(self, shelf: int, dataset: Dataset) -> list[int]:
        """The heap of a data set, with an entry at its top that is true."""
        heap = self._heaps[shelf].get(dataset, [])
        while heap:
            number = heap[0] & 0xFFFFFFFF
            if self._files[number] and self._shelf_of[number] == shelf and self._due[number] == NEVER - (heap[0] >> 32):
                break
            heappop(heap)
        return heap

    def _moved(self, number: int) -> None:
        """When an object is due has changed."""
        if self.file_id(number):
            due = self.due(number)
            if due != self._due[number]:
                self._push(self._shelf_of[number], self.numbers.dataset(number), number, due)

    def _push(self, shelf: int, dataset: Dataset, number: int, due: int) -> None:
        self._due[number] = due
        heap = self._heaps[shelf].setdefault(dataset, [])
        heappush(heap, (NEVER - due) << 32 | number)
        if len(heap) > 2 * self._held[shelf][dataset] + 1_024:
            self._renew(shelf, dataset)

    def _renew(self, shelf: int, dataset: Dataset) -> None:
        """Reckon anew when everything of a data set is due."""
        entries = []
        for number in {entry & 0xFFFFFFFF for entry in self._heaps[shelf][dataset]}:
            if self._files[number] and self._shelf_of[number] == shelf:
                self._due[number] = due = self.due(number)
                entries.append((NEVER - due) << 32 | number)
        heapify(entries)
        self._heaps[shelf][dataset] = entries
