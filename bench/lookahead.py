"""The first shuffled epoch of a PyTorch loader with two processes, from a far store, its order announced.

Against the link, and against the same loader of a daemon that fetches nothing ahead: of that, a part of the epoch.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from common import COMMAND_WITHIN_S, HERE, MBPS, RTT_MS, SMALL_BYTES, Figure, Result, World, ratio, save, say
from forebay.testing.leash import leashed
from scratch import settle

COUNT = 4000
PLAIN_COUNT = 400  # at 80 files/s
WARM_COUNT = 200
ROUNDS = 5
LINK_FILES_S = MBPS * 1e6 / SMALL_BYTES


def measure(world: World) -> Result:
    buckets = [f"lookahead{number}" for number in range(ROUNDS)]
    world.small_files("lookahead", COUNT, buckets=buckets, in_sink=True)
    warm = world.small_files("lookaheadwarm", WARM_COUNT)

    def read(bucket: str, way: str, count: int) -> float:
        mountpoint = world.mount(bucket, endpoint=world.sink.far_endpoint)
        settle(world.scratch)
        rate = _loader(world, way, count, warm, mountpoint)
        world.unmount(bucket, free=True)
        return rate

    runs: dict[str, list[float]] = {"sampler": [], "plain": []}
    for bucket in buckets:
        runs["sampler"].append(read(bucket, "sampler", COUNT))
        with world.another_forebay("plain", prefetch=False):
            runs["plain"].append(read(bucket, "plain", PLAIN_COUNT))
    return Result(
        name="lookahead",
        how=f"{COUNT:,} files of 110 KiB in folders, shuffled, a DataLoader with 2 processes, store behind "
        f"{RTT_MS:g} ms and {MBPS:g} MB/s that costs this machine nothing, nothing cached; "
        f"without prefetch: {PLAIN_COUNT} of them; {ROUNDS} rounds",
        figures=[
            Figure(
                "first epoch with LookaheadSampler, share of the link", 0.85, median(runs["sampler"]) / LINK_FILES_S
            ),
            Figure("the same, against no prefetch", 5, ratio(runs, "sampler", "plain")),
        ],
        runs=runs,
        unit="files/s",
        parameters={"files": COUNT, "bytes": SMALL_BYTES, "workers": 2, "rtt_ms": RTT_MS, "mbps": MBPS},
    )


def _loader(world: World, way: str, count: int, *folders: Path) -> float:
    command = [sys.executable, str(HERE / "loader.py"), way, str(count), *map(str, folders)]
    done = subprocess.run(
        leashed(command),
        env=os.environ | world.environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_WITHIN_S,
        check=False,
    )
    if done.returncode != 0 or done.stderr:  # a warning that nothing is announced, above all
        raise RuntimeError(f"the loader failed: {done.stderr}")
    return float(done.stdout)


if __name__ == "__main__":
    say("first epoch with its order announced")
    with World() as world:
        save(measure(world))
