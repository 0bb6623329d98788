"""What a cache of half of the data hits on a real mount, against what the simulation says."""

import json
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay
from forebay.testing.jobs import fetched_by_epoch
from forebay.testing.simulation import epochs, hits_announced, hits_of, in_turns

BENCH = Path(__file__).resolve().parents[2] / "bench"
COUNT, FILE = 2_000, 8_192
EPOCHS = 3


@pytest.fixture
def data(folder: Path) -> Path:
    """2,000 small files in ten folders below one: one data set."""
    for number in range(COUNT):
        path = folder / "train" / f"class{number % 10}" / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number).randbytes(FILE))
    return folder


@pytest.fixture
def mountpoint(mounted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, data: Path, forebay_home: Path) -> Path:
    """The data on a mount, with a cache of half of it."""
    monkeypatch.setenv("FOREBAY_CACHE_DIRS", f"{forebay_home.parent}/cache:{COUNT * FILE // 2}")
    monkeypatch.setenv("FOREBAY_CACHE_RESERVE", "0")
    return mounted()


def fetched_bytes(forebay: RunForebay) -> int:
    """What came from the store so far."""
    counters: dict[str, int] = json.loads(forebay("status", "--json").out)["counters"]
    return counters["bytes_from_store"]


def hit_ratios(forebay: RunForebay, mountpoint: Path, home: Path, *, jobs: int, known: int) -> list[float]:
    """Let jobs read epochs at the same time; the hit ratio of each, by what the store was asked for."""
    command = [sys.executable, str(BENCH / "announced_reader.py"), str(home), str(mountpoint)]
    commands = [[*command, str(seed), str(known), str(EPOCHS)] for seed in range(jobs)]
    fetched = fetched_by_epoch(commands, EPOCHS, partial(fetched_bytes, forebay))
    return [1 - size / (jobs * COUNT * FILE) for size in fetched]


@pytest.mark.parametrize("known", [0, 1], ids=["no hint", "announced"])
def test_one_job_hits_what_the_simulation_says(
    mountpoint: Path, forebay: RunForebay, forebay_home: Path, known: int
) -> None:
    trace = [read for epoch in epochs(range(COUNT), EPOCHS) for read in in_turns(epoch)]
    simulated = hits_of(trace, COUNT // 2, "keep", per_set=COUNT)[COUNT:]
    measured = hit_ratios(forebay, mountpoint, forebay_home, jobs=1, known=known)
    expected = simulated.count(True) / len(simulated)
    assert [abs(ratio - expected) <= 0.02 for ratio in measured[1:]] == [True] * (EPOCHS - 1), measured


def test_two_announced_jobs_share_the_cache_as_the_simulation_says(
    mountpoint: Path, forebay: RunForebay, forebay_home: Path
) -> None:
    """Or more, by what is held in memory; less, since they go at paces of their own, which the simulation does not."""
    simulated = hits_announced(epochs(range(COUNT), EPOCHS, jobs=2), COUNT // 2, known=2, per_set=COUNT)[2 * COUNT :]
    measured = hit_ratios(forebay, mountpoint, forebay_home, jobs=2, known=2)
    assert sum(measured[1:]) / (EPOCHS - 1) >= simulated.count(True) / len(simulated) - 0.08, measured
