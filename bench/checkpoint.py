"""Checkpoints of 2 GiB by torch.save: acknowledged by the local disk or by a far store, and read back right after.

Acknowledged means closed and synced, on either side.  In `back` mode the upload begins when the file has been read
back.  That is timed once more when the store has it, and has written it: what its work takes of this machine is another
machine's elsewhere.
"""

import os
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import obstore

from common import MBPS, RTT_MS, Figure, Program, Result, World, in_turns, open_bucket, ratio, read_large, save, say
from forebay.stores.uploads import PART_BYTES
from forebay.vfs.sending import PARTS_IN_FLIGHT
from scratch import settle

SIZE = 2 << 30
ROUNDS, FAR_ROUNDS = 9, 3


def _save(child: Program, path: Path) -> float:
    """Save the same tensors once more (see saver.py); bytes per second until it is acknowledged."""
    return SIZE / child.ask(str(path))


def measure(world: World) -> Result:
    folder = world.scratch / "checkpoints"
    folder.mkdir()
    world.server.make_bucket("checkpoint")
    mounted = world.mount("checkpoint", write_mode="back")
    with Program.started("saver.py", str(SIZE)) as child:
        runs = _save_and_read(world, child, folder, mounted)
        runs |= _save_far(world, child, folder)
    world.unmount("checkpoint", free=True)
    shown = {name: [each / 1e6 for each in values] for name, values in runs.items()}
    return Result(
        name="checkpoint",
        how=f"{SIZE >> 30} GiB by torch.save, closed and synced, {ROUNDS} rounds in turns; far: behind {RTT_MS:g} ms "
        f"and {MBPS:g} MB/s, {FAR_ROUNDS} rounds, a server that drops what it gets; read back "
        "in pieces of 1 MiB, page cache warm for both",
        figures=[
            Figure("checkpoint of 2 GiB, `back`, share of the local disk", 0.8, ratio(runs, "back", "local")),
            Figure("checkpoint of 2 GiB, `through`, share of the link", 0.85, sorted(shown["through, far"])[1] / MBPS),
            Figure("the same, share of bare obstore", 0.85, ratio(runs, "through, far", "bare obstore, far")),
            Figure("read back right after, share of local", 0.9, ratio(runs, "back, read", "local, read")),
            Figure("read back once it is uploaded", 0.9, ratio(runs, "back, read later", "local, read")),
        ],
        runs=shown,
        unit="MB/s",
        parameters={"bytes": SIZE, "read_bytes": 1 << 20, "rtt_ms": RTT_MS, "mbps": MBPS},
    )


def _save_and_read(world: World, child: Program, local: Path, mounted: Path) -> dict[str, list[float]]:
    reads: dict[str, list[float]] = defaultdict(list)

    def one(side: str, folder: Path) -> float:
        path = folder / "model.pt"
        settle(world.scratch)
        rate = _save(child, path)
        reads[f"{side}, read"].append(read_large(path))
        if side == "back":
            world.wait_until_uploaded()
            os.sync()
            reads["back, read later"].append(read_large(path))
        path.unlink()
        return rate

    runs = in_turns(ROUNDS, {"local": partial(one, "local", local), "back": partial(one, "back", mounted)})
    return runs | reads


def _save_far(world: World, child: Program, local: Path) -> dict[str, list[float]]:
    """To the far store that takes uploads for nothing; and the same file by bare obstore, in parts as large."""
    endpoint = world.sink.far_endpoint
    mounted = world.mount("checkpointfar", endpoint=endpoint) / "model.pt"
    bare, source = open_bucket(endpoint, "checkpointfar"), local / "model.pt"
    _save(child, source)

    def forebay() -> float:
        settle(world.scratch)
        rate = _save(child, mounted)
        mounted.unlink()
        return rate

    def plain() -> float:
        settle(world.scratch)
        begin = time.perf_counter()
        obstore.put(bare, "bare.pt", source, chunk_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT)
        return SIZE / (time.perf_counter() - begin)

    runs = in_turns(FAR_ROUNDS, {"through, far": forebay, "bare obstore, far": plain})
    source.unlink()
    world.unmount("checkpointfar", free=True)
    return runs


if __name__ == "__main__":
    say("checkpoints")
    with World() as world:
        save(measure(world))
