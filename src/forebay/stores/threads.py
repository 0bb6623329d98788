"""Threads for libraries that block: a bounded number, which nobody has to wait for.

Unlike `concurrent.futures.ThreadPoolExecutor`, whose threads hold up the end of the process, a call that hangs for
ever costs one thread here and nothing else: whoever asked is told by its deadline, and the process ends without it.

*Callers*: adapters, on the loop.  *Locks*: one, for the count of threads.  *Invariants*: at most `count` threads; a
call that was given up before it began never begins.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from forebay.errors import Unavailable

Result = TypeVar("Result")
_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Threads:
    """See the module."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._idle = 0  # waiting for a job, less the jobs that wait for them
        self._closed = False

    async def run(self, call: Callable[..., Result], *args: Any) -> Result:  # noqa: ANN401 - as `call` takes them
        """The result of `call(*args)` from a thread.  Cancelled, it leaves a call that has begun to itself."""
        return await asyncio.wrap_future(self.submit(call, *args))

    def submit(self, call: Callable[..., Result], *args: Any) -> "Future[Result]":  # noqa: ANN401
        """Have `call(*args)` done.

        Raises:
            Unavailable: the store is closed.
        """
        future: Future[Result] = Future()
        with self._lock:
            if self._closed:
                raise Unavailable("the store is closed")
            self._jobs.put((future, call, args))
            self._idle -= 1
            if self._idle < 0 and self._started < self._count:
                self._started += 1
                self._idle += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def close(self) -> None:
        """Take no more calls; threads end with what they do now."""
        with self._lock:
            self._closed = True
            for _ in range(self._started):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call, args = job
            if future.set_running_or_notify_cancel():
                try:
                    result = call(*args)
                except BaseException as error:  # noqa: BLE001 - whoever waits for the result is told
                    future.set_exception(error)
                    del error
                else:
                    future.set_result(result)
                    del result
            del job, future, call, args  # else an iterator that was given up would stay open until the next job
            with self._lock:
                self._idle += 1
