"""Reads that failed after a long wait, and are not made to wait again.  Pure.

Where a read-ahead fails, the kernel asks for the page once more before it tells who waits for it; for a mapping twice.
Each of these would wait for the store's deadline anew.  So for a moment that thread gets the same answer.
"""

LONG_S = 1.0  # what fails sooner may be tried again as often as the kernel likes
REPEATED_S = 0.1  # the kernel asks at once, as soon as the thread has a processor


class Failures:
    """See the module.  Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._latest: dict[tuple[int, int], tuple[int, float]] = {}  # by thread and node: errno, and until when

    def add(self, pid: int, node_id: int, error: int, *, began: float, now: float) -> None:
        """A read has failed with that errno.  `pid`: the thread that asked, 0 if it is not known."""
        if pid and now - began >= LONG_S:
            self._latest = {key: failure for key, failure in self._latest.items() if failure[1] > now}
            self._latest[pid, node_id] = error, now + REPEATED_S

    def repeated(self, pid: int, node_id: int, now: float) -> int:
        """The errno that a thread gets again for a file of which a read has failed just now; 0 if there is none."""
        error, until = self._latest.get((pid, node_id), (0, now))
        return error if now < until else 0
