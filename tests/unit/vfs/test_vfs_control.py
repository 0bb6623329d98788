"""The control database: what it keeps survives everything, and damage stops the start."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError
from forebay.vfs.control import ControlDb, FolderKind, FuseMount
from forebay.vfs.entries import MountOptions

OPTIONS = MountOptions(options=(("s3a.secretKey", "hush"),), readonly=True, freshness="always", ttl_s=5.0, policy="lru")


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    control = ControlDb(path)
    control.add_folder("/a\udcff")
    control.add_folder("/m")
    control.add_mount("/m", "s3://b\udcff/x", OPTIONS)
    control.add_pin("/m/d/")
    control.add_fuse_mount(FuseMount("/mnt/\n", "/", FolderKind.WRITABLE))
    control.add_fuse_mount(FuseMount("/set", "/m", FolderKind.SMALL_FILES))
    control.close()
    control = ControlDb(path)
    assert control.folders() == ["/a\udcff"]  # the mount has taken its folder's place
    assert control.mounts() == [("/m", "s3://b\udcff/x", OPTIONS)]
    assert control.pins() == ["/m/d/"]
    assert control.fuse_mounts() == [("/mnt/\n", "/", "writable"), ("/set", "/m", "small files")]
    control.remove_folder("/a\udcff")
    control.remove_mount("/m")
    control.remove_pin("/m/d/")
    control.remove_fuse_mount("/mnt/\n")
    control.remove_fuse_mount("/set")
    control.add_fuse_mount(FuseMount("/set", "/m", FolderKind.READONLY))
    assert control.fuse_mounts() == [("/set", "/m", "readonly")]
    control.remove_fuse_mount("/set")
    assert (control.folders(), control.mounts(), control.pins(), control.fuse_mounts()) == ([], [], [], [])
    control.close()


def test_only_the_owner_can_read_it_and_a_secret_leaves_it_with_its_mount(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    control = ControlDb(path)
    control.add_mount("/m", "s3://b", OPTIONS)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} <= {0o600}
    assert "hush" not in repr(control.mounts())
    control.remove_mount("/m")
    control.close()
    assert b"hush" not in path.read_bytes()


@pytest.mark.parametrize("harm", ["rubbish", "cut"])
def test_a_damaged_database_stops_the_start_and_is_left_as_it_is(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "control.db"
    control = ControlDb(path)
    for index in range(200):
        control.add_folder(f"/{index}")
    control.close()
    path.write_bytes(b"no database" * 1000 if harm == "rubbish" else path.read_bytes()[:4500])
    before = path.read_bytes()
    with pytest.raises(FsError, match="restore it from a backup"):
        ControlDb(path)
    assert path.read_bytes() == before


def test_a_newer_forebays_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    ControlDb(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(FsError, match="newer Forebay"):
        ControlDb(path)


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="cannot open"):
        ControlDb(tmp_path / "none" / "control.db")


CHILD = """
import sys
from pathlib import Path
from forebay.vfs.control import ControlDb, FolderKind, FuseMount
from forebay.vfs.entries import MountOptions
control = ControlDb(Path(sys.argv[1]))
for index in range(10_000):
    control.add_mount(f"/{index}", "mem://x", MountOptions())
    print(index, flush=True)
"""


def test_what_was_acknowledged_survives_kill_minus_9(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = next(int(line) for line in child.stdout if int(line) >= 20)
        os.kill(child.pid, signal.SIGKILL)
        told = max([told, *(int(line) for line in child.stdout if line.strip())])
    control = ControlDb(path)
    kept = {int(mount[0][1:]) for mount in control.mounts()}
    assert set(range(told + 1)) <= kept
    control.close()
