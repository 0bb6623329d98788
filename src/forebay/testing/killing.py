"""A writer that says what it was promised, and a checker that says which of it is not kept: for kills of a daemon.

    python -m forebay.testing.killing write FOLDER rename --seed 1 > lines     # until it is killed, or a call fails
    python -m forebay.testing.killing check FOLDER < lines

The writer prints one line for each step after the call that acknowledges it has returned: close in the modes `files`
and `overwrite`, fsync in `append`, rename in `rename`.  The content of a step follows from seed and number, and tells
its number; so the checker knows every byte, and which step a file shows, without the writer.

In what is left, each name must show the step that was acknowledged last, or a later one, whole: what is absent or
older is *missing*; what is no step's whole content, or no whole record of a log, is *torn*.  Files `*.tmp` are
not judged.  A plain disk keeps all of this when the writer is killed, but for the one file that it was writing then;
a mount keeps it for every file, or says in its promise which not.
"""

import argparse
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import xxhash

from forebay.testing.daemons import wait_until
from forebay.testing.leash import leashed
from forebay.units import KIB, MIB

MODES = ("files", "overwrite", "append", "rename")
FILE_BYTES_MAX = 3 * MIB
RECORD_BYTES_MAX = 20 * KIB
WRITE_BYTES = 128 * KIB  # of one write(2): a step is many, so that a kill falls between them
NAMES = 4  # of the files that are written over and over
LOG = "log"
TEMPORARY = ".tmp"
# Number and size of the step, and the checksum of what follows.
_HEAD = "{:016d} {:016d} {:016x}\n"
_HEAD_PATTERN = re.compile(rb"(\d{16}) \d{16} [0-9a-f]{16}\n")
_HEAD_BYTES = len(_HEAD.format(0, 0, 0))

Read = Callable[[str], bytes | None]


class Step(NamedTuple):
    """One step of a writer, as its line tells it."""

    mode: str
    seed: int
    number: int

    @classmethod
    def from_line(cls, line: str) -> "Step":
        """Read back what `str` gives."""
        mode, seed, number = line.split()
        return cls(mode, int(seed), int(number))

    def __str__(self) -> str:
        return f"{self.mode} {self.seed} {self.number}"

    @property
    def name(self) -> str:
        """The file that it writes."""
        if self.mode == "append":
            return LOG
        return f"f{self.number:06d}" if self.mode == "files" else f"g{self.number % NAMES}"

    def content(self) -> bytes:
        """What it writes.  A new file may have any size, 0 too; others begin with a head that tells the step."""
        chance = random.Random(f"{self.seed}/{self.number}")
        size = int(chance.random() ** 3 * (RECORD_BYTES_MAX if self.mode == "append" else FILE_BYTES_MAX))
        if self.mode == "files" and chance.random() < 0.1:
            return b""
        body = chance.randbytes(size)
        head = _HEAD.format(self.number, _HEAD_BYTES + size, xxhash.xxh64_intdigest(body)).encode()
        return head + body


class Fault(NamedTuple):
    """A file, or a record of the log, that is not as it was promised."""

    name: str
    number: int  # of the step that it should show, at least; -1: nothing was promised of it
    what: str

    def __str__(self) -> str:
        return f"{self.name}, step {self.number}: {self.what}"


class Verdict(NamedTuple):
    """What a checker found."""

    missing: list[Fault]
    torn: list[Fault]


# ---------------------------------------------------------------- writing


def write(folder: Path, mode: str, *, seed: int, first: int = 0, steps: int | None = None) -> None:
    """Do steps without end, or so many; print each when it is acknowledged.

    Raises:
        OSError: a call failed; its step is not acknowledged.
    """
    number = first
    do = {"files": _create, "overwrite": _overwrite, "append": _append, "rename": _replace}[mode]
    while steps is None or number < first + steps:
        step = Step(mode, seed, number)
        do(folder / step.name, step.content())
        os.write(1, f"{step}\n".encode())  # at once, and whole
        number += 1


def _put(path: Path, flags: int, content: bytes, *, is_synced: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left[:WRITE_BYTES]) :]
        if is_synced:
            os.fsync(fd)
    finally:
        os.close(fd)


def _create(path: Path, content: bytes) -> None:
    _put(path, os.O_EXCL, content)


def _overwrite(path: Path, content: bytes) -> None:
    _put(path, os.O_TRUNC, content)


def _append(path: Path, content: bytes) -> None:
    _put(path, os.O_APPEND, content, is_synced=True)


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    _put(temporary, os.O_TRUNC, content)
    temporary.rename(path)


