"""Many small files copied into a mount by `cp -r`: against the local disk, rclone and s3fs over the same server.

What `cp` waits for differs: a file is durable on the local disk with Forebay (`back`), it lies in a cache that a power
cut may lose with rclone and with Forebay (`lazy`), it is in the store with s3fs, and in the page cache with the local
disk itself.  What the disk would do if each file were synced there too is told beside it.

The most that `back` can do is measured in the same run, by a FUSE server in Python that does nothing but what a close
that is durable must (`bare_fuse.py --durable`): no names, no versions, no checksums, nothing to find again after a
crash and nothing to send.  What is between that and the local disk is beyond any close that waits for the disk.
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
BOUND = "bare FUSE, durable"
STORED_WITHIN_S = 300.0
MOUNTED = {"back": "copyinback", "lazy": "copyinlazy"}


def measure(world: World) -> Result:
    source = world.small_files("copyin", COUNT, buckets=["copyinsource"])
    local = _empty(world.scratch / "copied")
    with ExitStack() as ends:
        targets = {
            "local": local,
            "bare FUSE": ends.enter_context(rivals.bare(_empty(world.scratch / "copiedbare"), world)),
            BOUND: ends.enter_context(rivals.bare(_empty(world.scratch / "copieddurable"), world, "--durable")),
        }
        for mode, bucket in MOUNTED.items():
            world.server.make_bucket(bucket)
            targets[mode] = world.mount(bucket, write_mode=mode)
        for name, program in (("rclone", rivals.find_rclone()), ("s3fs", rivals.find_s3fs())):
            if program is not None:
                targets[name] = ends.enter_context(rivals.MOUNTS[name](program, world))
        sides = {name: _copier(world, source, name, target) for name, target in targets.items()}
        sides["local, each file synced"] = partial(_write_synced, world, source)
        runs = in_turns(ROUNDS, sides)
    for bucket in MOUNTED.values():
        world.unmount(bucket, free=True)
    met = [name for name in ("rclone", "s3fs") if name in runs]
    figures = []
    for mode in MOUNTED:
        what = f"2,000 files copied in, `{mode}`"
        figures.append(Figure(f"{what}, share of the local disk", 0.25, ratio(runs, mode, "local")))
        figures += [Figure(f"{what}, against {name}", 2, ratio(runs, mode, name)) for name in met]
    most = "the most that a close that waits for the disk leaves"
    figures.append(Figure(f"{most}, share of the local disk", 0.25, ratio(runs, BOUND, "local")))
    figures += [Figure(f"{most}, against {name}", 2, ratio(runs, BOUND, name)) for name in met]
    figures.append(Figure("`back`, share of that", 0.7, ratio(runs, "back", BOUND)))
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
