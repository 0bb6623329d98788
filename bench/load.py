"""`forebay fs load` of many small objects, against the fastest plain obstore loop of the ways tried here."""

import statistics
import time

from common import SMALL_BYTES, Figure, Result, World, in_turns, plain_obstore, ratio, save, say

COUNT = 5000
ROUNDS = 3
WAYS = ("get-16", "get-32", "get-64", "range-16", "range-32", "range-64", "threads-32")


def measure(world: World) -> Result:
    buckets = [f"loadsmall{number}" for number in range(ROUNDS)]
    local = world.small_files("loadsmall", COUNT, buckets=buckets)
    keys = [str(path.relative_to(local)) for path in sorted(local.rglob("*.bin"))]
    unread = iter(buckets)

    def obstore(way: str) -> float:
        return plain_obstore(world.server.endpoint, buckets[0], way, keys)

    tried = in_turns(2, {way: (lambda way=way: obstore(way)) for way in WAYS})
    best = max(WAYS, key=lambda way: statistics.median(tried[way]))

    def forebay() -> float:
        bucket = next(unread)
        world.mount(bucket)
        begin = time.perf_counter()
        world.forebay("fs", "load", f"/{bucket}")
        rate = COUNT / (time.perf_counter() - begin)
        world.unmount(bucket)
        return rate

    runs = in_turns(ROUNDS, {"fastest obstore": lambda: obstore(best), "forebay": forebay})
    return Result(
        name="load",
        how=f"{COUNT:,} objects of 110 KiB on loopback; the fastest plain loop is obstore {best} (it drops what it "
        f"reads, fs load writes it to the cache and its index); {ROUNDS} rounds in turns, the command's start included",
        figures=[
            Figure("fs load, share of the fastest plain obstore loop", 0.8, ratio(runs, "forebay", "fastest obstore"))
        ],
        runs=runs | {f"obstore {way}": values for way, values in tried.items()},
        unit="objects/s",
        parameters={"objects": COUNT, "bytes": SMALL_BYTES, "fastest": best},
    )


if __name__ == "__main__":
    say("fs load of small objects")
    with World() as world:
        save(measure(world))
