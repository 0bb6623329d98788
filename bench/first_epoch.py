"""The first shuffled epoch of many small files by eight processes, from a far store, nothing cached and no hint.

Against bare obstore with 64 in flight behind the same link, which is about the most that the link gives.
"""

from common import (
    MBPS,
    RTT_MS,
    SMALL_BYTES,
    Figure,
    Readers,
    Result,
    World,
    in_turns,
    plain_obstore,
    ratio,
    save,
    say,
    shuffled_paths,
)
from scratch import settle

COUNT = 2000
READERS = 8
ROUNDS = 5


def measure(world: World) -> Result:
    buckets = [f"firstepoch{number}" for number in range(ROUNDS)]
    local = world.small_files("firstepoch", COUNT, buckets=buckets)
    keys = [path[len(str(local)) + 1 :] for path in shuffled_paths(local, 7)]
    unread = iter(buckets)

    def forebay() -> float:
        """A mount made anew, its folders listed as a loader does, then all files at once."""
        bucket = next(unread)
        mountpoint = world.mount(bucket, far=True)
        readers = Readers(shuffled_paths(mountpoint, 7), READERS)
        settle(world.scratch)
        rate = readers.run()
        world.unmount(bucket)
        return rate

    def obstore() -> float:
        return plain_obstore(world.far.endpoint, buckets[0], "range-64", keys)

    runs = in_turns(ROUNDS, {"obstore": obstore, "forebay": forebay})
    return Result(
        name="first_epoch",
        how=f"{COUNT:,} files of 110 KiB in folders, shuffled, {READERS} reader processes, store behind "
        f"{RTT_MS:g} ms and {MBPS:g} MB/s, nothing cached, no hint; {ROUNDS} rounds in turns",
        figures=[
            Figure("first epoch, share of bare obstore with 64 in flight", 0.6, ratio(runs, "forebay", "obstore"))
        ],
        runs=runs,
        unit="files/s",
        parameters={"files": COUNT, "bytes": SMALL_BYTES, "readers": READERS, "rtt_ms": RTT_MS, "mbps": MBPS},
    )


if __name__ == "__main__":
    say("first epoch from a far store")
    with World() as world:
        save(measure(world))
