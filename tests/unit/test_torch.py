"""PyTorch's samplers under the lookahead: the order stays theirs, and what is announced is what will be read."""

import pickle
from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest
import torch
from recorder import MNT, Recorder, daemon, local, virtual
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.datapipes.iter import IterableWrapper
from torch.utils.data.distributed import DistributedSampler
from torch.utils.data.graph_settings import apply_sharding

from forebay.torch import LookaheadPipe, LookaheadSampler, files_of

__all__ = ["daemon"]  # a fixture

COUNT = 2_500


class Folder(Dataset[tuple[str, int]]):
    """Keeps its files as torchvision's ImageFolder does."""

    def __init__(self, count: int = COUNT, first: int = 0) -> None:
        self.samples = [(path, 0) for path in local(range(first, first + count))]
        self.targets = [0] * count

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.samples[index]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distributed(data: Folder, *, rank: int = 1) -> "DistributedSampler[Any]":
    return DistributedSampler(data, num_replicas=3, rank=rank, seed=7)


MAKERS: dict[str, Callable[[Folder], Iterable[Any]]] = {
    "in order": SequentialSampler,
    "random": RandomSampler,
    "random, with a generator": lambda data: RandomSampler(data, generator=seeded(3)),
    "with replacement": lambda data: RandomSampler(data, replacement=True, num_samples=4_000),
    "of some": lambda _: SubsetRandomSampler(range(5, 1_700)),
    "weighted": lambda data: WeightedRandomSampler([1.0, 2.0] * (len(data) // 2), 3_000),
    "distributed": distributed,
    "batches": lambda data: BatchSampler(RandomSampler(data, generator=seeded(4)), 64, drop_last=True),
    "distributed batches": lambda data: BatchSampler(distributed(data), 10, drop_last=False),
    "a list": lambda data: list(range(len(data) - 1, -1, -1)),
}


def flat(items: Iterable[Any]) -> list[int]:
    return [index for item in items for index in (item if isinstance(item, list) else [item])]


def epochs(sampler: Any, count: int = 3) -> list[list[Any]]:
    """So many epochs from one seed on, with the epoch set and random numbers drawn beside it."""
    torch.manual_seed(11)
    found = []
    for epoch in range(count):
        inner = sampler if hasattr(sampler, "set_epoch") else getattr(sampler, "sampler", None)
        if hasattr(inner, "set_epoch"):
            cast(Any, inner).set_epoch(epoch)
        items = []
        for item in sampler:
            items.append(item)
            torch.rand(3)  # as a training does
        found.append(items)
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_the_order_is_that_of_the_base_and_so_is_what_is_announced(daemon: Recorder, name: str) -> None:
    data = Folder()
    expected = epochs(MAKERS[name](data))
    sampler = LookaheadSampler(MAKERS[name](data), data)
    assert epochs(sampler) == expected
    read = virtual([index for epoch in expected for index in flat(epoch)])
    assert daemon.announced[: len(read)] == read
    assert daemon.advanced == len(read)
    assert daemon.opened == 1, "one order from epoch to epoch"
    assert len(sampler) == len(expected[0])


@pytest.mark.parametrize("name", ["distributed", "distributed batches"])
def test_of_a_distributed_sampler_the_next_epoch_is_announced_before_this_one_ends(daemon: Recorder, name: str) -> None:
    data = Folder()
    sampler = LookaheadSampler(MAKERS[name](data))
    expected = [virtual(flat(epoch)) for epoch in epochs(MAKERS[name](data), 4)]
    for epoch in range(3):
        sampler.set_epoch(epoch)
        steps = iter(sampler)
        for _ in range(len(sampler)):
            next(steps)
        assert daemon.announced == [path for known in expected[: epoch + 2] for path in known]
        assert next(steps, None) is None


def test_who_never_sets_the_epoch_reads_the_same_order_again_and_no_other_is_announced(daemon: Recorder) -> None:
    sampler = LookaheadSampler(distributed(Folder()))
    assert list(sampler) == list(sampler)
    assert daemon.announced == virtual(list(distributed(Folder())) * 2)


def test_another_epoch_than_the_announced_one_begins_a_new_order(daemon: Recorder) -> None:
    sampler = LookaheadSampler(distributed(Folder()))
    sampler.set_epoch(0)
    list(sampler)
    sampler.set_epoch(5)
    before = len(daemon.announced)
    read = list(sampler)
    assert (daemon.opened, daemon.closed) == (2, 1)
    assert daemon.announced[before : before + len(read)] == virtual(read)


def test_an_epoch_that_is_broken_off_is_forgotten(daemon: Recorder) -> None:
    sampler = LookaheadSampler(RandomSampler(Folder()))
    for _ in sampler:
        break
    assert (daemon.opened, daemon.closed) == (1, 1)
    list(sampler)
    assert daemon.opened == 2
    sampler.close()
    assert daemon.closed == 2


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "a list"])
@pytest.mark.parametrize("done", [0, 1, 20])
def test_an_epoch_is_resumed_where_it_was_and_only_the_rest_is_announced(
    daemon: Recorder, name: str, done: int
) -> None:
    data = Folder()
    torch.manual_seed(5)
    first = LookaheadSampler(MAKERS[name](data), data)
    first.set_epoch(2)
    steps = iter(first)
    for _ in range(done):
        next(steps)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    rest = list(steps)
    again = list(first)
    before = len(daemon.announced)

    torch.manual_seed(99)
    second = LookaheadSampler(MAKERS[name](data), data)
    second.load_state_dict(state)
    assert second.state_dict() == state or done == 0
    if done == 0:  # the epoch had not begun, and neither had its order been drawn
        torch.manual_seed(5)
    assert list(second) == rest
    assert daemon.announced[before : before + len(flat(rest))] == virtual(flat(rest))
    if "generator" in name or "distributed" in name:
        assert list(second) == again, "the epoch after it is the same, too"


