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
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from common import HERE, Figure, Result, World, in_turns, ratio, save, say
from forebay.testing.leash import leashed
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
                sides[side] = partial(_epoch, readers.enter_context(_reader(world, way, folder)))
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


@contextmanager
def _reader(world: World, way: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has read the folder once."""
    command = leashed([sys.executable, str(HERE / "pictures_reader.py"), way, str(folder)])
    environment = os.environ | world.environment
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        if reader.stdout.readline() != "ready\n":
            raise RuntimeError(f"{way} failed; make test-frameworks installs it")
        yield reader


def _epoch(reader: subprocess.Popen[str]) -> float:
    """One more epoch; images per second."""
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    return float(reader.stdout.readline())


if __name__ == "__main__":
    say("pictures by PyTorch and TensorFlow")
    with World() as world:
        save(measure(world))
