"""Warm shuffled read of many small files by one process: Forebay, the native disk and JuiceFS, in turns.

Forebay three times: a folder as it is made without options, and the two kinds for data that are only read.  And the
least that a FUSE server in Python can be, over the native disk: what Forebay adds to the price of any.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from common import (
    KINDS,
    SMALL_BYTES,
    Figure,
    Result,
    World,
    in_turns,
    ratio,
    read_files,
    read_files_bare,
    save,
    say,
    shuffled_paths,
)
from rivals import bare, find_juicefs, juicefs

COUNT = 5000
ROUNDS = 7


def measure(world: World) -> Result:
    native = world.small_files("warmsmall", COUNT)
    mountpoint = world.mount("warmsmall")
    world.forebay("fs", "load", "/warmsmall")
    folders = {"native": native, "forebay": mountpoint}
    folders |= {kind: world.show("warmsmall", kind) for kind in KINDS[1:]}
    folders["bare FUSE"] = world.enter(bare(native, world))
    if program := find_juicefs():
        folders["juicefs"] = world.enter(juicefs(program, world))
        _copy(native, folders["juicefs"])
    for folder in folders.values():
        for seed in (0, 1):  # caches of every kind are warm afterwards
            read_files(shuffled_paths(folder, seed))
    runs = in_turns(ROUNDS, {name: _reader(folder, read_files) for name, folder in folders.items()})
    by_calls = in_turns(ROUNDS, {name: _reader(folder, read_files_bare) for name, folder in folders.items()})
    world.unmount("warmsmall")
    return Result(
        name="warm_small",
        how=f"{COUNT:,} files of 110 KiB, one process, open() and read() of each; page cache warm for all, "
        f"{ROUNDS} rounds in turns; JuiceFS 1.4: SQLite metadata, data in the same "
        "SeaweedFS, local cache, open-cache on",
        figures=[
            *_figures(runs, "warm shuffled read of 5,000 files"),
            *_figures(by_calls, "the same by bare system calls"),
        ],
        runs=runs | {f"{name}, bare": values for name, values in by_calls.items()},
        unit="files/s",
        parameters={"files": COUNT, "bytes": SMALL_BYTES},
    )


def _copy(source: Path, target: Path) -> None:
    """Many at a time: each file that JuiceFS closes waits for its upload."""

    def copy(path: Path) -> None:
        there = target / path.relative_to(source)
        there.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, there)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(copy, source.rglob("*.bin")))


def _figures(runs: dict[str, list[float]], what: str) -> list[Figure]:
    figures = []
    for side in ("forebay", *KINDS[1:]):
        of_kind = what if side == "forebay" else f"{what}, --{side}"
        figures.append(Figure(f"{of_kind}, share of native", 0.35, ratio(runs, side, "native")))
        if "juicefs" in runs:
            figures.append(Figure(f"{of_kind}, against JuiceFS", 1.5, ratio(runs, side, "juicefs")))
    return figures


def _reader(folder: Path, read: Callable[[list[str]], float]) -> Callable[[], float]:
    """Reads the folder in another order each time."""
    seeds = count(100)
    return lambda: read(shuffled_paths(folder, next(seeds)))


if __name__ == "__main__":
    say("warm shuffled read of small files")
    with World() as world:
        save(measure(world))
