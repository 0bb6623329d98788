import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.admin_server import STATUS, AdminServer
from cli.conftest import Command, Spawn
from forebay import __version__
from forebay.errors import Denied

INFO = {
    "mountpoint": "/mnt/fuse",
    "path": "/data",
    "mode": "passthrough",
    "mode_reason": "",
    "kind": "writable",
    "kernel_protocol": "7.45",
    "max_read_bytes": 1 << 20,
    "readahead_bytes": 4 << 20,
    "open_files": 2,
    "nodes": 1234,
    "requests": {"LOOKUP": 5, "READ": 7000},
    "served_from": {"page_cache": 3},
}

# ---------------------------------------------------------------- status, start, stop


def test_status_without_a_daemon_says_so_and_ends_with_3(home: Path, forebay: Command) -> None:
    ran = forebay("status")
    assert (ran.code, ran.lines[0].split(";")[0]) == (3, "no daemon runs")
    ran = forebay("status", "--json")
    assert (ran.code, ran.json) == (3, {"running": False})


def test_a_socket_that_nobody_listens_at_is_no_daemon(home: Path, forebay: Command) -> None:
    (home / "daemon.sock").touch()
    assert forebay("status").code == 3


def test_status_shows_how_the_daemon_is(admin: AdminServer, forebay: Command) -> None:
    lines = forebay("status").lines
    assert "daemon         runs, pid 4711, up 3 min 12 s" in lines
    assert "cache          250 B of 1000 B (25%), 3 files" in lines
    assert "reads    1,234" in lines
    assert not any("errors" in line for line in lines), "counters that never moved say nothing"
    assert forebay("status", "--json").json == {"running": True} | STATUS


