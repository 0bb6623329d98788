"""Copying of files and trees between places: first a plan, then many transfers at a time.

Rules are those of cp(1): into a folder that exists, over a file that exists, `-r` for folders.  A failure ends its
own file only; the rest goes on.

Callers: `forebay fs cp`, one copy at a time.  Locks: `_Tally.lock` guards the counters and the list of failures.
On Ctrl-C every transfer ends at its next chunk and leaves nothing half-written behind.
"""

import os
import posixpath
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from forebay.cli.output import describe_error
from forebay.cli.places import Failure, Place
from forebay.cli.progress import Done, Progress
from forebay.errors import AlreadyExists, Invalid, IsADirectory, NotADirectory, NotFound

THREADS = 8  # transfers at a time: enough to fill a disk or a store's link through one daemon


class Transfer(NamedTuple):
    """One file to copy."""

    source: str
    target: str
    size: int  # bytes, as far as known; for the progress only


@dataclass
class Plan:
    """What a copy will do, and what it already knows it cannot do."""

    transfers: list[Transfer] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # to be made, for no file is copied into them
    failed: list[Failure] = field(default_factory=list)


def plan_copy(source: Place, sources: Sequence[str], target: Place, target_path: str, *, recursive: bool) -> Plan:
    """Every transfer that the copy of `sources` to `target_path` needs; bad sources land in `Plan.failed`.

    Raises:
        NotADirectory: several sources, and the target is not a folder.
    """
    planner = _Planner(source, target, target_path, recursive)
    if len(sources) > 1 and not planner.takes_files:
        raise NotADirectory(f"{target_path} is not a folder; several sources can only be copied into one")
    for path in sources:
        try:
            planner.add(path)
        except OSError as error:
            planner.plan.failed.append((path, describe_error(error)))
    return planner.plan


class _Planner:
    """Turns sources into transfers, by the rules of cp(1)."""

    def __init__(self, source: Place, target: Place, target_path: str, recursive: bool) -> None:
        self._source, self._target, self._recursive = source, target, recursive
        self._target_path = target_path
        self._into = target.find_kind(target_path)
        self.plan = Plan()

    @property
    def takes_files(self) -> bool:
        """Do files go below the target?  A new folder in a store is made by its first file."""
        if self._into is None and self._target_path.endswith("/"):
            return self._target.makes_folders
        return self._into == "folder"

    def add(self, path: str) -> None:
        """Plan one source; raises what stands in its way."""
        kind = self._source.find_kind(path)
        if kind is None:
            if os.path.exists(path):  # and it was looked for in the tree
                raise NotFound(f"{path} is not in the tree; that of this machine is written file:{path}")
            raise NotFound("there is no such file or folder")
        if kind == "file":
            self._add_file(path)
        elif not self._recursive:
            raise IsADirectory("is a folder; add -r to copy it with all below")
        else:
            self._add_folder(path)

    def _add_file(self, path: str) -> None:
        target = self._below(path) if self.takes_files else self._target_path
        if target.endswith("/"):
            raise NotADirectory(f"{target} is not a folder")
        folder = posixpath.dirname(target)
        if not self._target.makes_folders and folder and self._target.find_kind(folder) != "folder":
            raise NotFound(f"there is no folder {folder} to copy into; make it first")
        self._refuse_overlap(path, target)
        self.plan.transfers.append(Transfer(path, target, 0))

    def _add_folder(self, path: str) -> None:
        if self._into == "file":
            raise NotADirectory(f"a folder cannot replace the file {self._target_path}")
        base = self._below(path) if self._into == "folder" else self._target_path
        self._refuse_overlap(path, base)
        folders, held = {""}, set[str]()  # all there are, and those that hold something
        for name, size in self._source.entries(path, self.plan.failed):
            held.add(posixpath.dirname(name))
            if size is None:
                folders.add(name)
            else:
                self.plan.transfers.append(Transfer(posixpath.join(path, name), posixpath.join(base, name), size))
        self.plan.folders += [posixpath.join(base, name) if name else base for name in sorted(folders - held)]

    def _below(self, path: str) -> str:
        """The target for a source in the target folder: by its own name; `folder/.` means the content."""
        name = path.rstrip("/").rpartition("/")[2]
        return self._target_path if name in ("", ".", "..", "-") else posixpath.join(self._target_path, name)

    def _refuse_overlap(self, source: str, target: str) -> None:
        if type(self._source) is not type(self._target):
            return
        one, other = posixpath.normpath(source), posixpath.normpath(target)
        if one == other:
            raise AlreadyExists("source and target are the same file")
        if other.startswith(one.rstrip("/") + "/"):
            raise Invalid("a folder cannot be copied into itself")


@dataclass
class _Tally:
    """The counters of a running copy."""

    progress: Progress
    files_total: int
    size_total: int | None
    failed: list[Failure]
    files: int = 0
    size: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    def add(self, files: int, size: int) -> None:
        with self.lock:
            self.files += files
            self.size += size
            self.progress.update(Done(self.files, self.size, self.files_total, self.size_total))

    def count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self.stopped.is_set():
                raise KeyboardInterrupt
            self.add(0, len(chunk))
            yield chunk


def run_plan(plan: Plan, source: Place, target: Place, progress: Progress) -> Done:
    """Do it; what fails is added to `plan.failed`.  Returns what was copied."""
    sizes = sum(transfer.size for transfer in plan.transfers)
    tally = _Tally(progress, len(plan.transfers), sizes or None, plan.failed)

    def transfer_one(transfer: Transfer) -> None:
        try:
            target.write(transfer.target, tally.count(source.read(transfer.source)))
        except BrokenPipeError:
            raise  # the reader of stdout has gone: not a failure of this file
        except OSError as error:
            with tally.lock:
                plan.failed.append((transfer.source, describe_error(error)))
        else:
            tally.add(1, 0)

    for folder in plan.folders:
        try:
            target.make_folder(folder)
        except OSError as error:
            plan.failed.append((folder, describe_error(error)))
    if len(plan.transfers) == 1:
        transfer_one(plan.transfers[0])  # on the main thread, where Ctrl-C interrupts a read of stdin
    else:
        _run_all(plan.transfers, transfer_one, tally.stopped)
    return Done(tally.files, tally.size)


def _run_all(transfers: Sequence[Transfer], act: Callable[[Transfer], None], stopped: threading.Event) -> None:
    rest = iter(transfers)
    lock = threading.Lock()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                transfer = next(rest, None)
            if transfer is None:
                return
            act(transfer)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="copy") as pool:
        workers = [pool.submit(work) for _ in range(min(THREADS, len(transfers)))]
        try:
            for worker in workers:
                worker.result()
        except BaseException:
            stopped.set()
            raise
