"""`forebay top`, `forebay report` and `forebay bench`: what they make of what the daemon says."""

import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pyte
import pytest
from PIL import Image

from cli.admin_server import AdminServer
from cli.conftest import CODE, Command
from forebay.cli import bench
from forebay.cli.bench import Pass, sentences
from forebay.cli.loader import Work, read_all
from forebay.cli.top import view
from forebay.errors import FsError, Unavailable
from forebay.observe.series import Row
from forebay.testing.daemons import wait_until
from forebay.units import GIB, MIB

EVIL = "/data/\x1b[2J\x1b[31mred\n\udcff"
QUIET = dict.fromkeys(
    ("hits", "misses", "read_from_store", "read_from_cache", "read_from_memory", "bytes_from_store"), 0
)
STATES = dict.fromkeys(("readers_waiting", "prefetching", "open_files", "cached_bytes", "uploads"), 0)


def mount(path: str = "/training-data/imagenet", **numbers: float) -> dict[str, Any]:
    return {"path": path, **QUIET, **STATES, "stall_s": 0.0, "stalled_s": 0.0} | numbers


def activity(*mounts: dict[str, Any], at_s: float = 100.0, evicted: int = 0) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "rss_bytes": 64 * MIB,
        "mounts": list(mounts),
        "stores": [{"location": "s3://b", "requests": 12, "readers_waiting": 3, "background_waiting": 40}],
        "cache": {"capacity_bytes": 4 * GIB, "used_bytes": GIB, "files": 1200, "files_evicted": evicted},
    }


# ---------------------------------------------------------------- top


def test_rates_are_the_difference_of_two_looks_over_their_time() -> None:
    before = activity(mount(hits=10, read_from_cache=100 * MIB, stalled_s=5.0), at_s=100.0, evicted=10)
    after = activity(
        mount(hits=40, misses=10, read_from_cache=300 * MIB, read_from_store=20 * MIB, stalled_s=6.0, open_files=7),
        at_s=102.0,
        evicted=30,
    )
    seen = view(before, after)
    (shown,) = seen.mounts
    assert (shown.hit_share, shown.opens) == (0.75, 20.0)
    assert (shown.from_cache, shown.from_store) == (100 * MIB, 10 * MIB)
    assert (shown.stalled_share, shown.open_files) == (0.5, 7)
    assert (seen.files_evicted, seen.files_evicted_ever, seen.requests, seen.ahead_queued) == (10.0, 30, 12, 40)


def test_a_mount_that_was_made_again_begins_at_nothing() -> None:
    before, after = activity(mount(hits=1000)), activity(mount(hits=3), mount("/new", hits=5), at_s=101.0)
    assert [each.opens for each in view(before, after).mounts] == [3.0, 5.0]


