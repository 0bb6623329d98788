"""Warm read of one large file in pieces of 1 MiB: through the mount against the cache's disk read natively.

A folder for small files is not for such a file, as it has no passthrough; what that costs is told beside it.
"""

from functools import partial

from common import Figure, Result, World, in_turns, ratio, read_large, save, say

SIZE = 2 << 30
ROUNDS = 7


def measure(world: World) -> Result:
    native = world.large_file("warmlarge", SIZE)
    mountpoint = world.mount("warmlarge")
    world.forebay("fs", "load", "/warmlarge")
    mounted = mountpoint / "large.bin"
    for path in (native, mounted):
        read_large(path)  # both are in the page cache from here on
    sides = {
        "native": partial(read_large, native),
        "forebay": partial(read_large, mounted),
        "small files, first read": partial(_read_anew, world),
        "small files": lambda: read_large(world.shown("warmlarge", "small-files") / "large.bin"),
    }
    world.show("warmlarge", "small-files")
    runs = in_turns(ROUNDS, sides)
    world.unmount("warmlarge", free=True)
    native.unlink()
    return Result(
        name="warm_large",
        how=f"{SIZE >> 30} GiB, 1 MiB reads, page cache warm for both, {ROUNDS} rounds in turns",
        figures=[Figure("warm read of a 2 GiB file, share of native", 0.9, ratio(runs, "forebay", "native"))],
        runs={name: [each / 1e6 for each in values] for name, values in runs.items()},
        unit="MB/s",
        parameters={"bytes": SIZE, "read_bytes": 1 << 20},
    )


def _read_anew(world: World) -> float:
    """The same in a folder for small files of whose pages the kernel has none."""
    world.hide("warmlarge", "small-files")
    return read_large(world.show("warmlarge", "small-files") / "large.bin")


if __name__ == "__main__":
    say("warm read of a large file")
    with World() as world:
        save(measure(world))