def test_an_epoch_is_resumed_that_its_loader_had_drawn_to_the_end(daemon: Recorder) -> None:
    sampler = LookaheadSampler(RandomSampler(Folder()))
    expected = list(sampler)
    state = sampler.state_dict()
    assert state["yielded"] == len(expected)
    sampler.load_state_dict(state | {"yielded": 7})
    iter(sampler)  # a loader makes one and drops it
    assert list(sampler) == expected[7:]


def test_of_an_epoch_that_was_at_its_end_nothing_is_left_and_then_comes_the_next(daemon: Recorder) -> None:
    sampler = LookaheadSampler(distributed(Folder()))
    sampler.set_epoch(1)
    expected = list(sampler)
    state = sampler.state_dict()
    sampler.load_state_dict(state)
    assert list(sampler) == []
    assert list(sampler) == expected
    sampler.load_state_dict(state)
    iter(sampler)
    assert list(sampler) == expected, "torchdata's loader drops the rest of an epoch that it had ended"
    sampler.load_state_dict(state)
    sampler.set_epoch(2)
    assert len(list(sampler)) == len(expected), "another epoch is read whole"


def test_a_copy_announces_by_itself(daemon: Recorder) -> None:
    sampler = LookaheadSampler(distributed(Folder()))
    sampler.set_epoch(1)
    expected = list(sampler)
    copied = pickle.loads(pickle.dumps(sampler))
    assert list(copied) == expected
    assert daemon.opened == 2


# ---------------------------------------------------------------- where a data set keeps its files


def test_subsets_and_concatenations_lead_to_the_files_of_their_parts() -> None:
    both: ConcatDataset[Any] = ConcatDataset([Folder(10), Subset(Folder(10, first=10), [9, 8, 0])])
    files = files_of(Subset(both, [0, 9, 10, 11, 12]))
    assert [files(index) for index in range(5)] == [[path] for path in local([0, 9, 19, 18, 10])]


def test_files_beside_a_picture_are_announced_with_it(daemon: Recorder) -> None:
    class Voc(Folder):
        def __init__(self) -> None:
            self.images, self.masks = local(range(3)), [f"{MNT}/masks/{number}.png" for number in range(3)]

        def __len__(self) -> int:
            return 3

    list(LookaheadSampler(SequentialSampler(Voc())))
    assert daemon.announced[:2] == [*virtual([0]), "/data/masks/0.png"]
    assert daemon.advanced == 6


def test_a_data_set_that_hides_its_files_is_refused_with_the_way_to_tell_them() -> None:
    class Hidden(Dataset[int]):
        def __len__(self) -> int:
            return 5

    with pytest.raises(ValueError, match=r"where Hidden keeps its files; say so: .*paths="):
        LookaheadSampler(SequentialSampler(Hidden()))
    with pytest.raises(ValueError, match="does not say what its data set is"):
        LookaheadSampler(SubsetRandomSampler([1, 2]))


def test_paths_may_be_told_by_the_program(daemon: Recorder) -> None:
    sampler: LookaheadSampler[int] = LookaheadSampler(
        SubsetRandomSampler([4]), paths=lambda index: (local([index])[0], local([index + 10])[0])
    )
    assert list(sampler) == [4]
    assert daemon.announced == virtual([4, 14])


def test_it_is_a_sampler_to_whoever_asks() -> None:
    assert isinstance(LookaheadSampler(SequentialSampler(Folder())), Sampler)


@pytest.mark.parametrize("worker", range(3))
def test_behind_a_pipe_that_shards_each_worker_announces_its_own_part(daemon: Recorder, worker: int) -> None:
    pipe = LookaheadPipe(IterableWrapper(local(range(100))).sharding_filter())
    copied = pickle.loads(pickle.dumps(pipe))  # as a worker that is spawned gets it
    apply_sharding(copied, 3, worker)
    part = range(worker, 100, 3)
    for _ in range(2):
        assert list(copied) == local(part)
    assert daemon.announced == virtual(part) * 2
    assert len(copied) == len(part)
    assert (daemon.opened, daemon.closed) == (2, 2), "an order for each epoch"
