"""FUSE mounts come, go, come back after a crash, and say what is wrong."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from forebay.frontends.fuse.mountinfo import parse_mountinfo
from forebay.testing.daemons import RunForebay, daemon_pid
from mount.conftest import Child, Reader

Mount = Callable[..., Path]
HOLD = "file = open(argv[1]); print('open', flush=True); sys.stdin.read()"


def mounted_at(path: Path) -> int:
    text = Path("/proc/self/mountinfo").read_text()
    return sum(mount.mountpoint == str(path) for mount in parse_mountinfo(text))


def test_a_mount_shows_the_tree_until_it_is_taken_away(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    (folder / "a.txt").write_bytes(b"hello")
    mounted()
    assert child("print(os.listdir(argv[1]), open(argv[1] + '/a.txt').read())", mnt).stdout == b"['a.txt'] hello\n"
    assert forebay("fuse", "unmount", str(mnt)).code == 0
    assert mounted_at(mnt) == 0
    assert os.listdir(mnt) == []
    assert forebay("fuse", "stat", "--json").json == []


def test_forebay_fuse_is_a_command_of_its_own(forebay: RunForebay, mnt: Path) -> None:
    forebay("fs", "mkdir", "/training-data")
    ran = forebay("mount", str(mnt), "/training-data", entry="forebay-fuse")
    assert (ran.code, mounted_at(mnt)) == (0, 1)
    assert forebay("unmount", str(mnt), entry="forebay-fuse").code == 0
    assert mounted_at(mnt) == 0


def test_several_mounts_show_several_parts_of_the_tree(
    forebay: RunForebay, folder: Path, forebay_home: Path, child: Child
) -> None:
    (folder / "f").write_bytes(b"f")
    forebay("fs", "mkdir", "-p", "/one/two")
    forebay("fs", "mount", "/one/two/data", f"file://{folder}")
    mounts = [forebay_home.parent / name for name in ("m1", "m2", "m3")]
    for mount, path in zip(mounts, ("/", "/one/two", "/one/two/data"), strict=True):
        mount.mkdir()
        assert forebay("fuse", "mount", str(mount), path).code == 0
    found = child("print([sorted(os.listdir(mount)) for mount in argv[1:]])", *mounts).stdout
    assert found == b"[['one'], ['data'], ['f']]\n"
    assert [info["path"] for info in forebay("fuse", "stat", "--json").json] == ["/", "/one/two", "/one/two/data"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda mnt: (mnt / "file").write_bytes(b""), "is not empty: what it holds would be hidden"),
        (lambda mnt: mnt.rmdir(), "does not exist; make it: mkdir -p"),
        (lambda mnt: (mnt.rmdir(), mnt.write_bytes(b"")), "is a file; mount on an empty folder"),
    ],
    ids=["not empty", "missing", "a file"],
)
def test_a_place_that_cannot_be_mounted_on_is_refused(
    forebay: RunForebay, mnt: Path, make: Callable[[Path], object], message: str
) -> None:
    make(mnt)
    ran = forebay("fuse", "mount", str(mnt), "/")
    assert ran.code == 1
    assert message in ran.err
    assert mounted_at(mnt) == 0


def test_a_path_that_is_not_there_or_no_folder_cannot_be_shown(forebay: RunForebay, folder: Path, mnt: Path) -> None:
    (folder / "f").write_bytes(b"f")
    forebay("fs", "mount", "/data", f"file://{folder}")
    assert "no such file or folder: /nothing" in forebay("fuse", "mount", str(mnt), "/nothing").err
    assert "/data/f is a file" in forebay("fuse", "mount", str(mnt), "/data/f").err
    assert "leaves its folder" in forebay("fuse", "mount", str(mnt), "/data/../..").err
    assert mounted_at(mnt) == 0


LOCAL = """
import forebay
fs = forebay.FileSystem()
found = fs.read_many([argv[1]])
for act in (lambda: fs.open(argv[1]), lambda: fs.read(argv[1]), lambda: fs.write(argv[1], b"x")):
    try: act()
    except OSError as error: found.append(error)
