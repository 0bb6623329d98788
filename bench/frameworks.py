"""Pictures decoded per second by PyTorch and TensorFlow, once cached, over a mount against the local disk.

Epochs of the two sides take turns, since the machine changes more from one process to the next than they differ.

What a mount loses, found on two processors with two loaders that need 3.5 to 4 ms of one for a picture: CPython 3.11
makes four requests of the mount for it.  OPEN; GETATTR, as passthrough voids the time of access at every read; IOCTL,
as open() asks whether it is a terminal; RELEASE.  Each stops a loader to run the daemon, whose code the decoding has
driven out of the processor's caches: what takes 10 us when warm takes 130 to 160 then, and the loader 60 to 100 more;
and for 200 to 300 us a processor is idle, as the daemon wakes up on the other one.  It is the same, within the noise,
with a daemon of real-time priority, of a short time slice, bound to one processor, or awake between requests.  Nothing
goes to the store.  The price is that of asking at all: a FUSE server that does nothing but answer (`bare_fuse.py`) pays
it too.  In a folder for small files only the IOCTL is left.

`make test-frameworks` installs what it needs.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from common import Figure, Program, Result, World, in_turns, ratio, save, say
from rivals import bare

COUNT = 2000
CLASSES = 10
WIDTH, HEIGHT = 500, 375
ROUNDS = 9
SIDES = (  # of each framework, and how pictures_reader.py reads there
    {
        "torch, mount": "torch",
        "torch, small files": "torch",
        "torch, bare FUSE": "torch",
        "torch, read_many": "torch-client",
        "torch, local": "torch",
    },
    {"tensorflow, mount": "tensorflow", "tensorflow, small files": "tensorflow", "tensorflow, local": "tensorflow"},
)
WHAT = {
    "PyTorch": "torch, mount",
    "PyTorch, --small-files": "torch, small files",
    "PyTorch by `read_many` of a batch": "torch, read_many",
    "TensorFlow": "tensorflow, mount",
    "TensorFlow, --small-files": "tensorflow, small files",
}


def measure(world: World) -> Result:
    local = world.upload("frameworks", _make_pictures(world.scratch / "frameworks"))
    mountpoint = world.mount("frameworks")
    folders = {"local": local, "mount": mountpoint, "read_many": mountpoint}
    folders["small files"] = world.show("frameworks", "small-files")
    folders["bare FUSE"] = world.enter(bare(local, world))
    runs: dict[str, list[float]] = {}
    for ways in SIDES:
        with ExitStack() as readers:
            sides = {}
            for side, way in ways.items():
                folder = folders[side.partition(", ")[2]]
                reader = Program.started("pictures_reader.py", way, str(folder), environment=world.environment)
                sides[side] = readers.enter_context(reader).ask
            runs |= in_turns(ROUNDS, sides)
    size = sum(path.stat().st_size for path in local.rglob("*.jpg")) // COUNT
    return Result(
        name="frameworks",
        how=f"{COUNT:,} JPEGs of {size // 1024} KiB in {CLASSES} folders, decoded to 224 x 224; PyTorch: a DataLoader "
        f"with 2 processes, TensorFlow: image_dataset_from_directory; all cached; {ROUNDS} epochs of each in turns",
        figures=[
            Figure(
                f"{what}, images/s, share of the local disk", 0.97, ratio(runs, side, f"{side.split(',')[0]}, local")
            )
            for what, side in WHAT.items()
        ],
        runs=runs,
        unit="images/s",
        parameters={"files": COUNT, "bytes": size},
    )


def _make_pictures(folder: Path) -> Path:
    """Noisy pictures, so that they have the size of photographs."""

    def make(number: int) -> None:
        noise = np.random.default_rng(number).normal(128, 25, (HEIGHT, WIDTH, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(folder / f"class{number % CLASSES}" / f"{number:05d}.jpg", quality=90)

    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, range(COUNT)))
    return folder


if __name__ == "__main__":
    say("pictures by PyTorch and TensorFlow")
    with World() as world:
        save(measure(world))
