"""A daemon, a store and a real kernel mount; the mount is read by child processes only, as the kernel demands."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay, forebay_command, temporary_home
from forebay.testing.hdfs import Hdfs
from forebay.testing.seaweed import SeaweedS3

Child = Callable[..., "subprocess.CompletedProcess[bytes]"]
CHILD_WAIT_S = 60.0


@pytest.fixture(autouse=True)
def device() -> None:
    """Without /dev/fuse nothing here can be true, so nothing here passes."""
    assert os.access("/dev/fuse", os.R_OK | os.W_OK), (
        "these tests need /dev/fuse: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN"
    )


@pytest.fixture
def child() -> Child:
    """Run Python code in a child: `child("print(open(argv[1]).read())", path)`; it must end well."""

    def run(code: str, *words: str | Path, fails: bool = False) -> "subprocess.CompletedProcess[bytes]":
        code = f"import os, sys, errno\nfrom sys import argv\n{code}"
        command = [sys.executable, "-c", code, *map(str, words)]
        ran = subprocess.run(command, capture_output=True, timeout=CHILD_WAIT_S, check=False)
        assert fails or ran.returncode == 0, ran.stderr.decode()
        return ran

    return run


@pytest.fixture
def folder(forebay_home: Path) -> Path:
    """A local folder that serves as a store."""
    folder = forebay_home.parent / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def mnt(forebay_home: Path) -> Path:
    """An empty folder to mount on."""
    mnt = forebay_home.parent / "mnt"
    mnt.mkdir()
    return mnt


@pytest.fixture
def mounted(forebay: RunForebay, folder: Path, mnt: Path) -> Callable[..., Path]:
    """Mount the folder at /data, show that at `mnt`, each with options, and give the local path of the data."""

    def mount(*options: str, shown: tuple[str, ...] = ()) -> Path:
        ran = forebay("fs", "mount", "/data", f"file://{folder}", *options)
        assert ran.code == 0, ran.err
        ran = forebay("fuse", "mount", *shown, str(mnt), "/data")
        assert ran.code == 0, ran.err
        return mnt

    return mount


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    """A real S3 server."""
    with SeaweedS3(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


# Where a program that writes is tried: on a plain disk, in a bucket that is mounted with such a write mode, and in a
# folder of this machine and one of HDFS, which rename by themselves.
WRITE_MODES = ["disk", "through", "back", "file", "hdfs"]


@pytest.fixture(scope="module", params=WRITE_MODES)
def write_mode(request: pytest.FixtureRequest) -> str:
    """How what is written gets to where it stays, or what keeps it; "disk": there is no mount."""
    return str(request.param)


@pytest.fixture(scope="module")
def written_root(
    write_mode: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """One writable folder for all tests of a module, since a mount takes a second: see `writable`."""
    if write_mode == "disk":
        yield tmp_path_factory.mktemp("written")
        return
    with temporary_home() as home:
        mnt = home.parent / "mnt"
        mnt.mkdir()
        store = store_words(write_mode, f"written-{write_mode}", home.parent, request)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        for words in (
            ("fs", "mount", "/written", *store),
            ("fuse", "mount", str(mnt), "/written"),
        ):
            subprocess.run(
                forebay_command(*words), env=environ | {"FOREBAY_HOME": str(home)}, timeout=CHILD_WAIT_S, check=True
            )
        yield mnt


@pytest.fixture
def writable(written_root: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder of the test's own that takes every change.  A mount is served by a process of its own."""
    folder = written_root / str(request.node.name)
    folder.mkdir()
    return folder


def store_words(kind: str, name: str, folder: Path, request: pytest.FixtureRequest) -> list[str]:
    """What `fs mount` is told of a new place of a kind: "file", "hdfs", "attributes", or a write mode, for a bucket."""
    if kind == "file":
        (folder / name).mkdir()
        return [f"file://{folder / name}"]
    if kind == "hdfs":
        hdfs: Hdfs = request.getfixturevalue("hdfs")  # started for those that ask for it
        hdfs.web("PUT", f"/{name}", "MKDIRS")
        return [f"{hdfs.url}/{name}"]
    s3: SeaweedS3 = request.getfixturevalue("s3")
    s3.make_bucket(name)
    words = ["--option", "s3.attributes=true"] if kind == "attributes" else ["--write-mode", kind]
    return [f"s3://{name}/", *words, *s3_options(s3)]


def time_step_ns(kind: str) -> int:
    """How finely such a place keeps times."""
    return 1_000_000 if kind == "hdfs" else 1


def s3_options(s3: SeaweedS3) -> list[str]:
    """The words that let `fs mount` reach the server."""
    pairs = {"s3a.accessKeyId": s3.access_key, "s3a.secretKey": s3.secret_key, "s3.endpoint": s3.endpoint}
    return [word for name, value in pairs.items() for word in ("--option", f"{name}={value}")]


class Reader:
    """A child that runs Python code and talks by lines; it is gone at the end of its `with`."""

    def __init__(self, code: str, *words: str | Path) -> None:
        command = [sys.executable, "-c", f"import os, sys\nfrom sys import argv\n{code}", *map(str, words)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next line that it writes."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().removesuffix("\n")

    def ask(self, line: str) -> str:
        """Write a line to it; the next line that it writes."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        return self.line()

    def end(self, told: bytes = b"\n") -> str:
        """Write to it, and return the rest of what it writes; it must end well."""
        out, err = self.process.communicate(told, timeout=CHILD_WAIT_S)
        assert self.process.returncode == 0, err.decode()
        return out.decode()
