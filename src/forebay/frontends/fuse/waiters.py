"""Who waits for an answer, and is let go when told to stop.

The kernel tells of a signal (INTERRUPT) once for each request, and never for a read that it sends as a read-ahead,
though its caller sleeps until the page has come: so it reads nearly all of a cold file.  So who has waited for a while
is looked at, again and again.  EINTR to a read-ahead fails nobody's read: who still wants the page asks for it by a
request of its own.

Until a request is answered the kernel may hold the lock of its folder, and would have who tells it of a change there
wait: so that comes after the answer (`once_answered`).

*Callers*: the server, on the loop.  *Awaits*: nothing.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from forebay.frontends.fuse import abi
from forebay.frontends.fuse.wire import Request
from forebay.types import Buffer

LOOK_S = 0.25  # who is told to stop is let go within twice that
_RENAMES = (abi.Opcode.RENAME, abi.Opcode.RENAME2)
_STOP_SIGNALS = sum(1 << number - 1 for number in (1, 2, 3, 9, 15))  # HUP INT QUIT KILL TERM


class _Waiter(NamedTuple):
    task: "asyncio.Task[Buffer]"  # what returns the answer
    pid: int  # the thread that waits, 0 if it is not known
    folders: tuple[int, ...]  # nodes whose lock the kernel may hold until then


class Waiters:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Waiter] = {}  # by unique
        self._seen: set[int] = set()  # that waited at the last look
        self._timer: asyncio.TimerHandle | None = None
        self._later: list[tuple[set[int], Callable[[], None]]] = []  # see `once_answered`

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request, task: "asyncio.Task[Buffer]") -> None:
        """Somebody waits for what a task returns."""
        self._waiting[request.unique] = _Waiter(task, request.pid, _locked_folders(request))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def remove(self, unique: int) -> None:
        """The answer has been written."""
        del self._waiting[unique]
        if self._later:
            waited, self._later = self._later, []
            for waits_for, then in waited:
                waits_for.discard(unique)
                if waits_for:
                    self._later.append((waits_for, then))
                else:
                    then()

    def once_answered(self, folder: int, then: Callable[[], None]) -> None:
        """Call `then` when the kernel holds the lock of a folder for no request any more that is unanswered now.

        Requests that come later are not waited for, or it might never be called.
        """
        asks = asyncio.current_task()  # an answer that is on its way may have locked what only the kernel knows of
        waits_for = {
            unique for unique, waiter in self._waiting.items() if folder in waiter.folders or waiter.task is asks
        }
        self._call(then, waits_for)

    def after_those(self, then: Callable[[], None]) -> None:
        """Call `then` when all has been called that `once_answered` was told before."""
        self._call(then, set[int]().union(*(waits_for for waits_for, _ in self._later)))

    def _call(self, then: Callable[[], None], waits_for: set[int]) -> None:
        if waits_for:
            self._later.append((waits_for, then))
        else:
            asyncio.get_running_loop().call_soon(then)  # what is being answered without a task is answered then

    def interrupt(self, unique: int) -> None:
        """Let a caller go that was told to stop; a mere SIGCHLD or timer is no reason to fail its read."""
        waiter = self._waiting.get(unique)
        if waiter is not None and (waiter.pid == 0 or is_told_to_stop(waiter.pid)):
            waiter.task.cancel()

    def _look(self) -> None:
        patient = [self._waiting[unique] for unique in self._seen & self._waiting.keys()]
        told = {pid for pid in {waiter.pid for waiter in patient} if pid and is_told_to_stop(pid)}
        for waiter in patient:
            if waiter.pid in told:
                waiter.task.cancel()
        self._seen = set(self._waiting)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self._waiting else None

    async def end(self) -> None:
        """Cancel all, and wait for their ends."""
        tasks = [waiter.task for waiter in self._waiting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _locked_folders(request: Request) -> tuple[int, ...]:
    """Nodes of the folders whose lock the kernel may hold until a request is answered."""
    if request.opcode == abi.Opcode.OPENDIR:
        return ()
    if request.opcode in _RENAMES:
        return (request.nodeid, *abi.RENAME_IN.unpack_from(request.body))
    return (request.nodeid,)


def is_told_to_stop(pid: int) -> bool:
    """Does a signal to stop wait for a thread or its process, and does it listen?  Also if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    pending, blocked = (_mask(fields, "SigPnd") | _mask(fields, "ShdPnd")), _mask(fields, "SigBlk")
    return bool(pending & ~blocked & _STOP_SIGNALS)


def _mask(fields: dict[str, str], name: str) -> int:
    return int(fields.get(name, "0"), 16)
