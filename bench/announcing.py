"""A daemon whose jobs announce their orders on a socket of its own: for benches and tests of announced orders alone.

python bench/announcing.py HOME [--SETTING VALUE ...]

It serves HOME as `forebay daemon` does, and `HOME/orders.sock` besides: each connection is a job, which ends with it.
A line is a JSON list, ["announce", PATH, ...] or ["advance", COUNT]; the answer is "ok" or the error.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from forebay.config.load import load
from forebay.daemon import main
from forebay.daemon.assemble import Daemon
from forebay.errors import FsError
from forebay.testing.leash import leashed

LINE_MAX = 1 << 24
AT_ONCE = 4_096  # paths of one line: about 20 ms of the daemon's time


class AnnouncingDaemon(Daemon):
    """See the module."""

    def start(self) -> None:
        """Serve the socket of orders too."""
        super().start()
        path = sys.argv[1] + "/orders.sock"
        self._serving = asyncio.ensure_future(asyncio.start_unix_server(self._serve, path, limit=LINE_MAX))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job = self.fs.orders.open_job("bench", 0)
        try:
            while line := await reader.readline():
                word, *values = json.loads(line)
                try:
                    if word == "announce":
                        job.announce(values)
                    else:
                        job.advance(values[0])
                    writer.write(b"ok\n")
                except FsError as error:
                    writer.write(f"{error}\n".encode())
                await writer.drain()
        finally:
            job.close()
            writer.close()


class Announcer:
    """A job, as its process sees it."""

    def __init__(self, home: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(home / "orders.sock"))
        self._file = self._socket.makefile("rw", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def announce(self, names: Sequence[str]) -> None:
        """The job will read these virtual paths."""
        for start in range(0, len(names), AT_ONCE):
            self._call("announce", *names[start : start + AT_ONCE])

    def advance(self, count: int) -> None:
        """So many samples were handed out."""
        self._call("advance", count)

    def _call(self, *words: object) -> None:
        self._file.write(json.dumps(words) + "\n")
        self._file.flush()
        if (answer := self._file.readline().strip()) != "ok":
            raise RuntimeError(answer)


class OwnForebay:
    """Such a daemon with a home of its own; it ends with the context."""

    def __init__(self, home: Path, **settings: object) -> None:
        self.home = home
        self._flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self._mountpoints: list[Path] = []

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, mode=0o700)
        command = [sys.executable, __file__, str(self.home), *self._flags]
        with (self.home / "log").open("wb") as log:
            self._process = subprocess.Popen(leashed(command), stdout=log, stderr=log)
        while not (self.home / "orders.sock").exists():
            if self._process.poll() is not None:
                raise RuntimeError((self.home / "log").read_text())
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        for mountpoint in self._mountpoints:
            if os.path.ismount(mountpoint):
                subprocess.run(["umount", "-l", str(mountpoint)], check=False)

    def run(self, *words: str) -> str:
        """Run the command line; its output."""
        command = [sys.executable, "-c", "import sys; from forebay.cli.main import run; sys.exit(run())", *words]
        environment = os.environ | {"FOREBAY_HOME": str(self.home)}
        done = subprocess.run(leashed(command), env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"forebay {' '.join(words[:2])} failed: {done.stderr.strip()}")
        return done.stdout

    def show(self, url: str, *words: str) -> Path:
        """Mount a store at /data, show that at a local folder, and return this folder."""
        mountpoint = self.home.parent / f"{self.home.name}-mnt"
        mountpoint.mkdir()
        self._mountpoints.append(mountpoint)
        self.run("fs", "mount", "/data", url, *words)
        self.run("fuse", "mount", str(mountpoint), "/data")
        return mountpoint

    def fetched_bytes(self) -> int:
        """What came from the store so far."""
        counters: dict[str, int] = json.loads(self.run("status", "--json"))["counters"]
        return counters["bytes_from_store"]


def main_of(words: Sequence[str]) -> int:
    """Serve the home."""
    flags = dict(zip((word.removeprefix("--") for word in words[1::2]), words[2::2], strict=True))
    main.Daemon = AnnouncingDaemon  # type: ignore[misc]
    return main.serve(load(flags | {"home": words[0]}))


if __name__ == "__main__":
    sys.exit(main_of(sys.argv[1:]))
