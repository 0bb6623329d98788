"""A PyTorch training's loader, and no training: two processes read files in a shuffled order; prints files per second.

    python bench/loader.py plain|sampler COUNT WARM_FOLDER FOLDER

reads WARM_FOLDER once, so that the loader's processes run, and then COUNT files of FOLDER, which is timed: from asking
for the first batch until the last one is here.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, SubsetRandomSampler

from forebay.torch import LookaheadSampler

WORKERS = 2
BATCH = 50


class Files(Dataset[int]):
    """The sizes of files, each read whole."""

    def __init__(self, paths: list[str]) -> None:
        self.samples = [(path, 0) for path in paths]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> int:
        with open(self.samples[index][0], "rb") as file:
            return len(file.read())


class InTurn(Sampler[int]):
    """Each epoch the next one of these samplers."""

    def __init__(self, samplers: Sequence[Sampler[int]]) -> None:
        self._samplers = iter(samplers)

    def __iter__(self) -> Iterator[Any]:
        return iter(next(self._samplers))


def main() -> None:
    way, count, *folders = sys.argv[1:]
    warm, cold = (sorted(map(str, Path(folder).rglob("*.bin"))) for folder in folders)
    torch.manual_seed(os.getpid())
    data = Files(warm + cold)
    shuffled = torch.randperm(len(cold))[: int(count)] + len(warm)
    sampler: Sampler[int] = SubsetRandomSampler(shuffled.tolist())
    if way == "sampler":
        sampler = LookaheadSampler(sampler, data)
    turns = InTurn([SubsetRandomSampler(range(len(warm))), sampler])
    loader = DataLoader(data, BATCH, sampler=turns, num_workers=WORKERS, persistent_workers=True)
    assert sum(len(batch) for batch in loader) == len(warm)
    begin = time.perf_counter()
    assert sum(len(batch) for batch in loader) == int(count)
    print(int(count) / (time.perf_counter() - begin))


if __name__ == "__main__":
    main()
