"""Starts the daemon of a home, if none runs, and waits until it answers.

The daemon is started by exec, in a session of its own, with no descriptor of ours but one pipe, on which it says
that it is ready, or why it cannot be.

*Callers*: any process, several at once.  *Locks*: `home/start.lock`, held while a daemon starts: the second caller
finds the first one's daemon.  *On crash*: locks are the kernel's and end with their process; a socket that nobody
listens at is replaced by the next daemon.
"""

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from forebay.clock import SystemClock
from forebay.config.load import load, to_flags
from forebay.config.settings import Settings
from forebay.daemon import home as names
from forebay.daemon.client import Client, connect
from forebay.errors import FsError, TimedOut, Unavailable, kinds

START_WAIT_S = 90.0  # a daemon that still stops may take a minute before its successor can begin
LOOK_S = 0.05
STDERR_KEPT_BYTES = 1 << 20
STDERR_LINES = 5


def ensure_daemon(settings: Settings) -> Client:
    """A client of this home's daemon, which is started if none answers.

    Raises:
        FsError: it could not start; the message is its own.
        TimedOut: it did not answer in time.
    """
    if not _answers(settings.home):
        names.make_home(settings.home)
        with _locked(names.start_lock_path(settings.home)):
            if not _answers(settings.home):
                _start(settings)
    return Client(names.socket_path(settings.home))


def is_running(home: Path) -> bool:
    """Does a daemon of this home live, be it only to stop?  It holds its lock to its last breath."""
    try:
        descriptor = os.open(names.lock_path(home), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def command_line(settings: Settings, *arguments: str) -> list[str]:
    """The command that runs a daemon with exactly these settings."""
    # -P: modules in the folder where the user happens to be must not replace ours.
    words = [sys.executable, "-P", "-m", "forebay.daemon", *arguments]
    by_itself = to_flags(load({"home": str(settings.home)}))  # environment and file say the same to the daemon
    for name, value in to_flags(settings).items():
        if name == "home" or value != by_itself[name]:
            words += [f"--{name.replace('_', '-')}", value]
    return words


def _answers(home: Path) -> bool:
    with contextlib.suppress(Unavailable):
        connect(names.socket_path(home)).close()
        return not names.is_killed(home)  # the kernel may still listen for it
    return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = SystemClock().monotonic() + START_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if SystemClock().monotonic() > deadline:
                    raise TimedOut(f"another process has been starting the daemon for {START_WAIT_S:g} s") from None
                time.sleep(LOOK_S)
        yield
    finally:
        os.close(descriptor)


def _start(settings: Settings) -> None:
    stderr_path = names.stderr_path(settings.home)
    reading, writing = os.pipe()
    try:
        with _open_stderr(stderr_path) as stderr:
            begin = stderr.tell()
            words = command_line(settings, "--detach", "--ready-fd", str(writing))
            launcher = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=[writing],
                cwd="/",  # a daemon keeps no folder busy
                start_new_session=True,
            )
        os.close(writing)
        writing = -1
        told = _read_all(reading, settings)
        launcher.wait()  # it forks at its begin and ends: the daemon is no child of ours
    finally:
        for descriptor in (reading, writing):
            if descriptor >= 0:
                os.close(descriptor)
    if told != b"ready\n":
        _fail(told, stderr_path, begin)


def _open_stderr(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, 0o600), "ab")
    if file.tell() > STDERR_KEPT_BYTES:
        file.truncate(0)
        file.seek(0)
    return file


def _read_all(descriptor: int, settings: Settings) -> bytes:
    """What the daemon tells until it closes the pipe, be it by its end."""
    told = b""
    deadline = SystemClock().monotonic() + START_WAIT_S
    while True:
        left = deadline - SystemClock().monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            log = names.log_path(settings.home)
            raise TimedOut(f"the daemon did not get ready within {START_WAIT_S:g} s; its log may say why: {log}")
        piece = os.read(descriptor, 65536)
        if not piece:
            return told
        told += piece


def _fail(told: bytes, stderr_path: Path, begin: int) -> NoReturn:
    if told:
        error = json.loads(told)
        raise kinds().get(error["kind"], FsError)(f"the daemon cannot start: {error['message']}", path=error["path"])
    with stderr_path.open("rb") as file:
        file.seek(begin)
        last: Sequence[str] = file.read().decode(errors="replace").splitlines()[-STDERR_LINES:]
    words = ": " + "\n".join(last) if last else ", without a word"
    raise Unavailable(f"the daemon ended at its start{words}", path=str(stderr_path))
