"""How many different things there were, and how large they are together, in a fixed amount of memory.  Pure.

Linear counting (Whang et al., 1990): each name sets one bit of many by its hash, and the share of bits that are still
clear tells how many names there were.  Of a million names the error is below one in a hundred.
"""

from math import log

BITS = 1 << 20  # 128 KiB of memory once something is counted; beyond 8 million names nearly all bits are set


class Distinct:
    """See the module."""

    __slots__ = ("_bits", "_set", "_size")

    def __init__(self) -> None:
        self._bits: bytearray | None = None  # most mounts that are never read need none
        self._set = 0
        self._size = 0  # of those that set a bit

    def add(self, name: object, size: int) -> None:
        """That thing was there, of so many bytes; it may have been there before."""
        if self._bits is None:
            self._bits = bytearray(BITS // 8)
        bit = hash(name) % BITS
        if not self._bits[bit >> 3] & 1 << (bit & 7):
            self._bits[bit >> 3] |= 1 << (bit & 7)
            self._set += 1
            self._size += size

    @property
    def count(self) -> int:
        """How many there were, about."""
        clear = max(BITS - self._set, 1)
        return round(BITS * log(BITS / clear))

    @property
    def size(self) -> int:
        """Their bytes, about: those that found their bit set are taken to be as large as the others."""
        return self._size * self.count // self._set if self._set else 0
