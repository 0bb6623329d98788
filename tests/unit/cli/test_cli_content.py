import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.admin_server import AdminServer
from cli.conftest import Command, Spawn
from forebay.cli import fs_content, places
from forebay.errors import Denied, NotFound, ReadOnly

LINES = b"".join(b"line %d\n" % number for number in range(1, 21))


@pytest.fixture
def tree(admin: AdminServer) -> AdminServer:
    admin.files |= {"/d/lines": LINES, "/d/raw": b"\x00\xff\n", "/d/sub/x": b"x", "/d/sub/deep/y": b"yy"}
    return admin


# ---------------------------------------------------------------- cat, head, tail


def test_cat_writes_files_one_after_the_other_byte_for_byte(tree: AdminServer, forebay: Command) -> None:
    assert forebay("fs", "cat", "/d/raw", "/d/sub/x") == (0, b"\x00\xff\nx", "")


def test_cat_goes_on_after_a_file_that_fails(tree: AdminServer, forebay: Command) -> None:
    ran = forebay("fs", "cat", "/nothing", "/d/sub/x")
    assert (ran.code, ran.out, ran.err) == (1, b"x", "forebay: /nothing does not exist\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-n", "2"), b"line 1\nline 2\n"),
        ((), b"".join(LINES.splitlines(keepends=True)[:10])),
        (("-n", "0"), b""),
        (("-n", "99"), LINES),
        (("-c", "5"), b"line "),
        (("-c", "0"), b""),
        (("-c", "1KiB"), LINES),
    ],
)
def test_head_gives_the_first_lines_or_bytes(
    tree: AdminServer, forebay: Command, words: tuple[str, ...], expected: bytes
) -> None:
    assert forebay("fs", "head", *words, "/d/lines").out == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-n", "2"), b"line 19\nline 20\n"),
        ((), b"".join(LINES.splitlines(keepends=True)[10:])),
        (("-n", "0"), b""),
        (("-n", "99"), LINES),
        (("-c", "3"), b"20\n"),
        (("-c", "0"), b""),
        (("-c", "1KiB"), LINES),
    ],
)
def test_tail_gives_the_last_lines_or_bytes(
    tree: AdminServer, forebay: Command, words: tuple[str, ...], expected: bytes
) -> None:
    assert forebay("fs", "tail", *words, "/d/lines").out == expected


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_tail_finds_the_lines_wherever_its_pieces_are_cut(
    admin: AdminServer, forebay: Command, monkeypatch: pytest.MonkeyPatch, step: int, end: bytes
) -> None:
    monkeypatch.setattr(fs_content, "TAIL_STEP_BYTES", step)
    lines = [b"a\n", b"\n", b"bcd\n", b"e" + end]
    admin.files["/f"] = b"".join(lines)
    for count in range(6):
        assert forebay("fs", "tail", "-n", str(count), "/f").out == b"".join(lines[len(lines) - min(count, 4) :])


def test_tail_of_a_folder_is_refused(tree: AdminServer, forebay: Command) -> None:
    assert forebay("fs", "tail", "/d").err == "forebay: /d is a folder\n"


def test_a_reader_who_has_enough_is_no_error_to_talk_of(tree: AdminServer, spawn: Spawn) -> None:
    tree.files["/long"] = bytes(8 << 20)
    process = spawn("fs", "cat", "/long")
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(timeout=20) == 1
    assert process.stderr is not None
    assert process.stderr.read() == b""


# ---------------------------------------------------------------- rm


def test_rm_passes_its_words_on(tree: AdminServer, forebay: Command) -> None:
    assert forebay("fs", "rm", "-r", "/d", "/e").code == 0
    assert tree.bodies("/v1/fs/remove") == [{"path": path, "recursive": True, "force": False} for path in ("/d", "/e")]
    assert forebay("fs", "rm", "-r", "--force", "/d").code == 0
    assert tree.bodies("/v1/fs/remove")[-1] == {"path": "/d", "recursive": True, "force": True}
    tree.answers["/v1/fs/remove"] = ReadOnly("/d is mounted read-only")
    assert forebay("fs", "rm", "/d/raw") == (1, b"", "forebay: /d is mounted read-only\n")


# ---------------------------------------------------------------- cp


