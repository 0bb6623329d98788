"""The daemon's life, with real processes: start, stop, crash, and what must outlast each."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from daemon.conftest import needs_fuse
from forebay.testing.daemons import RunForebay, daemon_pid, forebay_command, mountpoints, wait_until

TREE_FILE = "/data/in/a.txt"


def read_from_child(path: Path) -> bytes:
    """Never from this process alone: a mount whose daemon is dead must not hang the test."""
    return subprocess.run(["cat", path], capture_output=True, timeout=20, check=True).stdout


# ---------------------------------------------------------------- start, status, stop


def test_start_status_and_stop_tell_of_one_daemon(forebay: RunForebay, forebay_home: Path) -> None:
    assert forebay("status").code == 3
    assert forebay("start").lines == [f"started: pid {daemon_pid(forebay_home)}, home {forebay_home}"]
    assert forebay("start").lines[0].startswith("the daemon runs already")
    status = forebay("status", "--json").json
    assert (status["running"], status["pid"]) == (True, daemon_pid(forebay_home))
    assert status["rss_bytes"] > 0
    assert forebay("stop").lines == [f"stopped: pid {status['pid']}"]
    assert daemon_pid(forebay_home) is None
    assert forebay("stop").lines == ["no daemon runs"]


def test_the_first_command_that_needs_a_daemon_starts_it(forebay: RunForebay, forebay_home: Path) -> None:
    assert forebay("fs", "mounts").code == 0
    assert daemon_pid(forebay_home) is not None


def test_commands_that_start_at_once_share_one_daemon(forebay_home: Path) -> None:
    commands = [subprocess.Popen(forebay_command("fs", "mkdir", f"/{n}"), stderr=subprocess.PIPE) for n in range(4)]
    for command in commands:
        assert command.communicate(timeout=60)[1] == b""
    assert (forebay_home / "daemon.log").read_text().count("daemon.ready") == 1


def test_a_second_daemon_of_one_home_is_refused_with_the_pid_of_the_first(
    forebay: RunForebay, forebay_home: Path
) -> None:
    forebay("start")
    ran = forebay("daemon")
    assert ran.code == 1
    assert f"forebay: another daemon (pid {daemon_pid(forebay_home)}) serves {forebay_home}" in ran.err


def test_a_daemon_that_is_killed_while_it_starts_is_no_obstacle(forebay: RunForebay, forebay_home: Path) -> None:
    with subprocess.Popen(forebay_command("daemon"), stderr=subprocess.DEVNULL) as early:
        wait_until(lambda: daemon_pid(forebay_home) is not None, "it holds the lock")
        early.send_signal(signal.SIGKILL)
    assert forebay("fs", "mounts").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_foreground_daemon_logs_to_stderr_and_ends_by_signal(forebay_home: Path, number: signal.Signals) -> None:
    with subprocess.Popen(forebay_command("daemon"), stderr=subprocess.PIPE) as daemon:
        assert daemon.stderr is not None
        lines: list[bytes] = []
        while b"daemon.ready" not in (line := daemon.stderr.readline()):
            assert line, lines
            lines.append(line)
        assert daemon.pid == daemon_pid(forebay_home)  # exec'ed in place: a service manager signals the right one
        daemon.send_signal(number)
        assert daemon.wait(timeout=20) == 0
        assert b"daemon.stopped" in daemon.stderr.read()


def test_a_service_manager_is_told_when_the_daemon_is_ready(
    forebay_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.settimeout(20)
        notified.bind(str(forebay_home / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(forebay_home / "notify"))
        with subprocess.Popen(forebay_command("daemon"), stderr=subprocess.DEVNULL) as daemon:
            assert notified.recv(100) == b"READY=1"
            daemon.send_signal(signal.SIGTERM)
            assert notified.recv(100) == b"STOPPING=1"


# ---------------------------------------------------------------- who may do what


def test_everything_in_the_home_is_for_its_user_alone(forebay: RunForebay, mounted: Path, forebay_home: Path) -> None:
    for path in forebay_home.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((forebay_home / "daemon.sock").stat().st_mode) == 0o600


def test_a_home_that_is_made_is_private_whatever_the_umask(forebay: RunForebay, forebay_home: Path) -> None:
    forebay_home.rmdir()
    before = os.umask(0)
    try:
        assert forebay("start").code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(forebay_home.stat().st_mode) == 0o700
    assert stat.S_IMODE((forebay_home / "control.db").stat().st_mode) == 0o600


def test_a_home_that_others_can_write_to_is_refused(forebay: RunForebay, forebay_home: Path) -> None:
    forebay_home.chmod(0o777)
    ran = forebay("start")
    assert (ran.code, "chmod 0700" in ran.err) == (1, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted by root")
def test_a_home_on_a_full_disk_is_named(forebay: RunForebay, forebay_home: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "forebay-test", str(forebay_home)], check=True)
    try:
        with contextlib.suppress(OSError), (forebay_home / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        ran = forebay("start")
        assert ran.code == 1
        assert f"the home folder {forebay_home} cannot be written: No space left on device" in ran.err
    finally:
        subprocess.run(["umount", "-l", str(forebay_home)], check=True)


def test_the_daemon_holds_no_descriptor_and_no_folder_of_its_starter(forebay: RunForebay, forebay_home: Path) -> None:
    with (forebay_home.parent / "mine").open("w") as mine:
        os.set_inheritable(mine.fileno(), True)
        subprocess.run(forebay_command("start"), cwd=forebay_home.parent, close_fds=False, timeout=60, check=True)
        proc = Path("/proc") / str(daemon_pid(forebay_home))
        opened = [os.readlink(fd) for fd in (proc / "fd").iterdir()]
        assert not [name for name in opened if name.endswith("/mine")]
        assert os.readlink(proc / "fd" / "0") == "/dev/null"
        assert os.readlink(proc / "cwd") == "/"


def test_the_daemon_may_open_as_many_files_as_the_system_lets_it(forebay: RunForebay, forebay_home: Path) -> None:
    subprocess.run(["bash", "-c", 'ulimit -Sn 256; exec "$@"', "bash", *forebay_command("start")], check=True)
    limits = Path(f"/proc/{daemon_pid(forebay_home)}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert soft == hard


# ---------------------------------------------------------------- restart and crash


def test_the_tree_outlasts_a_restart(forebay: RunForebay, mounted: Path) -> None:
    forebay("fs", "load", "/data")
    forebay("stop")
    assert forebay("fs", "cat", TREE_FILE).out == b"hello\n"
    assert forebay("fs", "ls", "-l", TREE_FILE).lines[0].split()[2] == "100%"


@needs_fuse
def test_after_kill_9_the_next_command_brings_the_mounts_back(
    forebay: RunForebay, mounted: Path, forebay_home: Path
) -> None:
    at = forebay_home.parent / "mnt"
    at.mkdir()
    assert forebay("mount", str(at), "/data", entry="forebay-fuse").code == 0
    assert read_from_child(at / "in" / "a.txt") == b"hello\n"
    pid = daemon_pid(forebay_home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: daemon_pid(forebay_home) is None, "it is dead")
    assert (forebay_home / "daemon.sock").exists()
    assert forebay("fs", "mounts", "--json").json[0]["path"] == "/data/in"
    assert mountpoints(forebay_home.parent) == [str(at)]
    assert read_from_child(at / "in" / "sub" / "big") == (mounted / "sub" / "big").read_bytes()
    assert [info["mountpoint"] for info in forebay("fuse", "stat", "--json").json] == [str(at)]


@needs_fuse
def test_a_stop_unmounts_and_the_next_start_mounts_again(
    forebay: RunForebay, mounted: Path, forebay_home: Path
) -> None:
    at = forebay_home.parent / "mnt"
    at.mkdir()
    forebay("fuse", "mount", str(at), "/data")
    pid = daemon_pid(forebay_home)
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: daemon_pid(forebay_home) is None, "SIGTERM ends it")
    assert mountpoints(forebay_home.parent) == []
    forebay("start")
    assert read_from_child(at / "in" / "a.txt") == b"hello\n"
    assert forebay("fuse", "unmount", str(at)).code == 0
    assert mountpoints(forebay_home.parent) == []


def test_a_stop_lets_a_read_end_that_has_begun(forebay: RunForebay, mounted: Path, forebay_home: Path) -> None:
    content = os.urandom(32 << 20)  # more than the socket and the pipe hold
    (mounted / "long").write_bytes(content)
    reader = subprocess.Popen(forebay_command("fs", "cat", "/data/in/long"), stdout=subprocess.PIPE)
    with reader:
        assert reader.stdout is not None
        start = reader.stdout.read(1000)
        stopping = subprocess.Popen(forebay_command("stop"), stdout=subprocess.DEVNULL)
        wait_until(lambda: not (forebay_home / "daemon.sock").exists(), "it takes no new requests")
        assert start + reader.stdout.read() == content
        assert stopping.wait(timeout=30) == 0
    assert reader.returncode == 0


def test_a_command_during_a_stop_waits_and_gets_a_new_daemon(
    forebay: RunForebay, mounted: Path, forebay_home: Path
) -> None:
    (mounted / "long").write_bytes(bytes(32 << 20))
    first = daemon_pid(forebay_home)
    with subprocess.Popen(forebay_command("fs", "cat", "/data/in/long"), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.read(1000)
        os.kill(first or 0, signal.SIGTERM)
        wait_until(lambda: not (forebay_home / "daemon.sock").exists(), "it stops")
        with subprocess.Popen(forebay_command("fs", "cat", TREE_FILE), stdout=subprocess.PIPE) as second:
            reader.stdout.read()
            assert second.communicate(timeout=60)[0] == b"hello\n"
    assert daemon_pid(forebay_home) not in (first, None)


def test_a_load_is_told_of_a_stop_and_goes_on_afterwards(forebay: RunForebay, mounted: Path) -> None:
    for number in range(3_000):
        (mounted / f"{number:04}").write_bytes(b"x")
    load = subprocess.Popen(
        forebay_command("fs", "load", "--parallel", "1", "/data"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with load:
        wait_until(lambda: forebay("status", "--json").json["cache"]["files"] > 0, "the load has begun")
        began = time.monotonic()
        assert forebay("stop").code == 0
        assert time.monotonic() - began < 20, "a stop must not wait for a load"
        _, err = load.communicate(timeout=30)
    if load.returncode:  # it may have been quicker than the stop
        assert b"the daemon is stopping; run the command again to go on" in err
    assert forebay("fs", "load", "/data").lines[0].startswith("3,002 files")


# ---------------------------------------------------------------- what keeps a daemon from starting


def test_a_damaged_control_database_stops_the_start_and_is_kept(
    forebay: RunForebay, mounted: Path, forebay_home: Path
) -> None:
    forebay("stop")
    rubbish = os.urandom(8192)
    (forebay_home / "control.db").write_bytes(rubbish)
    ran = forebay("fs", "mounts")
    assert ran.code == 1
    assert ran.err.startswith("forebay: the daemon cannot start: the control database")
    assert "restore it from a backup" in ran.err
    assert (forebay_home / "control.db").read_bytes() == rubbish


def test_a_damaged_cache_index_costs_only_warmth(forebay: RunForebay, mounted: Path, forebay_home: Path) -> None:
    forebay("fs", "load", "/data")
    forebay("stop")
    (forebay_home / "cache" / "index.db").write_bytes(os.urandom(8192))
    assert forebay("fs", "cat", TREE_FILE).out == b"hello\n"


def test_a_cache_folder_that_cannot_be_used_is_named(forebay: RunForebay) -> None:
    ran = forebay("--set", "cache_dirs=/proc/nowhere:1GiB", "start")
    assert ran.code == 1
    assert "the cache folder /proc/nowhere cannot be used" in ran.err
    assert "cache_dirs" in ran.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('cache_polcy = "lru"', "did you mean 'cache_policy'?"),
        ('cache_policy = "fifo"', "cache_policy must be 'keep', 'lru' or 's3fifo', got 'fifo'"),
        ('memory_bytes = "lots"', "setting memory_bytes: 'lots' is not a size; write for example 512MiB or 200GB"),
        ("ttl_s = [1]", "setting ttl_s: expected text, found [1]"),
        ("= 1", "is not a TOML file"),
    ],
)
def test_a_wrong_settings_file_is_told_with_its_path(
    forebay: RunForebay, forebay_home: Path, text: str, words: str
) -> None:
    (forebay_home / "forebay.toml").write_text(text)
    ran = forebay("start")
    assert ran.code == 1
    assert words in ran.err
    assert str(forebay_home / "forebay.toml") in ran.err
    assert ran.err.count("\n") == 1


def test_settings_of_the_command_that_starts_the_daemon_reach_it(forebay: RunForebay, forebay_home: Path) -> None:
    other = forebay_home.parent / "ssd"
    ran = forebay("--set", f"cache_dirs={other}:100MiB", "--set", "cache_reserve=0", "fs", "df", "--json")
    assert [(info["directory"], info["capacity_bytes"]) for info in ran.json] == [(str(other), 100 << 20)]


def test_a_flag_that_a_running_daemon_does_not_follow_is_told(forebay: RunForebay) -> None:
    forebay("--set", "ttl_s=5m", "start")
    for command in (("start",), ("fs", "df")):
        ran = forebay("--set", "ttl_s=7m", "--set", "cache_policy=keep", *command)
        assert ran.code == 0
        assert ran.err.startswith("forebay: --set ttl_s: no effect on the daemon that runs already; forebay stop first")
    assert forebay("--set", "ttl_s=300s", "fs", "df").err == "", "it runs with that value"
