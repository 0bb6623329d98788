"""Real daemons for tests: a home of its own, the real command line as a child process, and nothing left behind.

And a real HDFS, one for all tests, since it takes a few seconds to start.
"""

import faulthandler
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.azurite import Azurite
from forebay.testing.ceph import Ceph
from forebay.testing.daemons import CommandRan, RunForebay, forebay_command, temporary_home
from forebay.testing.hdfs import Hdfs

COMMAND_WAIT_S = 60.0
CLEAN_UP_S = 180.0  # the most that a test, and after the last one every server, may take to clean up

collect_ignore = ["frameworks"]  # unless they are named: gigabytes to install, see `make test-frameworks`


_own_stderr = pytest.StashKey[int]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have children end on SIGINT as in a terminal: a shell's background jobs, and xdist's workers, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with session.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        session.config.stash[_own_stderr] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """End the process, with a traceback, if a test hangs while it cleans up: its timeout may have been used up.

    xdist reports that test as failed and goes on with another process, a few times (`--max-worker-restart`).
    """
    faulthandler.dump_traceback_later(CLEAN_UP_S, exit=True, file=item.config.stash[_own_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def forebay_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, in the environment of every child; its daemon and mounts are gone afterwards.

    The folder above it is the test's to use.
    """
    for name in [name for name in os.environ if name.startswith("FOREBAY_")]:
        monkeypatch.delenv(name)
    with temporary_home() as home:
        monkeypatch.setenv("FOREBAY_HOME", str(home))
        monkeypatch.setenv("COLUMNS", "200")
        yield home


@pytest.fixture
def forebay(forebay_home: Path) -> RunForebay:
    """Run a command: `forebay("fs", "ls", "/")`; as `forebay-fuse` with `entry="forebay-fuse"`."""

    def run(*words: str, entry: str = "forebay", stdin: bytes = b"", timeout_s: float = COMMAND_WAIT_S) -> CommandRan:
        command = forebay_command(*words, entry=entry)
        ran = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
        return CommandRan(ran.returncode, ran.stdout, ran.stderr.decode())

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MiB: room for a journal, and for little else."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "forebay-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A real Azure Blob server for the whole session, started when the first test asks for it."""
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """A real Ceph for the whole session, started when the first test asks for it."""
    with Ceph(tmp_path_factory.mktemp("ceph")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    with Hdfs(tmp_path_factory.mktemp("hdfs")) as server:
        yield server
