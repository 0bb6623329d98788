"""Small numbers for objects, so that what is known of a million of them fits into flat arrays.  Pure.

An object takes 16 bytes here and those of its name in its folder, and 8 more if there are links; one that was numbered
keeps its number.
"""

from array import array
from bisect import bisect_left, insort
from typing import NamedTuple

from forebay.cache.policy import Dataset

_SHARDS = 256  # each a sorted array: an insertion moves a few KB even when there are a million objects
_MASK = 0xFFFFFFFF


class Place(NamedTuple):
    """A folder of objects."""

    location: str  # the store's
    folder: str  # of the key, without a slash at its end
    dataset: Dataset
    path: str  # the virtual folder that shows it; "" until somebody says
    cut: int  # how much of a name the mount's prefix takes; 0 but for a shared prefix


class Numbers:
    """See the module.

    >>> numbers = Numbers()
    >>> place = numbers.place(Place("mem://s", "a", Dataset("mem://s/", "a"), "/m/a", 0))
    >>> numbers.add(place, "1.jpg"), numbers.add(place, "2.jpg"), numbers.add(place, "1.jpg")
    (0, 1, 0)
    >>> numbers.find("mem://s", "a/2.jpg"), numbers.find("mem://s", "a/3.jpg"), numbers.path(1)
    (1, None, '/m/a/2.jpg')
    """

    def __init__(self) -> None:
        self._places: list[Place] = []
        self._place_numbers: dict[tuple[str, str], int] = {}
        self._place_of = array("I")
        self._ends = array("Q")  # where each name ends in `_names`
        self._names = bytearray()
        self._shards = [array("Q") for _ in range(_SHARDS)]  # 32 bits of the name's hash, then the number
        self._targets = array("I")  # by object: one past the number of what it leads to, 0 if it is no link
        self._links = array("I")  # by object: one past the number of a link to it

    def __len__(self) -> int:
        return len(self._ends)

    def place(self, place: Place) -> int:
        """The number of a folder; one that was known without its path learns that."""
        known = self._place_numbers.setdefault((place.location, place.folder), len(self._places))
        if known == len(self._places):
            self._places.append(place)
        elif not self._places[known].path:
            self._places[known] = place
        return known

    def add(self, place: int, name: str) -> int:
        """The number of an object, by the last part of its key; a new one if it has none."""
        raw = name.encode("utf-8", "surrogateescape")
        shard, tag = self._shard(place, raw)
        found = self._search(shard, tag, place, raw)
        if found is not None:
            return found
        number = len(self._ends)
        self._place_of.append(place)
        self._names += raw
        self._ends.append(len(self._names))
        insort(shard, tag | number)
        return number

    def find(self, location: str, key: str) -> int | None:
        """The number of an object by its key; None if it has none."""
        folder, _, name = key.rpartition("/")
        place = self._place_numbers.get((location, folder))
        if place is None:
            return None
        raw = name.encode("utf-8", "surrogateescape")
        return self._search(*self._shard(place, raw), place, raw)

    def _shard(self, place: int, raw: bytes) -> tuple["array[int]", int]:
        hashed = hash((place, raw))
        return self._shards[hashed % _SHARDS], (hashed // _SHARDS & _MASK) << 32

    def _search(self, shard: "array[int]", tag: int, place: int, raw: bytes) -> int | None:
        for index in range(bisect_left(shard, tag), len(shard)):
            if shard[index] ^ tag > _MASK:
                return None
            number = shard[index] & _MASK
            if self._place_of[number] == place and self._name(number) == raw:
                return number
        return None

    def _name(self, number: int) -> bytes:
        return bytes(self._names[self._ends[number - 1] if number else 0 : self._ends[number]])

    def lead(self, link: int, target: int) -> None:
        """Note that a symbolic link leads to an object."""
        for known in (self._targets, self._links):
            known.frombytes(bytes(4 * (len(self) - len(known))))
        self._targets[link] = target + 1
        self._links[target] = link + 1

    def target(self, number: int) -> int:
        """What a link leads to, as far as that is known; of anything else, itself."""
        return self._targets[number] - 1 if number < len(self._targets) and self._targets[number] else number

    def link(self, number: int) -> int:
        """A link by which somebody comes to an object; if there is none, itself."""
        return self._links[number] - 1 if number < len(self._links) and self._links[number] else number

    def dataset(self, number: int) -> Dataset:
        """The data set of an object."""
        return self._places[self._place_of[number]].dataset

    def path(self, number: int) -> str:
        """Where the tree shows an object."""
        place = self._places[self._place_of[number]]
        name = self._name(number).decode("utf-8", "surrogateescape")
        return f"{place.path.rstrip('/')}/{name[place.cut :]}"
