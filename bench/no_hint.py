"""The first shuffled epoch of many small files from a far store, nothing cached: without a hint, and with an order.

Without a hint the folder prefetch must find out by itself; with an announced order what comes next is known.  Against
the link.
"""

import statistics
from functools import partial
from itertools import count

from common import MBPS, RTT_MS, SMALL_BYTES, Figure, Result, World, in_turns, save, say
from first_epoch import read_bare, read_cold

COUNT = 4_000
LOADERS = 2
ROUNDS = 5


def measure(world: World) -> Result:
    local = world.small_files("nohint", COUNT, in_sink=True)
    far, numbers = world.sink.far_endpoint, count()

    def forebay(*, is_announced: bool) -> float:
        with world.another_forebay(f"nohint{next(numbers)}") as home:
            return read_cold(world, "nohint", far, LOADERS, announced_to=home if is_announced else None)

    sides = {
        "no hint": partial(forebay, is_announced=False),
        "announced": partial(forebay, is_announced=True),
        "bare obstore": partial(read_bare, local, "nohint", far),
    }
    runs = in_turns(ROUNDS, sides)
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
