"""Moves, attributes, removals and pending uploads, through the real command line and daemon."""

import os
import stat
from pathlib import Path

import pytest

from forebay.daemon.client import Client
from forebay.errors import NotEmpty
from forebay.testing.daemons import RunForebay

MIB = 1 << 20


@pytest.fixture
def other(forebay: RunForebay, mounted: Path) -> Path:
    """A second mount, which answers closes from the local disk."""
    folder = mounted.parent / "other"
    folder.mkdir()
    assert forebay("fs", "mount", "/other", f"file://{folder}", "--write-mode", "back").code == 0
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_file_and_a_folder_are_renamed_within_a_mount(forebay: RunForebay, mounted: Path) -> None:
    assert forebay("fs", "mv", "/data/in/a.txt", "/data/in/sub") == (0, b"", "")
    assert forebay("fs", "mv", "/data/in/sub", "/data/in/new") == (0, b"", "")
    assert names(mounted) == {"new", "new/a.txt", "new/big"}
    assert forebay("fs", "ls", "-R", "/data/in").lines == ["new", "new/a.txt", "new/big"]


def test_a_folder_moves_to_another_mount_with_modes_times_and_empty_folders(
    forebay: RunForebay, mounted: Path, other: Path
) -> None:
    big, content = mounted / "sub" / "big", (mounted / "sub" / "big").read_bytes()
    big.chmod(0o640)
    os.utime(big, ns=(10**18, 10**18))
    (mounted / "sub" / "empty").mkdir()
    ran = forebay("fs", "mv", "--json", "/data/in/sub", "/other/")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json == [{"source": "/data/in/sub", "target": "/other/sub", "files": 1, "failed": []}]
    assert names(mounted) == {"a.txt"}
    assert names(other) == {"sub", "sub/big", "sub/empty"}
    moved = other / "sub" / "big"
    assert (moved.read_bytes(), stat.S_IMODE(moved.stat().st_mode), moved.stat().st_mtime_ns) == (
        content,
        0o640,
        10**18,
    )


def test_a_move_that_cannot_be_leaves_all_as_it_was(forebay: RunForebay, mounted: Path, other: Path) -> None:
    (other / "sub").mkdir()
    (other / "sub" / "taken").write_bytes(b"theirs")
    before = names(mounted), names(other)
    for words, told in (
        (("/data/in/sub", "/other"), "/other/sub is not empty"),
        (("/data/in/sub", "/data/in/sub/deeper"), "is inside"),
        (("/data/in/a.txt", "/other/no/where"), "make it first: forebay fs mkdir -p /other/no"),
        (("/data/in", "/other"), "a mount is at or below"),
        (("/data/in/a.txt", "/data/in/a.txt"), "cannot be moved to itself"),
        (("/nothing", "/other"), "no such file or folder"),
    ):
        ran = forebay("fs", "mv", *words)
        assert (ran.code, told in ran.err) == (1, True), ran.err
    assert (names(mounted), names(other)) == before


def test_a_copy_to_or_from_an_absolute_path_of_this_machine_says_how_that_is_written(
    forebay: RunForebay, mounted: Path, tmp_path: Path
) -> None:
    there, new = mounted / "a.txt", tmp_path / "new"
    for words, of in (((str(there), "/data/in"), there), (("/data/in/a.txt", str(new)), new)):
        ran = forebay("fs", "cp", *words)
        assert (ran.code, ran.err.endswith(f"; that of this machine is written file:{of}\n")) == (1, True), ran.err
    assert forebay("fs", "cp", "/data/in/a.txt", f"file:{new}").code == 0
    assert new.read_bytes() == b"hello\n"


def test_touch_makes_files_and_sets_times_and_chmod_sets_modes(forebay: RunForebay, mounted: Path) -> None:
    assert forebay("fs", "touch", "--time", "2020-01-01T00:00:00Z", "/data/in/new", "/data/in/a.txt").code == 0
    assert (mounted / "new").read_bytes() == b""
    assert (mounted / "a.txt").read_bytes() == b"hello\n"
    assert {(mounted / name).stat().st_mtime_ns for name in ("new", "a.txt")} == {1_577_836_800 * 10**9}
    assert forebay("fs", "chmod", "-R", "u=rwX,go=", "/data/in/sub").code == 0
    assert [stat.S_IMODE((mounted / name).stat().st_mode) for name in ("sub", "sub/big")] == [0o700, 0o600]
    assert forebay("fs", "chmod", "600", "/data/in").err == (
        "forebay: /data/in is a mount, which keeps no mode or time of its own\n"
    )


def test_rm_refuses_the_root_and_mounts_and_with_force_empties_them(forebay: RunForebay, mounted: Path) -> None:
    for path in ("/", "/data", "/data/in"):
        ran = forebay("fs", "rm", "-r", path)
        assert (ran.code, "--force" in ran.err) == (1, True)
    assert len(names(mounted)) == 3
    assert forebay("fs", "rm", "-r", "--force", "/data") == (0, b"", "")
    assert names(mounted) == set()
    assert [mount["path"] for mount in forebay("fs", "mounts", "--json").json] == ["/data/in"]


def test_checksums_are_those_of_the_bytes(forebay: RunForebay, mounted: Path) -> None:
    assert forebay("fs", "checksum", "/data/in/a.txt").lines == ["b1946ac92492d2347c6235b4d2611184  /data/in/a.txt"]


def test_after_a_flush_the_store_has_all_and_the_mount_can_go(
    forebay: RunForebay, mounted: Path, other: Path, forebay_home: Path
) -> None:
    client = Client(forebay_home / "daemon.sock")
    (other / "full").mkdir()
    client.write("/other/full/a", [b"written"])
    assert forebay("fs", "flush", "/other") == (0, b"", "")
    assert (other / "full" / "a").read_bytes() == b"written"
    assert forebay("fs", "uploads", "--json").json == []
    assert forebay("fs", "unmount", "/other") == (0, b"", "")


def test_a_move_onto_a_folder_that_holds_something_is_an_error_of_its_kind(mounted: Path, forebay_home: Path) -> None:
    client = Client(forebay_home / "daemon.sock")
    (mounted / "full").mkdir()
    (mounted / "full" / "x").write_bytes(b"")
    with pytest.raises(NotEmpty):
        list(client.stream("POST", "/v1/fs/move", {"source": "/data/in/sub", "target": "/data/in/full"}))


def test_empty_folders_are_listed_and_copied_with_a_tree(
    forebay: RunForebay, mounted: Path, other: Path, tmp_path: Path
) -> None:
    for name in ("empty", "deep/er"):
        (mounted / "sub" / name).mkdir(parents=True)
    expected = {"big", "deep", "deep/er", "empty"}
    assert set(forebay("fs", "ls", "-R", "/data/in/sub").lines) == expected
    for words in (("get", "/data/in/sub", str(tmp_path / "got")), ("cp", "-r", "/data/in/sub", "/other/sub")):
        assert forebay("fs", *words).code == 0
    assert names(tmp_path / "got") == expected
    assert forebay("fs", "put", str(tmp_path / "got"), "/other/put").code == 0
    assert forebay("fs", "cp", "-r", "/data/in/sub/empty", "/other/none").code == 0
    assert forebay("fs", "flush", "/other").code == 0
    assert names(other) == {"none", "put", "sub"} | {f"{top}/{name}" for top in ("put", "sub") for name in expected}
