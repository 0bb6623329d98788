"""PyTorch over the mount: loaders whose order is announced, and checkpoints by torch.distributed.checkpoint."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from forebay.testing.daemons import wait_until
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.seaweed import SeaweedS3
from frameworks.conftest import Script, World
from mount.conftest import Reader

pytestmark = pytest.mark.timeout(600)

PICTURES = 200
ASKED_AT_ONCE = 64  # at most so many are on their way: by so much the order of requests may differ from the announced

TRAIN = """
import json
import torch
sys.path.insert(0, os.environ["TESTS"])
import frameworks.plain_torchvision
from torch.utils.data import DataLoader, RandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor
from forebay.torch import LookaheadSampler

def shuffled(data):
    return RandomSampler(data, generator=torch.Generator().manual_seed(3))

data = ImageFolder(argv[1], transform=pil_to_tensor)
print(json.dumps([os.path.relpath(data.samples[index][0], argv[1]) for index in shuffled(data)]), flush=True)
loader = DataLoader(data, batch_size=5, sampler=LookaheadSampler(shuffled(data)), num_workers=2)
steps = iter(loader)
seen = len(next(steps)[1])
print("trains", flush=True)
sys.stdin.readline()
print(seen + sum(len(labels) for _, labels in steps), flush=True)
"""


def test_a_shuffled_epoch_reads_each_object_once_in_the_announced_order_ahead_of_the_loader(
    world: World, s3: SeaweedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    for number in range(PICTURES):
        path = folder / f"class{number % 4}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    world.bucket("ordered", folder)
    for name, value in world.environ().items():
        monkeypatch.setenv(name, value)
    with FaultProxy(s3.port) as proxy:

        def fetched() -> list[str]:
            asked = [request.target for request in list(proxy.seen) if request.method == "GET"]
            return [found[1] for target in asked if (found := re.match(r"/ordered/pictures/(.+\.png)", target))]

        mounted = world.mount("ordered", endpoint=proxy.endpoint)
        with Reader(TRAIN, mounted / "pictures") as training:
            order = json.loads(training.line())
            assert training.line() == "trains"
            # Two workers hold two batches each, and one is trained on: all that a loader asks for by itself.
            wait_until(lambda: len(fetched()) > 2 * 5 * 5, "the daemon is ahead of the loader", timeout_s=60)
            assert training.ask("go on") == str(PICTURES)
        assert Counter(fetched()) == Counter(order), "each object once, and no other"
        moved = max(abs(order.index(name) - number) for number, name in enumerate(fetched()))
        assert moved <= ASKED_AT_ONCE
        world.forebay("fs", "unmount", "/data/ordered")


BY_WORKERS = """
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data.datapipes.iter import FileOpener, IterableWrapper, StreamReader
from forebay.torch import Lookahead, LookaheadPipe

class Files(IterableDataset):
    def __init__(self, paths):
        self.paths = paths

    def __iter__(self):
        worker = get_worker_info()
        for path in Lookahead(self.paths[worker.id :: worker.num_workers]):
            with open(path, "rb") as file:
                yield path, file.read()

paths = [os.path.join(argv[1], name) for name in sorted(os.listdir(argv[1]), key=int)]
if argv[2] == "IterableDataset":
    data = Files(paths)
else:
    data = StreamReader(FileOpener(LookaheadPipe(IterableWrapper(paths).sharding_filter()), mode="rb"))
