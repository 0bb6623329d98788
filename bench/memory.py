"""The daemon's resident memory, after whatever the same world has measured before."""

from common import Figure, Result, World, save, say
from first_epoch import measure as first_epoch

UNIT = 1e6


def measure(world: World) -> Result:
    status = world.status()
    rss = status["rss_bytes"] / UNIT
    return Result(
        name="memory",
        how="resident memory of one daemon that went through all of the above, by `forebay status --json`",
        figures=[Figure("daemon's resident memory after all of it", 250, rss, at_most=True, unit=" MB")],
        runs={"forebay": [rss]},
        unit="MB",
        parameters={"uptime_s": status["uptime_s"]},
    )


if __name__ == "__main__":
    say("memory, after a first epoch")
    with World() as world:
        first_epoch(world)
        save(measure(world))
