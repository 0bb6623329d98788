"""The connections of a blocking program: one for each thread that is waiting, kept for the next.

*Callers*: any thread.  *Locks*: one around the list of idle connections, never held while waiting.  *Awaits*: the
daemon.  *Invariants*: an exchange has its connection for itself; after a fork the child has none of its parent's.
"""

import contextlib
import os
import socket
import threading
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from forebay.client import exchanges
from forebay.client.exchanges import Exchange, ReadFiles, Receive, Send
from forebay.client.place import Place, new_session
from forebay.errors import FsError, Unavailable
from forebay.frontends.local.format import FDS_MAX, BadFrame, Frame, Frames

RECEIVE_BYTES = 64 << 10  # as much as the kernel has in one piece; from 128 KiB on memory for it is made anew each time
_INT = array("i").itemsize
ANCILLARY_BYTES = socket.CMSG_SPACE(FDS_MAX * _INT)
Result = TypeVar("Result")


class LinkLost(Exception):
    """The connection has ended: the daemon has, or is another one by now."""


class Connection:
    """One connection, and what has arrived on it; how it is waited for is the business of who has it."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        weakref.finalize(self, connected.close)  # a file system that is dropped need not be closed
        self._frames = Frames()
        self._arrived: deque[Frame] = deque()

    def is_alive(self) -> bool:
        """Has the daemon not ended it?"""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _take_in(self) -> None:
        """Receive once.

        Raises:
            BlockingIOError: nothing is there, and the socket does not wait.
            LinkLost: it has ended.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES)
        except BlockingIOError:
            raise
        except OSError as error:
            raise LinkLost(str(error)) from error
        if not data:
            raise LinkLost("the daemon ended the connection")
        self._arrived += self._frames.feed(data, descriptors_in(ancillary))

    def close(self) -> None:
        """End it, with what has arrived and nobody has taken."""
        self._socket.close()
        for fd in [*self._frames.fds, *(fd for frame in self._arrived for fd in frame.fds)]:
            os.close(fd)
        self._frames.fds.clear()
        self._arrived.clear()


class Link(Connection):
    """One that waits.  Of one thread at a time."""

    def drive(self, exchange: Exchange[Result]) -> Result:
        """Have an exchange.

        Raises:
            LinkLost: the connection ended before it did.
            BadFrame: the daemon speaks otherwise.
            FsError: as the daemon says.
        """
        found: Any = None
        try:
            while True:
                step = exchange.send(found)
                if isinstance(step, ReadFiles):
                    found = read_files(step)
                elif isinstance(step, Receive):
                    found = self._receive()
                else:
                    assert isinstance(step, Send)
                    self._send(step.data)
                    found = None
        except StopIteration as end:
            result: Result = end.value
            return result

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise LinkLost(str(error)) from error

    def _receive(self) -> Frame:
        while not self._arrived:
            self._take_in()
        return self._arrived.popleft()


def descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> Sequence[int]:
    """The descriptors that came with bytes; those for which this process has no room are missing."""
    found: Sequence[int] = ()
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found = array("i", data[: len(data) - len(data) % _INT])
    return found


def read_files(step: ReadFiles) -> list[bytes | FsError]:
    """See `ReadFiles`."""
    pread, close = os.pread, os.close
    results: list[bytes | FsError] = []
    for fd, size in zip(step.fds, step.sizes, strict=True):
        try:
            data = pread(fd, size, 0)
            results.append(data if len(data) == size else data + _rest_of(fd, len(data), size))
        except OSError as error:
            results.append(FsError(f"the cache's disk cannot be read: {error}"))
        finally:
            close(fd)
    return results


def _rest_of(fd: int, at: int, size: int) -> bytes:
    """One read gives 2 GiB at most.  A file that is being written may be shorter by now."""
    pieces = []
    while at < size and (piece := os.pread(fd, size - at, at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


class Links:
    """See the module."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._renew()
        _all.add(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._session = new_session()
        self._idle: list[Link] = []
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()

    def forked(self) -> None:
        """This is a child now: it has neither its parent's connections, which it would keep open, nor its locks."""
        links = list(self._links)
        self._renew()
        for link in links:
            link.close()

    def run(self, make: Callable[[], Exchange[Result]], *, repeats: bool) -> Result:
        """Have an exchange, and another of the same once if the daemon has ended meanwhile.

        Args:
            repeats: False if it changes something, and whether it did is not known if no answer comes.

        Raises:
            Unavailable: the daemon ended, or cannot be reached.
            FsError: as the daemon says.
        """
        for attempt in (0, 1):
            try:
                return self._run_once(make)
            except LinkLost as error:
                if attempt or not repeats:
                    raise exchanges.lost(repeats=repeats) from error
        raise AssertionError("the second attempt returns or raises")

    def _run_once(self, make: Callable[[], Exchange[Result]]) -> Result:
        link = self.take()
        try:
            result = link.drive(make())
        except FsError:
            self.give(link)
            raise
        except BadFrame as error:
            link.close()
            raise FsError(f"the daemon's answer cannot be: {error}") from error
        except BaseException:
            link.close()
            raise
        self.give(link)
        return result

    def take(self) -> Link:
        """A connection for the caller alone."""
        while True:
            with self._lock:
                link = self._idle.pop() if self._idle else None
            if link is None:
                return self._connect()
            if link.is_alive():
                return link
            link.close()

    def _connect(self) -> Link:
        link = Link(self.place.connect())
        try:
            link.drive(exchanges.hello(self._session))
        except BaseException as error:
            link.close()
            if isinstance(error, LinkLost | BadFrame):
                raise Unavailable("the daemon ended as it was asked; its log may say why") from error
            raise
        self._links.add(link)
        return link

    def give(self, link: Link) -> None:
        """Back for the next one."""
        with self._lock:
            self._idle.append(link)

    def close(self) -> None:
        """End those that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()


_all: weakref.WeakSet[Links] = weakref.WeakSet()


def _forked() -> None:
    for links in list(_all):
        with contextlib.suppress(OSError):
            links.forked()


os.register_at_fork(after_in_child=_forked)
