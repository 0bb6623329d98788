"""The checker finds what a writer was promised, and every way in which it can be broken."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forebay.testing.killing import MODES, NAMES, Step, Writer, check_folder, steps_of

STEPS = 13


def run(*words: str | Path, lines: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "forebay.testing.killing", *map(str, words)]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=False)


def written(folder: Path, mode: str) -> list[Step]:
    ran = run("write", folder, mode, "--steps", str(STEPS), "--seed", "4")
    assert ran.returncode == 0, ran.stderr
    return steps_of(ran.stdout)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_acknowledged_is_found(tmp_path: Path, mode: str) -> None:
    steps = written(tmp_path, mode)
    assert [step.number for step in steps] == list(range(STEPS))
    assert check_folder(steps, tmp_path) == ([], [])
    assert check_folder(steps[:-3], tmp_path) == ([], []), "later steps may show too"
    assert len(list(tmp_path.iterdir())) == {"files": STEPS, "append": 1}.get(mode, NAMES)


def test_files_are_of_every_size_and_tell_their_step(tmp_path: Path) -> None:
    sizes = [len(Step("files", 4, number).content()) for number in range(100)]
    assert min(sizes) == 0
    assert max(sizes) > 2_000_000
    assert Step("overwrite", 4, 77).content().startswith(b"0000000000000077 ")
    assert Step("overwrite", 4, 77).content() != Step("overwrite", 5, 77).content()


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_keeps_its_promise_when_the_writer_is_killed(tmp_path: Path, mode: str) -> None:
    folder, out = tmp_path / "folder", tmp_path / "lines"
    folder.mkdir()
    chance = random.Random(mode)
    first = 0
    for _ in range(4):
        with Writer(folder, mode, out, seed=9, first=first) as writer:
            writer.wait_for(len(steps_of(out.read_text())) + 5)
            assert not writer.has_ended
            time.sleep(chance.random() / 50)  # somewhere within a step
            writer.kill()
            steps = writer.acknowledged()
        verdict = check_folder(steps, folder)
        # A disk may show half of the file that was being written: no other.
        in_flight = steps[-1]._replace(number=steps[-1].number + 1).name
        assert {fault.name for fault in verdict.torn} <= {in_flight}
        assert verdict.missing == []
        if mode == "rename":
            assert verdict.torn == []
        for fault in verdict.torn if mode != "append" else ():
            (folder / fault.name).write_bytes(steps[-1]._replace(number=steps[-1].number + 1).content())
        first = steps[-1].number + 2


# ---------------------------------------------------------------- broken promises


def test_an_acknowledged_file_that_is_absent_is_missing(tmp_path: Path) -> None:
    steps = written(tmp_path, "files")
    (tmp_path / steps[3].name).unlink()
    verdict = check_folder(steps, tmp_path)
    assert [(fault.name, fault.number) for fault in verdict.missing] == [("f000003", 3)]
    assert verdict.torn == []
    assert check_folder(steps[:3], tmp_path) == ([], []), "nobody was promised it"


@pytest.mark.parametrize("harm", ["cut", "longer", "flipped", "empty"])
@pytest.mark.parametrize("mode", ["files", "overwrite", "rename"])
@pytest.mark.parametrize("is_promised", [True, False])
def test_a_file_that_is_not_whole_is_torn_whether_promised_or_not(
    tmp_path: Path, mode: str, harm: str, is_promised: bool
) -> None:
    steps = written(tmp_path, mode)
    step = next(step for step in reversed(steps) if len(step.content()) > 100)
    path, content = tmp_path / step.name, (tmp_path / step.name).read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "longer": content + b"\0",
            "flipped": content[:-1] + bytes([content[-1] ^ 1]),
            "empty": b"",
        }[harm]
    )
    kept = [one for one in steps if is_promised or one.name != step.name]
    verdict = check_folder(kept, tmp_path)
    assert [(fault.name, fault.number) for fault in verdict.torn] == [(step.name, step.number if is_promised else -1)]
    assert verdict.missing == []


@pytest.mark.parametrize("mode", ["overwrite", "rename"])
def test_an_older_generation_is_missing_the_acknowledged_one(tmp_path: Path, mode: str) -> None:
    steps = written(tmp_path, mode)
    (tmp_path / steps[-1].name).write_bytes(steps[-1 - NAMES].content())
    verdict = check_folder(steps, tmp_path)
    assert [(fault.name, fault.number) for fault in verdict.missing] == [(steps[-1].name, STEPS - 1)]
    assert verdict.torn == []


@pytest.mark.parametrize("mode", ["overwrite", "rename"])
def test_whole_content_under_another_name_is_torn(tmp_path: Path, mode: str) -> None:
    steps = written(tmp_path, mode)
    (tmp_path / steps[-1].name).write_bytes(steps[-2].content())
    assert [fault.name for fault in check_folder(steps, tmp_path).torn] == [steps[-1].name]


def test_half_of_a_temporary_file_is_not_judged(tmp_path: Path) -> None:
    steps = written(tmp_path, "rename")
    (tmp_path / "g0.tmp").write_bytes(b"half")
    assert check_folder(steps, tmp_path) == ([], [])


def test_a_log_that_was_cut_is_torn_and_misses_its_last_records(tmp_path: Path) -> None:
    steps = written(tmp_path, "append")
    os.truncate(tmp_path / "log", sum(len(step.content()) for step in steps[:-1]) - 1)
    verdict = check_folder(steps, tmp_path)
    assert [fault.number for fault in verdict.missing] == [STEPS - 2, STEPS - 1]
    assert [fault.name for fault in verdict.torn] == ["log"]


def test_records_behind_one_that_was_cut_are_found(tmp_path: Path) -> None:
    steps = written(tmp_path, "append")
    parts = [step.content() for step in steps]
    (tmp_path / "log").write_bytes(b"".join([*parts[:5], parts[5][:40], *parts[6:]]))
    verdict = check_folder([step for step in steps if step.number != 5], tmp_path)
    start = sum(map(len, parts[:5]))
    assert verdict.missing == []
    assert [fault.what for fault in verdict.torn] == [f"bytes {start} to {start + 40} belong to no whole record"]


@pytest.mark.parametrize("harm", ["swapped", "left out", "none"])
def test_records_that_are_gone_or_out_of_order_are_missing(tmp_path: Path, harm: str) -> None:
    steps = written(tmp_path, "append")
    order = {"swapped": [0, 2, 1, *range(3, STEPS)], "left out": [0, *range(2, STEPS)], "none": []}[harm]
    (tmp_path / "log").write_bytes(b"".join(steps[number].content() for number in order))
    verdict = check_folder(steps, tmp_path)
    assert [fault.number for fault in verdict.missing] == {
        "swapped": [2], "left out": [1], "none": list(range(STEPS)),
    }[harm]  # fmt: skip
    assert verdict.torn == []


def test_a_line_that_was_cut_is_no_promise() -> None:
    assert steps_of("files 1 0\nfiles 1 1") == [Step("files", 1, 0)]


def test_a_call_that_fails_ends_the_writer_without_a_line(tmp_path: Path) -> None:
    ran = run("write", tmp_path / "absent", "files")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "not acknowledged" in ran.stderr


def test_the_command_line_tells_what_is_missing(tmp_path: Path) -> None:
    steps = written(tmp_path, "files")
    lines = "".join(f"{step}\n" for step in steps)
    assert run("check", tmp_path, lines=lines).returncode == 0
    (tmp_path / "f000005").unlink()
    ran = run("check", tmp_path, lines=lines)
    assert (ran.returncode, ran.stdout) == (1, "missing: f000005, step 5: it is absent\n")
