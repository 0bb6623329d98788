"""The founding use, word for word, against a real S3 server."""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.stores.registry import open_store
from forebay.testing.daemons import RunForebay, daemon_pid
from forebay.testing.seaweed import SeaweedS3
from mount.conftest import Reader

FILES = {
    f"train/n{index % 4:02d}/{index:03d}.jpg": random.Random(index).randbytes(20_000 + index) for index in range(40)
}
FILES |= {"labels.csv": b"a,b\n1,2\n", "big.bin": random.Random(99).randbytes(25_000_000), "empty": b""}


@pytest.fixture(scope="module")
def bucket(s3: SeaweedS3) -> str:
    s3.make_bucket("imagenet")
    return "imagenet"


@pytest.fixture
def options(s3: SeaweedS3) -> list[str]:
    """The options of the walk-through."""
    pairs = {
        "s3a.accessKeyID": s3.access_key, "s3a.secretKey": s3.secret_key, "s3.endpoint": s3.endpoint,
    }  # fmt: skip
    return [word for key, value in pairs.items() for word in ("--option", f"{key}={value}")]


@pytest.fixture
async def data(s3: SeaweedS3, bucket: str, tmp_path: Path) -> None:
    """Every file of `FILES` in the bucket."""
    known = {"s3.endpoint": s3.endpoint, "s3a.accessKeyID": s3.access_key, "s3a.secretKey": s3.secret_key}
    store, _ = open_store(f"s3://{bucket}/", known, settings=Settings(home=tmp_path))
    for key, content in FILES.items():
        await store.put(key, content)
    await store.close()


@pytest.fixture
def walk(forebay: RunForebay, bucket: str, data: None, options: list[str], mnt: Path) -> Path:
    """The four commands of the walk-through."""
    for words in (
        ("fs", "mkdir", "/training-data"),
        ("fs", "mount", "/training-data/imagenet/", f"s3://{bucket}/", *options),
        ("fuse", "mount", str(mnt), "/training-data"),
    ):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    return mnt / "imagenet"


def test_the_places_of_the_recipes_are_made_word_for_word(
    forebay: RunForebay, bucket: str, options: list[str], mnt: Path
) -> None:
    page = Path(__file__).resolve().parents[2] / "docs/FRAMEWORKS.md"
    lines = re.findall(r"^    ((?:forebay|mkdir) .+)$", page.read_text(), flags=re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        program, *words = line.replace("/mnt/fuse", str(mnt)).replace("my-bucket", bucket).split()
        if program == "mkdir":
            subprocess.run([program, *words], timeout=60, check=True)
            continue
        ran = forebay(*words, *(options if words[:2] == ["fs", "mount"] else ()))
        assert ran.code == 0, ran.err
    assert subprocess.run(["ls", mnt], capture_output=True, timeout=60, check=True).stdout == b"data\nruns\n"


@pytest.mark.usefixtures("forebay_home")
def test_someone_with_data_in_s3_reads_it_as_a_folder(walk: Path, mnt: Path, forebay: RunForebay) -> None:
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


@pytest.mark.parametrize("order", ["before", "between", "after"])
def test_options_may_stand_anywhere(forebay: RunForebay, bucket: str, options: list[str], order: str) -> None:
    path, url = "/imagenet", f"s3://{bucket}/"
    words = {
        "before": [*options, path, url], "between": [path, *options, url], "after": [path, url, *options],
    }[order]  # fmt: skip
    assert forebay("fs", "mount", *words).code == 0


@pytest.mark.parametrize(
    ("key", "secret", "scheme"),
    [
        ("aws.accessKeyId", "aws.secretKey", "s3a"),
        ("s3a.accessKeyId", "s3a.secretKey", "s3n"),
        ("fs.s3a.access.key", "fs.s3a.secret.key", "s3"),
    ],
)
def test_the_same_thing_has_the_names_that_users_know(
    forebay: RunForebay, s3: SeaweedS3, bucket: str, key: str, secret: str, scheme: str
) -> None:
    pairs = (f"{key}={s3.access_key}", f"{secret}={s3.secret_key}", f"s3.endpoint={s3.endpoint}")
    words = [word for pair in pairs for word in ("--option", pair)]
    ran = forebay("fs", "mount", "/imagenet", f"{scheme}://{bucket}/", *words)
    assert ran.code == 0, ran.err


def test_credentials_belong_to_the_mount_and_are_told_to_nobody(
    walk: Path, forebay: RunForebay, forebay_home: Path, s3: SeaweedS3
) -> None:
    pid = daemon_pid(forebay_home)
    forebay("stop")
    assert forebay("fs", "cat", "/training-data/imagenet/labels.csv").out == FILES["labels.csv"]
    told = [
        forebay(*words)
        for words in (("fs", "mounts"), ("fs", "mounts", "--json"), ("status",), ("doctor",), ("config",))
    ]
    texts = [ran.out + ran.err.encode() for ran in told]
    texts += [path.read_bytes() for path in forebay_home.glob("*.log*")]
    texts += [Path(f"/proc/{daemon_pid(forebay_home) or pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
    assert not any(s3.secret_key.encode() in text for text in texts)
    for path in forebay_home.iterdir():
        assert path.stat().st_mode & 0o077 == 0 or s3.secret_key.encode() not in path.read_bytes(), path


def test_the_second_epoch_asks_the_store_nothing(walk: Path, forebay: RunForebay, s3: SeaweedS3, mnt: Path) -> None:
    epoch = """
for folder, _, names in os.walk(argv[1]):
    for name in names: open(folder + '/' + name, 'rb').read()
print('epoch'); sys.stdout.flush()
"""
    with Reader(epoch, walk) as first:
        assert first.line() == "epoch"
    before = forebay("status", "--json").json["counters"]
    with Reader(epoch, walk) as second:
        assert second.line() == "epoch"
    after = forebay("status", "--json").json["counters"]
    assert before["bytes_from_store"] == after["bytes_from_store"] >= sum(map(len, FILES.values()))


def test_a_load_fills_the_cache_a_listing_shows_it_and_free_empties_it(walk: Path, forebay: RunForebay) -> None:
    assert forebay("fs", "load", "/training-data/imagenet").code == 0
    shown = forebay("fs", "ls", "-lR", "/training-data/imagenet").lines
    assert sum(line.startswith("file") and " 100% " in line for line in shown) == len(FILES)
    assert forebay("fs", "free", "/training-data/imagenet").lines[0].startswith(f"{len(FILES) - 1} files")


def test_a_data_loader_in_several_processes_reads_it(walk: Path, tmp_path: Path) -> None:
    code = """
import multiprocessing, random, sys, os
def work(paths): return sum(len(open(path, 'rb').read()) for path in paths)
paths = [os.path.join(d, n) for d, _, ns in os.walk(sys.argv[1]) for n in ns]
random.Random(1).shuffle(paths)
with multiprocessing.get_context('fork').Pool(4) as pool: print(sum(pool.map(work, [paths[i::8] for i in range(8)])))
"""
    command = [sys.executable, "-c", code, os.fspath(walk)]
    ran = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert int(ran.stdout) == sum(map(len, FILES.values()))
