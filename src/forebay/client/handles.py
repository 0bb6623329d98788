"""An open file as a program holds it, without a socket: its handle in the daemon, and its descriptor if it has one.

A file that is whole on the local disk is read and written by its descriptor; of any other, bytes go through the socket
until it is.  A handle that the daemon has lost (it was restarted, or this is a forked child) is opened again for
reading, at the same version; for writing that cannot be, since what was not flushed has gone.
"""

import os
from collections.abc import Generator
from typing import Any

from forebay.client.exchanges import Entry, Exchange, Reply, Step, call, entry_of
from forebay.errors import Invalid, Unavailable, Unsupported
from forebay.frontends.local.format import PIECE_BYTES
from forebay.types import Buffer

_MODES = {
    # reads, writes, creates, truncates, exclusive, append
    "r": (True, False, False, False, False, False),
    "r+": (True, True, False, False, False, False),
    "w": (False, True, True, True, False, False),
    "w+": (True, True, True, True, False, False),
    "a": (False, True, True, False, False, True),
    "a+": (True, True, True, False, False, True),
    "x": (False, True, True, False, True, False),
    "x+": (True, True, True, False, True, False),
}


class Handle:
    """See the module.  Its generators are exchanges."""

    def __init__(self, path: str, mode: str) -> None:
        """`mode` as of the built-in `open`.

        Raises:
            Invalid: it is none.
        """
        flags = _MODES.get(mode.replace("b", "").replace("t", ""))
        if flags is None:
            raise Invalid(f"{mode!r} is no mode of a file; take one of {', '.join(_MODES)}, with b or t", path=path)
        self.path = path
        self.reads, self.writes, self._creates, self._truncates, self._exclusive, self.appends = flags
        self.entry: Entry | None = None  # as it was opened
        self.fd: int | None = None
        self._number = 0
        self._pid = os.getpid()

    def open(self, version: str | None = None) -> Exchange[None]:
        """Open it; of `version` if one is given.

        Raises:
            StaleVersion: the version has gone.
            FsError: as the daemon says.
        """
        fields = {
            "path": self.path,
            "writes": self.writes,
            "creates": self._creates,
            "truncates": self._truncates,
            "exclusive": self._exclusive,
            "append": self.appends,
            "version": version,
        }
        reply = yield from call("open", fields)
        self._number, self._pid = reply.head["handle"], os.getpid()
        self.entry = entry_of(reply.head)
        self._keep(reply)

    def _keep(self, reply: Reply) -> None:
        for fd in reply.fds:
            if self.fd is None:
                self.fd = fd
            else:  # another thread was quicker
                os.close(fd)

    @property
    def number(self) -> int:
        """The daemon's name for it."""
        return self._number

    def size(self) -> int:
        """Bytes it has now, as far as this program can know."""
        if self.fd is not None:
            return os.fstat(self.fd).st_size
        assert self.entry is not None
        return self.entry.size

    def read(self, offset: int, size: int) -> Exchange[bytes]:
        """Bytes by the daemon, `PIECE_BYTES` at most, short only at the end.

        Raises:
            StaleVersion: the store has another version by now, and these bytes are not here.
            FsError: as the daemon says.
        """
        fields = {"offset": offset, "size": min(size, PIECE_BYTES)}
        try:
            reply = yield from call("read", {"handle": self._number, **fields})
        except Invalid:
            if self.writes:
                raise
            assert self.entry is not None
            yield from self.open(self.entry.version)
            reply = yield from call("read", {"handle": self._number, **fields})
        self._keep(reply)
        return reply.data

    def write(self, offset: int, data: Buffer) -> Exchange[int]:
        """Write bytes by the daemon, `PIECE_BYTES` at most; return how many.  Appends ignore `offset`."""
        piece = memoryview(data).cast("B")[:PIECE_BYTES]
        fields: dict[str, object] = {"handle": self._number, "offset": offset, "append": self.appends}
        reply = yield from self._change("write", fields, piece)
        if self.entry is not None:
            end = reply.head["offset"] + len(piece)
            self.entry = self.entry._replace(size=max(self.entry.size, end))
        return len(piece)

    def truncate(self, size: int) -> Exchange[None]:
        """Cut, or fill with zeros."""
        yield from self._change("truncate", {"handle": self._number, "size": size})
        if self.entry is not None:
            self.entry = self.entry._replace(size=size)

    def flush(self) -> Exchange[None]:
        """Return when what was written is acknowledged, as the mount's write mode says.

        Raises:
            StaleVersion: somebody else has changed the object meanwhile; both are kept.
            FsError: the store failed.
        """
        yield from self._change("flush", {"handle": self._number})

    def _change(self, name: str, fields: dict[str, object], data: Buffer = b"") -> Generator[Step, Any, Reply]:
        self.check_owner()
        try:
            return (yield from call(name, fields, data))
        except Invalid as error:
            message = f"{self.path}: the daemon ended while the file was written; write it again"
            raise Unavailable(message, path=self.path) from error

    def check_owner(self) -> None:
        """A file that is written belongs to one process.

        Raises:
            Unsupported: this is a child of the one that opened it.
        """
        if self._pid != os.getpid():
            message = f"{self.path} was opened for writing by another process; open it in this one"
            raise Unsupported(message, path=self.path)

    @property
    def is_ours(self) -> bool:
        """Was it opened by this process, and not by its parent?"""
        return self._pid == os.getpid()

    def close_fd(self) -> None:
        """Let go of the descriptor."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)