def test_in_a_pipe_top_shows_one_time_without_escape_codes(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/activity"] = activity(mount(cached_bytes=GIB), mount(EVIL))
    ran = forebay("top", "--every", "100ms")
    assert ran.code == 0
    assert b"\x1b" not in ran.out
    assert "cache     1.0 GiB of 4.0 GiB (25%), 1,200 files" in ran.lines
    assert "requests  12 under way; 3 of readers and 40 ahead of them wait" in ran.lines
    table = ran.lines[ran.lines.index("") + 1 :]
    assert table[0].split()[:5] == ["mount", "hits", "cache/s", "store/s", "waited"]
    assert table[1].split()[:2] == ["/training-data/imagenet", "-"]
    assert table[2].startswith(r"$'/data/\e[2J\e[31mred\n\xff'")
    shown = forebay("top", "--json", "--every", "100ms").json
    assert [each["path"] for each in shown["mounts"]] == ["/training-data/imagenet", EVIL]


def test_top_says_when_nothing_is_mounted_and_refuses_to_look_all_the_time(
    admin: AdminServer, forebay: Command
) -> None:
    admin.answers["/v1/activity"] = activity()
    assert "nothing is mounted" in forebay("top", "--every", "100ms").err
    assert forebay("top", "--every", "1ms").code == 2


class Terminal:
    """A terminal of so many columns with a command in it."""

    def __init__(self, columns: int, *words: str) -> None:
        self._screen = pyte.Screen(columns, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._main, child = pty.openpty()
        ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        os.set_blocking(self._main, False)
        self.before = termios.tcgetattr(self._main)
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        command = [sys.executable, "-c", CODE.format(entry="run"), *words]
        self.process = subprocess.Popen(
            command,
            env=environ | {"TERM": "xterm-256color"},
            stdin=child,
            stdout=child,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._child = child

    def lines(self) -> list[str]:
        """What it shows now."""
        try:
            while data := os.read(self._main, 65536):
                self._stream.feed(data)
        except BlockingIOError:
            pass
        return [line.rstrip() for line in self._screen.display]

    def shows(self, text: str) -> Callable[[], bool]:
        return lambda: any(text in line for line in self.lines())

    def press(self, key: bytes) -> None:
        os.write(self._main, key)

    def settings(self) -> list[Any]:
        """How the terminal is set: a command must leave it as it was."""
        return termios.tcgetattr(self._main)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._main)
        os.close(self._child)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(columns: int, *words: str) -> Terminal:
        opened.append(Terminal(columns, *words))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_narrow_terminal_shows_what_matters_and_a_wide_one_all(
    admin: AdminServer, terminal: Callable[..., Terminal]
) -> None:
    busy = mount("/training-data/" + "imagenet" * 5, open_files=12, prefetching=48, cached_bytes=GIB)
    admin.answers["/v1/activity"] = activity(busy, mount(EVIL))
    heads = {}
    for columns in (80, 200):
        top = terminal(columns, "top", "--every", "100ms")
        wait_until(top.shows("q ends"), "the picture is drawn")
        lines = top.lines()
        row = next(number for number, line in enumerate(lines) if line.startswith("mount "))
        heads[columns] = lines[row].split()
        assert lines[0] == "cache     1.0 GiB of 4.0 GiB (25%), 1,200 files"
        assert lines[row + 1].split()[0].endswith("imagenet"), "the end of a path tells it from others"
        assert (lines[row + 1][0] == "…") == (columns == 80), "only the path is cut"
        assert lines[row + 1].split()[-1] == ("12" if columns == 80 else "0")
        assert r"$'/data/\e[2J" in lines[row + 2]
        top.press(b"q")
        assert top.process.wait(timeout=20) == 0
        assert top.settings() == top.before
    assert heads[80] == ["mount", "hits", "cache/s", "store/s", "waited", "ahead", "open"]
    assert heads[200][:7] == heads[80]
    assert heads[200][7:] == ["memory/s", "fetched/s", "opens/s", "waiting", "cached", "uploads"]


def test_ctrl_c_ends_top_and_leaves_the_terminal_as_it_was(
    admin: AdminServer, terminal: Callable[..., Terminal]
) -> None:
    admin.answers["/v1/activity"] = activity(mount())
    top = terminal(80, "top")
    wait_until(top.shows("q ends"), "the picture is drawn")
    top.process.send_signal(signal.SIGINT)
    assert top.process.wait(timeout=20) == 0
    assert top.settings() == top.before


def test_top_ends_with_a_message_when_the_daemon_does(admin: AdminServer, terminal: Callable[..., Terminal]) -> None:
    admin.answers["/v1/activity"] = activity(mount())
    top = terminal(80, "top", "--every", "100ms")
    wait_until(top.shows("q ends"), "the picture is drawn")
    admin.answers["/v1/activity"] = Unavailable("the daemon is stopping")
    assert top.process.wait(timeout=20) == 1
    assert top.process.stderr is not None
    assert top.process.stderr.read() == b"forebay: the daemon is stopping\n"
    assert top.settings() == top.before


# ---------------------------------------------------------------- report

ROWS = [
    *(Row(10.0 * n, 10.0, 0, 100, from_store=100 * MIB, fetched=100 * MIB, stalled_s=9.0) for n in range(1, 5)),
    *(Row(10.0 * n, 10.0, 400, 0, from_cache=400 * MIB) for n in range(5, 9)),
]


def history(rows: list[Row], **numbers: float) -> dict[str, Any]:
    known = mount(opened_files=4000, opened_bytes=4000 * MIB, cached_bytes=1000 * MIB) | numbers
    return {"at_s": 100.0, "capacity_bytes": 2 * GIB, "columns": Row._fields, "mounts": [known | {"rows": rows}]}


def test_the_report_tells_the_phases_and_what_they_mean(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/activity/history"] = history(ROWS)
    ran = forebay("report", "--mount", "/training-data/imagenet", "--since", "1h")
    assert admin.bodies("/v1/activity/history") == [{"since_s": "3600", "path": "/training-data/imagenet"}]
    assert ran.lines == [
        "/training-data/imagenet, the last 1 h: 1 min 20 s of reading and computing, 2.0 GiB read (25.0 MiB/s)",
        "",
        "phase            time        read  from cache  from store  from memory  readers waited",
        "store-bound    40.0 s  10.0 MiB/s       0 B/s  10.0 MiB/s        0 B/s             90%",
        "compute-bound  40.0 s  40.0 MiB/s  40.0 MiB/s       0 B/s        0 B/s              0%",
        "",
        "Data is the bottleneck: readers waited for the store in 45% of the time.",
        "The cache gave 80% of the bytes read.",
        "With all of it cached it would be 1.6 times as fast, from 25.0 MiB/s to 40.0 MiB/s.",
        "95% of that takes a cache of 2.9 GiB. 1000.0 MiB of this mount are cached; 3.9 GiB of different files were "
        "opened.",
        "The cache may hold 2.0 GiB: give it more with the setting cache_dirs.",
    ]


def test_a_training_that_never_waited_is_told_so(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/activity/history"] = history(ROWS[4:])
    said = "\n".join(forebay("report").lines)
    assert "The store is not the bottleneck: readers waited for the store in 0% of the time." in said
    assert "A larger cache would not make it faster." in said


@pytest.mark.parametrize(("stalled_s", "said"), [(5.0, "up to 2.0 times as fast"), (10.0, "how much shows once")])
def test_what_cannot_be_known_is_not_told_as_known(
    admin: AdminServer, forebay: Command, stalled_s: float, said: str
) -> None:
    admin.answers["/v1/activity/history"] = history([row._replace(stalled_s=stalled_s) for row in ROWS[:4]])
    assert said in "\n".join(forebay("report").lines)


def test_on_a_terminal_no_word_is_cut(admin: AdminServer, terminal: Callable[..., Terminal]) -> None:
    admin.answers["/v1/activity/history"] = history(ROWS)
    narrow = terminal(60, "report")
    wait_until(narrow.shows("cache_dirs"), "the report is there")
    lines = narrow.lines()
    begin = lines.index("Data is the bottleneck: readers waited for the store in 45%")
    assert lines[begin + 1] == "of the time."


def test_the_report_for_programs_has_the_same_numbers(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/activity/history"] = history(ROWS)
    (found,) = forebay("report", "--json").json
    assert found["path"] == "/training-data/imagenet"
    assert found["is_data_bound"] is True
    assert [(each["name"], each["begin_ago_s"], each["seconds"]) for each in found["stretches"]] == [
        ("store-bound", 100.0, 40.0),
        ("compute-bound", 60.0, 40.0),
    ]


def test_where_nothing_was_read_the_report_says_so(admin: AdminServer, forebay: Command) -> None:
    admin.answers["/v1/activity/history"] = history([])
    assert forebay("report").lines == ["nothing was read in the last 10 min"]
    assert forebay("report", "--since", "2d").code == 2


# ---------------------------------------------------------------- bench


def test_bench_says_how_to_get_a_local_folder_if_none_shows_the_path(admin: AdminServer, forebay: Command) -> None:
    admin.files["/data/a"] = b"a"
    ran = forebay("bench", "train", "/data", "--no-decode")
    assert (ran.code, ran.err) == (
        1,
        "forebay: no local folder shows /data, and a training reads one: forebay fuse mount MOUNTPOINT /data\n",
    )
    assert "give a folder" in forebay("bench", "train", "/data/a", "--no-decode").err
    assert "is in no local folder of Forebay" in forebay("bench", "train", "here", "--no-decode").err


def test_bench_says_of_a_folder_of_this_machine_that_forebay_does_not_show_it(
    admin: AdminServer, forebay: Command, tmp_path: Path
) -> None:
    ran = forebay("bench", "train", str(tmp_path))
    assert (ran.code, ran.err.count("\n")) == (1, 1), "and nothing else before"
    assert f"{tmp_path} is neither in a local folder of Forebay (forebay fuse stat lists them) nor" in ran.err


def passes(**rates: tuple[float, float]) -> dict[str, Pass]:
    """By place, files per second and the share of time that went by in reading."""
    return {
        place: Pass(place, int(rate * 10), 1000, int(rate * 10), 10.0, 20 * share, 20 * (1 - share))
        for place, (rate, share) in rates.items()
    }


def test_bench_says_in_a_sentence_what_the_figures_mean() -> None:
    found = list(sentences(passes(store=(10, 0.9), cold=(20, 0.8), warm=(100, 0.1), local=(125, 0.1))))
    assert found == [
        "Cached, it is read 10.0 times as fast as from the store, and at 80% of the local disk; "
        "the first epoch at 2.0 times the store.",
        "Once cached, decoding is what takes the time: more workers help, a faster disk does not.",
    ]
    undecoded = {name: Pass(name, 10, 10, 0, 1.0, 1.0, 0.0) for name in ("store", "cold", "warm", "local")}
    assert len(list(sentences(undecoded))) == 1


def test_a_file_that_cannot_be_read_ends_a_worker_with_the_reason(tmp_path: Path) -> None:
    with bench.Loader(Work([str(tmp_path / "gone")], batch=1, decode=False, seconds=10.0)) as worker:
        assert worker.answer() == "ready"
        worker.tell("go")
        with pytest.raises(FsError, match="No such file or directory"):
            worker.answer()


def test_a_worker_begins_no_batch_after_its_time_and_says_how_far_it_came(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"12345")
    names = [str(tmp_path / name) for name in "abc"]
    done = read_all(Work(names, batch=2, decode=False, seconds=10.0), lambda: False)
    assert (done.files, done.size, done.pictures) == (3, 15, 0)
    asked = iter([False, True])
    done = read_all(Work(names, batch=2, decode=False, seconds=10.0), lambda: next(asked))
    assert (done.files, done.size) == (2, 10)
    assert read_all(Work(names, batch=2, decode=False, seconds=-1.0), lambda: False).files == 0


def test_a_damaged_picture_is_read_and_not_decoded(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.frombytes("RGB", (64, 48), os.urandom(64 * 48 * 3)).save(data, "JPEG")
    for name, content in {"whole": data.getvalue(), "cut": data.getvalue()[:-500], "none": b"words"}.items():
        (tmp_path / name).write_bytes(content)
    names = [str(tmp_path / name) for name in ("whole", "cut", "none")]
    done = read_all(Work(names, batch=3, decode=True, seconds=60.0), lambda: False)
    assert (done.files, done.pictures) == (3, 1)


def test_the_help_is_broken_by_the_terminal_alone(forebay: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for words in (("fs", "cp"), ("bench", "train")):
        lines = [line.strip() for line in forebay(*words, "--help").out.decode().splitlines()]
        prose = lines[: next(number for number, line in enumerate(lines) if "Arguments" in line)]
        assert all(line.endswith(".") for line in prose if line and not line.startswith("Usage")), prose


def test_no_line_of_help_is_an_option_without_words(forebay: Command, home: Path) -> None:
    for words in (("top",), ("report",), ("bench", "train")):
        assert re.search(r"Example", forebay(*words, "--help").out.decode())
