"""Names at scale through a real mount, from a store that counts who asks it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay
from forebay.testing.listing_server import ListingServer, size_of
from mount.conftest import Child


@pytest.fixture(scope="session")
def listed() -> Iterator[ListingServer]:
    with ListingServer() as server:
        yield server


def show(forebay: RunForebay, listed: ListingServer, bucket: str, mnt: Path, *options: str) -> None:
    keys = [f"s3.endpoint={listed.endpoint}", "s3a.accessKeyID=any", "s3a.secretKey=any"]
    words = [word for each in keys for word in ("--option", each)]
    ran = forebay("fs", "mount", "/data", f"s3://{bucket}", *words, *options)
    assert ran.code == 0, ran.err
    ran = forebay("fuse", "mount", str(mnt), "/data")
    assert ran.code == 0, ran.err


def find(folder: Path, *words: str) -> list[str]:
    ran = subprocess.run(["find", str(folder), *words], capture_output=True, text=True, timeout=60, check=True)
    return ran.stdout.splitlines()


def test_a_folder_of_a_hundred_thousand_is_listed_whole_and_looked_at_without_a_request(
    forebay: RunForebay, listed: ListingServer, mnt: Path, child: Child
) -> None:
    show(forebay, listed, "1x100000", mnt, "--ttl", "1h")
    before = listed.requests()
    code = """
folder = argv[1]
names = os.listdir(folder)
assert len(names) == len(set(names)) == 100_000
for number in range(0, 100_000, 7):
    print(os.stat(f"{folder}/file-{number:07d}.bin").st_size)
assert not os.path.exists(f"{folder}/file-0100000.bin")
for entry in os.scandir(folder):
    assert entry.is_file() and entry.stat().st_size
"""
    out = child(code, mnt / "folder-000000").stdout.decode()
    assert out.split() == [str(size_of(number)) for number in range(0, 100_000, 7)]
    ran = subprocess.run(["ls", "-l", str(mnt / "folder-000000")], capture_output=True, timeout=60, check=True)
    assert ran.stdout.count(b"\n") == 100_001
    asked = {method: count - before[method] for method, count in listed.requests().items()}
    assert asked["list"] <= 100 + 2  # its pages; what the folder is, or the one above
    assert asked["head"] <= 1


def test_names_that_were_loaded_outlast_a_restart_without_a_request(
    forebay: RunForebay, listed: ListingServer, mnt: Path
) -> None:
    show(forebay, listed, "30x1001", mnt, "--freshness", "immutable")
    ran = forebay("fs", "load", "--metadata", "--json", "/data")
    assert ran.code == 0, ran.err
    assert (ran.json["folders_done"], ran.json["files"], ran.json["failed"]) == (31, 30 * 1001, [])
    before = listed.requests()
    assert len(find(mnt)) == 1 + 30 + 30 * 1001
    assert forebay("stop").code == 0
    assert forebay("start").code == 0
    assert len(find(mnt, "-type", "f", "-size", "+0")) == 30 * 1001
    assert listed.requests() == before
    assert forebay("fs", "load", "--metadata", "/data").code == 0
    assert listed.requests() == before


def test_a_folder_whose_names_the_kernel_has_is_read_anew_after_a_refresh(
    forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    (folder / "a").touch()
    assert forebay("fs", "mount", "/data", f"file://{folder}", "--freshness", "immutable").code == 0
    assert forebay("fuse", "mount", str(mnt), "/data").code == 0
    names = "print(sorted(os.listdir(argv[1])))"
    for _ in range(2):
        assert child(names, mnt).stdout == b"['a']\n"
    (folder / "b").touch()
    assert child(names, mnt).stdout == b"['a']\n"
    assert forebay("fs", "refresh", "/data").code == 0
    assert child(names, mnt).stdout == b"['a', 'b']\n"


def test_a_folder_that_is_open_stays_one_listing_while_others_read_it_anew(
    forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    for number in range(3_000):
        (folder / f"{number:04}").touch()
    assert forebay("fs", "mount", "/data", f"file://{folder}", "--freshness", "always").code == 0
    assert forebay("fuse", "mount", str(mnt), "/data").code == 0
    code = """
import subprocess
half = os.scandir(argv[1])
found = [next(half).name for _ in range(2001)]  # of the store's third page, which is the last
for number in range(0, 3000, 2):
    os.unlink(f"{argv[2]}/{number:04}")
assert len(os.listdir(argv[1])) == 1500
assert len(os.listdir(argv[1])) == 1500
found += [entry.name for entry in half]
assert sorted(found) == [f"{number:04}" for number in range(3000)], len(found)
assert len(os.listdir(argv[1])) == 1500
"""
    child(code, mnt, folder)


def test_when_a_refresh_has_returned_the_kernel_asks_anew_for_every_name_below(
    forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    for number in range(2_000):
        (folder / f"{number:04}").touch()
    assert forebay("fs", "mount", "/data", f"file://{folder}", "--freshness", "immutable").code == 0
    assert forebay("fuse", "mount", str(mnt), "/data").code == 0
    code = """
from pathlib import Path
from forebay.daemon.client import Client
client = Client(Path(os.environ['FOREBAY_HOME']) / 'daemon.sock')
names, stale = sorted(os.listdir(argv[1])), 0
for turn in range(1, 6):
    for name in names:
        os.stat(f'{argv[1]}/{name}')
        os.truncate(f'{argv[2]}/{name}', turn)
    client.call('POST', '/v1/fs/refresh', {'path': '/data'})
    stale += os.stat(f'{argv[1]}/{names[-1]}').st_size != turn
print(stale)
"""
    assert child(code, mnt, folder).stdout == b"0\n"
