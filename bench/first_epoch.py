"""The first shuffled epoch of many small files by eight processes, from a far store, nothing cached and no hint.

Against bare obstore with 64 in flight behind the same link, which is about the most that the link gives.
"""

from contextlib import nullcontext
from pathlib import Path

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
    shuffled_keys,
    shuffled_paths,
)
from forebay import FileSystem
from scratch import settle

COUNT = 2000
READERS = 8
ROUNDS = 5
SEED = 7


def read_cold(world: World, bucket: str, endpoint: str, readers: int, *, announced_to: Path | None = None) -> float:
    """A mount made anew, its folders listed as a loader does, then all files at once; files per second.

    Args:
        announced_to: the home whose daemon is told the order before.
    """
    mountpoint = world.mount(bucket, endpoint=endpoint)
    paths = shuffled_paths(mountpoint, SEED)
    children = Readers(paths, readers)
    settle(world.scratch)
    with FileSystem(announced_to).job("readers") if announced_to else nullcontext() as job:
        if job is not None:
            job.announce([f"/{bucket}{path.removeprefix(str(mountpoint))}" for path in paths])
        rate = children.run()
    world.unmount(bucket)
    return rate


def read_bare(local: Path, bucket: str, endpoint: str) -> float:
    """The same objects by bare obstore with 64 in flight."""
    return plain_obstore(endpoint, bucket, "range-64", shuffled_keys(local, SEED))


def measure(world: World) -> Result:
    buckets = [f"firstepoch{number}" for number in range(ROUNDS)]
    local = world.small_files("firstepoch", COUNT, buckets=buckets)
    unread = iter(buckets)
    far = world.far.endpoint
    sides = {
        "obstore": lambda: read_bare(local, buckets[0], far),
        "forebay": lambda: read_cold(world, next(unread), far, READERS),
    }
    runs = in_turns(ROUNDS, sides)
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
