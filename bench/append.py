"""What an append of 1 MiB to an object of 1 GiB on S3 moves over the network, nothing cached: bytes both ways."""

import os

from common import Figure, Result, World, open_bucket, save, say

SIZE = 1 << 30
APPENDED_BYTES = 1 << 20
ROUNDS = 3


def measure(world: World) -> Result:
    world.large_file("append", SIZE).unlink()
    carried, size = [], SIZE
    for _ in range(ROUNDS):
        mountpoint = world.mount("append", far=True)
        added = os.urandom(APPENDED_BYTES)
        before = sum(world.far.carried())
        with (mountpoint / "large.bin").open("ab") as file:
            file.write(added)
        carried.append((sum(world.far.carried()) - before) / 2**20)
        world.wait_until_uploaded()
        world.unmount("append", free=True)
        size += APPENDED_BYTES
        _check(world, size, added)
    return Result(
        name="append",
        how=f"{APPENDED_BYTES >> 20} MiB to {SIZE >> 30} GiB, opened for appending, written, closed; nothing cached; "
        f"all bytes between Forebay and the server, both ways; the most of {ROUNDS} runs",
        figures=[
            Figure("append to a large object, bytes over the network", 20, max(carried), at_most=True, unit=" MiB")
        ],
        runs={"forebay": carried},
        unit="MiB",
        parameters={"bytes": SIZE, "appended_bytes": APPENDED_BYTES},
    )


def _check(world: World, size: int, added: bytes) -> None:
    """The store has the object with what was added, or nothing was measured."""
    store = open_bucket(world.server.endpoint, "append")
    found = store.head("large.bin")["size"]
    if found != size or store.get_range("large.bin", start=size - len(added), end=size) != added:
        raise RuntimeError(f"the append is not in the store: {found} bytes there instead of {size}")


if __name__ == "__main__":
    say("append to a large object")
    with World() as world:
        save(measure(world))
