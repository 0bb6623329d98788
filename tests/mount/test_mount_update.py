"""`fs mount --update` and `--shared-prefix` on a real S3 server, while somebody reads."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay
from forebay.testing.seaweed import SeaweedS3
from mount.conftest import Child, Reader

_numbers = itertools.count()


@pytest.fixture
def bucket(s3: SeaweedS3) -> Iterator[str]:
    name = f"update-{next(_numbers)}"
    s3.make_bucket(name)
    yield name
    s3.remove_bucket(name)


@pytest.fixture
def words(s3: SeaweedS3) -> list[str]:
    pairs = (f"s3a.accessKeyID={s3.access_key}", f"s3a.secretKey={s3.secret_key}", f"s3.endpoint={s3.endpoint}")
    return [word for pair in pairs for word in ("--option", pair)]


def test_an_open_file_is_read_on_while_its_mount_gets_other_keys(
    forebay: RunForebay, s3: SeaweedS3, bucket: str, words: list[str], mnt: Path, child: Child
) -> None:
    data = os.urandom(6 << 20)
    s3.request("PUT", f"/{bucket}/big", data)
    assert forebay("fs", "mount", "/data", f"s3://{bucket}", *words).code == 0
    assert forebay("fuse", "mount", str(mnt), "/data").code == 0
    code = """
import hashlib
file = open(argv[1], 'rb')
first = file.read(1000)
print('open', flush=True)
sys.stdin.readline()
print(hashlib.sha256(first + file.read()).hexdigest())
"""
    with Reader(code, mnt / "big") as reader:
        assert reader.line() == "open"
        ran = forebay("fs", "mount", "--update", "/data", "--option", "s3a.secretKey=wrong")
        assert (ran.code, "the secret does not fit the key id" in ran.err) == (1, True), ran.err
        ran = forebay("fs", "mount", "--update", "/data", "--readonly", "--option", "s3.region=us-east-1", *words)
        assert ran.code == 0, ran.err
        assert ran.lines == [f"s3://{bucket} on /data (readonly, ttl 60s, keep)"]
        told = reader.end()
    assert told.strip() == hashlib.sha256(data).hexdigest()
    assert child("sys.stdout.buffer.write(open(argv[1], 'rb').read())", mnt / "big").stdout == data
    ran = forebay("fs", "rm", "/data/big")
    assert (ran.code, "read-only" in ran.err) == (1, True), ran.err


def test_a_shared_prefix_shows_the_objects_that_begin_with_it(
    forebay: RunForebay, s3: SeaweedS3, bucket: str, words: list[str], mnt: Path, child: Child
) -> None:
    for key in ("set/train-0.tar", "set/train-1.tar", "set/val-0.tar", "other"):
        s3.request("PUT", f"/{bucket}/{key}", key.encode())
    assert forebay("fs", "mount", "/train", f"s3://{bucket}/set/train-", "--shared-prefix", *words).code == 0
    assert forebay("fuse", "mount", str(mnt), "/train").code == 0
    assert child("print(sorted(os.listdir(argv[1])))", mnt).stdout == b"['0.tar', '1.tar']\n"
    assert child("print(open(argv[1]).read())", mnt / "1.tar").stdout == b"set/train-1.tar\n"
    assert forebay("fs", "location", "/train/1.tar", "--json").json["url"] == f"s3://{bucket}/set/train-1.tar"
    [mount] = forebay("fs", "mounts", "--json").json
    assert mount["shared_prefix"] is True
