"""Many small files copied into a mount by `cp -r`: against the local disk, rclone and s3fs over the same server.

What `cp` waits for differs: a file is durable on the local disk with Forebay (`back`), it lies in a cache that a power
cut may lose with rclone and with Forebay (`lazy`), it is in the store with s3fs, and in the page cache with the local
disk itself.  What the disk would do if each file were synced there too is told beside it.

The least that `back` can take is told in parts: a FUSE server in Python that does nothing but open files of the local
disk (`bare_fuse.py`), and the same bytes written over blocks that exist and synced one by one.  A close that is durable
takes the sum of both, and `bound` says what share of the local disk that leaves.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import obstore

import rivals
from common import SMALL_BYTES, Figure, Result, World, in_turns, open_bucket, ratio, save, say
from scratch import settle

COUNT = 2_000
ROUNDS = 3
OVER_BYTES = 16 << 20  # of the file that is written over, as long as a segment of Forebay's journal
OVER = "local, synced over what is there"
BLOCKS_BYTES = -(-SMALL_BYTES // 4096) * 4096
STORED_WITHIN_S = 300.0
MOUNTED = {"back": "copyinback", "lazy": "copyinlazy"}


def measure(world: World) -> Result:
    source = world.small_files("copyin", COUNT, buckets=["copyinsource"])
    local = _empty(world.scratch / "copied")
    with ExitStack() as ends:
        targets = {
            "local": local,
            "bare FUSE": ends.enter_context(rivals.bare(_empty(world.scratch / "copiedbare"), world)),
        }
        for mode, bucket in MOUNTED.items():
            world.server.make_bucket(bucket)
            targets[mode] = world.mount(bucket, write_mode=mode)
        for name, program in (("rclone", rivals.find_rclone()), ("s3fs", rivals.find_s3fs())):
            if program is not None:
                targets[name] = ends.enter_context(rivals.MOUNTS[name](program, world))
        sides = {name: _copier(world, source, name, target) for name, target in targets.items()}
        sides["local, each file synced"] = partial(_write_synced, world, source)
        sides[OVER] = partial(_write_over, world, source)
        runs = in_turns(ROUNDS, sides)
    for bucket in MOUNTED.values():
        world.unmount(bucket, free=True)
    runs["bound"] = [1 / (1 / bare + 1 / over) for bare, over in zip(runs["bare FUSE"], runs[OVER], strict=True)]
    met = [name for name in ("rclone", "s3fs") if name in runs]
    figures = []
    for mode in MOUNTED:
        what = f"2,000 files copied in, `{mode}`"
        figures.append(Figure(f"{what}, share of the local disk", 0.25, ratio(runs, mode, "local")))
        figures += [Figure(f"{what}, against {name}", 2, ratio(runs, mode, name)) for name in met]
    figures.append(
        Figure("the most that a close that syncs leaves, share of the local disk", 0.25, ratio(runs, "bound", "local"))
    )
    missing = [name for name in ("rclone", "s3fs") if name not in runs]
    return Result(
        name="copy_in",
        how=f"{COUNT:,} files of 110 KiB in ten folders, `cp -r`, {ROUNDS} rounds in turns; rclone 1.75 with "
        "--vfs-cache-mode full, s3fs 1.90 with use_cache, over the same SeaweedFS"
        + (f"; could not be installed: {', '.join(missing)}" if missing else ""),
        figures=figures,
        runs=runs,
        unit="files/s",
        parameters={"files": COUNT, "bytes": SMALL_BYTES},
    )


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _copier(world: World, source: Path, name: str, target: Path) -> Callable[[], float]:
    rounds = iter(range(ROUNDS))
    return lambda: _copy(world, source, name, target / f"copy{next(rounds)}")


def _copy(world: World, source: Path, name: str, target: Path) -> float:
    """Files per second, after which the store has them all: so that no side's uploads disturb the next."""
    settle(world.scratch)
    begin = time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)
    rate = COUNT / (time.perf_counter() - begin)
    if name in MOUNTED:
        world.wait_until_uploaded()
    elif name in rivals.MOUNTS:
        _wait_until_stored(world, name, target.name)
    return rate


def _write_synced(world: World, source: Path) -> float:
    """The same files written to the local disk and synced one by one; files per second."""
    settle(world.scratch)
    folder = Path(tempfile.mkdtemp(dir=world.scratch))
    contents = [path.read_bytes() for path in sorted(source.rglob("*.bin"))]
    begin = time.perf_counter()
    for number, content in enumerate(contents):
        with (folder / f"{number}.bin").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return COUNT / (time.perf_counter() - begin)


def _write_over(world: World, source: Path) -> float:
    """The same bytes written one file after the other over one file's blocks, each synced; files per second."""
    settle(world.scratch)
    contents = [path.read_bytes() for path in sorted(source.rglob("*.bin"))]
    path = world.scratch / "over"
    path.write_bytes(bytes(OVER_BYTES))
    with path.open("r+b", buffering=0) as file:
        os.fsync(file.fileno())
        begin = time.perf_counter()
        for number, content in enumerate(contents):
            os.pwrite(file.fileno(), content, number * BLOCKS_BYTES % (OVER_BYTES - BLOCKS_BYTES))
            os.fdatasync(file.fileno())
        return COUNT / (time.perf_counter() - begin)


def _wait_until_stored(world: World, bucket: str, folder: str) -> None:
    store = open_bucket(world.server.endpoint, bucket)
    deadline = time.monotonic() + STORED_WITHIN_S
    while True:
        names = [each["path"] for page in obstore.list(store, prefix=folder) for each in page]
        if sum(name.endswith(".bin") for name in names) == COUNT:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{bucket} has not stored {folder} after {STORED_WITHIN_S:g} s")
        time.sleep(1)


if __name__ == "__main__":
    say("small files copied in")
    with World() as world:
        save(measure(world))
