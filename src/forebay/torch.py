"""PyTorch: tells the daemon which samples come next, so that they are here when a loader's processes read them.

    data = ImageFolder("/mnt/fuse/imagenet/train")
    loader = DataLoader(data, batch_size=256, sampler=LookaheadSampler(RandomSampler(data)), num_workers=8)

`LookaheadSampler` wraps any sampler; `Lookahead` does the same for paths in an `IterableDataset`, and `LookaheadPipe`
for those that come through DataPipes: there each worker announces what it will read itself.
Whatever fails in telling, the training goes on, after one warning.  Needs PyTorch 2.0 or newer.
"""

import bisect
import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from torch.utils.data import BatchSampler, ConcatDataset, Dataset, IterDataPipe, Sampler, Subset
from torch.utils.data.distributed import DistributedSampler

from forebay.lookahead import AHEAD, Announcer, Files, Lookahead, Name, Window

__all__ = ["Lookahead", "LookaheadPipe", "LookaheadSampler", "files_of"]

T = TypeVar("T")

# Where torchvision's data sets keep the path of each sample: by itself, or first in a tuple.
_SAMPLES = ("samples", "_samples", "imgs", "_image_files", "images", "_images")
_BESIDE = ("targets", "masks")  # VOC, SBD, Kitti: a second file of each