class Writer:
    """A writer as a child process; it ends with the `with` or with the thread that entered it, at the latest.

    Its lines go to the file `out`, which holds those of earlier writers too.
    """

    def __init__(self, folder: Path, mode: str, out: Path, *, seed: int, first: int = 0) -> None:
        self._out = out
        self._command = [sys.executable, "-m", "forebay.testing.killing", "write", str(folder), mode]
        self._command += ["--seed", str(seed), "--first", str(first)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._out.open("ab") as out:
            self._process = subprocess.Popen(
                leashed(self._command), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def acknowledged(self) -> list[Step]:
        """Every step that was acknowledged until now."""
        return steps_of(self._out.read_text())

    def wait_for(self, steps: int) -> None:
        """Return when so many are acknowledged, or when it has ended.

        Raises:
            TimeoutError: they do not come.
        """
        wait_until(lambda: self.has_ended or len(self.acknowledged()) >= steps, f"{steps} steps")

    @property
    def has_ended(self) -> bool:
        """Has it ended, as it does when a call fails?"""
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End it at once, wherever it is."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


# ---------------------------------------------------------------- checking


def steps_of(text: str) -> list[Step]:
    """The steps that lines tell."""
    return [Step.from_line(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def check(acknowledged: Iterable[Step], names: Iterable[str], read: Read) -> Verdict:
    """Compare what was acknowledged, by writers of one mode and seed, with what is there now.

    Args:
        acknowledged: every step of which there is a line, in order.
        names: those that the folder shows.
        read: gives the whole of a file, None if there is none.
    """
    promised = list(acknowledged)
    if not promised:
        return Verdict([], [])
    mode, seed, _ = promised[0]
    if mode == "append":
        return _check_log([step.number for step in promised], Step(mode, seed, 0), read(LOG) or b"")
    last = {step.name: step for step in promised}
    verdict = Verdict([], [])
    for name in sorted({*last, *(name for name in names if not name.endswith(TEMPORARY))}):
        number = last[name].number if name in last else -1
        content = read(name)
        shown = None if content is None else _step_shown(Step(mode, seed, 0), name, content)
        if content is None:
            if number >= 0:
                verdict.missing.append(Fault(name, number, "it is absent"))
        elif shown is None:
            verdict.torn.append(Fault(name, number, f"its {len(content)} bytes are no step's whole content"))
        elif shown < number:
            verdict.missing.append(Fault(name, number, f"it shows step {shown}"))
    return verdict


def _step_shown(some: Step, name: str, content: bytes) -> int | None:
    """The step whose whole content that is."""
    told = name[1:] if some.mode == "files" else content[:16].decode("ascii", "replace")
    if not told.isdecimal():
        return None
    step = some._replace(number=int(told))
    return step.number if step.name == name and step.content() == content else None


def _records(some: Step, log: bytes) -> tuple[list[int], list[tuple[int, int]]]:
    """The steps of whole records in their order, and where bytes lie that belong to none, from and to.

    After a record that was cut, by a kill within its write(2), those of the next writer are found again.
    """
    found, strange, at = [], [], 0
    for head in _HEAD_PATTERN.finditer(log):
        content = some._replace(number=int(head[1])).content()
        if head.start() < at or log[head.start() : head.start() + len(content)] != content:
            continue
        if head.start() > at:
            strange.append((at, head.start()))
        found.append(int(head[1]))
        at = head.start() + len(content)
    if at < len(log):
        strange.append((at, len(log)))
    return found, strange


def _check_log(promised: list[int], some: Step, log: bytes) -> Verdict:
    """Acknowledged records stand in the log in their order; others may stand between them and at the end."""
    verdict = Verdict([], [])
    found, strange = _records(some, log)
    places = {number: place for place, number in enumerate(found)}
    before = -1
    for number in promised:
        place = places.get(number, -1)
        if place <= before:
            verdict.missing.append(Fault(LOG, number, "its record is not in its place"))
        else:
            before = place
    for start, end in strange:
        verdict.torn.append(Fault(LOG, -1, f"bytes {start} to {end} belong to no whole record"))
    return verdict


def check_folder(acknowledged: Iterable[Step], folder: Path) -> Verdict:
    """`check` of a folder that can be read from here."""

    def read(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            return None

    return check(acknowledged, os.listdir(folder), read)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="killing", description="Write and acknowledge; check what is left.")
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="write until killed; a line for each acknowledged step")
    writing.add_argument("folder", type=Path)
    writing.add_argument("mode", choices=MODES)
    writing.add_argument("--seed", type=int, default=1)
    writing.add_argument("--first", type=int, default=0, help="number of the first step")
    writing.add_argument("--steps", type=int)
    checking = commands.add_parser("check", help="read such lines from stdin; 1 if something is missing or torn")
    checking.add_argument("folder", type=Path)
    asked = parser.parse_args()
    if asked.command == "write":
        try:
            write(asked.folder, asked.mode, seed=asked.seed, first=asked.first, steps=asked.steps)
        except OSError as error:
            sys.exit(f"not acknowledged: {error}")
        return 0
    verdict = check_folder(steps_of(sys.stdin.read()), asked.folder)
    for word, faults in (("missing", verdict.missing), ("torn", verdict.torn)):
        for fault in faults:
            print(f"{word}: {fault}")  # noqa: T201
    return 1 if any(verdict) else 0


if __name__ == "__main__":
    sys.exit(main())
