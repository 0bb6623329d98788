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
