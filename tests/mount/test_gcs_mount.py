"""The founding use with Google Cloud Storage, and what readers see of an object that is overwritten."""

import hashlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay, daemon_pid
from forebay.testing.fakegcs import FakeGcs
from mount.conftest import Reader

TOKEN = "ya29.A-TOKEN-THAT-NOBODY-MAY-SEE"
FILES = {
    f"train/n{index % 4:02d}/{index:03d}.jpg": random.Random(index).randbytes(20_000 + index) for index in range(40)
}
FILES |= {"labels.csv": b"a,b\n1,2\n", "big.bin": random.Random(99).randbytes(25_000_000), "empty": b""}
Mount = Callable[..., Path]


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    with FakeGcs(tmp_path_factory.mktemp("fakegcs")) as server:
        yield server


@pytest.fixture
def bucket(gcs: FakeGcs) -> str:
    """A bucket with every file of `FILES`, as they are before a test changes them."""
    gcs.make_bucket("imagenet")
    for key, content in FILES.items():
        gcs.put("imagenet", key, content)
    return "imagenet"


@pytest.fixture
def walk(forebay: RunForebay, gcs: FakeGcs, bucket: str, mnt: Path) -> Path:
    """The commands of the walk-through."""
    options = ("--option", f"gs.token={TOKEN}", "--option", f"gs.endpoint={gcs.endpoint}")
    for words in (
        ("fs", "mkdir", "/training-data"),
        ("fs", "mount", "/training-data/imagenet/", f"gs://{bucket}/", *options),
        ("fuse", "mount", str(mnt), "/training-data"),
    ):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    return mnt / "imagenet"


def test_someone_with_data_at_google_reads_it_as_a_folder(walk: Path, mnt: Path, forebay: RunForebay) -> None:
    out = mnt.parent / "out"
    assert subprocess.run(["ls", walk], capture_output=True, timeout=60, check=True).stdout.split() == [
        b"big.bin", b"empty", b"labels.csv", b"train",
    ]  # fmt: skip
    found = subprocess.run(["find", ".", "-type", "f"], cwd=mnt, capture_output=True, timeout=60, check=True).stdout
    assert sorted(found.decode().split()) == sorted(f"./imagenet/{key}" for key in FILES)
    subprocess.run(["cp", "-r", walk, out], timeout=60, check=True)
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == FILES
    assert forebay("fuse", "unmount", str(mnt)).code == 0
    assert list(mnt.iterdir()) == []


def test_a_load_fills_the_cache_and_the_commands_copy_both_ways(walk: Path, forebay: RunForebay, mnt: Path) -> None:
    assert forebay("fs", "load", "/training-data/imagenet").code == 0
    shown = forebay("fs", "ls", "-lR", "/training-data/imagenet").lines
    assert sum(line.startswith("file") and " 100% " in line for line in shown) == len(FILES)
    local = mnt.parent / "local.bin"
    local.write_bytes(FILES["big.bin"])
    for words in (
        ("fs", "cp", f"file://{local}", "/training-data/imagenet/copied.bin"),
        ("fs", "cp", "/training-data/imagenet/copied.bin", f"file://{local}.back"),
        ("fs", "rm", "/training-data/imagenet/copied.bin"),
    ):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    assert Path(f"{local}.back").read_bytes() == FILES["big.bin"]
    assert "copied.bin" not in os.fsdecode(forebay("fs", "ls", "/training-data/imagenet").out)


def test_the_token_is_told_to_nobody(walk: Path, forebay: RunForebay, forebay_home: Path) -> None:
    assert forebay("fs", "cat", "/training-data/imagenet/labels.csv").out == FILES["labels.csv"]
    told = [forebay(*words) for words in (("fs", "mounts"), ("fs", "mounts", "--json"), ("status",), ("doctor",))]
    texts = [ran.out + ran.err.encode() for ran in told]
    texts += [path.read_bytes() for path in forebay_home.glob("*.log*")]
    texts += [Path(f"/proc/{daemon_pid(forebay_home)}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert not any(TOKEN.encode() in text for text in texts)


def test_an_overwritten_object_is_seen_after_refresh(
    walk: Path, forebay: RunForebay, gcs: FakeGcs, bucket: str
) -> None:
    code = """
print(open(argv[1]).read(), flush=True); sys.stdin.readline()
print(open(argv[1]).read())
"""
    gcs.put(bucket, "labels.csv", b"old")
    with Reader(code, walk / "labels.csv") as reader:
        assert reader.line() == "old"
        gcs.put(bucket, "labels.csv", b"new")
        assert forebay("fs", "refresh", "/training-data/imagenet").code == 0
        assert reader.end() == "new\n"


def test_a_file_that_is_overwritten_before_its_first_byte_is_read_is_stale(
    walk: Path, gcs: FakeGcs, bucket: str
) -> None:
    code = """
import errno
file = os.open(argv[1], os.O_RDONLY)
print('open', flush=True); sys.stdin.readline()
try: os.read(file, 100)
except OSError as error: print(errno.errorcode[error.errno])
"""
    with Reader(code, walk / "big.bin") as reader:
        assert reader.line() == "open"
        gcs.put(bucket, "big.bin", FILES["big.bin"][::-1])
        assert reader.end() == "ESTALE\n"


@pytest.mark.parametrize("read_before", [1, 2_000_000, 12_000_000])
def test_a_read_that_is_under_way_gives_the_old_bytes_whole_or_estale(
    walk: Path, gcs: FakeGcs, bucket: str, read_before: int
) -> None:
    code = """
import errno, hashlib
got = bytearray()
with open(argv[1], 'rb', buffering=0) as file:
    while len(got) < int(argv[2]): got += file.read(int(argv[2]) - len(got))
    print('reading', flush=True); sys.stdin.readline()
    try:
        while piece := file.read(1_000_000): got += piece
        print('whole')
    except OSError as error: print(errno.errorcode[error.errno])
print(len(got), hashlib.sha256(got).hexdigest())
"""
    with Reader(code, walk / "big.bin", str(read_before)) as reader:
        assert reader.line() == "reading"
        gcs.put(bucket, "big.bin", FILES["big.bin"][::-1])
        ended, told = reader.end().splitlines()
    size = int(told.split()[0])
    old = FILES["big.bin"]
    assert ended in ("whole", "ESTALE")
    assert ended == "ESTALE" or size == len(old)
    assert told == f"{size} {hashlib.sha256(old[:size]).hexdigest()}"
