"""Trains on nothing: a framework reads and decodes a folder of pictures, epoch by epoch.

python bench/pictures_reader.py torch|tensorflow FOLDER

Says "ready" after the first epoch; then each line that it is told is one more, whose images per second it prints.
"""

import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BATCH = 50
SIDE = 224


def by_torch(folder: str) -> Iterator[int]:
    """Batch by batch, how many pictures: epoch after epoch; 0 ends an epoch."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Pictures(Dataset[torch.Tensor]):
        def __init__(self) -> None:
            self.paths = sorted(Path(folder).glob("*/*.jpg"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            picture = Image.open(io.BytesIO(self.paths[index].read_bytes())).convert("RGB").resize((SIDE, SIDE))
            return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)

    loader = DataLoader(Pictures(), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    while True:
        for batch in loader:
            yield len(batch)
        yield 0


def by_tensorflow(folder: str) -> Iterator[int]:
    """The same."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    pictures = keras.utils.image_dataset_from_directory(folder, image_size=(SIDE, SIDE), batch_size=BATCH, verbose=0)
    while True:
        for batch, _ in pictures.prefetch(2):
            yield len(batch)
        yield 0


def main() -> None:
    framework, folder = sys.argv[1:]
    batches = {"torch": by_torch, "tensorflow": by_tensorflow}[framework](folder)
    first = sum(iter(lambda: next(batches), 0))
    print("ready", flush=True)
    for _ in sys.stdin:
        begin, left = time.perf_counter(), first
        while left:
            left -= next(batches)
        print(first / (time.perf_counter() - begin), flush=True)
        assert next(batches) == 0  # not timed: TensorFlow's iterator ends at multiples of 2.56 s


if __name__ == "__main__":
    main()