def test_a_daemon_of_another_version_is_pointed_out(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/status"] = STATUS | {"version": "9.9"}
    assert (
        f"version        9.9, but this command is {__version__}: forebay stop && forebay start"
        in forebay("status").lines
    )


def test_start_finds_the_daemon_that_runs(admin: AdminServer, forebay: Command) -> None:
    assert forebay("start").lines == ["the daemon runs already: pid 4711, home /home/me/.forebay"]


def test_stop_asks_the_daemon_and_waits_for_its_lock(admin: AdminServer, forebay: Command) -> None:
    assert forebay("stop").lines == ["stopped: pid 4711"]
    assert admin.bodies("/v1/stop") == [{}]


def test_stop_without_a_daemon_is_no_failure(home: Path, forebay: Command) -> None:
    assert forebay("stop") == (0, b"no daemon runs\n", "")


# ---------------------------------------------------------------- config


def test_config_lists_every_setting_with_its_source(home: Path, forebay: Command) -> None:
    (home / "forebay.toml").write_text("ttl_s = 5\n")
    rows = {row["name"]: row for row in forebay("--set", "cache_policy=lru", "config", "--json").json}
    assert (rows["cache_policy"]["value"], rows["cache_policy"]["source"]) == ("lru", "flag")
    assert (rows["ttl_s"]["value"], rows["ttl_s"]["source"]) == ("5s", f"file {home}/forebay.toml")
    assert rows["home"]["source"] == "environment FOREBAY_HOME"
    assert rows["memory_bytes"]["source"] == "default"
    table = forebay("config").lines
    assert table[0].split() == ["setting", "value", "from"]
    assert len(table) == len(rows) + 1


def test_config_explains_one_setting(home: Path, forebay: Command) -> None:
    lines = forebay("config", "cache_reserve").lines
    assert lines[:2] == ["setting  cache_reserve", "value    0.1"]
    assert "always left free" in lines[-1]
    assert forebay("config", "nonsense").err.startswith("forebay: there is no setting 'nonsense'")


def test_a_flag_outranks_the_environment(home: Path, forebay: Command, tmp_path: Path) -> None:
    rows = {row["name"]: row for row in forebay("--home", str(tmp_path / "x"), "config", "--json").json}
    assert (rows["home"]["value"], rows["home"]["source"]) == (str(tmp_path / "x"), "flag")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--set", "cache_policy", "config"), 2, "write --set NAME=VALUE"),
        (("--set", "cache_polcy=lru", "config"), 1, "did you mean 'cache_policy'?"),
        (("--set", "ttl_s=soon", "status"), 1, "setting ttl_s: 'soon' is not a duration"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("fs", "ls", "--nonsense"), 2, "No such option"),
        (("fs", "stat"), 2, "Missing argument"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line_with_the_way_to_help(
    home: Path, forebay: Command, words: tuple[str, ...], code: int, message: str
) -> None:
    ran = forebay(*words)
    assert ran.code == code
    assert message in ran.err
    assert ("--help" in ran.err) == (code == 2)


def test_version_is_shown_with_and_without_dashes(home: Path, forebay: Command) -> None:
    assert forebay("version").lines == forebay("--version").lines == [f"forebay {__version__}"]
    assert forebay("version", "--json").json["version"] == __version__


# ---------------------------------------------------------------- help, completion, speed

COMMANDS = {
    (): ("start", "stop", "status", "daemon", "config", "doctor", "version"),
    ("fuse",): ("mount", "unmount", "stat"),
    ("fs",): (
        *("mkdir", "rmdir", "mount", "unmount", "mounts", "ls", "stat", "location", "du", "df"),
        *("cat", "head", "tail", "cp", "rm", "load", "free", "pin", "unpin", "refresh"),
    ),
}


@pytest.mark.parametrize("words", [(*group, name) for group, names in COMMANDS.items() for name in names])
def test_every_command_has_a_help_with_an_example_of_itself(
    home: Path, forebay: Command, words: tuple[str, ...]
) -> None:
    ran = forebay(*words, "--help")
    assert ran.code == 0
    text = ran.out.decode()
    assert "Example" in text
    assert " ".join(("forebay", *words)) in text.split("Example", 1)[1]


def test_forebay_fuse_is_the_same_as_forebay_fuse(admin: AdminServer, spawn: Spawn) -> None:
    admin.answers["/v1/fuse/mount"] = INFO
    process = spawn("mount", "/mnt/fuse", "/data", entry="run_fuse")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, b"/data on /mnt/fuse (passthrough)\n", b"")
    assert admin.bodies("/v1/fuse/mount") == [{"mountpoint": "/mnt/fuse", "path": "/data", "kind": "writable"}]


@pytest.mark.parametrize(("shell", "words"), [("bash", "forebay fs mo"), ("zsh", "forebay fs mo")])
def test_the_shell_can_complete_commands(home: Path, spawn: Spawn, shell: str, words: str) -> None:
    completion = {
        "_FOREBAY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": words,
    }
    process = spawn(env=dict(os.environ) | completion)
    out, _ = process.communicate(timeout=20)
    assert b"mount" in out
    assert b"mounts" in out


def test_the_command_line_loads_no_store_client_and_no_event_loop(home: Path) -> None:
    code = "import sys, forebay.cli.main; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode().split()
    heavy = {"aiohttp", "asyncio", "obstore", "opendal", "botocore", "structlog", "sqlite3", "rich"}
    assert not heavy & set(loaded)


# ---------------------------------------------------------------- errors


def test_an_error_of_the_daemon_is_one_line_and_1(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/fs/mounts"] = Denied("the store \x1b[31mdenies")
    assert forebay("fs", "mounts") == (1, b"", "forebay: the store \\e[31mdenies\n")


def test_a_bug_is_one_line_and_its_trace_is_in_a_file(
    admin: AdminServer, forebay: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    admin.answers["/v1/fs/df"] = [{"nonsense": 1}]
    ran = forebay("fs", "df")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("forebay: unexpected KeyError")
    assert "Traceback" in Path(ran.err.split(" details are in ")[1].strip()).read_text()


def test_debug_shows_where_a_failure_arose(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/fs/mounts"] = Denied("no")
    ran = forebay("--debug", "fs", "mounts")
    assert "Traceback" in ran.err
    assert ran.err.endswith("forebay: no\n")


def test_ctrl_c_ends_with_130_and_without_a_trace(admin: AdminServer, spawn: Spawn) -> None:
    asked, release = threading.Event(), threading.Event()

    def lines() -> Iterator[dict[str, Any]]:
        asked.set()
        release.wait(20)
        return iter(())

    admin.streams["/v1/fs/list"] = lines
    process = spawn("fs", "ls")
    assert asked.wait(20)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    release.set()
    assert (process.returncode, err) == (130, b"")


# ---------------------------------------------------------------- fuse


def test_a_local_folder_is_passed_on_as_an_absolute_path(admin: AdminServer, forebay: Command, tmp_path: Path) -> None:
    admin.answers["/v1/fuse/mount"] = INFO
    assert forebay("fuse", "mount", "mnt", "/data").lines == ["/data on /mnt/fuse (passthrough)"]
    assert forebay("fuse", "mount", "/mnt/fuse", "--json").json == INFO
    forebay("fuse", "unmount", "mnt")
    forebay("fuse", "unmount", "--force", "mnt/")
    assert admin.bodies("/v1/fuse/mount") == [
        {"mountpoint": str(tmp_path / "mnt"), "path": "/data", "kind": "writable"},
        {"mountpoint": "/mnt/fuse", "path": "/", "kind": "writable"},
    ]
    assert [body["force"] for body in admin.bodies("/v1/fuse/unmount")] == [False, True]


@pytest.mark.parametrize("kind", ["readonly", "small-files"])
def test_what_a_local_folder_is_made_for_is_passed_on_and_shown(
    kind: str, admin: AdminServer, forebay: Command
) -> None:
    said = kind.replace("-", " ")
    admin.answers["/v1/fuse/mount"] = INFO | {"kind": said}
    shown = forebay("fuse", "mount", f"--{kind}", "/mnt/fuse", "/data").lines
    assert admin.bodies("/v1/fuse/mount") == [{"mountpoint": "/mnt/fuse", "path": "/data", "kind": said}]
    assert shown == [f"/data on /mnt/fuse (passthrough, {said})"]


def test_why_there_is_no_passthrough_is_said(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/fuse/mount"] = INFO | {"mode": "page cache", "mode_reason": "kernel 6.1 does not know it"}
    ran = forebay("fuse", "mount", "/mnt/fuse", "/data")
    assert ran.err == "forebay: cached files are read through the page cache: kernel 6.1 does not know it\n"


def test_fuse_stat_lists_mounts_or_details_one(admin: AdminServer, forebay: Command) -> None:
    assert "nothing is mounted" in forebay("fuse", "stat").err
    admin.answers["/v1/fuse"] = [INFO]
    assert forebay("fuse", "stat").lines[1].split() == ["/mnt/fuse", "/data", "passthrough", "2", "1,234", "7,005"]
    lines = forebay("fuse", "stat", "/mnt/fuse/").lines
    assert "largest read     1.0 MiB" in lines
    assert lines.index("READ     7,000") < lines.index("LOOKUP       5")
    assert "page cache       3" in lines
    assert "is not mounted at /other" in forebay("fuse", "stat", "/other").err
    assert forebay("fuse", "stat", "--json").json == [INFO]
