import dataclasses
from pathlib import Path
from typing import Any

import pytest

from cli.admin_server import AdminServer
from cli.conftest import Command
from forebay.cli.doctor import CacheDisk, Facts, FuseFact, Level, StoreFact, examine
from forebay.errors import Unavailable
from forebay.frontends.fuse.mountinfo import parse_mountinfo

GIB = 1 << 30
GOOD = Facts(
    fuse_device="ok",
    fusermount="/usr/bin/fusermount3",
    root=False,
    sys_admin=True,
    kernel=(6, 18),
    python=(3, 11),
    user_allow_other=True,
    idle_poll_ns=None,
    open_files=65536,
    cache_disks=(CacheDisk("/c", 50 * GIB, 100 * GIB, writable=True),),
    cache_reserve=0.1,
    daemon_version="1",
    daemon_error=None,
    version="1",
    socket="/h/daemon.sock",
    socket_mode=0o600,
    stores=(StoreFact("/a", "s3://b", None),),
    fuse_mounts=(FuseFact("/mnt", None),),
)


def test_where_all_is_well_nothing_is_to_mend() -> None:
    assert {finding.level for finding in examine(GOOD)} == {Level.OK}


@pytest.mark.parametrize(
    ("change", "check", "level", "words"),
    [
        ({"python": (3, 10)}, "python", Level.MEND, "install Python 3.11"),
        ({"kernel": (4, 19)}, "kernel", Level.MEND, "use Linux 5.4 or newer"),
        ({"kernel": (6, 1)}, "kernel", Level.NOTE, "6.9 or newer"),
        ({"fuse_device": "missing"}, "/dev/fuse", Level.MEND, "modprobe fuse"),
        ({"fuse_device": "missing"}, "/dev/fuse", Level.MEND, "--device /dev/fuse"),
        ({"fuse_device": "denied"}, "/dev/fuse", Level.MEND, "chmod 0666 /dev/fuse"),
        ({"fusermount": None, "sys_admin": False}, "fusermount3", Level.MEND, "apt-get install fuse3"),
        ({"fusermount": None}, "fusermount3", Level.OK, ""),
        ({"sys_admin": False}, "rights", Level.NOTE, "--cap-add SYS_ADMIN"),
        ({"user_allow_other": False}, "fuse.conf", Level.NOTE, "user_allow_other into /etc/fuse.conf"),
        ({"user_allow_other": False, "root": True}, "fuse.conf", Level.OK, ""),
        ({"cache_disks": (CacheDisk("/c", GIB, GIB, writable=False),)}, "cache", Level.MEND, "the right to write"),
        ({"cache_disks": (CacheDisk("/c", 10 * GIB, 100 * GIB, True),)}, "cache", Level.MEND, "make room"),
        ({"idle_poll_ns": 0}, "idle cpus", Level.NOTE, "echo 200000 > /sys/module/haltpoll"),
        ({"idle_poll_ns": 200_000}, "idle cpus", Level.OK, ""),
        ({"open_files": 1024}, "open files", Level.NOTE, "LimitNOFILE=65536"),
        ({"daemon_error": "belongs to another user"}, "daemon", Level.MEND, "run this as the daemon's user"),
        ({"daemon_version": None}, "daemon", Level.OK, ""),
        ({"daemon_version": "0"}, "daemon", Level.NOTE, "forebay stop && forebay start"),
        ({"socket_mode": 0o666}, "socket", Level.MEND, "chmod 0600 /h/daemon.sock"),
        ({"stores": (StoreFact("/a", "s3://b", "denied"),)}, "store", Level.MEND, "forebay fs unmount /a"),
        ({"fuse_mounts": (FuseFact("/m", "not connected"),)}, "fuse mount", Level.MEND, "umount -l /m"),
    ],
)
def test_each_trouble_is_found_and_the_way_out_is_told(
    change: dict[str, Any], check: str, level: Level, words: str
) -> None:
    found = {finding.check: finding for finding in examine(dataclasses.replace(GOOD, **change))}
    assert found[check].level is level
    assert words in found[check].mend
    assert (found[check].mend == "") == (level is Level.OK)


def test_the_doctor_looks_at_this_machine_and_starts_nothing(home: Path, forebay: Command) -> None:
    findings = {finding["check"]: finding for finding in forebay("doctor", "--json").json}
    assert {"python", "kernel", "/dev/fuse", "fusermount3", "rights", "cache", "open files", "daemon"} <= set(findings)
    assert findings["daemon"]["found"].startswith("does not run")
    assert not (home / "daemon.sock").exists()


def test_a_store_that_does_not_answer_is_something_to_mend(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/fs/mounts"] = [{"path": "/a", "url": "s3://b"}]
    admin.answers["/v1/fs/list"] = Unavailable("b cannot be reached")
    ran = forebay("doctor")
    assert ran.code == 1
    assert "mend  store        /a (s3://b): b cannot be reached" in ran.lines


def test_mount_points_are_found_with_their_odd_names() -> None:
    mountinfo = (
        "36 35 98:0 / /mnt/with\\040space rw - fuse.forebay forebay rw\n"
        "37 35 98:0 / /other rw shared:1 - ext4 /dev/vda rw\n"
        "38 35 98:0 / /tab\\011 rw shared:1 - fuse.forebay forebay rw\n"
    )
    assert [mount.mountpoint for mount in parse_mountinfo(mountinfo)] == ["/mnt/with space", "/tab\t"]
