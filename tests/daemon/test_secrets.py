"""A mount's secrets are in the control database, and nowhere else that anybody can see."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay, daemon_pid
from forebay.testing.seaweed import SeaweedS3

SECRET = SeaweedS3.secret_key
WRONG = "wrong/secret+key=with-odd-chars"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    with SeaweedS3(tmp_path_factory.mktemp("s3")) as server:
        server.make_bucket("bucket")
        assert server.request("PUT", "/bucket/a.txt", b"from s3\n")[0] == 200
        yield server


def mount(forebay: RunForebay, s3: SeaweedS3, secret: str) -> tuple[int, str]:
    options = ("s3a.accessKeyID=test", f"s3a.secretKey={secret}", f"s3.endpoint={s3.endpoint}")
    words = [word for option in options for word in ("--option", option)]
    ran = forebay("--set", "log_level=debug", "fs", "mount", "/a", "s3://bucket/", *words)
    return ran.code, ran.out.decode() + ran.err


def files_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_secrets_of_a_mount_show_up_nowhere(
    forebay: RunForebay, forebay_home: Path, s3: SeaweedS3, tmp_path: Path
) -> None:
    code, said = mount(forebay, s3, SECRET)
    assert code == 0, said
    assert SECRET not in said
    assert forebay("fs", "cat", "/a/a.txt").out == b"from s3\n"
    listed = forebay("fs", "mounts", "--json").json[0]["options"]
    assert listed == {"s3a.accessKeyID": "***", "s3a.secretKey": "***", "s3.endpoint": s3.endpoint}
    for words in (("fs", "mounts"), ("fs", "stat", "/a"), ("status", "--json"), ("config",), ("doctor",)):
        ran = forebay(*words)
        assert SECRET not in ran.out.decode() + ran.err, words
    for name in ("cmdline", "environ"):
        assert SECRET.encode() not in Path(f"/proc/{daemon_pid(forebay_home)}/{name}").read_bytes()
    os.kill(daemon_pid(forebay_home) or 0, signal.SIGKILL)
    assert forebay("fs", "ls", "/a").out == b"a.txt\n"
    forebay("stop")
    assert set(files_with(forebay_home, SECRET)) <= {"control.db", "control.db-wal"}


def test_a_secret_goes_with_its_mount(forebay: RunForebay, forebay_home: Path, s3: SeaweedS3) -> None:
    assert mount(forebay, s3, SECRET)[0] == 0
    assert forebay("fs", "unmount", "/a").code == 0
    forebay("stop")
    assert files_with(forebay_home, SECRET) == []


def test_a_wrong_secret_is_told_and_not_repeated(forebay: RunForebay, forebay_home: Path, s3: SeaweedS3) -> None:
    code, said = mount(forebay, s3, WRONG)
    assert code == 1
    assert said.startswith("forebay: ")
    assert WRONG not in said
    assert files_with(forebay_home, WRONG) == []
    assert forebay("fs", "mounts", "--json").json == []


def test_a_mount_whose_store_is_gone_is_kept_and_says_so(forebay: RunForebay, s3: SeaweedS3, tmp_path: Path) -> None:
    with SeaweedS3(tmp_path) as other:
        other.make_bucket("bucket")
        assert mount(forebay, other, SECRET)[0] == 0
    ran = forebay("--set", "store_deadline_s=5s", "fs", "ls", "/a")
    assert ran.code == 1
    assert other.endpoint in ran.err or "bucket" in ran.err
    assert forebay("fs", "mounts", "--json").json[0]["url"] == "s3://bucket/"
    assert forebay("doctor").code == 1
