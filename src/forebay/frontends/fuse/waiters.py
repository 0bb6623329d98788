"""Who waits for an answer, and is let go when told to stop.

The kernel tells of a signal (INTERRUPT) once for each request, and never for a read that it sends as a read-ahead,
though its caller sleeps until the page has come: so it reads nearly all of a cold file.  So who has waited for a while
is looked at, again and again.  EINTR to a read-ahead fails nobody's read: who still wants the page asks for it by a
request of its own.

*Callers*: the server, on the loop.  *Awaits*: nothing.
"""

import asyncio
from pathlib import Path

from forebay.types import Buffer

LOOK_S = 0.25  # who is told to stop is let go within twice that
_STOP_SIGNALS = sum(1 << number - 1 for number in (1, 2, 3, 9, 15))  # HUP INT QUIT KILL TERM


class Waiters:
    """See the module."""

    def __init__(self) -> None:
        self._tasks: dict[int, tuple[asyncio.Task[Buffer], int]] = {}  # by unique: the task, and the thread that waits
        self._seen: set[int] = set()  # that waited at the last look
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, unique: int, task: asyncio.Task[Buffer], pid: int) -> None:
        """A thread, 0 if it is not known, waits for what a task returns."""
        self._tasks[unique] = task, pid
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def remove(self, unique: int) -> None:
        """The task has ended."""
        del self._tasks[unique]

    def interrupt(self, unique: int) -> None:
        """Let a caller go that was told to stop; a mere SIGCHLD or timer is no reason to fail its read."""
        task, pid = self._tasks.get(unique, (None, 0))
        if task is not None and (pid == 0 or is_told_to_stop(pid)):
            task.cancel()

    def _look(self) -> None:
        patient = [self._tasks[unique] for unique in self._seen & self._tasks.keys()]
        told = {pid for pid in {pid for _, pid in patient} if pid and is_told_to_stop(pid)}
        for task, pid in patient:
            if pid in told:
                task.cancel()
        self._seen = set(self._tasks)
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self._tasks else None

    async def end(self) -> None:
        """Cancel all, and wait for their ends."""
        tasks = [task for task, _ in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
