"""`forebay fs load` of many small objects, against the fastest plain obstore loop of the ways tried here.

Loops that keep the objects as files do the same work; those that drop the bytes say what reading alone costs.
"""

import json
from functools import partial
from itertools import count

from common import SMALL_BYTES, Figure, Result, World, in_turns, plain_obstore, ratio, save, say
from scratch import settle

COUNT = 5000
ROUNDS = 5
WAYS = ("get-16", "get-32", "get-64", "range-16", "range-32", "range-64", "threads-32")


def measure(world: World) -> Result:
    buckets = [f"loadsmall{number}" for number in range(ROUNDS)]
    local = world.small_files("loadsmall", COUNT, buckets=buckets)
    keys = [str(path.relative_to(local)) for path in sorted(local.rglob("*.bin"))]
    unread, folders = iter(buckets), count()

    def dropping(way: str) -> float:
        return plain_obstore(world.server.endpoint, buckets[0], way, keys, must_list=True)

    def keeping(way: str) -> float:
        """Into a new folder each time, which stays until the end: see `World.small_files`."""
        settle(world.scratch)
        folder = world.scratch / f"kept{next(folders)}"
        return plain_obstore(world.server.endpoint, buckets[0], way, keys, folder=folder, must_list=True)

    def forebay() -> float:
        bucket = next(unread)
        world.mount(bucket)
        settle(world.scratch)
        told = json.loads(world.forebay("fs", "load", "--json", f"/{bucket}"))
        assert told["files_done"] == COUNT
        world.unmount(bucket)
        return COUNT / float(told["seconds"])

    tried = in_turns(1, {way: partial(dropping, way) for way in WAYS})
    tried_keeping = in_turns(1, {way: partial(keeping, way) for way in WAYS})
    best, best_keeping = (max(WAYS, key=lambda way: rates[way][0]) for rates in (tried, tried_keeping))
    sides = {"obstore, kept": partial(keeping, best_keeping), "obstore, dropped": partial(dropping, best)}
    runs = in_turns(ROUNDS, sides | {"forebay": forebay})
    return Result(
        name="load",
        how=f"{COUNT:,} objects of 110 KiB on loopback, listing included on either side, the start of either program "
        f"not; fastest of {len(WAYS)} plain obstore loops that keep the objects as files: {best_keeping}, "
        f"that drop them: {best}; {ROUNDS} rounds in turns",
        figures=[
            Figure("fs load, share of the fastest plain obstore loop", 0.8, ratio(runs, "forebay", "obstore, kept")),
            Figure(
                "the same, of the fastest one that drops the bytes", 0.8, ratio(runs, "forebay", "obstore, dropped")
            ),
        ],
        runs=runs
        | {f"obstore {way}, dropped": values for way, values in tried.items()}
        | {f"obstore {way}, kept": values for way, values in tried_keeping.items()},
        unit="objects/s",
        parameters={"objects": COUNT, "bytes": SMALL_BYTES, "fastest": best, "fastest_keeping": best_keeping},
    )


if __name__ == "__main__":
    say("fs load of small objects")
    with World() as world:
        save(measure(world))
