"""kill -9 at every place where something has just been kept: what was acknowledged arrives, once and whole."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fault.conftest import BUCKET
from fault.writing_child import BLOCKED, content_of
from forebay import failpoints
from forebay.testing.seaweed import SeaweedS3

CHILD = [sys.executable, str(Path(__file__).with_name("writing_child.py"))]
MODES = ["through", "back", "lazy"]
UPLOAD = [name for name in failpoints.NAMES if name.startswith("upload.")]
JOURNAL = [name for name in failpoints.NAMES if name.startswith("journal.")]
WAIT_S = 100
FILES = ["small", "file", "large", "body"]
MANY = [BLOCKED, *(f"body{index}" for index in range(9))]  # the first one stays in the journal, and holds it up

Objects = Callable[[], dict[str, bytes]]


class Crashed:
    """What a child said before it was killed."""

    def __init__(self, out: str) -> None:
        self.begun: dict[str, int] = {}
        self.acked: dict[str, int] = {}
        for line in out.splitlines():
            word, *rest = line.split()
            if word in ("begin", "acked"):
                (self.begun if word == "begin" else self.acked)[rest[0]] = int(rest[1])

    def check_whole(self, objects: dict[str, bytes]) -> None:
        """Each object is what some round wrote, all of it."""
        for name, data in objects.items():
            assert any(data == content_of(name, turn) for turn in range(self.begun[name] + 1)), f"{name} is torn"

    def check_all(self, objects: dict[str, bytes]) -> None:
        """Each file is there as it was acknowledged, or as it was being written."""
        for name, last in self.acked.items():
            assert name in objects, f"{name} is lost"
            wanted = (content_of(name, last), content_of(name, self.begun[name]))
            assert objects[name] in wanted, f"{name} is not as it was acknowledged"
        assert set(objects) <= set(self.begun)  # no conflict, and nothing else


def run(*words: str, failpoint: str = "", options: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    environment["MOUNT_OPTIONS"] = json.dumps(options or {})
    if failpoint:
        environment[failpoints.VARIABLE] = failpoint
    return subprocess.run(
        [*CHILD, *words], env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


def finish(home: Path) -> list[str]:
    """Let another life of the child finish; what it says."""
    ran = run("finish", str(home))
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line for line in lines if line.startswith("left ")] == []
    assert os.listdir(home / "writes" / "files") == []
    return [line.removeprefix("shows /s/") for line in lines if line.startswith("shows ")]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("point", [name for name in UPLOAD if name != "upload.recorded"])
@pytest.mark.parametrize("mode", MODES)
def test_a_daemon_that_is_killed_while_it_sends_to_a_folder(
    tmp_path: Path, folder: Path, mode: str, point: str, count: int
) -> None:
    ran = run("write", str(tmp_path / "home"), mode, f"file://{folder}", "2", *FILES, failpoint=f"{point}:{count}")
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    crashed = Crashed(ran.stdout)
    crashed.check_whole({name: data for name, data in files_below(folder).items() if not is_temporary(name)})
    shown = finish(tmp_path / "home")
    objects = {name: data for name, data in files_below(folder).items() if name in shown}
    crashed.check_all(objects)


def is_temporary(name: str) -> bool:
    """Is it a file that the local store has not given its name yet?  No listing shows it."""
    return name.startswith(".forebay") or "/.forebay" in name


@pytest.mark.parametrize(
    ("mode", "point"),
    [(mode, point) for mode in MODES for point in UPLOAD if (mode, point) != ("through", "upload.recorded")],
)
def test_a_daemon_that_is_killed_while_it_sends_to_s3(
    tmp_path: Path, seaweed: SeaweedS3, mode: str, point: str
) -> None:
    prefix = f"recovery/{tmp_path.name}/"
    keys = {"s3a.accessKeyId": seaweed.access_key, "s3a.secretKey": seaweed.secret_key}
    options = keys | {"s3.endpoint": seaweed.endpoint}
    ran = run(
        "write", str(tmp_path / "home"), mode, f"s3://{BUCKET}/{prefix}", "1", *FILES,
        failpoint=f"{point}:3", options=options,
    )  # fmt: skip
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    crashed = Crashed(ran.stdout)

    def objects(names: list[str]) -> dict[str, bytes]:
        found = {}
        for name in names:
            status, body = seaweed.request("GET", f"/{BUCKET}/{prefix}{name}")
            if status == 200:
                found[name] = body
        return found

    crashed.check_whole(objects(FILES))
    shown = finish(tmp_path / "home")
    crashed.check_all(objects(shown))
    assert set(shown) <= set(FILES)


@pytest.mark.parametrize(
    ("mode", "point"),
    [("through", point) for point in ("upload.recorded", "journal.synced", "journal.segment_made")]
    + [("back", point) for point in ("upload.recorded", *JOURNAL)],
)
def test_a_daemon_that_is_killed_while_it_keeps_what_it_cannot_send_yet(
    tmp_path: Path, folder: Path, mode: str, point: str
) -> None:
    (folder / "blocked").write_bytes(b"in the way")
    names, rounds = ([BLOCKED], "400") if mode == "through" else (MANY, "80")
    ran = run("write", str(tmp_path / "home"), mode, f"file://{folder}", rounds, *names, failpoint=point)
    assert ran.returncode == -signal.SIGKILL, ran.stderr[-2000:] or ran.stdout[-200:]
    (folder / "blocked").unlink()
    crashed = Crashed(ran.stdout)
    shown = finish(tmp_path / "home")
    crashed.check_all({name: data for name, data in files_below(folder).items() if name in shown})
