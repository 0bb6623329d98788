import io
import subprocess
import sys

import pytest

from forebay.cli.output import harmless, put_facts, put_json_list, put_table, quote_name
from forebay.cli.progress import BarProgress, Done, LineProgress, open_progress
from forebay.clock import FakeClock

COLUMNS = (("name", "left"), ("size", "right"))


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def make_terminal(monkeypatch: pytest.MonkeyPatch, name: str) -> io.BytesIO:
    """Put a terminal in the place of a standard stream; what it shows.  In the test itself: pytest resets it before."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, name, Terminal(raw, write_through=True))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    return raw


def test_a_table_in_a_pipe_is_never_cut(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    put_table(COLUMNS, [("n" * 300, "1"), ("b", "22")])
    lines = capsysbinary.readouterr().out.decode().splitlines()
    assert lines == ["name".ljust(302) + "size", "n" * 300 + "     1", "b".ljust(302) + "  22"]


def test_a_table_on_a_terminal_folds_and_shows_no_control_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = make_terminal(monkeypatch, "stdout")
    put_table(COLUMNS, [("n" * 60, "1"), ("\x1b[2Jevil [bold]", "2")])
    text = terminal.getvalue().decode()
    assert text.count("n" * 20) >= 2
    assert "[2J" in text
    assert "\x1b[2J" not in text
    assert "[bold]" in text


def test_an_empty_table_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    put_table(COLUMNS, [], empty="nothing here")
    assert capsys.readouterr() == ("", "forebay: nothing here\n")


def test_facts_without_value_are_left_out(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    put_facts({"a": 1, "long": "x\ny", "none": None})
    assert capsysbinary.readouterr().out == b"a     1\nlong  $'x\\ny'\n"


def test_a_json_list_is_written_item_by_item(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    put_json_list([])
    put_json_list([{"a": "\udcff"}, 2])
    assert capsysbinary.readouterr().out == b'[\n]\n[\n  {"a": "\\udcff"},\n  2\n]\n'


@pytest.mark.parametrize("name", ["plain", "a b", "x\ty", "it's\n", "\udcff", "\x1b[31m", "uml\u00e4ut", "\u202e"])
def test_quoted_names_are_harmless_and_bash_reads_them_back(name: str) -> None:
    quoted = quote_name(name)
    assert quoted.isprintable()
    if quoted != name:
        command = f"printf %s {quoted}".encode()
        back = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
        assert back == name.encode("utf-8", "surrogateescape")


def test_messages_keep_their_lines_and_lose_their_control_characters() -> None:
    assert harmless("one\ntwo\x07") == "one\ntwo\\x07"


# ---------------------------------------------------------------- progress


def test_work_that_is_soon_done_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    with LineProgress("loading", clock) as progress:
        clock.advance(4.9)
        progress.update(Done(1, 1))
    assert capsys.readouterr().err == ""


def test_plain_lines_come_every_few_seconds_with_rate_and_totals(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    with LineProgress("loading", clock) as progress:
        for number in range(1, 13):
            clock.advance(1)
            progress.update(Done(number, number << 20, 100, 200 << 20))
    assert capsys.readouterr().err.splitlines() == [
        "forebay: loading: 5 of 100 files, 5.0 MiB of 200.0 MiB, 1.0 MiB/s",
        "forebay: loading: 10 of 100 files, 10.0 MiB of 200.0 MiB, 1.0 MiB/s",
    ]


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = make_terminal(monkeypatch, "stderr")
    monkeypatch.setenv("COLUMNS", "100")
    clock = FakeClock()
    progress = open_progress("copying", clock)
    assert isinstance(progress, BarProgress)
    with progress:
        clock.advance(1)
        progress.update(Done(3, 3 << 20, 10, 10 << 20))
    text = raw.getvalue().decode()
    assert "copying" in text
    assert "3/10 files  3.0 MiB  3.0 MiB/s" in text


def test_a_pipe_gets_lines() -> None:
    assert isinstance(open_progress("copying"), LineProgress)
