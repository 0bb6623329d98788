"""A user without rights mounts through fusermount3, and reads through the page cache instead of by passthrough."""

import os
import pwd
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import CommandRan, RunForebay, forebay_command

NOBODY = 65534
# The one right that stays lets it run a Python that lies in a folder of root's, such as /root/.pyenv.
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
)  # fmt: skip


@pytest.fixture
def as_nobody(forebay_home: Path, folder: Path, mnt: Path, forebay: RunForebay) -> Iterator[RunForebay]:
    """`forebay`, run by a user without rights, to whom /dev/fuse is open as distributions set it."""
    if os.geteuid() != 0:
        yield forebay  # the tests themselves run without rights
        return
    assert pwd.getpwuid(NOBODY)
    mode = os.stat("/dev/fuse").st_mode & 0o777
    os.chmod("/dev/fuse", 0o666)
    above = forebay_home.parent
    above.chmod(0o755)
    for path in (above, forebay_home, folder, mnt):
        os.chown(path, NOBODY, NOBODY)

    def run(*words: str) -> CommandRan:
        command = [*AS_NOBODY, *forebay_command(*words)]
        ran = subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=above)
        return CommandRan(ran.returncode, ran.stdout, ran.stderr.decode())

    try:
        yield run
        run("stop")
    finally:
        os.chmod("/dev/fuse", mode)


def read_as_nobody(path: Path) -> bytes:
    command = [*(AS_NOBODY if os.geteuid() == 0 else ()), "cat", str(path)]
    return subprocess.run(command, capture_output=True, timeout=60, check=True).stdout


def test_a_user_without_rights_mounts_reads_and_unmounts(as_nobody: RunForebay, folder: Path, mnt: Path) -> None:
    data = random.Random(3).randbytes(5_000_000)
    (folder / "f").write_bytes(data)
    assert as_nobody("fs", "mount", "/data", f"file://{folder}").code == 0
    ran = as_nobody("fuse", "mount", str(mnt), "/data")
    assert ran.code == 0, ran.err
    assert "cached files are read through the page cache: the daemon lacks CAP_SYS_ADMIN" in ran.err
    for _ in range(2):
        assert read_as_nobody(mnt / "f") == data
    (info,) = as_nobody("fuse", "stat", "--json").json
    assert (info["mode"], info["mode_reason"]) == ("page cache", "the daemon lacks CAP_SYS_ADMIN")
    assert info["served_from"]["page cache opens"] == 2
    assert info["requests"]["READ"] < 100, "the second read comes from the kernel's page cache"
    assert as_nobody("fuse", "unmount", str(mnt)).code == 0
    assert list(mnt.iterdir()) == []


def test_what_fusermount_refuses_is_told(as_nobody: RunForebay, forebay_home: Path) -> None:
    others = forebay_home.parent / "others"
    others.mkdir(mode=0o755)
    ran = as_nobody("fuse", "mount", str(others), "/")
    assert ran.code == 1
    assert f"cannot mount on {others}: user has no write access to mountpoint" in ran.err
