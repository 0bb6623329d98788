"""JAX: Grain's random-access sources over the mount, in this process and in worker processes."""

from pathlib import Path

import pytest

from frameworks.conftest import Script

pytestmark = pytest.mark.timeout(600)


def test_grain_reads_array_records_in_random_order_and_jax_computes_with_them(data: Path, script: Script) -> None:
    code = """
import glob, grain.python as grain, jax, numpy as np
from frameworks.records import record
source = grain.ArrayRecordDataSource(sorted(glob.glob(argv[1] + "/arrays/*")))
sampler = grain.IndexSampler(len(source), grain.NoSharding(), shuffle=True, num_epochs=2, seed=5)
seen = list(grain.DataLoader(data_source=source, sampler=sampler, worker_count=0))
print(len(source), sorted(seen) == sorted(record(number) for number in range(100) for _ in range(2)))
mean = jax.jit(lambda x: x.mean())(np.frombuffer(seen[0], np.uint8).astype(np.float32))
print(100 < float(mean) < 155)
"""
    assert script(code, data).splitlines()[-2:] == ["100 True", "True"]


def test_grain_reads_files_by_a_source_of_ones_own_in_worker_processes(data: Path, script: Script) -> None:
    code = """
import grain.python as grain
from absl import flags
from frameworks.pictures_source import Pictures

flags.FLAGS(argv[:1])
source = Pictures(argv[1] + "/pictures")
sampler = grain.IndexSampler(len(source), grain.NoSharding(), shuffle=True, num_epochs=1, seed=5)
loader = grain.DataLoader(data_source=source, sampler=sampler, worker_count=2)
print(sorted(loader) == sorted(source[number] for number in range(len(source))), len(source))
batches = grain.MapDataset.source(source).shuffle(seed=7).batch(4)
print(len(batches), len({name for batch in batches for name in batch}))
"""
    assert script(code, data).splitlines()[-2:] == ["True 24", "6 24"]
