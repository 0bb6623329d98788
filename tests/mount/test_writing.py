"""A writable mount against a plain disk: random operations, random trees, and a daemon that is killed."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.session
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from forebay import failpoints
from forebay.daemon.home import is_killed
from forebay.testing.daemons import RunForebay, daemon_pid, wait_until
from forebay.testing.killing import MODES, Writer, check
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.treemodel import SETTINGS, TreeMachine
from forebay.units import MIB
from mount.conftest import Child, Reader, store_words, time_step_ns

FSX_OPERATIONS = 3_000  # of each of two processes
EXAMPLES = 10  # of the tree machine, each of 40 steps
KILLS = 3  # of each way of writing
LARGE = bytes(range(256)) * (24 * MIB // 256)  # goes in parts
FSX_WAIT_S = 300.0
STORES = ["through", "back", "lazy", "file", "hdfs"]


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """The name of a bucket of the test's own, which `writable_mount` makes."""
    return f"writing-{abs(hash(request.node.name)) % 10**10}"


@pytest.fixture(params=["through", "back", "lazy"])
def mount_mode(request: pytest.FixtureRequest) -> str:
    """The write mode of the mount of a bucket, or what else is mounted: see `store_words`."""
    return str(request.param)


@pytest.fixture
def writable_mount(
    forebay: RunForebay, bucket: str, mnt: Path, mount_mode: str, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A bucket, or what else `mount_mode` says, mounted for writing in a home of its own."""
    for words in (
        ("fs", "mount", "/b", *store_words(mount_mode, bucket, mnt.parent, request)),
        ("fuse", "mount", str(mnt), "/b"),
    ):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    yield mnt
    assert "Traceback" not in (mnt.parent / "home" / "daemon.log").read_text(), "the daemon met what nobody foresaw"


@pytest.mark.parametrize("mount_mode", STORES)
def test_fsx_finds_nothing(writable_mount: Path, mount_mode: str) -> None:
    operations = FSX_OPERATIONS // 6 if mount_mode == "hdfs" else FSX_OPERATIONS  # its writes take their time
    command = [sys.executable, "-m", "forebay.testing.fsx", str(writable_mount), "--ops", str(operations)]
    ran = subprocess.run(
        [*command, "--seed", "7", "--processes", "2"], capture_output=True, text=True, timeout=FSX_WAIT_S, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def kill_daemon(home: Path, forebay: RunForebay) -> None:
    pid = daemon_pid(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    start_again(home, forebay)


def start_again(home: Path, forebay: RunForebay) -> None:
    # If the killed one and the kernel wait for each other, it is the start that ends it.
    wait_until(lambda: daemon_pid(home) is None or is_killed(home), "the daemon is gone")
    ran = forebay("start")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("mount_mode", STORES)
def test_a_tree_on_a_mount_is_the_tree_on_a_disk(writable_mount: Path, tmp_path: Path, mount_mode: str) -> None:
    class OnMount(TreeMachine):
        subject_above, model_above = writable_mount, tmp_path
        without = frozenset({"exchange", "folder times"})
        time_step_ns = time_step_ns(mount_mode)

    run_state_machine_as_test(
        OnMount, settings=settings(SETTINGS, max_examples=EXAMPLES, derandomize=True, database=None)
    )


LINKS = """
import os, sys
root, secret = sys.argv[1:]
with open(root + "/f", "w") as file: file.write("bytes")
os.symlink("f", root + "/link")
os.symlink(secret, root + "/out")
os.rename(root + "/out", root + "/moved")
print(os.readlink(root + "/link"), open(root + "/link").read(), os.path.islink(root + "/moved"))
print(os.readlink(root + "/moved") == secret)
"""


def test_a_link_in_a_folder_of_this_machine_is_followed_by_its_reader_and_by_nobody_else(
    forebay: RunForebay, mnt: Path, tmp_path: Path
) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("a secret")
    folder.mkdir()
    for words in (("fs", "mount", "/d", f"file://{folder}"), ("fuse", "mount", str(mnt), "/d")):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    child = subprocess.run(
        [sys.executable, "-c", LINKS, str(mnt), str(secret)], capture_output=True, text=True, check=True, timeout=60
    )
    assert child.stdout == "f bytes True\nTrue\n"
    assert forebay("fs", "cat", "/d/moved").out == str(secret).encode()
    assert not any(path.is_symlink() for path in folder.iterdir())
    assert (folder / "moved").read_text() == str(secret)


def test_what_is_made_in_a_folder_of_this_machine_has_the_mode_that_the_maker_asked_for(
    mounted: Callable[..., Path], folder: Path, child: Child
) -> None:
    code = """
os.umask(0o022)
os.makedirs(f"{argv[1]}/d/e")
os.mkdir(f"{argv[1]}/private", 0o700)
open(f"{argv[1]}/d/f", "w").close()
"""
    child(code, mounted())
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert modes == {"d": 0o755, "e": 0o755, "private": 0o700, "f": 0o644}


@pytest.mark.parametrize("mount_mode", ["attributes"])
def test_attributes_are_metadata_of_objects_where_that_is_asked_for(
    writable_mount: Path, s3: SeaweedS3, bucket: str, child: Child
) -> None:
    assert s3.request("PUT", f"/{bucket}/only/of/keys", b"x")[0] == 200
    code = """
fd = os.open(f"{argv[1]}/f", os.O_WRONLY | os.O_CREAT, 0o600)
os.write(fd, b"bytes")
os.close(fd)
os.utime(f"{argv[1]}/f", ns=(0, 981_173_106_123_456_789))
os.chmod(f"{argv[1]}/f", 0o640)
os.mkdir(f"{argv[1]}/private", 0o700)
for folder in "private", "only", "only/of":
    os.chmod(f"{argv[1]}/{folder}", 0o750)
    os.utime(f"{argv[1]}/{folder}", ns=(0, 1_000_000_000))
"""
    child(code, writable_mount)
    keys = {"aws_access_key_id": s3.access_key, "aws_secret_access_key": s3.secret_key}
    client = botocore.session.Session().create_client("s3", "us-east-1", endpoint_url=s3.endpoint, **keys)
    headers = client.head_object(Bucket=bucket, Key="f")["Metadata"]
    assert headers["mode"] == str(0o100640)
    assert headers["mtime"] == "981173106.123456789"
    assert {"uid", "gid"} <= set(headers)
    assert child("print(os.listdir(argv[1]))", writable_mount / "only" / "of").stdout == b"['keys']\n"


@pytest.mark.parametrize("way", MODES)
def test_kill_9_at_random_moments_loses_nothing_acknowledged(
    writable_mount: Path, forebay: RunForebay, forebay_home: Path, tmp_path: Path, way: str
) -> None:
    folder = writable_mount / way
    folder.mkdir()
    out = tmp_path / "acknowledged"
    out.touch()
    chance = random.Random(way)
    for number in range(KILLS):
        first = max((step.number for step in Writer(folder, way, out, seed=1).acknowledged()), default=-1) + 1
        with Writer(folder, way, out, seed=1, first=first) as writer:
            writer.wait_for(len(writer.acknowledged()) + 1)
            time.sleep(chance.uniform(0, 0.4))
            kill_daemon(forebay_home, forebay)
        verdict = check(writer.acknowledged(), os.listdir(folder), lambda name: _bytes_of(folder / name))
        assert (verdict.missing, verdict.torn) == ([], []), f"after kill {number}"
    assert forebay("fs", "refresh", "/b").code == 0


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("mount_mode", ["through"])
@pytest.mark.parametrize("point", ["rename.copied_one:5", "rename.deleted_one:5"])
def test_a_rename_of_a_folder_that_kill_9_cuts_short_is_finished_by_the_next_daemon(
    writable_mount: Path,
    forebay: RunForebay,
    forebay_home: Path,
    s3: SeaweedS3,
    bucket: str,
    child: Child,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    names = {f"{number:02}" for number in range(12)}

    def stored(folder: str) -> set[str]:
        return {name for name in names if s3.request("GET", f"/{bucket}/{folder}/{name}") == (200, name.encode())}

    for name in names:
        assert s3.request("PUT", f"/{bucket}/old/{name}", name.encode())[0] == 200
    assert forebay("stop").code == 0
    monkeypatch.setenv(failpoints.VARIABLE, point)
    assert forebay("start").code == 0
    monkeypatch.delenv(failpoints.VARIABLE)
    child("os.rename(argv[1] + '/old', argv[1] + '/new')", writable_mount, fails=True)
    assert stored("old") | stored("new") == names, "each is in one of the two places, whole"
    start_again(forebay_home, forebay)
    look = "for folder, _, names in os.walk(argv[1]): print(*(f'{folder}/{name}' for name in sorted(names)))"
    moved = " ".join(f"{writable_mount}/new/{name}" for name in sorted(names))
    wait_until(lambda: child(look, writable_mount).stdout.decode().strip() == moved, "it is finished")
    assert (stored("old"), stored("new")) == (set(), names)


@pytest.mark.parametrize("mount_mode", ["through"])
def test_a_close_that_meets_what_others_wrote_is_estale_and_both_are_kept(
    writable_mount: Path, forebay: RunForebay, s3: SeaweedS3, bucket: str, child: Child
) -> None:
    code = """
import errno
fd = os.open(argv[1] + "/f", os.O_WRONLY | os.O_TRUNC)
os.write(fd, b"ours")
print("written", flush=True)
sys.stdin.readline()
try: os.close(fd)
except OSError as error: print(errno.errorcode[error.errno])
"""
    assert s3.request("PUT", f"/{bucket}/f", b"before")[0] == 200
    with Reader(code, writable_mount) as writer:
        assert writer.line() == "written"
        assert s3.request("PUT", f"/{bucket}/f", b"theirs")[0] == 200
        assert writer.end() == "ESTALE\n"
    (told,) = forebay("fs", "uploads", "--json").json
    kept = told["path"].removeprefix("/b/")
    assert (told["state"], kept.startswith("f.forebay-conflict-")) == ("conflict", True)
    show = "for name in sorted(os.listdir(argv[1])): print(name, open(argv[1] + '/' + name).read())"
    assert child(show, writable_mount).stdout.decode().splitlines() == ["f theirs", f"{kept} ours"]
    assert s3.request("GET", f"/{bucket}/f") == (200, b"theirs")
    assert s3.request("GET", f"/{bucket}/{kept}") == (200, b"ours")


@pytest.mark.parametrize("mount_mode", ["through"])
def test_parts_of_a_large_file_are_sent_while_it_is_written(
    writable_mount: Path, s3: SeaweedS3, bucket: str, child: Child
) -> None:
    def sent() -> int:
        listed = s3.request("GET", f"/{bucket}?uploads=")[1].decode()
        ids = re.findall("<UploadId>(.*?)</UploadId>", listed)
        return sum(s3.request("GET", f"/{bucket}/f?uploadId={id}")[1].count(b"<Part>") for id in ids)

    code = """
with open(argv[1] + "/f", "wb", buffering=0) as file:
    for _ in range(24): file.write(bytes(range(256)) * 4096)
    print("written", flush=True)
    sys.stdin.readline()
"""
    with Reader(code, writable_mount) as writer:
        assert writer.line() == "written"
        wait_until(lambda: sent() == 2, "all but what may be written again is there")
        assert s3.request("GET", f"/{bucket}/f")[0] == 404
        writer.end()
    assert s3.request("GET", f"/{bucket}/f") == (200, LARGE)
    assert sent() == 0


def test_what_was_written_is_read_from_the_cache_and_fetched_from_nowhere(
    writable_mount: Path, forebay: RunForebay, s3: SeaweedS3, bucket: str, child: Child
) -> None:
    code = """
for name, size in ("small", 1), ("large", 24):
    with open(f"{argv[1]}/{name}", "wb") as file: file.write(bytes(range(256)) * 4096 * size)
"""
    child(code, writable_mount)
    assert forebay("fs", "flush", "/b").code == 0
    assert s3.request("GET", f"/{bucket}/large") == (200, LARGE)
    for name, data in ("small", LARGE[:MIB]), ("large", LARGE):
        assert forebay("fs", "cat", f"/b/{name}").out == data
        assert child("sys.stdout.buffer.write(open(argv[1], 'rb').read())", writable_mount / name).stdout == data
    counters = forebay("status", "--json").json["counters"]
    assert (counters["bytes_from_store"], counters["read_from_cache"] >= len(LARGE)) == (0, True)


def test_of_what_several_processes_append_nothing_is_lost_or_torn(
    writable_mount: Path, forebay: RunForebay, s3: SeaweedS3, bucket: str, child: Child
) -> None:
    code = """
def append(who):
    for number in range(100):
        fd = os.open(argv[1] + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        record = f"{who} {number} ".encode().ljust(50 * number + 10, b".") + b"\\n"
        assert os.write(fd, record) == len(record)
        os.close(fd)
pids = []
for who in range(3):
    pids.append(os.fork())
    if not pids[-1]:
        append(who)
        os._exit(0)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
"""
    child(code, writable_mount)
    assert forebay("fs", "flush", "/b").code == 0
    status, log = s3.request("GET", f"/{bucket}/log")
    records = [f"{who} {number} ".ljust(50 * number + 10, ".") for who in range(3) for number in range(100)]
    assert (status, sorted(log.decode().splitlines())) == (200, sorted(records))


def test_who_makes_files_is_not_asked_for_what_the_kernel_was_told(
    writable_mount: Path, forebay: RunForebay, child: Child
) -> None:
    code = """
for number in range(20):
    fd = os.open(f"{argv[1]}/{number}", os.O_WRONLY | os.O_CREAT)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
"""
    child(code, writable_mount)
    (info,) = forebay("fuse", "stat", str(writable_mount), "--json").json
    assert info["requests"]["CREATE"] == 20
    assert info["requests"]["GETATTR"] < 40, "one of the folder for each, since it changes, and none of the file"


def test_what_a_program_writes_into_a_file_that_was_made_through_the_mount_shows_at_once(
    writable_mount: Path, child: Child
) -> None:
    code = """
import forebay
fd = os.open(f"{argv[1]}/f", os.O_WRONLY | os.O_CREAT)
assert os.fstat(fd).st_size == 0
with forebay.FileSystem().open("/b/f", "r+b") as file:
    file.write(b"four")
    file.flush()
    print(os.stat(f"{argv[1]}/f").st_size)
os.close(fd)
"""
    assert child(code, writable_mount).stdout == b"4\n"


SHOWN = """
for line in sorted(f"{os.path.basename(path)} {found.st_mode:o} {found.st_uid} {found.st_mtime_ns}"
                   for path in (entry.path for entry in os.scandir(argv[1])) for found in [os.lstat(path)]):
    print(line)
"""


@pytest.mark.parametrize("mount_mode", ["attributes", "through", "file"])
def test_attributes_show_the_same_to_who_lists_first_and_in_the_next_daemon(
    writable_mount: Path, forebay: RunForebay, forebay_home: Path, child: Child
) -> None:
    code = """
for name, mode in ("a", 0o755), ("b", 0o600):
    open(f"{argv[1]}/{name}", "w").close()
    os.chmod(f"{argv[1]}/{name}", mode)
os.utime(f"{argv[1]}/a", ns=(0, 981_173_106_000_000_000))
os.chown(f"{argv[1]}/b", 1000, 1000)
os.symlink("a", f"{argv[1]}/link")
"""
    child(code, writable_mount)
    before = child(SHOWN, writable_mount).stdout.splitlines()
    assert [line.split()[1] for line in before] == [b"100755", b"100600", b"120777"]
    assert before[0].endswith(b" 981173106000000000")
    assert forebay("fs", "refresh", "/b").code == 0
    assert child(SHOWN, writable_mount).stdout.splitlines() == before
    kill_daemon(forebay_home, forebay)
    assert child(SHOWN, writable_mount).stdout.splitlines() == before


@pytest.mark.parametrize("mount_mode", [*STORES, "attributes"])
def test_who_lists_a_folder_is_told_what_is_a_link(writable_mount: Path, forebay: RunForebay, child: Child) -> None:
    code = """
os.mkdir(f"{argv[1]}/in")
os.symlink("in", f"{argv[1]}/to folder")
os.symlink("nothing", f"{argv[1]}/to nothing")
"""
    types = """
print(sorted((entry.name, entry.is_symlink(), entry.is_dir()) for entry in os.scandir(argv[1])))
"""
    told = [("in", False, True), ("to folder", True, True), ("to nothing", True, False)]
    child(code, writable_mount)
    assert child(types, writable_mount).stdout.decode() == f"{told}\n"
    assert forebay("fs", "refresh", "/b").code == 0
    for _ in range(2):
        assert child(types, writable_mount).stdout.decode() == f"{told}\n"
