"""The order in which a program will read, as it announces it: what this frontend asks of whoever makes use of it.

*Callers*: `forebay.frontends.local.calls`, on the loop; plain methods never wait.
"""

from collections.abc import Sequence
from typing import Protocol


class Job(Protocol):
    """One program's order."""

    def announce(self, paths: Sequence[str]) -> None:
        """These will be read next, after what was announced before; normal virtual paths."""
        ...

    def advance(self, count: int) -> None:
        """The next `count` of them have been handed out."""
        ...

    def close(self) -> None:
        """There will be no more: forget it."""
        ...


class Orders(Protocol):
    """Jobs as programs begin them."""

    def open_job(self, name: str, pid: int) -> Job:
        """A new job, whose program is that process."""
        ...


class KeptOrder:
    """A job of which nobody makes use: what is left of its order."""

    def __init__(self, name: str, pid: int) -> None:
        self.name = name
        self.pid = pid
        self.ahead: list[str] = []
        self.is_closed = False

    def announce(self, paths: Sequence[str]) -> None:
        """See `Job`."""
        self.ahead += paths

    def advance(self, count: int) -> None:
        """See `Job`."""
        del self.ahead[:count]

    def close(self) -> None:
        """See `Job`."""
        self.is_closed = True


class KeptOrders:
    """Orders of which nobody makes use."""

    def __init__(self) -> None:
        self.jobs: list[KeptOrder] = []

    def open_job(self, name: str, pid: int) -> KeptOrder:
        """See `Orders`."""
        self.jobs = [job for job in self.jobs if not job.is_closed]
        self.jobs.append(KeptOrder(name, pid))
        return self.jobs[-1]
