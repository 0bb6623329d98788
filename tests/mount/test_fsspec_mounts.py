"""SFTP, WebDAV and the Hugging Face Hub through a real mount."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from forebay.testing.child_server import ChildServer
from forebay.testing.daemons import RunForebay
from forebay.testing.hub import HubServer, Repository
from forebay.testing.sshd import Sshd
from forebay.testing.store_contract import pattern
from forebay.testing.webdav import Rclone
from forebay.units import MIB
from mount.conftest import Child

READ = "sys.stdout.buffer.write(open(argv[1], 'rb').read())"
LARGE = pattern(5 * MIB + 3)


class Served(NamedTuple):
    """A store with a few files, and what a test may do to it."""

    url: str
    options: dict[str, str]
    write: Callable[[str, bytes], None]
    stop: Callable[[], None]


def serve_folder(server: ChildServer, url: str, options: dict[str, str]) -> Served:
    def write(name: str, data: bytes) -> None:
        path = server.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return Served(url, options, write, server.stop)


@pytest.fixture(params=["sftp", "webdav", "hf"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    if request.param == "hf":
        with HubServer() as hub:
            repository = hub.repositories["datasets/org/name"] = Repository()
            yield fill(Served("hf://datasets/org/name", hub.options, repository.put, hub.stop))
        return
    with Sshd(tmp_path) if request.param == "sftp" else Rclone(tmp_path) as server:
        yield fill(serve_folder(server, server.url, server.options))


def fill(served: Served) -> Served:
    served.write("train/a b/one.txt", b"one")
    served.write("train/a b/two.txt", b"two!")
    served.write("train/large.bin", LARGE)
    served.write("train/far.bin", LARGE[::-1])
    return served


@pytest.fixture
def data(served: Served, forebay: RunForebay, mnt: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store, mounted at /data of the tree and on a local folder."""
    monkeypatch.setenv("FOREBAY_STORE_DEADLINE_S", "5")
    words = [word for name, value in served.options.items() for word in ("--option", f"{name}={value}")]
    ran = forebay("fs", "mount", "/data", served.url, *words)
    assert ran.code == 0, ran.err
    ran = forebay("fuse", "mount", str(mnt), "/data")
    assert ran.code == 0, ran.err
    return mnt


def test_a_mount_is_read_changes_after_a_refresh_and_outlasts_its_server(
    served: Served, data: Path, forebay: RunForebay, child: Child
) -> None:
    names = child("print(sorted(name for _, _, names in os.walk(argv[1]) for name in names))", data)
    assert names.stdout == b"['far.bin', 'large.bin', 'one.txt', 'two.txt']\n"
    assert child(READ, data / "train/a b/one.txt").stdout == b"one"
    assert child(READ, data / "train/large.bin").stdout == LARGE

    served.write("train/a b/one.txt", b"another")
    assert forebay("fs", "refresh", "/data").code == 0
    assert child(READ, data / "train/a b/one.txt").stdout == b"another"

    assert forebay("fs", "load", "/data/train/a b").code == 0
    child("os.listdir(argv[1]); os.stat(argv[1] + '/far.bin')", data / "train")
    served.stop()
    assert child(READ, data / "train/a b/one.txt").stdout == b"another"
    assert child(READ, data / "train/a b/two.txt").stdout == b"two!"
    assert child(READ, data / "train/large.bin").stdout == LARGE
    code = """
try: open(argv[1], 'rb').read()
except OSError as error: print(errno.errorcode[error.errno])
"""
    assert child(code, data / "train/far.bin").stdout in (b"EIO\n", b"ETIMEDOUT\n")


def test_a_mount_of_what_is_not_there_is_refused(served: Served, forebay: RunForebay, forebay_home: Path) -> None:
    words = [word for name, value in served.options.items() for word in ("--option", f"{name}={value}")]
    ran = forebay("fs", "mount", "/data", f"{served.url}/no/such/folder", *words)
    assert ran.code == 1
    assert "no such" in ran.err
    for secret in (value for name, value in served.options.items() if "password" in name or "token" in name):
        assert secret not in ran.err
