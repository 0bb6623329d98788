"""A server as a child process on a free loopback port: what the servers of tests have in common."""

import os
import signal
import socket
import subprocess
import time
from abc import abstractmethod
from pathlib import Path

from forebay.errors import TimedOut, Unavailable
from forebay.testing.leash import leashed
from forebay.testing.ports import free_ports
from forebay.testing.server import Server

READY_WITHIN_S = 30.0
_POLL_S = 0.02


class ChildServer(Server):
    """Runs while its `with` does, and dies with the thread that entered it, at the latest.

    Its files are in `folder`, those that it serves in `root`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line that serves `root` on `port`; it must not go to the background."""

    def begin(self) -> None:
        """See `Server.begin`."""
        self.root.mkdir(parents=True, exist_ok=True)
        [self.port] = free_ports(1)
        self.start()

    def start(self) -> None:
        """Start on `port`, again after a `stop` too; return when it takes connections.

        Raises:
            Unavailable: it ended at once.
            TimedOut: nobody answers.
        """
        with (self.folder / "server.out").open("ab") as output:
            self._process = subprocess.Popen(
                leashed(self.command()), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + READY_WITHIN_S
        try:
            while not self._answers():
                if self._process.poll() is not None:
                    raise Unavailable(f"{self.command()[0]} ended at its start: see {self.folder / 'server.out'}")
                if time.monotonic() > deadline:
                    raise TimedOut(f"{self.command()[0]} did not answer within {READY_WITHIN_S:g} s")
                time.sleep(_POLL_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and the processes that serve its connections, and wait for its end."""
        process, self._process = self._process, None
        if process is None:
            return
        workers = _descendants(process.pid)
        process.kill()
        process.wait()
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def pause(self) -> None:
        """Let it hang: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in (self._process.pid, *_descendants(self._process.pid)):
            os.kill(pid, number)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return found
    for child in map(int, children):
        found += [child, *_descendants(child)]
    return found