steps = iter(DataLoader(data, batch_size=None, num_workers=2))
seen = [next(steps)]
print("trains", flush=True)
sys.stdin.readline()
print(sorted(int(data) for _, data in [*seen, *steps]) == list(range(len(paths))), flush=True)
"""


@pytest.mark.parametrize("way", ["IterableDataset", "DataPipe"])
def test_two_workers_announce_their_parts_and_each_object_is_read_once_ahead_of_them(
    world: World, s3: SeaweedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(PICTURES):
        (folder / str(number)).write_text(str(number))
    bucket = f"parts-{way.lower()}"
    world.bucket(bucket, folder)
    for name, value in world.environ().items():
        monkeypatch.setenv(name, value)
    with FaultProxy(s3.port) as proxy:

        def fetched() -> list[int]:
            asked = [request.target for request in list(proxy.seen) if request.method == "GET"]
            return [int(found[1]) for target in asked if (found := re.match(rf"/{bucket}/files/(\d+)", target))]

        mounted = world.mount(bucket, endpoint=proxy.endpoint)
        with Reader(BY_WORKERS, mounted / "files", way) as training:
            assert training.line() == "trains"
            # Two workers hold two files each, and one is trained on.
            wait_until(lambda: len(fetched()) > 10, "the daemon is ahead of the loader", timeout_s=60)
            assert training.ask("go on") == "True"
        assert Counter(fetched()) == Counter(range(PICTURES)), "each object once"
        for worker in range(2):
            part = [number // 2 for number in fetched() if number % 2 == worker]
            assert max(abs(place - number) for place, number in enumerate(part)) <= ASKED_AT_ONCE
        world.forebay("fs", "unmount", f"/data/{bucket}")


@pytest.mark.parametrize("way", ["sampler", "batch_sampler"])
def test_torchdatas_loader_resumes_at_every_step_of_an_epoch(data: Path, script: Script, way: str) -> None:
    code = """
import torch
from torch.utils.data import BatchSampler, RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor
from forebay.torch import LookaheadSampler

data = ImageFolder(argv[1], transform=pil_to_tensor)

def make(workers):
    if argv[2] == "sampler":
        return StatefulDataLoader(data, 8, sampler=LookaheadSampler(RandomSampler(data)), num_workers=workers)
    batches = BatchSampler(RandomSampler(data), 8, drop_last=False)
    return StatefulDataLoader(data, batch_sampler=LookaheadSampler(batches), num_workers=workers)

def pictures(batches):
    return [pixels[:, :2, 0, 0].tolist() for pixels, _ in batches]

for workers in (0, 2):
    for done in (1, 2, 3):
        loader = make(workers)
        steps = iter(loader)
        for _ in range(done):
            next(steps)
        state = loader.state_dict()
        rest = pictures(steps)
        resumed = make(workers)
        resumed.load_state_dict(state)
        assert pictures(resumed) == rest and len(rest) == 3 - done, (workers, done)
        assert len(pictures(resumed)) == 3, "the next epoch is whole"
    ended = loader.state_dict()  # after the end of an epoch
    resumed = make(workers)
    resumed.load_state_dict(ended)
    assert len(pictures(resumed)) == 3, workers
print("resumed")
"""
    assert script(code, data / "pictures", way).splitlines()[-1] == "resumed"


SAVE = """
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp

def save(rank, folder, meeting):
    dist.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
    for step in range(2):
        state = {"step": step, f"of rank {rank}": torch.full((300_000,), float(10 * step + rank))}
        dcp.save(state, checkpoint_id=folder)  # the second one overwrites the first
    dist.destroy_process_group()

mp.start_processes(save, (argv[1], os.path.abspath("meeting")), nprocs=2, start_method="fork")
"""


def test_two_processes_save_over_a_distributed_checkpoint_and_one_loads_it(run_folder: Path, script: Script) -> None:
    script(SAVE, run_folder)
    load = """
import torch
import torch.distributed.checkpoint as dcp
state = {"step": -1} | {f"of rank {rank}": torch.zeros(300_000) for rank in range(2)}
dcp.load(state, checkpoint_id=argv[1])
print(state["step"], *[float(state[f"of rank {rank}"].mean()) for rank in range(2)])
print(sorted(os.listdir(argv[1])))
"""
    assert script(load, run_folder).splitlines() == ["1 10.0 11.0", "['.metadata', '__0_0.distcp', '__1_0.distcp']"]


def test_an_asynchronous_checkpoint_is_whole_when_it_says_so(run_folder: Path, script: Script) -> None:
    code = """
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
dist.init_process_group("gloo", init_method="file://" + os.path.abspath("meeting"), rank=0, world_size=1)
model = torch.nn.Linear(500, 500)
dcp.async_save({"model": model.state_dict()}, checkpoint_id=argv[1]).result()
again = {"model": {name: torch.zeros_like(one) for name, one in model.state_dict().items()}}
dcp.load(again, checkpoint_id=argv[1])
print(all(torch.equal(one, again["model"][name]) for name, one in model.state_dict().items()))
dist.destroy_process_group()
"""
    assert script(code, run_folder).splitlines()[-1] == "True"
