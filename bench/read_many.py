"""Warm shuffled read of many small files by one Python process: `forebay.read_many`, the native disk, the FUSE mount.

All sides read by batches and hold each batch whole, as a loader does; they take turns.
"""

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from common import SMALL_BYTES, Figure, Result, World, in_turns, ratio, save, say, shuffled_paths
from forebay import FileSystem

COUNT = 5000
BATCH = 256
ROUNDS = 7
Read = Callable[[list[str]], list[bytes]]


def measure(world: World) -> Result:
    native = world.small_files("readmany", COUNT)
    mountpoint = world.mount("readmany")
    world.forebay("fs", "load", "/readmany")
    fs = FileSystem(world.scratch / "home")

    def read_many(paths: list[str]) -> list[bytes]:
        found = fs.read_many(paths)
        assert all(type(data) is bytes for data in found)
        return found  # type: ignore[return-value]

    sides = {
        "native": _reader(native, str(native), _read_each),
        "read_many": _reader(native, "/readmany", read_many),
        "fuse": _reader(native, str(mountpoint), _read_each),
    }
    for side in sides.values():
        side()
        side()  # caches of every kind are warm afterwards
    runs = in_turns(ROUNDS, sides)
    fs.close()
    world.unmount("readmany")
    return Result(
        name="read_many",
        how=f"{COUNT:,} files of 110 KiB, one Python process, batches of {BATCH}, each held whole; page cache warm for "
        f"all, {ROUNDS} rounds in turns",
        figures=[
            Figure(
                "warm read_many of 5,000 files, share of native open() and read()",
                0.8,
                ratio(runs, "read_many", "native"),
            ),
            Figure("the same, against open() and read() on the FUSE mount", 1.5, ratio(runs, "read_many", "fuse")),
        ],
        runs=runs,
        unit="files/s",
        parameters={"files": COUNT, "bytes": SMALL_BYTES, "batch": BATCH},
    )


def _read_each(paths: list[str]) -> list[bytes]:
    found = []
    for path in paths:
        with open(path, "rb") as file:
            found.append(file.read())
    return found


def _reader(folder: Path, root: str, read: Read) -> Callable[[], float]:
    """Reads all files below `root`, named as in `folder`, in another order each time; files per second."""
    seeds = count(100)

    def run() -> float:
        paths = [root + path[len(str(folder)) :] for path in shuffled_paths(folder, next(seeds))]
        begin = time.perf_counter()
        for start in range(0, len(paths), BATCH):
            read(paths[start : start + BATCH])
        return len(paths) / (time.perf_counter() - begin)

    return run


if __name__ == "__main__":
    say("warm read_many of small files")
    with World() as world:
        save(measure(world))
