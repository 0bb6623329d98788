"""Trains on nothing: a framework reads and decodes a folder of pictures, epoch by epoch.

python bench/pictures_reader.py torch|torch-client|tensorflow FOLDER

`torch-client` reads a batch at a time by `forebay.read_many`, and not through the folder.

Says "ready" after the first epoch; then each line that it is told is one more, whose images per second it prints.
"""

import io
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

BATCH = 50
SIDE = 224


def by_torch(folder: str, *, by_client: bool = False) -> Iterator[int]:
    """Batch by batch, how many pictures: epoch after epoch; 0 ends an epoch."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    import forebay

    def decoded(content: bytes) -> torch.Tensor:
        picture = Image.open(io.BytesIO(content)).convert("RGB").resize((SIDE, SIDE))
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)

    class Pictures(Dataset[torch.Tensor]):
        def __init__(self) -> None:
            self.paths = sorted(Path(folder).glob("*/*.jpg"))
            self.names = [forebay.FileSystem().virtual(path) for path in self.paths] if by_client else []

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            return decoded(self.paths[index].read_bytes())

        def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
            if not by_client:
                return [self[index] for index in indices]
            return [decoded(content) for content in forebay.read_many([self.names[index] for index in indices])]

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
    ways = {"torch": by_torch, "torch-client": partial(by_torch, by_client=True), "tensorflow": by_tensorflow}
    batches = ways[framework](folder)
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
