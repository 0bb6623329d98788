"""Does the slow proxy behave like a far store?  One GET's time, and bare obstore's rate with 8, 32, 64 in flight."""

import statistics
import time

import obstore

from common import MBPS, RTT_MS, SMALL_BYTES, Figure, Result, World, open_bucket, plain_obstore, save, say

COUNT = 2000
LIMIT = MBPS * 1e6 / SMALL_BYTES  # objects per second that the link lets through


def measure(world: World) -> Result:
    folder = world.small_files("proxycheck", COUNT)
    keys = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.bin"))]
    store = open_bucket(world.far.endpoint, "proxycheck")
    obstore.get(store, keys[0]).bytes()  # opens the connection
    single_ms = []
    for key in keys[:40]:
        begin = time.perf_counter()
        obstore.get(store, key).bytes()
        single_ms.append(1000 * (time.perf_counter() - begin))
    runs = {"one GET of 110 KiB, ms": single_ms}
    for flight in (8, 32, 64):
        side = f"{flight} in flight, objects/s"
        runs[side] = [plain_obstore(world.far.endpoint, "proxycheck", f"range-{flight}", keys) for _ in range(3)]
    one = statistics.median(single_ms)
    most = statistics.median(runs["64 in flight, objects/s"])
    return Result(
        name="check_proxy",
        how=f"behind {RTT_MS:g} ms and {MBPS:g} MB/s, which lets {LIMIT:,.0f} objects/s through",
        figures=[
            Figure("slow proxy: one GET of 110 KiB, not faster than the wire", RTT_MS, one, unit=" ms"),
            Figure("slow proxy: one GET of 110 KiB, not much slower", 30, one, at_most=True, unit=" ms"),
            Figure("slow proxy: 64 in flight, share of the link", 0.8, most / LIMIT),
            Figure("slow proxy: 64 in flight, not above the link", 1.02, most / LIMIT, at_most=True),
        ],
        runs=runs,
        unit="",
        parameters={"objects": COUNT, "rtt_ms": RTT_MS, "mbps": MBPS},
    )


if __name__ == "__main__":
    say(f"slow proxy, {RTT_MS:g} ms and {MBPS:g} MB/s")
    with World() as world:
        save(measure(world))
