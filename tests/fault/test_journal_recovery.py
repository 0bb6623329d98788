"""The journal and kill -9, at random moments and at each failpoint; and on a disk that is full."""

import asyncio
import inspect
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fault.conftest import Disk
from forebay import failpoints
from forebay.errors import NoSpace
from forebay.testing.leash import leashed
from forebay.vfs.journal import Journal, Record

SEGMENT = 256 * 1024
KILLS = 30
FAILPOINTS = [name for name in failpoints.NAMES if name.startswith("journal.")]


def body_of(number: int) -> bytes | None:
    """The body of a record with that number."""
    chance = random.Random(number)
    return chance.randbytes(chance.choice((0, 10, 5_000, 60_000, 120_000))) if number % 3 else None


# Four tasks append at once; what is acknowledged is printed after, what is retired is printed before.
CHILD = f"""
import asyncio, random, sys
from pathlib import Path
from forebay.vfs.journal import Journal

{inspect.getsource(body_of)}
async def work(journal, worker, number, chance):
    while True:
        about = f"/{{worker}}/{{chance.randrange(4)}}"
        record = await journal.append(about, {{"n": number}}, body_of(number))
        print("kept", about, number, record.seq, flush=True)
        number += 4
        if chance.random() < 0.7:
            print("retired", about, flush=True)
            journal.retire(record)

async def main():
    folder, first = Path(sys.argv[1]), int(sys.argv[2])
    journal = Journal(folder, segment_bytes={SEGMENT})
    for index in range(3):  # hold the oldest segment back, and are copied forward
        record = await journal.append(f"/long/{{index}}", {{"n": first + index}}, body_of(first + index))
        print("kept", record.about, first + index, record.seq, flush=True)
    chance = random.Random(first)
    await asyncio.gather(*(work(journal, worker, first + 3 + worker, chance) for worker in range(4)))

asyncio.run(main())
"""


class Known:
    """What the children have told, compared with what is found."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}  # number of the last acknowledged record by key
        self.may_be_gone: set[str] = set()
        self.seq = 0  # the highest of the lives before

    def hear(self, line: str) -> None:
        """One line of a child; the last may be cut."""
        if not line.endswith("\n"):
            return
        what, about, *numbers = line.split()
        if what == "retired":
            self.may_be_gone.add(about)
            return
        number, seq = map(int, numbers)
        assert seq > self.seq
        self.kept[about] = number
        self.may_be_gone.discard(about)

    async def check(self, folder: Path) -> None:
        """All that was acknowledged is there, or what replaced it; each as it was appended."""
        found: dict[str, int] = {}
        journal = Journal(folder, segment_bytes=SEGMENT)
        records = journal.recovered()
        for record in records:
            number = record.fields["n"]
            assert journal.body(record) == body_of(number), record.about
            assert record.about not in found
            found[record.about] = number
        await journal.close()
        for about, number in self.kept.items():
            if about not in found:
                assert about in self.may_be_gone, f"{about} is lost"
            else:
                assert found[about] >= number
        self.kept = found  # what was not acknowledged may have come with it: it is known from now on
        self.may_be_gone.clear()
        self.seq = max((record.seq for record in records), default=self.seq)


def start(folder: Path, first: int, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    command = leashed([sys.executable, "-c", CHILD, str(folder), str(first)])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {}))


async def found_in(folder: Path) -> list[Record]:
    journal = Journal(folder, segment_bytes=SEGMENT)
    records = journal.recovered()
    await journal.close()
    return records


async def test_kill_minus_9_at_any_moment_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(5)
    known = Known()
    for turn in range(KILLS):
        with start(tmp_path / "journal", turn * 1_000_000) as child:
            assert child.stdout is not None
            try:
                for _ in range(chance.choice((1, 3, 10, 100, 400))):
                    known.hear(child.stdout.readline())
            finally:
                child.kill()
            for line in child.stdout:
                known.hear(line)
        assert child.returncode == -signal.SIGKILL
        await known.check(tmp_path / "journal")
    assert any(about.startswith("/long") for about in known.kept)
    assert len(list((tmp_path / "journal").glob("*.log"))) <= 12


@pytest.mark.parametrize("visit", [1, 4])
@pytest.mark.parametrize("name", FAILPOINTS)
async def test_a_crash_at_each_failpoint_loses_nothing_that_was_acknowledged(
    tmp_path: Path, name: str, visit: int
) -> None:
    known = Known()
    for turn in range(2):  # the second one starts from what the first one left
        with start(tmp_path / "journal", turn * 1_000_000, {failpoints.VARIABLE: f"{name}:{visit}"}) as child:
            assert child.stdout is not None
            try:
                for line in child.stdout:
                    known.hear(line)
            finally:
                child.kill()
        assert child.returncode == -signal.SIGKILL  # of its own: nobody else ended its output
        await known.check(tmp_path / "journal")


async def fill_up(journal: Journal, kept: list[Record]) -> None:
    """Append until the disk refuses: segments that are there are used first."""
    while True:
        kept.append(await journal.append(f"/more/{len(kept)}", {}, bytes(100_000)))


async def test_a_full_disk_refuses_appends_keeps_what_it_has_and_goes_on_when_there_is_room(disk: Disk) -> None:
    folder = disk.folder / "journal"
    journal = Journal(folder, segment_bytes=SEGMENT)
    kept = [await journal.append(f"/{index}", {}, random.Random(index).randbytes(100_000)) for index in range(3)]
    disk.fill()
    with pytest.raises(NoSpace, match="free some on its disk"):
        await fill_up(journal, kept)
    waiting = (journal.append(f"/refused/{index}", {}, bytes(100_000)) for index in range(4))
    refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(outcome) for outcome in refused} == {NoSpace}
    disk.relieve()
    kept.append(await journal.append("/after", {}, bytes(100_000)))
    await journal.close()
    assert await found_in(folder) == kept


async def test_a_full_disk_is_no_matter_to_a_journal_whose_records_are_retired(disk: Disk) -> None:
    if os.geteuid() != 0:
        pytest.skip("a limit on the size of files, which stands in for a full disk, refuses to write them again too")
    journal = Journal(disk.folder / "journal", segment_bytes=SEGMENT)
    records = [await journal.append(f"/{index}", {}, bytes(100_000)) for index in range(7)]
    disk.fill()
    for record in records:
        journal.retire(record)
    for index in range(20):
        journal.retire(await journal.append(f"/later/{index}", {}, bytes(100_000)))
    kept = await journal.append("/kept", {}, bytes(100_000))
    await journal.close()
    disk.relieve()
    assert await found_in(disk.folder / "journal") == [kept]
