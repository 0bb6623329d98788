"""A web server as a local folder: `forebay fs mount /data http://...`, read through a real mount."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay
from forebay.testing.nginx import Nginx
from mount.conftest import Child

READ = "sys.stdout.buffer.write(open(argv[1], 'rb').read())"
FAILS = """
try: open(argv[1], 'rb').read()
except OSError as error: print(errno.errorcode[error.errno])
"""
LARGE = bytes(range(256)) * 40_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path / "nginx") as server:
        for name, data in {"small": b"a few bytes", "sub folder/large": LARGE, "other": b"others"}.items():
            path = server.root / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield server


@pytest.fixture
def data(server: Nginx, forebay: RunForebay, mnt: Path) -> Path:
    """The server's folder `data`, mounted."""
    mount(forebay, f"{server.url}/data", mnt)
    return mnt


def mount(forebay: RunForebay, url: str, mnt: Path, *options: str) -> None:
    ran = forebay("fs", "mount", "/data", url, *options)
    assert ran.code == 0, ran.err
    ran = forebay("fuse", "mount", str(mnt), "/data")
    assert ran.code == 0, ran.err


def test_the_files_of_a_web_server_are_read_as_a_folder(data: Path, forebay: RunForebay, child: Child) -> None:
    assert child("print(*sorted(os.listdir(argv[1])), sep='|')", data).stdout == b"other|small|sub folder\n"
    assert child(READ, data / "small").stdout == b"a few bytes"
    assert child(READ, data / "sub folder" / "large").stdout == LARGE
    part = "f = open(argv[1], 'rb'); f.seek(9_000_001); sys.stdout.buffer.write(f.read(99))"
    assert child(part, data / "sub folder" / "large").stdout == LARGE[9_000_001:9_000_100]
    assert child(FAILS, data / "nothing").stdout == b"ENOENT\n"
    assert forebay("fs", "cat", "/data/sub folder/large").out == LARGE
    assert sorted(forebay("fs", "ls", "-R", "/data").lines) == ["other", "small", "sub folder", "sub folder/large"]
    assert forebay("fs", "load", "/data").code == 0
    assert b"readonly" in forebay("fs", "mounts").out
    ran = forebay("fs", "cp", "/data/small", "/data/new")
    assert ran.code == 1
    assert "read-only" in ran.err


def test_the_url_of_one_file_is_a_folder_with_that_file(
    server: Nginx, forebay: RunForebay, mnt: Path, child: Child
) -> None:
    mount(forebay, f"{server.url}/data/sub%20folder/large", mnt)
    assert child("print(*os.listdir(argv[1]))", mnt).stdout == b"large\n"
    assert child(READ, mnt / "large").stdout == LARGE


def test_files_of_a_server_without_an_index_are_read_by_name(
    server: Nginx, forebay: RunForebay, mnt: Path, child: Child
) -> None:
    mount(forebay, f"{server.url}/-/unlisted/data/", mnt, "--option", "http.index=none")
    for name in ("a", "b", "c", "d", "e"):  # after a few lookups in vain a folder would be listed
        assert child(FAILS, mnt / name).stdout == b"ENOENT\n"
    assert child(READ, mnt / "small").stdout == b"a few bytes"
    assert child(READ, mnt / "sub folder" / "large").stdout == LARGE
    listed = "try: os.listdir(argv[1])\nexcept OSError as error: print(errno.errorcode[error.errno])"
    assert child(listed, mnt).stdout in (b"EOPNOTSUPP\n", b"ENOTSUP\n")
    assert "files are found by name only" in forebay("fs", "ls", "/data").err


def test_a_changed_file_is_seen_after_a_refresh(server: Nginx, data: Path, forebay: RunForebay, child: Child) -> None:
    assert child(READ, data / "small").stdout == b"a few bytes"
    changed = server.root / "data" / "small"
    changed.write_bytes(b"other bytes")
    os.utime(changed, (1_700_000_000, 1_700_000_000))
    assert child(READ, data / "small").stdout == b"a few bytes"
    assert forebay("fs", "refresh", "/data").code == 0
    assert child(READ, data / "small").stdout == b"other bytes"


def test_while_the_server_is_away_what_is_cached_reads_on_and_the_rest_is_an_error(
    server: Nginx, data: Path, child: Child, forebay: RunForebay
) -> None:
    assert child(READ, data / "small").stdout == b"a few bytes"
    server.stop()
    assert child(READ, data / "small").stdout == b"a few bytes"
    assert child(FAILS, data / "sub folder" / "large").stdout == b"EIO\n"
    server.start()
    assert child(READ, data / "sub folder" / "large").stdout == LARGE


def test_a_mount_that_cannot_be_says_why_and_shows_no_secret(server: Nginx, forebay: RunForebay) -> None:
    host = server.url.removeprefix("http://")
    for url, says in (
        (f"http://reader:letMeReadIt@{host}/data/", "--option http.user="),
        (f"{server.url}/data/small?signature=letMeReadIt", "takes no query"),
        (f"{server.url}/-/private/", "asks for credentials"),
        (f"{server.url}/-/site/", "is not an index of files"),
        (f"{server.url}/nothing/", "there is no such folder; check the URL"),
    ):
        ran = forebay("fs", "mount", "/data", url)
        assert ran.code == 1
        assert says in ran.err
        assert "letMeReadIt" not in ran.err + ran.out.decode()
    secrets = ["--option", "http.user=reader", "--option", "http.password=letMeReadIt"]
    more = ["--option", "http.header.X-Region=letMeReadIt", "--option", "http.index=auto"]
    assert forebay("fs", "mount", "/data", f"{server.url}/-/private/", *secrets, *more).code == 0
    shown = forebay("fs", "mounts").out.decode()
    assert "http.index=auto" in shown
    assert "letMeReadIt" not in shown
