"""Daemons of tests, demo and benches: run the real command line against a home, and leave nothing behind."""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

END_WAIT_S = 20.0
LOOK_S = 0.01
MNT_FORCE, MNT_DETACH = 1, 2  # sys/mount.h
COMMANDS = {"forebay": "run", "forebay-fuse": "run_fuse"}

_libc = ctypes.CDLL(None, use_errno=True)


class CommandRan(NamedTuple):
    """What a command left."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Its stdout, line by line."""
        return self.out.decode().splitlines()

    @property
    def json(self) -> Any:  # noqa: ANN401 - as the command prints it
        """Its stdout as a JSON document."""
        return json.loads(self.out)


RunForebay = Callable[..., CommandRan]


def forebay_command(*words: str, entry: str = "forebay") -> list[str]:
    """The command line that runs a console script, which need not be on the PATH."""
    code = f"import sys; from forebay.cli.main import {COMMANDS[entry]} as run; sys.exit(run())"
    return [sys.executable, "-c", code, *words]


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A home of its own; its daemon and mounts are gone afterwards, and the folder above it, which is free to use.

    Its path is short, since a socket must lie in it.
    """
    above = Path(tempfile.mkdtemp(prefix="forebay-"))
    home = above / "home"
    home.mkdir(mode=0o700)
    try:
        yield home
    finally:
        end_daemon(home)
        detach_mounts(above)
        shutil.rmtree(above, ignore_errors=True)


def daemon_pid(home: Path) -> int | None:
    """The pid of the home's daemon, if one lives: it holds its lock to its end."""
    try:
        with (home / "daemon.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return int((home / "daemon.lock").read_text() or 0) or None
    return None


def wait_until(is_true: Callable[[], bool], what: str, *, timeout_s: float = END_WAIT_S) -> None:
    """Look again and again until it is so; fail with `what` if it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(LOOK_S)


def end_daemon(home: Path) -> None:
    """End the home's daemon, kindly and then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = daemon_pid(home)
        if pid is None:
            return
        try:
            os.kill(pid, number)
            wait_until(lambda: daemon_pid(home) is None, f"the daemon of {home} ends")
        except (ProcessLookupError, TimeoutError):
            continue


def mountpoints(folder: Path) -> list[str]:
    """Where something is mounted below a folder, innermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        path = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split(" ")[4])
        if path.startswith(f"{folder}/"):
            found.append(path)
    return sorted(found, reverse=True)


def detach_mounts(folder: Path) -> None:
    """Take away every mount below a folder, dead ones too; who waits for one of ours is let go."""
    for path in mountpoints(folder):
        _libc.umount2(os.fsencode(path), MNT_FORCE | MNT_DETACH)
