"""How many different things there were since some moment of the last day, and how large they are together.  Pure.

Linear counting (Whang et al., 1990): each name takes one of many slots by its hash, and the share of slots that are
still clear tells how many names there were.  A slot also knows when one of its names was there last, so the slots that
were taken since a moment are those of the names since then.  Of a million names the error is below one in a hundred.
"""

from array import array
from math import inf, log
from typing import NamedTuple

SLOTS = 1 << 19  # 4 MiB of memory once a few thousand things were counted; beyond 5 million nearly all are taken
KEPT = 8640  # turns that can be told from each other: a day of those of ten seconds; earlier ones are one


class Seen(NamedTuple):
    """What there was."""

    number: int  # of different things, about
    size: int  # together, about: those that found their slot taken are believed to be as large as the others


class _Turn:
    """A stretch of time: the slots that were taken in it last."""

    __slots__ = ("end_s", "size", "slots")

    def __init__(self) -> None:
        self.end_s = inf  # it goes on
        self.slots = 0
        self.size = 0.0


class Distinct:
    """See the module.  A turn ends when `end_turn` says so."""

    __slots__ = ("_first", "_last", "_sizes", "_turns")

    def __init__(self) -> None:
        self._turns = [_Turn()]
        self._first = 1  # the number of the first one that is kept
        self._last: array[int] | None = None  # by slot: the number of its turn, 0 if it is clear; most mounts need none
        self._sizes: array[float] | None = None

    def add(self, name: object, size: int) -> None:
        """That thing was there, of so many bytes; it may have been there before."""
        if self._last is None or self._sizes is None:
            self._last, self._sizes = array("I", bytes(4 * SLOTS)), array("f", bytes(4 * SLOTS))
        slot, number = hash(name) % SLOTS, self._first + len(self._turns) - 1
        before = self._last[slot]
        if before == number:
            return
        if before:
            earlier = self._turns[max(before - self._first, 0)]
            earlier.slots -= 1
            earlier.size -= self._sizes[slot]
        self._last[slot], self._sizes[slot] = number, size
        turn = self._turns[-1]
        turn.slots += 1
        turn.size += self._sizes[slot]  # as it is kept there

    def end_turn(self, now_s: float) -> None:
        """What comes after this moment can be told from what was there before."""
        if not self._turns[-1].slots:
            return
        self._turns[-1].end_s = now_s
        self._turns.append(_Turn())
        if len(self._turns) > KEPT:
            gone = self._turns.pop(0)
            self._first += 1
            self._turns[0].slots += gone.slots
            self._turns[0].size += gone.size

    def since(self, from_s: float = -inf) -> Seen:
        """What was there in the turns that ended after that moment, the one that goes on included."""
        turns = [turn for turn in self._turns if turn.end_s > from_s]
        slots = sum(turn.slots for turn in turns)
        if not slots:
            return Seen(0, 0)
        count = round(SLOTS * log(SLOTS / max(SLOTS - slots, 1)))
        return Seen(count, round(sum(turn.size for turn in turns) * count / slots))
