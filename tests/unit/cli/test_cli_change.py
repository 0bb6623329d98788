"""Names, attributes, checksums and uploads: what the command line asks of the daemon, and what it says."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import xxhash

from cli.admin_server import AdminServer
from cli.conftest import Command
from forebay.errors import ReadOnly

EVENT = {"files_done": 2, "files_total": 2, "bytes_done": 5, "bytes_total": 5, "failed": None, "can_stop": False}
UPLOADS = [
    {"path": "/d/a", "size": 2048, "state": "failing", "error": "the store is full"},
    {"path": "/d/b", "size": 1, "state": "conflict", "error": "changed by somebody else"},
]


@pytest.fixture
def tree(admin: AdminServer) -> AdminServer:
    admin.files |= {"/d/a": b"aa", "/d/sub/b": b"b"}
    admin.streams["/v1/fs/move"] = lambda: iter([EVENT | {"done": True}])
    return admin


@pytest.mark.parametrize(
    ("words", "moves"),
    [
        (("/d/a", "/d/new"), [("/d/a", "/d/new")]),
        (("/d/a", "/d/sub"), [("/d/a", "/d/sub/a")]),
        (("/d/sub/", "/d/other/"), [("/d/sub/", "/d/other/")]),
        (("/d/a", "/d/sub/b", "/d/"), [("/d/a", "/d/a"), ("/d/sub/b", "/d/b")]),
    ],
)
def test_mv_names_its_targets_as_mv_of_unix_does(
    tree: AdminServer, forebay: Command, words: tuple[str, ...], moves: list[tuple[str, str]]
) -> None:
    assert forebay("fs", "mv", *words) == (0, b"", "")
    assert [(body["source"], body["target"]) for body in tree.bodies("/v1/fs/move")] == moves


@pytest.mark.parametrize("words", [("/d/a", "/d/sub/b", "/d/new"), ("/d/a", "/d/new/")])
def test_mv_into_what_is_no_folder_moves_nothing(tree: AdminServer, forebay: Command, words: tuple[str, ...]) -> None:
    assert forebay("fs", "mv", *words) == (1, b"", f"forebay: {words[-1]} is not a folder\n")
    assert not tree.bodies("/v1/fs/move")


def test_mv_lists_what_stays_at_its_old_place_too(tree: AdminServer, forebay: Command) -> None:
    stays = EVENT | {"failed": ["/d/a", "changed while it was moved"]}
    tree.streams["/v1/fs/move"] = lambda: iter([stays, EVENT | {"done": True}])
    ran = forebay("fs", "mv", "--json", "/d", "/e")
    assert (ran.code, ran.err) == (1, "forebay: /d/a: changed while it was moved\n")
    failed = [{"path": "/d/a", "message": "changed while it was moved"}]
    assert ran.json == [{"source": "/d", "target": "/e", "files": 2, "failed": failed}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mv", "/d/a"), "mv needs a source and a target"),
        (("put", "local"), "put needs what to copy"),
        (("get", "/d/a"), "get needs what to copy"),
        (("put", "local", "relative"), "'relative' is no path of the tree"),
        (("chmod", "u+q", "/d/a"), "'u+q' is no mode"),
        (("touch", "--time", "noon", "/d/a"), "--time noon: write it as"),
        (("checksum", "--algorithm", "crc", "/d/a"), "'crc'"),
    ],
)
def test_a_wrong_command_is_refused_before_the_daemon_hears_of_it(
    admin: AdminServer, forebay: Command, words: tuple[str, ...], message: str
) -> None:
    ran = forebay("fs", *words)
    assert ran.code == 2
    assert message in ran.err
    assert not [call for call in admin.calls if call[0] != "GET"]


def test_touch_passes_a_time_on_in_nanoseconds(admin: AdminServer, forebay: Command) -> None:
    assert forebay("fs", "touch", "/a").code == 0
    assert forebay("fs", "touch", "--time", "2020-01-01T00:00:00.000001+00:00", "/b").code == 0
    told = [{"path": "/a", "mtime_ns": None}, {"path": "/b", "mtime_ns": 1_577_836_800_000_001_000}]
    assert admin.bodies("/v1/fs/touch") == told


@pytest.mark.parametrize("mode", ["640", "u+x,go-w", "-w"])
def test_chmod_passes_the_mode_on_and_lists_failures(admin: AdminServer, forebay: Command, mode: str) -> None:
    admin.streams["/v1/fs/chmod"] = lambda: iter([{"files_done": 1, "failed": ["/a/b", "no"], "done": True}])
    assert forebay("fs", "chmod", "-R", mode, "/a") == (1, b"", "forebay: /a/b: no\n")
    assert admin.bodies("/v1/fs/chmod") == [{"path": "/a", "mode": mode, "recursive": True}]


def test_put_and_get_copy_folders_both_ways(tree: AdminServer, forebay: Command, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "x").write_bytes(b"x")
    assert forebay("fs", "put", f"{tmp_path}/in", "/d/").code == 0
    assert tree.files["/d/in/deep/x"] == b"x"
    assert forebay("fs", "get", "/d/in", "/d/a", f"{tmp_path}/").code == 0
    assert (tmp_path / "a").read_bytes() == b"aa"
    assert forebay("fs", "put", "-", "/d/piped", stdin=b"piped").code == 0
    assert forebay("fs", "get", "/d/piped", "-").out == b"piped"


def test_checksums_are_printed_as_md5sum_does(tree: AdminServer, forebay: Command) -> None:
    tree.files["/d/a\n\\"] = b"odd"
    sums = [hashlib.md5(data, usedforsecurity=False).hexdigest() for data in (b"aa", b"odd")]
    ran = forebay("fs", "checksum", "/d/a", "/no", "/d/a\n\\")
    assert ran == (1, f"{sums[0]}  /d/a\n\\{sums[1]}  /d/a\\n\\\\\n".encode(), "forebay: /no does not exist\n")


@pytest.mark.parametrize(
    ("algorithm", "checksum"),
    [("sha256", hashlib.sha256(b"aa").hexdigest()), ("xxh3", xxhash.xxh3_64_hexdigest(b"aa"))],
)
def test_checksums_are_of_the_asked_kind(tree: AdminServer, forebay: Command, algorithm: str, checksum: str) -> None:
    ran = forebay("fs", "checksum", "--json", "--algorithm", algorithm, "/d/a")
    assert ran.json == [{"path": "/d/a", "algorithm": algorithm, "checksum": checksum}]


def test_uploads_are_listed_with_why_they_wait(admin: AdminServer, forebay: Command) -> None:
    assert "nothing waits for its upload" in forebay("fs", "uploads").err
    admin.answers["/v1/fs/uploads"] = UPLOADS
    assert forebay("fs", "uploads", "-h").lines == [
        "state        size  path  why",
        "failing   2.0 KiB  /d/a  the store is full",
        "conflict      1 B  /d/b  changed by somebody else",
    ]
    assert forebay("fs", "uploads", "--json").json == UPLOADS
    assert "1 file, 2.0 KiB not in the stores yet" in forebay("fs", "df").err


@pytest.mark.parametrize(("failed", "code"), [([], 0), ([UPLOADS[0]], 1)])
def test_flush_lists_what_failed(admin: AdminServer, forebay: Command, failed: list[dict[str, Any]], code: int) -> None:
    events: list[dict[str, Any]] = [
        {"files_left": 3, "bytes_left": 9, "done": False},
        {"files_left": 0, "bytes_left": 0, "done": True, "failed": failed},
    ]
    admin.streams["/v1/fs/flush"] = lambda: iter(events)
    ran = forebay("fs", "flush", "/d")
    assert (ran.code, ran.out) == (code, b"")
    assert ran.err == ("forebay: /d/a: the store is full\n" if failed else "")
    assert admin.bodies("/v1/fs/flush") == [{"path": "/d"}]


def test_a_refused_move_is_told_and_the_next_is_tried(tree: AdminServer, forebay: Command) -> None:
    del tree.streams["/v1/fs/move"]
    tree.answers["/v1/fs/move"] = ReadOnly("/d is mounted read-only")
    assert forebay("fs", "mv", "/d/a", "/d/sub/b", "/d") == (1, b"", "forebay: /d is mounted read-only\n" * 2)