def test_a_file_is_copied_out_under_its_name_or_another(tree: AdminServer, forebay: Command, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert forebay("fs", "cp", "/d/raw", "out") == (0, b"", "")
    assert forebay("fs", "cp", "/d/raw", f"file:{tmp_path}/other").code == 0
    assert (tmp_path / "out" / "raw").read_bytes() == (tmp_path / "other").read_bytes() == b"\x00\xff\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["raw"]


def test_a_file_is_copied_in(tree: AdminServer, forebay: Command, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"new")
    assert forebay("fs", "cp", "./local", "/d/").code == 0
    assert forebay("fs", "cp", "local", "/d/sub/x").code == 0
    assert (tree.files["/d/local"], tree.files["/d/sub/x"]) == (b"new", b"new")


def test_a_tree_is_copied_out_and_in_again(tree: AdminServer, forebay: Command, tmp_path: Path) -> None:
    ran = forebay("fs", "cp", "-r", "/d", "out")
    assert ran.code == 0
    assert ran.err.startswith("forebay: 4 files, ")
    assert (tmp_path / "out" / "sub" / "deep" / "y").read_bytes() == b"yy"
    assert forebay("fs", "cp", "-r", "out", "/again").code == 0
    assert {path: data for path, data in tree.files.items() if path.startswith("/again/")} == {
        path.replace("/d/", "/again/"): data for path, data in tree.files.items() if path.startswith("/d/")
    }


def test_a_folder_goes_into_a_folder_that_exists_by_its_name(
    tree: AdminServer, forebay: Command, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    assert forebay("fs", "cp", "-r", "/d/sub/", "out").code == 0
    assert (tmp_path / "out" / "sub" / "x").read_bytes() == b"x"


def test_copies_within_the_tree_and_from_stdin_and_to_stdout(tree: AdminServer, forebay: Command) -> None:
    assert forebay("fs", "cp", "/d/raw", "/d/copy").code == 0
    assert tree.files["/d/copy"] == b"\x00\xff\n"
    assert forebay("fs", "cp", "-", "/d/in", stdin=b"piped").code == 0
    assert tree.files["/d/in"] == b"piped"
    assert forebay("fs", "cp", "/d/in", "-").out == b"piped"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("/d/raw",), 2, "cp needs a source and a target"),
        (("a", "b"), 2, "both sides are local, which is work for cp(1)"),
        (("/d/raw", "local", "/e"), 2, "all sources must be in one place"),
        (("/d", "out"), 1, "/d: is a folder; add -r"),
        (("/nothing", "out"), 1, "/nothing: there is no such file or folder\n"),
        (("/etc/hosts", "/d"), 1, "/etc/hosts is not in the tree; that of this machine is written file:/etc/hosts"),
        (("/d/raw", "/d/lines", "/new"), 0, ""),
        (("/d/raw", "no/such/out"), 1, "there is no folder no/such to copy into; make it first"),
        (("/d/raw", "/d/raw"), 1, "source and target are the same file"),
        (("-r", "/d", "/d/sub"), 1, "a folder cannot be copied into itself"),
        (("s3://b/x", "/d"), 1, "cp knows no URLs; mount the store first"),
    ],
)
def test_rules_of_cp(
    tree: AdminServer, forebay: Command, words: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    if not code:
        tree.folders.add("/new")
    ran = forebay("fs", "cp", *words)
    assert (ran.code, message in ran.err) == (code, True)


def test_several_files_need_a_folder_to_go_into(tree: AdminServer, forebay: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "is not a folder" in forebay("fs", "cp", "/d/raw", "/d/lines", "file").err


def test_what_fails_in_a_copy_is_listed_and_the_rest_is_done(
    tree: AdminServer, forebay: Command, tmp_path: Path
) -> None:
    read = tree.read

    def read_but_one(query: dict[str, str]) -> bytes:
        if query["path"].endswith("/x"):
            raise Denied("the store denies access to /d/sub/x")
        return read(query)

    tree.read = read_but_one  # type: ignore[method-assign]
    ran = forebay("fs", "cp", "-r", "/d", "out")
    assert ran.code == 1
    assert "forebay: the store denies access to /d/sub/x\n" in ran.err
    assert "; 1 failed" in ran.err
    assert (tmp_path / "out" / "sub" / "deep" / "y").exists()
    assert not (tmp_path / "out" / "sub" / "x").exists()


def test_keys_that_no_file_can_show_are_a_failure_of_a_copy(tree: AdminServer, forebay: Command) -> None:
    tree.hidden = 3
    ran = forebay("fs", "cp", "-r", "/d", "out")
    assert ran.code == 1
    assert "3 keys of the store cannot be shown as files" in ran.err


def test_a_copy_keeps_the_mode_writes_through_links_and_heeds_protection(
    tree: AdminServer, forebay: Command, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old, and longer")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    assert forebay("fs", "cp", "/d/raw", "link").code == 0
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"\x00\xff\n", 0o640)
    assert (tmp_path / "link").is_symlink()


def test_links_to_folders_and_odd_files_are_told_not_followed(
    tree: AdminServer, forebay: Command, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "good").write_bytes(b"1")
    (source / "loop").symlink_to(source)
    os.mkfifo(source / "pipe")
    (source / "broken").symlink_to("nowhere")
    ran = forebay("fs", "cp", "-r", "source", "/new")
    assert ran.code == 1
    assert tree.files["/new/good"] == b"1"
    assert [path for path in tree.files if path.startswith("/new/")] == ["/new/good"]
    for words in ("a link to a folder is not followed", "neither a file nor a folder", "broken: No such file"):
        assert words in ran.err


def test_a_copy_that_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise NotFound("gone")

    with pytest.raises(NotFound):
        places.LocalPlace().write(str(target), chunks())
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_ctrl_c_ends_a_copy_and_leaves_nothing_half_written(tree: AdminServer, spawn: Spawn, tmp_path: Path) -> None:
    process = spawn("fs", "cp", "-", "/d/never", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(bytes(4 << 20))  # more than a pipe holds: once it is through, the copy has begun
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert "/d/never" not in tree.files


def test_a_local_file_named_by_tilde_or_url_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert places.parse_end("~/a") == ("local", "/home/me/a")
    assert places.parse_end("file:///abs") == ("local", "/abs")
    assert places.parse_end("file:~/a") == ("local", "/home/me/a")
    assert places.parse_end("/x") == ("tree", "/x")
