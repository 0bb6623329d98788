"""One large file read from start to end, from a far store, nothing cached: what share of the link arrives?"""

import statistics

from common import MBPS, RTT_MS, Figure, Result, World, read_large, save, say

SIZE = 1 << 30
ROUNDS = 3


def measure(world: World) -> Result:
    world.large_file("coldlarge", SIZE).unlink()
    rates = []
    for _ in range(ROUNDS):
        mountpoint = world.mount("coldlarge", far=True)
        rates.append(read_large(mountpoint / "large.bin") / 1e6)
        world.unmount("coldlarge", free=True)
    return Result(
        name="cold_sequential",
        how=f"{SIZE >> 30} GiB, 1 MiB reads, store behind {RTT_MS:g} ms and {MBPS:g} MB/s, nothing cached; "
        f"{ROUNDS} runs",
        figures=[Figure("cold sequential read, share of the link", 0.85, statistics.median(rates) / MBPS)],
        runs={"forebay": rates},
        unit="MB/s",
        parameters={"bytes": SIZE, "read_bytes": 1 << 20, "rtt_ms": RTT_MS, "mbps": MBPS},
    )


if __name__ == "__main__":
    say("cold sequential read from a far store")
    with World() as world:
        save(measure(world))
