"""A server in a process of its own that tells its port in its first line: what those written here have in common."""

import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from forebay.errors import Unavailable
from forebay.testing.leash import leashed


class ToldPort:
    """It serves on a free loopback port while its `with` does, and dies with the thread that entered."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """`command` prints the port, and serves until it is ended."""
        self.port = 0
        self._name = name
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None

    @property
    def endpoint(self) -> str:
        """The URL at which it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> "subprocess.Popen[str]":
        """The process; it must be running."""
        assert self._process is not None, "not started"
        return self._process

    def told(self) -> str:
        """The next line that it prints, without its end; "" if it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Self:
        # A session of its own: Ctrl-C at the terminal ends the caller, which then ends what still reads from here.
        self._process = subprocess.Popen(
            leashed(self._command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        line = self.told()
        if not line.isdigit():
            self.stop()
            raise Unavailable(f"{self._name} ended at its start; its reason is above")
        self.port = int(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process and wait for its end; its connections are cut."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
