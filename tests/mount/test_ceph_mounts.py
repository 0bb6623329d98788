"""The founding use on a real Ceph: objects through its S3 gateway, files of CephFS, both read as a local folder."""

import itertools
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.testing.ceph import Ceph
from forebay.testing.daemons import RunForebay, daemon_pid
from mount.conftest import Child

FILES = {
    f"train/n{index % 3:02d}/{index:03d}.jpg": random.Random(index).randbytes(20_000 + index) for index in range(12)
}
FILES |= {"labels.csv": b"a,b\n1,2\n", "big.bin": random.Random(99).randbytes(9_000_000), "empty": b""}
READ = "sys.stdout.buffer.write(open(argv[1], 'rb').read())"

_numbers = itertools.count()
Write = Callable[[str, bytes], None]


class Place:
    """A new place in the cluster, as a URL with its options, and how to write there behind Forebay's back."""

    def __init__(self, url: str, options: dict[str, str], write: Write) -> None:
        self.url = url
        self.words = [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
        self.secrets = [value for name, value in options.items() if "secret" in name]
        self.write = write


@pytest.fixture(params=["gateway", "cephfs"])
def place(request: pytest.FixtureRequest, ceph: Ceph) -> Place:
    """Each of the two ways, with every file of `FILES`."""
    name = f"walk-{next(_numbers)}"
    place = gateway(ceph, name) if request.param == "gateway" else cephfs(ceph, name)
    for key, data in FILES.items():
        place.write(key, data)
    return place


def gateway(ceph: Ceph, bucket: str) -> Place:
    def write(key: str, data: bytes) -> None:
        status, answer = ceph.request("PUT", f"/{bucket}/{key}", data)
        assert status == 200, answer

    ceph.make_bucket(bucket)
    keys = {"s3a.accessKeyId": ceph.access_key, "s3a.secretKey": ceph.secret_key}
    return Place(f"s3://{bucket}/", {**keys, "s3.endpoint": ceph.endpoint}, write)


def cephfs(ceph: Ceph, folder: str) -> Place:
    def write(key: str, data: bytes) -> None:
        for above in reversed(Path(key).parents[:-1]):
            if str(above) not in made:
                ceph.make_folder(f"/{folder}/{above}")
                made.add(str(above))
        ceph.write_file(f"/{folder}/{key}", data)

    made: set[str] = set()
    ceph.make_folder(f"/{folder}")
    return Place(f"cephfs://{ceph.monitor}/{folder}", {"cephfs.user": "admin", "cephfs.secret": ceph.secret()}, write)


@pytest.fixture
def dead_clients(ceph: Ceph) -> Iterator[None]:
    """A client that was killed keeps its rights for a minute, and whoever wants to write there waits for it."""
    yield
    ceph.evict_clients()


@pytest.fixture
def walk(forebay: RunForebay, place: Place, mnt: Path) -> Path:
    """The commands of the walk-through."""
    for words in (
        ("fs", "mkdir", "/training-data"),
        ("fs", "mount", "/training-data/imagenet/", place.url, *place.words),
        ("fuse", "mount", str(mnt), "/training-data"),
    ):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    return mnt / "imagenet"


def test_someone_with_data_in_ceph_reads_it_as_a_folder(walk: Path, mnt: Path, forebay: RunForebay) -> None:
    out = mnt.parent / "out"
    listed = subprocess.run(["ls", walk], capture_output=True, timeout=60, check=True).stdout.split()
    assert listed == [b"big.bin", b"empty", b"labels.csv", b"train"]
    subprocess.run(["cp", "-r", walk, out], timeout=60, check=True)
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == FILES
    assert forebay("fuse", "unmount", str(mnt)).code == 0
    assert list(mnt.iterdir()) == []


def test_a_change_is_seen_after_a_refresh(walk: Path, place: Place, forebay: RunForebay, child: Child) -> None:
    assert child(READ, walk / "labels.csv").stdout == FILES["labels.csv"]
    changed = FILES["labels.csv"].replace(b"1", b"9")  # of the same size
    place.write("labels.csv", changed)
    place.write("new.csv", b"new")
    assert forebay("fs", "refresh", "/training-data").code == 0
    assert child(READ, walk / "labels.csv").stdout == changed
    assert child(READ, walk / "new.csv").stdout == b"new"


def test_what_is_written_by_forebay_is_in_ceph(walk: Path, forebay: RunForebay, child: Child, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(FILES["big.bin"])
    ran = forebay("fs", "cp", f"file://{tmp_path}/model.bin", "/training-data/imagenet/out/model.bin")
    assert ran.code == 0, ran.err
    assert forebay("fs", "free", "/training-data").code == 0
    assert child(READ, walk / "out/model.bin").stdout == FILES["big.bin"]


@pytest.mark.usefixtures("dead_clients")
def test_it_is_back_after_a_kill_and_its_secret_is_told_to_nobody(
    walk: Path, place: Place, forebay: RunForebay, forebay_home: Path, child: Child
) -> None:
    pid = daemon_pid(forebay_home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    told = [forebay(*words) for words in (("fs", "mounts"), ("fs", "mounts", "--json"), ("status",), ("doctor",))]
    assert child(READ, walk / "big.bin").stdout == FILES["big.bin"]
    texts = [ran.out + ran.err.encode() for ran in told]
    texts += [path.read_bytes() for path in forebay_home.glob("daemon.*") if path.is_file()]
    assert place.secrets
    assert not any(secret.encode() in text for secret in place.secrets for text in texts)


def test_modes_and_owners_of_cephfs_are_shown(ceph: Ceph, forebay: RunForebay, mnt: Path, child: Child) -> None:
    place = cephfs(ceph, f"walk-{next(_numbers)}")
    folder = place.url.rpartition("/")[2]
    ceph.files.close_file(ceph.files.open(f"/{folder}/script.sh".encode(), os.O_WRONLY | os.O_CREAT, 0o750))
    for words in (("fs", "mount", "/data", place.url, *place.words), ("fuse", "mount", str(mnt), "/data")):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    code = "found = os.stat(argv[1]); print(oct(found.st_mode & 0o777), found.st_uid, found.st_gid)"
    assert child(code, mnt / "script.sh").stdout.split() == [
        b"0o750",
        *(b"%d" % number for number in (os.getuid(), os.getgid())),
    ]
