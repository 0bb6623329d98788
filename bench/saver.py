"""A training: makes tensors of so many bytes, says `ready`, saves them to each path that stdin brings, as checkpoints.

Prints the seconds of each, from its begin until it is acknowledged: closed, and synced by fsync(2).
"""

import os
import sys
import time

import torch

TENSOR_BYTES = 64 << 20

state = {f"layer{number}": torch.rand(TENSOR_BYTES // 4) for number in range(int(sys.argv[1]) // TENSOR_BYTES)}
sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    path = line.rstrip("\n")
    begin = time.perf_counter()
    torch.save(state, path)
    file = os.open(path, os.O_RDWR)
    os.fsync(file)
    os.close(file)
    sys.stdout.write(f"{time.perf_counter() - begin}\n")
    sys.stdout.flush()
