"""An ordinary training script: a small AlexNet over a folder of pictures, one folder per class.

    python demo/train.py --data_dir=/mnt/fuse/imagenet --epochs=3

It knows nothing of Forebay.  `--data_dir=s3://bucket` reads each picture from the store instead, as the demo's
comparison; `--read_only` reads the bytes and does nothing with them.  Prints a line for each epoch: images/s, and
where the time went: reading and preparing are summed over the loader's processes, which work beside the step.
"""

import argparse
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from store_pictures import StorePictures

SIDE = 80  # pixels, what the net sees
WORKERS = 2
BATCH = 50

Sample = tuple[Tensor, int, float, float]  # picture, class, seconds reading, seconds preparing


class FolderPictures:
    """`ROOT/CLASS/NAME.jpg`, as torchvision's ImageFolder takes it: classes and names in sorted order."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        self.names = [
            (f"{folder}/{name}", label)
            for label, folder in enumerate(self.classes)
            for name in sorted(os.listdir(os.path.join(root, folder)))
        ]

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        with open(os.path.join(self._root, name), "rb") as file:
            return file.read()


class Pictures(Dataset[Sample]):
    """Pictures as tensors, a random crop of each; with `read_only` their bytes are read, and that is all."""

    def __init__(self, source: FolderPictures | StorePictures, *, read_only: bool) -> None:
        self._source = source
        self._read_only = read_only

    def __len__(self) -> int:
        return len(self._source.names)

    def __getitem__(self, index: int) -> Sample:
        name, label = self._source.names[index]
        begin = time.perf_counter()
        data = self._source.read(name)
        read = time.perf_counter()
        picture = torch.empty(0) if self._read_only else prepare(data)
        return picture, label, read - begin, time.perf_counter() - read


def prepare(data: bytes) -> Tensor:
    """Decode, cut out a random part, resize, mirror at random; float32, shape (3, SIDE, SIDE), about -1 to 1."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = picture.size
    side = random.uniform(0.7, 1.0) * min(width, height)
    left, top = random.uniform(0, width - side), random.uniform(0, height - side)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.view(SIDE, SIDE, 3).permute(2, 0, 1).float() / 127.5 - 1


def small_alexnet(classes: int) -> nn.Module:
    """AlexNet's five convolutions and three full layers, narrowed for small pictures and two cores."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 96, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(96, 96, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(96, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * (SIDE // 16) ** 2, 256), nn.ReLU()),
        *(nn.Dropout(0.2), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


@dataclass(frozen=True)
class Epoch:
    """What one epoch took."""

    data_dir: str
    epoch: int
    images: int
    seconds: float
    reading_s: float  # summed over the loader's processes
    preparing_s: float  # likewise
    step_s: float
    accuracy: float | None  # of the pictures trained on, while it trained; None: nothing was trained

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Training:
    """One net, one set of pictures; `run` trains an epoch."""

    def __init__(self, data_dir: str, *, read_only: bool, seed: int = 1) -> None:
        torch.manual_seed(seed)
        # The loader's processes need the other core.
        torch.set_num_threads(1)
        source = StorePictures(data_dir) if data_dir.startswith("s3://") else FolderPictures(data_dir)
        pictures = Pictures(source, read_only=read_only)
        self._data_dir = data_dir
        self._loader = DataLoader(pictures, BATCH, shuffle=True, num_workers=WORKERS)
        self._step = None if read_only else _make_step(small_alexnet(len(source.classes)))
        self._epoch = 0

    def run(self) -> Epoch:
        """Every picture once, in a new random order."""
        self._epoch += 1
        images = right = 0
        reading_s = preparing_s = step_s = 0.0
        begin = time.perf_counter()
        for pixels, labels, read_s, prepare_s in self._loader:
            got = time.perf_counter()
            if self._step is not None:
                right += self._step(pixels, labels)
            images += len(labels)
            reading_s += float(read_s.sum())
            preparing_s += float(prepare_s.sum())
            step_s += time.perf_counter() - got
        seconds = time.perf_counter() - begin
        accuracy = None if self._step is None else right / images
        return Epoch(self._data_dir, self._epoch, images, seconds, reading_s, preparing_s, step_s, accuracy)


def _make_step(net: nn.Module) -> Callable[[Tensor, Tensor], int]:
    """One step of gradient descent, as a function of a batch; it returns how many of it the net got right."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(pixels: Tensor, labels: Tensor) -> int:
        scores = net(pixels)
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()
        return int((scores.argmax(1) == labels).sum())

    return step


def run_all(trainings: list[Training], epochs: int) -> Iterator[Epoch]:
    """So many epochs of each, in turns; the one that went last goes first in the next round."""
    for number in range(epochs):
        for training in trainings if number % 2 == 0 else reversed(trainings):
            yield training.run()


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description="Trains a small AlexNet on a folder of pictures.")
    parser.add_argument("--data_dir", action="append", required=True, help="more than one: epochs in turns")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--read_only", action="store_true", help="read the bytes, and no more")
    parser.add_argument("--json", type=Path, help="append a line for each epoch to this file")
    words = parser.parse_args()
    trainings = [Training(data_dir, read_only=words.read_only) for data_dir in words.data_dir]
    for done in run_all(trainings, words.epochs):
        learnt = "" if done.accuracy is None else f", {done.accuracy:.0%} right"
        print(
            f"{done.data_dir} epoch {done.epoch}: {done.seconds:.1f} s, {done.rate:,.0f} images/s{learnt}", flush=True
        )
        if words.json:
            with words.json.open("a") as file:
                file.write(json.dumps(asdict(done)) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
