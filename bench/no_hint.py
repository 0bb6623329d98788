"""The first shuffled epoch of many small files from a far store, nothing cached: without a hint, and with an order.

Without a hint the folder prefetch must find out by itself; with an announced order what comes next is known.  Against
the link.
"""

import statistics
from contextlib import nullcontext

from common import MBPS, RTT_MS, SMALL_BYTES, Figure, Readers, Result, World, plain_obstore, save, say, shuffled_paths
from forebay import FileSystem
from scratch import settle

COUNT = 4_000
LOADERS = 2
ROUNDS = 3


def measure(world: World) -> Result:
    local = world.small_files("nohint", COUNT, in_sink=True)
    keys = [path.removeprefix(f"{local}/") for path in shuffled_paths(local, 7)]
    runs: dict[str, list[float]] = {"no hint": [], "announced": [], "bare obstore": []}
    for number in range(ROUNDS):
        for side, rates in runs.items():
            if side == "bare obstore":
                rates.append(plain_obstore(world.sink.far_endpoint, "nohint", "range-64", keys))
                continue
            with world.another_forebay(f"nohint-{side[:2]}{number}") as home:
                mountpoint = world.mount("nohint", endpoint=world.sink.far_endpoint)
                paths = shuffled_paths(mountpoint, 7)
                readers = Readers(paths, LOADERS)
                settle(world.scratch)
                with FileSystem(home).job("loaders") if side == "announced" else nullcontext() as job:
                    if job is not None:
                        job.announce([f"/nohint{path.removeprefix(str(mountpoint))}" for path in paths])
                    rates.append(readers.run())
                world.unmount("nohint")
    link = MBPS * 1e6 / SMALL_BYTES
    return Result(
        name="no_hint",
        how=f"{COUNT:,} files of 110 KiB in folders, shuffled, {LOADERS} loader processes, store behind {RTT_MS:g} ms "
        f"and {MBPS:g} MB/s that costs this machine nothing, nothing cached; {ROUNDS} rounds in turns",
        figures=[
            Figure("first epoch without a hint, share of the link", 0.8, statistics.median(runs["no hint"]) / link),
            Figure(
                "first epoch with an announced order, share of the link",
                0.85,
                statistics.median(runs["announced"]) / link,
            ),
        ],
        runs=runs,
        unit="files/s",
        parameters={"files": COUNT, "bytes": SMALL_BYTES, "loaders": LOADERS, "rtt_ms": RTT_MS, "mbps": MBPS},
    )


if __name__ == "__main__":
    say("first epoch from a far store, without and with a hint")
    with World() as world:
        save(measure(world))
