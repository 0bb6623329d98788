"""A Python program and a local folder of one daemon: they show the same, and do not stand in each other's way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from forebay import FileSystem
from forebay.errors import Invalid
from mount.conftest import Child

SHOWN = """
import forebay
path, folder = argv[1:]
fs = forebay.FileSystem()
local = f"{folder}/{path.rpartition('/')[2]}"
assert fs.virtual(local) == path
fs.write(path, b"by a program")
assert open(local, "rb").read() == fs.read(path) == b"by a program"
with open(local, "r+b") as seen:
    with fs.open(path, "ab") as file:
        file.write(b", and more")
    assert seen.read() == b"by a program, and more"
    seen.write(b"!")
assert fs.read(path) == b"by a program, and more!"
with fs.open(path) as file:
    with open(local, "wb") as written:
        written.write(b"new")
    assert file.read() in (b"by a program, and more!", b"new")
assert fs.read_many([path] * 3) == [b"new"] * 3
os.rename(local, local + ".moved")
assert not fs.exists(path)
fs.rename(path + ".moved", path)
assert os.listdir(folder) == [os.path.basename(path)]
fs.remove(path)
assert not os.path.exists(local)
"""


def test_a_program_and_a_local_folder_show_the_same_at_once(
    mounted: Callable[..., Path], folder: Path, child: Child
) -> None:
    child(SHOWN, "/data/file.bin", mounted())


def test_a_path_outside_every_local_folder_has_no_virtual_one(
    mounted: Callable[..., Path], forebay_home: Path, tmp_path: Path
) -> None:
    mounted()
    with pytest.raises(Invalid, match="in no local folder"):
        FileSystem(forebay_home).virtual(tmp_path)


LINKED = """
import errno, fsspec, forebay
tree, folder = argv[1:]
fs = forebay.FileSystem()
os.makedirs(folder + "/sub")
with open(folder + "/sub/file", "wb") as file:
    file.write(b"bytes")
targets = {"file": "sub/file", "folder": "sub", "whole": folder + "/sub/file", "out": "/etc/hostname", "loop": "loop"}
for name, target in targets.items():
    os.symlink(target, f"{folder}/{name}")
links = [entry.path for entry in fs.ls(tree) if entry.is_link]
assert links == [f"{tree}/{name}" for name in sorted(targets)]

for path in ("file", "whole", "folder/file"):
    seen, found = os.stat(f"{folder}/{path}"), fs.stat(f"{tree}/{path}")
    assert (found.path, found.type, found.size) == (f"{tree}/{path}", "file", seen.st_size)
    assert fs.read(f"{tree}/{path}") == fs.open(f"{tree}/{path}").read() == b"bytes"
assert fs.read_many([f"{tree}/{path}" for path in ("file", "folder/file", "whole")] * 2) == [b"bytes"] * 6
assert fs.stat(tree + "/folder").type == "directory"
assert fs.stat(tree + "/file", follow_symlinks=False).type == "link"
assert [fs.readlink(f"{tree}/{name}") for name in targets] == list(targets.values())
assert [entry.path for entry in fs.ls(tree + "/folder")] == [tree + "/folder/file"]
assert [entry.path for entry in fs.walk(tree + "/folder")] == [tree + "/folder/file"]

assert not fs.exists(tree + "/loop") and not fs.exists(tree + "/out")
for read in (lambda: open(folder + "/loop"), lambda: fs.open(tree + "/loop"), lambda: fs.read(tree + "/loop")):
    try:
        read()
    except OSError as error:
        assert error.errno == errno.ELOOP
    else:
        raise AssertionError("a loop was read")

fs.write(tree + "/file", b"through a link")
fs.write(tree + "/folder/new", b"new")
assert open(folder + "/sub/file").read() == "through a link" and os.path.islink(folder + "/file")
assert sorted(os.listdir(folder + "/sub")) == ["file", "new"]
fs.rename(tree + "/folder/new", tree + "/moved")
fs.remove(tree + "/file")
assert sorted(os.listdir(folder)) == ["folder", "loop", "moved", "out", "sub", "whole"]

spec = fsspec.filesystem("forebay", skip_instance_cache=True)
assert spec.info(tree + "/whole")["type"] == "file" and spec.isdir(tree + "/folder")
assert {info["name"]: info["type"] for info in spec.ls(tree)}[tree + "/whole"] == "link"
assert spec.cat_file(tree + "/whole") == b"through a link"
"""


def test_a_program_follows_links_as_the_mount_does(mounted: Callable[..., Path], folder: Path, child: Child) -> None:
    child(LINKED, "/data", mounted())
