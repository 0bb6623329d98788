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
