"""A training job: announces its shuffled epochs and reads them, an epoch for each line on stdin.

python bench/announced_reader.py HOME MOUNTPOINT SEED KNOWN EPOCHS

KNOWN epochs are announced ahead, the one that is read included; 0 announces nothing.  It says `ready`, and `done` after
each epoch.  What it has read it drops from the kernel's page cache: what is counted is Forebay's cache.
"""

import os
import random
import sys
from contextlib import nullcontext
from pathlib import Path

from forebay import FileSystem

BATCH = 16

home, mountpoint, seed, known, epochs = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6])
names = sorted(str(path.relative_to(mountpoint)) for path in mountpoint.rglob("*") if path.is_file())
chance = random.Random(seed)
orders = [chance.sample(names, len(names)) for _ in range(epochs)]
fs = FileSystem(home)
root = fs.virtual(mountpoint)
with fs.job(f"reader {seed}") if known else nullcontext() as job:
    print("ready", flush=True)
    for number, order in enumerate(orders):
        sys.stdin.readline()
        if job is not None:
            for ahead in orders[0 if number == 0 else number + known - 1 : number + known]:
                job.announce([f"{root}/{name}" for name in ahead])
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            if job is not None:
                job.advance(len(batch))
            for name in batch:
                file = os.open(mountpoint / name, os.O_RDONLY)
                while os.read(file, 1 << 20):
                    pass
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(file)
        print("done", flush=True)
