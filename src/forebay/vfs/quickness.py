"""Whether the local disk syncs so soon that to wait for it costs less than to have a thread wait.  Pure.

A thread must wake up, and wake up who asked: that takes longer than the sync of a good disk.  But all that wait for one
thread wait for its syncs too, so the disk must have been quick for a while; and the more often it was not, the longer.
"""

QUICK_S = 1e-3  # a sync, as a rule: to hand it to a thread and hear of it takes 0.5 to 1 ms more
STALL_S = 5e-3  # one sync that takes so long counts for many
RUN_MIN, RUN_MAX = 16, 64  # syncs without a stall
_SHARE = 1 / 16  # of the newest sync in what is the rule


class Quickness:
    """See the module."""

    def __init__(self) -> None:
        self._usual_s = 2 * QUICK_S
        self._run = 0  # syncs since the last stall
        self._needed = RUN_MIN

    @property
    def is_quick(self) -> bool:
        """May somebody wait for the next sync for whom others wait?"""
        return self._usual_s < QUICK_S and self._run >= self._needed

    def took(self, seconds: float) -> None:
        """So long did a sync take, with the write before it."""
        if seconds >= STALL_S:
            self._run, self._needed = 0, min(2 * self._needed, RUN_MAX)
            return
        self._usual_s += (seconds - self._usual_s) * _SHARE
        self._run += 1
        if self._run % RUN_MAX == 0:
            self._needed = max(self._needed // 2, RUN_MIN)
