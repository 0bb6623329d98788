"""A program's reading order, told to the daemon ahead of time, so that it can bring files here before they are read.

*Callers*: any thread of one process.  *Locks*: one, held while the daemon is told.  *Awaits*: the daemon.
*On crash*: the connection ends with the program, and the daemon forgets the job.
"""

import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from forebay.client import exchanges
from forebay.client.links import Link, LinkLost, Links
from forebay.client.names import Name, virtual_path
from forebay.client.place import Place
from forebay.errors import Invalid, Unavailable
from forebay.frontends.local.format import pack_paths

ANNOUNCED_AT_ONCE = 10_000  # paths in one call: a few hundred KB


class Job:
    """See the module.  It has a connection of its own, and belongs to the process that made it."""

    def __init__(self, place: Place, name: str) -> None:
        self.name = name
        self._links = Links(place)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._link: Link | None = self._links.take()
        self._tell("job.open", {"name": name})

    def announce(self, paths: Sequence[Name]) -> None:
        """These will be read next, after what was announced before.

        Raises:
            Invalid: the job is closed, or another process's.
            Unavailable: the daemon has ended, and forgotten it.
        """
        wanted = [virtual_path(path) for path in paths]
        for start in range(0, len(wanted), ANNOUNCED_AT_ONCE):
            self._tell("job.announce", {}, pack_paths(wanted[start : start + ANNOUNCED_AT_ONCE]))

    def advance(self, count: int) -> None:
        """The next `count` files of the order have been handed to the loader.

        Raises what `announce` raises.
        """
        self._tell("job.advance", {"count": count})

    def close(self) -> None:
        """There will be no more: the daemon forgets it.  A second time does nothing, nor does a child's."""
        if self._pid != os.getpid():
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

    def _tell(self, call: str, fields: dict[str, object], data: bytes = b"") -> None:
        if self._pid != os.getpid():
            raise Invalid(f"the job {self.name!r} belongs to process {self._pid}; make another in this one")
        with self._lock:
            if self._link is None:
                raise Invalid(f"the job {self.name!r} is closed")
            try:
                self._link.drive(exchanges.call(call, fields, data))
            except LinkLost as error:
                self._link.close()
                self._link = None
                message = f"the daemon ended, and with it the job {self.name!r}; make another one"
                raise Unavailable(message) from error
