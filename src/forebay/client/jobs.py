"""A program's reading order, told to the daemon ahead of time, so that it can bring files here before they are read.

*Callers*: any thread of one process.  *Locks*: one, held while the daemon is told.  *Awaits*: the daemon.
*On crash*: the connection ends with the program, and the daemon forgets the job.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from forebay.client.exchanges import Exchange, Reply, call, sent_path
from forebay.client.links import Link, LinkLost, Links
from forebay.client.names import Name
from forebay.errors import Invalid, Unavailable
from forebay.frontends.local.format import pack_paths

ANNOUNCED_AT_ONCE = 4_000  # paths in one call: some 200 KB, as much as a socket holds
AnyLink = TypeVar("AnyLink")


class Order:
    """What is said of a job, by blocking and by asyncio programs; it belongs to the process that made it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        """Is it this process's?"""
        return self._pid == os.getpid()

    def checked(self, link: AnyLink | None) -> AnyLink:
        """The connection of a job that can be told.

        Raises:
            Invalid: it is closed, or another process's.
        """
        if not self.is_ours:
            raise Invalid(f"the job {self.name!r} belongs to process {self._pid}; make another in this one")
        if link is None:
            raise Invalid(f"the job {self.name!r} is closed")
        return link

    def lost(self) -> Unavailable:
        """What to raise when its connection has ended."""
        return Unavailable(f"the daemon ended, and with it the job {self.name!r}; make another one")

    def opening(self) -> Exchange[Reply]:
        """It begins."""
        return call("job.open", {"name": self.name})

    def announcements(self, paths: Sequence[Name]) -> Iterator[Exchange[Reply]]:
        """These will be read next.

        Raises:
            Invalid: one is no path; nothing has been told then.
        """
        wanted = [sent_path(path) for path in paths]
        for start in range(0, len(wanted), ANNOUNCED_AT_ONCE):
            yield call("job.announce", {}, pack_paths(wanted[start : start + ANNOUNCED_AT_ONCE]))

    def advancing(self, count: int) -> Exchange[Reply]:
        """So many more have been handed out."""
        return call("job.advance", {"count": count})


class Job(Order):
    """See the module.  It has a connection of its own."""

    def __init__(self, links: Links, name: str) -> None:
        super().__init__(name)
        self._lock = threading.Lock()
        self._link: Link | None = links.take()
        self._tell(self.opening())

    def announce(self, paths: Sequence[Name]) -> None:
        """These will be read next, after what was announced before.

        A million of them take the daemon some seconds, which nobody waits for: not this program, nor any other.

        Raises:
            Invalid: the job is closed, or another process's; or a path lies in no mount, maybe of an earlier call.
            Busy: more is announced than the daemon can hold; announce the rest when some of it has been read.
            Unavailable: the daemon has ended, and forgotten it.
        """
        for telling in self.announcements(paths):
            self._tell(telling)

    def advance(self, count: int) -> None:
        """The next `count` files of the order have been handed to the loader.

        Raises what `announce` raises.
        """
        self._tell(self.advancing(count))

    def close(self) -> None:
        """There will be no more: the daemon forgets it.  A second time does nothing, nor does a child's."""
        if not self.is_ours:
            return
        with self._lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, telling: Exchange[Reply]) -> None:
        if not self.is_ours:  # whose lock a thread may have held
            self.checked(None)
        with self._lock:
            link = self.checked(self._link)
            try:
                link.drive(telling)
            except LinkLost as error:
                link.close()
                self._link = None
                raise self.lost() from error