class LookaheadSampler(Sampler[T]):
    """The samples of another sampler, in its order, announced before they are reached.

    Where the base is a `DistributedSampler`, or a `BatchSampler` over one, and `set_epoch` is called before every
    epoch, the next epoch is announced before this one ends.  `state_dict` and `load_state_dict` resume within an
    epoch: with torchdata's `StatefulDataLoader` by themselves; a plain `DataLoader` is ahead of the training by what
    its workers hold, so put the number of samples, or batches, that you have trained on into `"yielded"`.

    Args:
        base: what draws the order: a Sampler, BatchSampler, DistributedSampler, or any iterable of indices or batches
            of indices.  One that draws random numbers while it goes, from a generator that others use too, draws
            them earlier than without this.
        dataset: the data set of the indices; without it the one that the base was made for.
        paths: from an index to the path of its file, or paths; found for torchvision's data sets, and for `Subset` and
            `ConcatDataset` of them.
        ahead: samples announced beyond the one that is handed out, at most.

    Raises:
        ValueError: it is not known where the data set keeps its files; give `paths`.
    """

    def __init__(
        self,
        base: Iterable[T],
        dataset: Dataset[Any] | None = None,
        *,
        paths: Callable[[int], Files] | None = None,
        ahead: int = AHEAD,
    ) -> None:
        self._base: Any = base
        if paths is None:
            paths = files_of(_dataset_of(base) if dataset is None else dataset)
        self._files = partial(_files_of_item, paths)
        self._ahead = ahead
        self._epoch: int | None = None  # as it was set
        self._window: Window[T] | None = None  # between two epochs, with what was announced of the second
        self._announced_epoch: int | None = None  # the second, if it was
        self._yielded = 0
        self._random: torch.Tensor | None = None  # the random generator's state when this epoch began
        self._resumes = False
        self._made = 0  # iterators since a state was loaded

    def __iter__(self) -> Iterator[T]:
        self._made += 1
        return self._pass(self._made)

    def _pass(self, number: int) -> Iterator[T]:
        """One epoch, or its rest.  Nothing happens before its first sample is asked for: loaders drop iterators."""
        resumes = self._resumes and (number == 1 or not self._is_at_end())
        self._resumes = False
        window, self._window = self._take_window(resumes=resumes), None
        source = self._begin(resumes=resumes)
        is_whole = False
        try:
            for item in window.walk(source, self._following):
                self._yielded += 1
                yield item
            is_whole = True
        finally:
            if is_whole:  # what was handed out is still being read: the order goes on into the next epoch
                self._window = window
            else:
                window.close()

    def __len__(self) -> int:
        return len(self._base)

    def set_epoch(self, epoch: int) -> None:
        """As the base's, which is told too.  Of another epoch than the one that was loaded, nothing has been read."""
        self._resumes = self._resumes and epoch == self._epoch
        self._epoch = epoch
        counting: Any = self._base if hasattr(self._base, "set_epoch") else _inner(self._base)
        if hasattr(counting, "set_epoch"):
            counting.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where this epoch is: to be saved with a checkpoint (5 KB, of which most is the random generator's state)."""
        return {"epoch": self._epoch, "yielded": self._yielded, "random": self._random}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next pass goes on there, in the same order: after `"yielded"` samples, or batches.

        Of an epoch that was at its end the first iterator has nothing left, and any other begins the next epoch: so
        torchdata's loader ends the epoch if its last batch was not the end of it yet, and begins one if it was.
        """
        if state["epoch"] is not None:
            self.set_epoch(state["epoch"])
        self._yielded, self._random, self._resumes, self._made = state["yielded"], state["random"], True, 0

    def close(self) -> None:
        """Have the daemon forget what was announced; the end of the program does so too."""
        window, self._window = self._window, None
        if window is not None:
            window.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_window": None}  # a copy announces by itself

    # ------------------------------------------------------------------

    def _is_at_end(self) -> bool:
        return hasattr(self._base, "__len__") and self._yielded >= len(self._base)

    def _take_window(self, *, resumes: bool) -> "Window[T]":
        """The order that goes on, if this epoch is what it was announced to be, else a new one."""
        window, announced = self._window, self._announced_epoch
        self._announced_epoch = None
        if window is not None and not resumes and announced in (None, self._epoch):
            return window
        self.close()
        return Window(Announcer(self._files), self._ahead)

    def _begin(self, *, resumes: bool) -> Iterator[T]:
        """What the base yields, after what was yielded before."""
        skipped = self._yielded = self._yielded if resumes else 0
        state = self._random if resumes else None
        generator = _generator_of(self._base)
        outside = torch.get_rng_state()
        if generator is not None and state is not None:
            generator.set_state(state)
        elif state is not None:
            torch.set_rng_state(state)
        self._random = outside if generator is None else generator.get_state()
        source = iter(self._base)
        first = list(islice(source, 1))  # here PyTorch's samplers draw their order
        if generator is None and state is not None:
            self._random = state
            torch.set_rng_state(outside)
        return islice(chain(first, source), skipped, None)

    def _following(self) -> Iterable[T]:
        """The next epoch, if it is a pure function of its number and the program counts epochs."""
        if self._epoch is None:
            return ()
        following: Any = copy.copy(self._base)
        inner: Any = following
        if isinstance(following, BatchSampler):
            inner = following.sampler = copy.copy(following.sampler)
        if not isinstance(inner, DistributedSampler):
            return ()
        self._announced_epoch = self._epoch + 1
        inner.set_epoch(self._announced_epoch)
        found: Iterable[T] = following
        return found


class LookaheadPipe(IterDataPipe[T]):
    """The items of a DataPipe in their order, whose files are announced before they are reached; see `Lookahead`.

    Put it behind what shuffles and shards paths, and before what opens them.  A `Lookahead` there would hide these
    from PyTorch, and each worker would read everything.
    """

    def __init__(
        self, source: "IterDataPipe[T]", files: Callable[[T], Files] | None = None, *, ahead: int = AHEAD
    ) -> None:
        self._source = source  # itself an attribute: there PyTorch looks for the pipes that it shuffles and shards
        self._files = files
        self._ahead = ahead

    def __iter__(self) -> Iterator[T]:
        yield from Lookahead(self._source, self._files, ahead=self._ahead)

    def __len__(self) -> int:
        return len(self._source)


def files_of(dataset: Dataset[Any]) -> Callable[[int], Sequence[Name]]:
    """From an index of a data set to the paths of its files.

    Raises:
        ValueError: it does not keep them as torchvision does.
    """
    if isinstance(dataset, Subset):
        return partial(_in_subset, files_of(dataset.dataset), dataset.indices)
    if isinstance(dataset, ConcatDataset):
        return partial(_in_concat, [files_of(one) for one in dataset.datasets], dataset.cumulative_sizes)
    samples = [getattr(dataset, name) for name in _SAMPLES if _holds_paths(dataset, name)]
    beside = [getattr(dataset, name) for name in _BESIDE if _holds_paths(dataset, name)]
    if not samples:
        raise ValueError(
            f"it is not known where {type(dataset).__name__} keeps its files; "
            "say so: LookaheadSampler(sampler, paths=lambda index: ...)"
        )
    return partial(_in_columns, [samples[0], *beside])


def _holds_paths(dataset: Any, name: str) -> bool:  # noqa: ANN401 - any data set
    column = getattr(dataset, name, None)
    if not isinstance(column, list | tuple) or not column or len(column) != len(dataset):
        return False
    return isinstance(_path_in(column[0]), str | os.PathLike)


def _path_in(entry: Any) -> Any:  # noqa: ANN401 - a path, or a tuple that begins with one
    return entry[0] if isinstance(entry, tuple) and entry else entry


def _in_columns(columns: list[Sequence[Any]], index: int) -> list[Name]:
    return [_path_in(column[index]) for column in columns]


def _in_subset(inner: Callable[[int], Sequence[Name]], indices: Sequence[int], index: int) -> Sequence[Name]:
    return inner(indices[index])


def _in_concat(parts: list[Callable[[int], Sequence[Name]]], ends: list[int], index: int) -> Sequence[Name]:
    part = bisect.bisect_right(ends, index)
    return parts[part](index - (ends[part - 1] if part else 0))


def _files_of_item(paths: Callable[[int], Files], item: Any) -> Files:  # noqa: ANN401 - an index, or a batch of them
    if not isinstance(item, list | tuple):
        return paths(item)
    found: list[Name] = []
    for index in item:
        files = _files_of_item(paths, index)
        found += [files] if isinstance(files, str | os.PathLike) else files
    return found


def _dataset_of(base: Any) -> Any:  # noqa: ANN401 - any sampler
    inner = _inner(base)
    for name in ("dataset", "data_source"):
        if (dataset := getattr(inner, name, None)) is not None:
            return dataset
    raise ValueError(
        f"{type(inner).__name__} does not say what its data set is; give it: LookaheadSampler(sampler, dataset)"
    )


def _inner(base: Any) -> Any:  # noqa: ANN401 - any sampler
    """The sampler below one of batches; else itself."""
    return getattr(base, "sampler", base)


def _generator_of(base: Any) -> torch.Generator | None:  # noqa: ANN401 - any sampler
    """The random generator that a sampler was given; None: PyTorch's own."""
    found = getattr(_inner(base), "generator", None)
    return found if isinstance(found, torch.Generator) else None
