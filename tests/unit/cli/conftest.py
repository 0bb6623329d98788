"""The command line in a home of its own, with an admin server behind its socket."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.admin_server import AdminServer
from forebay.cli.main import run
from forebay.testing.daemons import CommandRan

CODE = "import sys; from forebay.cli.main import {entry}; sys.exit({entry}())"


Command = Callable[..., CommandRan]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("FOREBAY_HOME", str(folder))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def admin(home: Path) -> Iterator[AdminServer]:
    server = AdminServer(home / "daemon.sock")
    with server.serve():
        server.socket.chmod(0o600)
        yield server


@pytest.fixture
def forebay(home: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    """Run a command in this process: `forebay("fs", "ls", "/")`."""

    def command(*words: str, stdin: bytes = b"") -> CommandRan:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(words)
        out, err = capsysbinary.readouterr()
        return CommandRan(code, out, err.decode())

    return command


@pytest.fixture
def spawn(home: Path) -> Iterator[Spawn]:
    """Run a console script in a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, entry: str = "run", **options: Any) -> "subprocess.Popen[bytes]":
        all_options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-c", CODE.format(entry=entry), *words]
        started.append(subprocess.Popen(command, **all_options))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()
