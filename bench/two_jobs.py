"""Two jobs that read the same data at the same time, with a cache of half of it: how much comes from the store.

Both announce the epoch that they read and the next one, as a sampler does whose order is known by its seed.  Belady's
MIN over both orders lets 0.55 of the data set through an epoch; a policy that keeps half lets 1.0 through.
"""

import subprocess
import sys
from pathlib import Path

from common import HERE, SMALL_BYTES, Figure, Result, World, save, say
from forebay.testing.leash import leashed

COUNT = 2_000
EPOCHS = 5
JOBS = 2


def measure(world: World) -> Result:
    world.small_files("twojobs", COUNT)
    cache = world.scratch / "twojobs-cache"
    room = COUNT * SMALL_BYTES // 2
    with world.another_forebay("twojobs-home", cache_dirs=f"{cache}:{room}", cache_reserve=0) as home:
        mountpoint = world.mount("twojobs")
        traffic = _run(world, home, mountpoint)
        world.unmount("twojobs")
    later = traffic[1:]
    return Result(
        name="two_jobs",
        how=f"{COUNT:,} files of 110 KiB, {JOBS} jobs with orders of their own, announced with the next epoch's, "
        f"cache of half of the files; epochs 2 to {EPOCHS}; bytes that came from the store",
        figures=[
            Figure("two jobs, same data, half cached: from the store", 0.55, sum(later) / len(later), at_most=True)
        ],
        runs={"share of the data set, each epoch": traffic},
        unit="of the data set",
        parameters={"files": COUNT, "bytes": SMALL_BYTES, "jobs": JOBS, "epochs": EPOCHS, "known_epochs": 2},
    )


def _run(world: World, home: Path, mountpoint: Path) -> list[float]:
    """Let all jobs read their epochs, each epoch at the same time; what came from the store, of the data set."""
    command = [sys.executable, str(HERE / "announced_reader.py"), str(home), str(mountpoint)]
    readers = [
        subprocess.Popen(
            leashed([*command, str(seed), "2", str(EPOCHS)]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for seed in range(JOBS)
    ]
    _all_say(readers, "ready")
    traffic, before = [], _fetched_bytes(world)
    for _ in range(EPOCHS):
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write("\n")
            reader.stdin.flush()
        _all_say(readers, "done")
        after = _fetched_bytes(world)
        traffic.append((after - before) / (COUNT * SMALL_BYTES))
        before = after
    for reader in readers:
        reader.communicate()
    return traffic


def _fetched_bytes(world: World) -> int:
    fetched: int = world.status()["counters"]["bytes_from_store"]
    return fetched


def _all_say(readers: list["subprocess.Popen[str]"], word: str) -> None:
    for reader in readers:
        assert reader.stdout is not None
        if reader.stdout.readline().strip() != word:
            raise RuntimeError("a job failed")


if __name__ == "__main__":
    say("two jobs on the same data")
    with World() as world:
        save(measure(world))
