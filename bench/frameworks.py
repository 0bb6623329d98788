"""Pictures decoded per second by PyTorch and TensorFlow, second epoch, over a mount against the local disk."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from common import COMMAND_WITHIN_S, HERE, Figure, Result, World, in_turns, ratio, save, say
from forebay.testing.leash import leashed

COUNT = 2000
CLASSES = 10
WIDTH, HEIGHT = 500, 375
ROUNDS = 5
FRAMEWORKS = ("torch", "tensorflow")


def measure(world: World) -> Result:
    local = world.upload("frameworks", _make_pictures(world.scratch / "frameworks"))
    mountpoint = world.mount("frameworks")
    sides = {
        f"{framework}, {where}": lambda framework=framework, folder=folder: _read(framework, folder)
        for framework in FRAMEWORKS
        for where, folder in (("mount", mountpoint), ("local", local))
    }
    runs = in_turns(ROUNDS, sides)
    size = sum(path.stat().st_size for path in local.rglob("*.jpg")) // COUNT
    return Result(
        name="frameworks",
        how=f"{COUNT:,} JPEGs of {size // 1024} KiB in {CLASSES} folders, decoded to 224 x 224; PyTorch: a DataLoader "
        f"with 2 processes, TensorFlow: image_dataset_from_directory; all cached, second epoch; {ROUNDS} rounds",
        figures=[
            Figure(f"{name}, images/s, share of the local disk", 0.97, ratio(runs, f"{one}, mount", f"{one}, local"))
            for one, name in zip(FRAMEWORKS, ("PyTorch", "TensorFlow"), strict=True)
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


def _read(framework: str, folder: Path) -> float:
    command = [sys.executable, str(HERE / "pictures_reader.py"), framework, str(folder)]
    done = subprocess.run(leashed(command), capture_output=True, text=True, timeout=COMMAND_WITHIN_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{framework} failed; make test-frameworks installs it: {done.stderr[-500:]}")
    return float(done.stdout)


if __name__ == "__main__":
    say("pictures by PyTorch and TensorFlow")
    with World() as world:
        save(measure(world))
