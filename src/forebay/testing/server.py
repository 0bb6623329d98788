"""What the real servers of tests have in common: they are started again if their port was taken, and always ended."""

import subprocess
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from forebay.errors import Unavailable

START_TRIES = 3  # between choosing a free port and binding it, someone else may take it


class Server(ABC):
    """A context manager: it runs while its `with` does."""

    @abstractmethod
    def begin(self) -> None:
        """Start on ports that are free, and return when it answers.

        Raises:
            Unavailable: it ended at once, as it does if a port was taken.
            TimedOut: nobody answers.
        """

    @abstractmethod
    def stop(self) -> None:
        """End its processes, as far as there are some, and wait for their end."""

    def __enter__(self) -> Self:
        for last in (False,) * (START_TRIES - 1) + (True,):
            try:
                self.begin()
            except Unavailable:
                self.stop()
                if last:
                    raise
            except BaseException:
                self.stop()
                raise
            else:
                return self
        raise AssertionError("unreachable: the last try returns or raises")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def end(process: "subprocess.Popen[bytes]", *, within_s: float) -> None:
    """Ask a process to end, and make it."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
