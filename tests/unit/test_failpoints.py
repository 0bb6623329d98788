"""Places to die at: off by default, and at the asked-for visit when on."""

import os
import signal
import subprocess
import sys

import pytest

from forebay import failpoints

VISITS = """
from forebay import failpoints
for _ in range(5):
    failpoints.hit("journal.synced")
    print("alive", flush=True)
"""


def visit(value: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {failpoints.VARIABLE: value}
    command = [sys.executable, "-c", VISITS]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("value", "survived"), [("journal.synced", 0), ("journal.synced:4", 3)])
def test_the_process_dies_at_the_visit_that_was_asked_for(value: str, survived: int) -> None:
    ran = visit(value)
    assert (ran.returncode, ran.stdout.count("alive")) == (-signal.SIGKILL, survived)


@pytest.mark.parametrize("value", ["", "journal.copied"])
def test_a_place_that_was_not_asked_for_does_nothing(value: str) -> None:
    ran = visit(value)
    assert (ran.returncode, ran.stdout.count("alive")) == (0, 5)


def test_a_place_that_does_not_exist_is_told_at_once() -> None:
    ran = visit("journal.typo")
    assert ran.returncode == 1
    assert "journal.typo: there is no such place" in ran.stderr


def test_no_place_is_named_twice() -> None:
    assert len(set(failpoints.NAMES)) == len(failpoints.NAMES)
