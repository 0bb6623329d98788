"""When uploads begin: not while files are written one after another, or read back: all want the same processors.  Pure.

A small file alone is sent at once.  When a second one comes soon after, or a large one, uploads wait until no more
come, and nobody has open what would be sent first; but not for long, and not for many files, so that what is sent keeps
pace with a writer who does not rest.
"""

import math

LULL_S = 1.0  # without a new file: then those who wrote have finished
HELD_MAX_S = 5.0
HELD_FILES_MAX = 4_096  # of 4 KiB to 128 KiB each in the journal: half a GiB


class Lull:
    """See the module.  `now` is seconds of one clock that goes on steadily."""

    def __init__(self) -> None:
        self._last = -math.inf  # when a file came
        self._held_since: float | None = None
        self._is_over = False  # what waits is sent, whatever comes

    def came(self, now: float, *, is_large: bool = False) -> None:
        """A file was acknowledged that is to be sent."""
        if self._held_since is None and not self._is_over and (is_large or now - self._last < LULL_S):
            self._held_since = now
        self._last = now

    def left_s(self, now: float, waiting: int, *, is_open: bool = False) -> float | None:
        """How long uploads still wait, seconds, if nothing comes; None: they do not wait.

        Args:
            waiting: files.
            is_open: does somebody have the first of them open?  When that ends, ask again.

        >>> lull = Lull(); lull.came(0.0); lull.left_s(0.0, 1)
        >>> lull.came(0.5); lull.left_s(0.5, 2), lull.left_s(1.0, 2), lull.left_s(1.5, 2)
        (1.0, 0.5, None)
        """
        if self._held_since is None:
            return None
        until = self._held_since + HELD_MAX_S
        left_s = (until if is_open else min(self._last + LULL_S, until)) - now
        if left_s > 0 and waiting <= HELD_FILES_MAX:
            return left_s
        self.end()
        return None

    def end(self) -> None:
        """What waits is sent from now on, until there is nothing."""
        self._held_since, self._is_over = None, True

    def emptied(self) -> None:
        """Nothing waits any more."""
        self._held_since, self._is_over = None, False
