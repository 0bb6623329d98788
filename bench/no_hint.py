"""The first shuffled epoch of many small files from a far store, nothing cached: without a hint, and with an order.

Without a hint the folder prefetch must find out by itself; with an announced order what comes next is known.  Against
the link.
"""

import statistics

from announcing import Announcer, OwnForebay
from common import MBPS, RTT_MS, SMALL_BYTES, Figure, Readers, Result, World, save, say, shuffled_paths
from scratch import settle

COUNT = 4_000
LOADERS = 2
ROUNDS = 3


def measure(world: World) -> Result:
    world.small_files("nohint", COUNT)
    options = {"s3.endpoint": world.far.endpoint, "s3a.accessKeyID": world.server.access_key}
    options["s3a.secretKey"] = world.server.secret_key
    words = [word for name, value in options.items() for word in ("--option", f"{name}={value}")]
    runs: dict[str, list[float]] = {"no hint": [], "announced": []}
    for number in range(ROUNDS):
        for side, rates in runs.items():
            home = world.scratch / f"nohint-{side[:2]}{number}"
            with OwnForebay(home) as forebay:
                mountpoint = forebay.show("s3://nohint", *words)
                paths = shuffled_paths(mountpoint, 7)
                readers = Readers(paths, LOADERS)
                settle(world.scratch)
                if side == "no hint":
                    rates.append(readers.run())
                    continue
                with Announcer(forebay.home) as job:
                    job.announce([f"/data/{path[len(str(mountpoint)) + 1 :]}" for path in paths])
                    rates.append(readers.run())
    link = MBPS * 1e6 / SMALL_BYTES
    return Result(
        name="no_hint",
        how=f"{COUNT:,} files of 110 KiB in folders, shuffled, {LOADERS} loader processes, store behind {RTT_MS:g} ms "
        f"and {MBPS:g} MB/s, nothing cached; {ROUNDS} rounds in turns",
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