print(*found, sep="\\n")
"""


def test_who_names_a_local_path_where_one_of_the_tree_is_wanted_is_told_that_one(
    mounted: Mount, forebay: RunForebay, folder: Path, child: Child
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "f").write_bytes(b"f")
    local = f"{mounted()}/sub"
    told = "in the tree, what the local folder shows there is /data/sub"
    for words in (("ls",), ("stat",), ("load",), ("unmount",)):
        ran = forebay("fs", *words, local)
        assert (ran.code, ran.err.endswith(f"; {told}\n")) == (1, True), ran.err
    messages = child(LOCAL, f"{local}/f").stdout.decode().splitlines()
    assert [message.partition("; in the tree, ")[2] for message in messages] == [
        "what the local folder shows there is /data/sub/f"
    ] * 4
    assert "in the tree" not in forebay("fs", "ls", "/nothing").err


def test_a_mount_over_a_mount_is_refused(mounted: Mount, forebay: RunForebay, mnt: Path) -> None:
    mounted()
    ran = forebay("fuse", "mount", str(mnt), "/")
    assert ran.code == 1
    assert f"shows /data already; take it away first: forebay fuse unmount {mnt}" in ran.err
    assert mounted_at(mnt) == 1


def test_a_busy_mount_names_who_uses_it_and_goes_by_force(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path
) -> None:
    (folder / "f").write_bytes(b"f")
    mounted()
    with Reader(HOLD, mnt / "f") as holder:
        assert holder.line() == "open"
        ran = forebay("fuse", "unmount", str(mnt))
        assert ran.code == 1
        assert "is in use by python" in ran.err
        assert f"(pid {holder.process.pid})" in ran.err
        assert mounted_at(mnt) == 1
        store = forebay("fs", "unmount", "/data")
        assert (store.code, "/data is busy: 1 of its files is open; end the programs" in store.err) == (1, True)
        assert forebay("fuse", "unmount", "--force", str(mnt)).code == 0
        assert mounted_at(mnt) == 0


def test_a_mount_that_somebody_else_took_away_is_forgotten(mounted: Mount, forebay: RunForebay, mnt: Path) -> None:
    mounted()
    subprocess.run(["umount", str(mnt)], check=True, timeout=20)
    assert forebay("fuse", "stat", "--json").json == []
    ran = forebay("fuse", "unmount", str(mnt))
    assert (ran.code, "Forebay is not mounted at" in ran.err) == (1, True)
    forebay("stop")
    forebay("start")
    assert mounted_at(mnt) == 0
    assert forebay("fuse", "mount", str(mnt), "/data").code == 0


def test_a_stop_unmounts_and_a_start_mounts_again(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    (folder / "f").write_bytes(b"f")
    mounted()
    assert forebay("stop").code == 0
    assert mounted_at(mnt) == 0
    assert forebay("start").code == 0
    assert child("print(open(argv[1]).read())", mnt / "f").stdout == b"f\n"


def test_sigterm_unmounts_even_what_is_in_use(
    mounted: Mount, forebay: RunForebay, forebay_home: Path, folder: Path, mnt: Path
) -> None:
    (folder / "f").write_bytes(b"f")
    mounted()
    pid = daemon_pid(forebay_home)
    assert pid is not None
    with Reader(HOLD, mnt / "f") as holder:
        assert holder.line() == "open"
        os.kill(pid, signal.SIGTERM)
        assert forebay("start").code == 0  # waits for the old one to go
        assert daemon_pid(forebay_home) != pid
        assert mounted_at(mnt) == 1


@pytest.mark.parametrize("command", [("start",), ("fs", "ls", "/")], ids=" ".join)
def test_after_kill_9_the_next_command_brings_the_mounts_back(
    mounted: Mount,
    forebay: RunForebay,
    forebay_home: Path,
    folder: Path,
    mnt: Path,
    child: Child,
    command: tuple[str, ...],
) -> None:
    data = os.urandom(3 << 20)
    (folder / "f").write_bytes(data)
    mounted()
    assert child("sys.stdout.buffer.write(open(argv[1], 'rb').read())", mnt / "f").stdout == data
    pid = daemon_pid(forebay_home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    dead = child("os.listdir(argv[1])", mnt, fails=True)
    # The first to come while the kernel still ends the connection is told so.
    assert any(text in dead.stderr for text in (b"endpoint is not connected", b"caused connection abort"))
    assert forebay(*command).code == 0
    assert mounted_at(mnt) == 1
    assert child("sys.stdout.buffer.write(open(argv[1], 'rb').read())", mnt / "f").stdout == data
    assert forebay("fuse", "unmount", str(mnt)).code == 0
    assert mounted_at(mnt) == 0


def test_stat_shows_how_a_mount_is_read(
    mounted: Mount, forebay: RunForebay, folder: Path, mnt: Path, child: Child
) -> None:
    (folder / "f").write_bytes(b"x" * 200_000)
    mounted()
    for _ in range(2):
        child("open(argv[1], 'rb').read()", mnt / "f")
    (info,) = forebay("fuse", "stat", str(mnt), "--json").json
    assert (info["path"], info["max_read_bytes"], info["open_files"]) == ("/data", 1 << 20, 0)
    assert info["requests"]["OPEN"] == 2
    if info["mode"] == "passthrough":
        assert info["served_from"]["passthrough opens"] == 1, "the second open is of a complete file"
    else:
        assert info["mode_reason"]
    shown = forebay("fuse", "stat", str(mnt)).lines
    assert any(line.startswith("mode ") and info["mode"] in line for line in shown)
