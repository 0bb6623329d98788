"""The file system exerciser: random operations on a file, compared with a model in memory after each of them.

    python -m forebay.testing.fsx FOLDER --ops 100000 --seed 1
    python -m forebay.testing.fsx FOLDER --ops 100000 --seed 1 --processes 4 --optional punch_hole

The operations are those of fsx-linux (Apple's and SGI's, in LTP and xfstests).  Each process works on a file of its
own, whose size changes, and, where there are several, on a region of its own in one file that all share, whose
bounds lie within pages.  After each operation the size is compared, every `CHECK_EVERY` operations and after each open
the whole content, and at the end all files are read once more by a process that wrote none of them.

The same seed makes the same operations; it does not make processes meet in the same way.  The exit status is 1 at
the first difference or refused operation, and seed, number and the last operations are told; the files are left then.
They are told too of a process that the kernel kills, as by the SIGBUS of a mapped page that cannot be read.
"""

import argparse
import contextlib
import errno
import mmap
import multiprocessing
import os
import random
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

import xxhash

from forebay.testing import libc
from forebay.units import KIB

FILE_BYTES_MAX = 256 * KIB
PIECE_BYTES_MAX = 64 * KIB  # of one operation, as in fsx
REGION_BYTES = FILE_BYTES_MAX - 777  # no multiple of a page: neighbours share one
CHECK_EVERY = 64
# How often each is drawn; what waits for a disk is rare, so that the rest gets far.
WEIGHTS = {
    "read": 18, "write": 18, "append": 6, "map_read": 10, "map_write": 10, "truncate": 8, "fallocate": 4,
    "keep_size": 3, "punch_hole": 4, "copy_range": 6, "fsync": 0.5, "fdatasync": 0.5, "reopen": 3,
}  # fmt: skip
RESIZING = {"append", "truncate", "fallocate", "keep_size"}  # not on a region of a shared file
CAN_BE_OPTIONAL = ("fallocate", "keep_size", "punch_hole", "copy_range")


class Differs(AssertionError):
    """The file is not what the model says, or an operation was refused."""


class Operation(NamedTuple):
    """One step; `source` is where `copy_range` copies from."""

    name: str
    offset: int = 0
    size: int = 0
    source: int = 0

    def __str__(self) -> str:
        source = f" from {self.source}" if self.name == "copy_range" else ""
        return f"{self.name} {self.offset}+{self.size}{source}"


class Trail:
    """The last operations of one process, in memory that its parent shares: so they are known however it ends."""

    KEPT = 20
    _LINE_BYTES = 96
    _HEAD = struct.Struct("QQQ")  # operations begun; digests of the own file and of the region, at the end

    def __init__(self) -> None:
        self._lines = mmap.mmap(-1, self.KEPT * self._LINE_BYTES)
        self._head = mmap.mmap(-1, self._HEAD.size)
        self.begun = 0

    def note(self, place: str, operation: Operation) -> None:
        """An operation begins."""
        self.begun += 1
        at = self.begun % self.KEPT * self._LINE_BYTES
        line = f"{self.begun:>9} {place}: {operation}".encode()
        self._lines[at : at + self._LINE_BYTES] = line[: self._LINE_BYTES].ljust(self._LINE_BYTES)
        self._head[:8] = self.begun.to_bytes(8, sys.byteorder)

    def end(self, *digests: int) -> None:
        """Leave what the files must hold."""
        self._head[:] = self._HEAD.pack(self.begun, *digests)

    def read(self) -> tuple[int, int, int]:
        """Operations begun, and the digests."""
        begun, own, region = self._HEAD.unpack(self._head[:])
        return begun, own, region

    def __str__(self) -> str:
        lines = [self._lines[at : at + self._LINE_BYTES] for at in range(0, len(self._lines), self._LINE_BYTES)]
        return "\n".join(sorted(line.decode().rstrip() for line in lines if line.strip(b"\0")))


class Target:
    """A file, or a region of one that others write too, and the bytes that it must hold.

    Invariant: between two operations `model` is what a read of the whole target gives.
    """

    def __init__(
        self, path: Path, place: str, chance: random.Random, *, base: int = 0, is_region: bool = False
    ) -> None:
        self.path = path
        self.place = place
        self._chance = chance
        self._base = base
        self._is_region = is_region
        self.model = bytearray(REGION_BYTES if is_region else 0)
        self._names = [name for name in WEIGHTS if not (is_region and name in RESIZING)]
        self._weights = [sum(WEIGHTS[name] for name in self._names[: n + 1]) for n in range(len(self._names))]
        self._data = chance.randbytes(4 * PIECE_BYTES_MAX)  # every write is a slice of it
        self._do: dict[str, Callable[[Operation], None]] = {name: getattr(self, f"_{name}") for name in WEIGHTS}
        self._fd = os.open(path, os.O_RDWR if is_region else os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._file_bytes = os.fstat(self._fd).st_size

    def close(self) -> None:
        """Let go of the file, unless a `reopen` has lost it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def draw(self) -> Operation:
        """The next operation: it depends on the seed and on what the model holds."""
        (name,) = self._chance.choices(self._names, cum_weights=self._weights)
        if name in ("fsync", "fdatasync", "reopen"):
            return Operation(name)
        held = len(self.model)
        if name == "append":
            return Operation(name, held, self._below(min(PIECE_BYTES_MAX, FILE_BYTES_MAX - held) + 1))
        if name == "truncate":
            return Operation(name, self._place_below(FILE_BYTES_MAX + 1))
        may_grow = not self._is_region and name in ("write", "map_write", "fallocate", "keep_size", "copy_range")
        offset = self._place_below(FILE_BYTES_MAX if may_grow else held or 1)
        size = min(self._size(), (FILE_BYTES_MAX if may_grow else held) - offset)
        if name == "copy_range":
            return self._draw_copy(offset, size)
        return Operation(name, offset, size)

    def _draw_copy(self, offset: int, size: int) -> Operation:
        source = self._place_below(len(self.model) or 1)
        size = min(size, len(self.model) - source, abs(offset - source))  # pieces that overlap are EINVAL
        return Operation("copy_range", offset, size, source)

    def _below(self, limit: int) -> int:
        return int(self._chance.random() * limit)

    def _place_below(self, limit: int) -> int:
        place = self._below(limit)
        if self._chance.random() < 0.25:
            # On a page's bound of the file, wherever the region begins.
            place = max(0, place - (self._base + place) % libc.PAGE_BYTES)
        return place

    def _size(self) -> int:
        return 1 + int(self._chance.random() ** 3 * PIECE_BYTES_MAX)

    def do(self, operation: Operation) -> None:
        """Carry it out on the file and on the model.

        Raises:
            Differs: the file says something else than the model.
            OSError: the operation was refused.
        """
        if operation.size or operation.name in ("truncate", "fsync", "fdatasync", "reopen"):
            self._do[operation.name](operation)
        self._check_size()

    def check(self) -> None:
        """Compare all of it, and what its name says of its size.

        Raises:
            Differs: it is not as the model says.
        """
        self._read(Operation("read", 0, len(self.model) + (not self._is_region)))  # nothing lies behind the end
        is_bytes, must_bytes = os.stat(self.path).st_size, os.fstat(self._fd).st_size
        if is_bytes != must_bytes:
            raise Differs(f"the size by name is {is_bytes}, and by descriptor {must_bytes}")

    def _check_size(self) -> None:
        is_bytes = os.fstat(self._fd).st_size
        must_bytes = self._file_bytes if self._is_region else len(self.model)
        if is_bytes != must_bytes:
            raise Differs(f"the size is {is_bytes}, and should be {must_bytes}")

    def _compare(self, offset: int, size: int, found: bytes) -> None:
        must = self.model[offset : offset + size]
        if found == must:
            return
        if len(found) != len(must):
            raise Differs(f"a read of {offset}+{size} gives {len(found)} bytes, and should give {len(must)}")
        wrong = [at for at, (one, other) in enumerate(zip(found, must, strict=True)) if one != other]
        first = wrong[0]
        raise Differs(
            f"{len(wrong)} bytes differ from byte {offset + first} to {offset + wrong[-1]}:"
            f" is {found[first : first + 16].hex()}, should be {bytes(must[first : first + 16]).hex()}"
        )

    def _piece(self, size: int) -> memoryview:
        at = self._below(len(self._data) - size)
        return memoryview(self._data)[at : at + size]

    def _reach(self, size: int) -> None:
        """The model has at least that size; what is new is zeros."""
        if size > len(self.model):
            self.model += bytes(size - len(self.model))

    def _put(self, offset: int, data: memoryview) -> None:
        self._reach(offset)
        self.model[offset : offset + len(data)] = data

    def _read(self, operation: Operation) -> None:
        _, offset, size, _ = operation
        self._compare(offset, size, os.pread(self._fd, size, self._base + offset))

    def _write(self, operation: Operation) -> None:
        data = self._piece(operation.size)
        _whole(os.pwrite(self._fd, data, self._base + operation.offset), operation)
        self._put(operation.offset, data)

    def _append(self, operation: Operation) -> None:
        data = self._piece(operation.size)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            _whole(os.write(fd, data), operation)
        finally:
            os.close(fd)
        self._put(len(self.model), data)

    def _map_read(self, operation: Operation) -> None:
        _, offset, size, _ = operation
        with libc.Mapping(self._fd, self._base + offset, size) as mapping:
            self._compare(offset, size, bytes(mapping.view))
            if not self._is_region and offset + size == len(self.model) and any(mapping.rest_of_last_page()):
                raise Differs("a mapping shows bytes that are not zero behind the end of the file")

    def _map_write(self, operation: Operation) -> None:
        _, offset, size, _ = operation
        data = self._piece(size)
        if offset + size > len(self.model):
            os.ftruncate(self._fd, offset + size)
            self._reach(offset + size)
            self._check_size()  # a page that is not there would end this process
        with libc.Mapping(self._fd, self._base + offset, size) as mapping:
            mapping.view[:] = data
            if self._chance.random() < 0.05:
                mapping.sync()
        self._put(offset, data)

    def _truncate(self, operation: Operation) -> None:
        size = operation.offset
        os.ftruncate(self._fd, size)
        del self.model[size:]
        self._reach(size)

    def _fallocate(self, operation: Operation) -> None:
        libc.fallocate(self._fd, 0, operation.offset, operation.size)
        self._reach(operation.offset + operation.size)

    def _keep_size(self, operation: Operation) -> None:
        libc.fallocate(self._fd, libc.FALLOC_KEEP_SIZE, operation.offset, operation.size)

    def _punch_hole(self, operation: Operation) -> None:
        _, offset, size, _ = operation
        libc.fallocate(self._fd, libc.FALLOC_PUNCH_HOLE | libc.FALLOC_KEEP_SIZE, self._base + offset, size)
        self.model[offset : offset + size] = bytes(size)

    def _copy_range(self, operation: Operation) -> None:
        _, offset, size, source = operation
        done = 0
        while done < size:  # it may copy less, as read(2) may read less
            copied = os.copy_file_range(
                self._fd, self._fd, size - done, self._base + source + done, self._base + offset + done
            )
            if copied == 0:
                raise Differs(f"copy_file_range ends after {done} bytes of {operation}")
            done += copied
        self._put(offset, memoryview(bytes(self.model[source : source + size])))

    def _fsync(self, _: Operation) -> None:
        os.fsync(self._fd)

    def _fdatasync(self, _: Operation) -> None:
        os.fdatasync(self._fd)

    def _reopen(self, _: Operation) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)
        self._fd = os.open(self.path, os.O_RDWR)
        self.check()


def _whole(written: int, operation: Operation) -> None:
    if written != operation.size:
        raise Differs(f"{written} bytes were written of {operation}")


class Exerciser:
    """One process's part: operations on a file of its own and, if there is one, on its region of the shared file."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        process: int = 0,
        has_shared: bool = False,
        optional: Collection[str] = (),
        trail: Trail | None = None,
    ) -> None:
        self._name = f"seed {seed}, process {process}"
        self._chance = random.Random(f"{seed}/{process}")
        self._optional = optional
        self.trail = trail or Trail()
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._targets = [Target(own_file(folder, process), "own", self._chance)]
        if has_shared:
            base = process * REGION_BYTES
            self._targets.append(Target(shared_file(folder), "shared", self._chance, base=base, is_region=True))

    def run(self, operations: int) -> None:
        """Do so many operations, and compare everything at the end.

        Raises:
            Differs: with the seed, the operation and those before it.
        """
        try:
            for _ in range(operations):
                self._step()
            for target in self._targets:
                target.check()
                target.close()
        except (Differs, OSError) as error:
            number, _, _ = self.trail.read()
            said = errno.errorcode.get(error.errno or 0, "") + f" {error}" if isinstance(error, OSError) else error
            raise Differs(f"{self._name}, operation {number}: {said}\nthe last operations:\n{self.trail}") from error
        finally:
            for target in self._targets:
                with contextlib.suppress(OSError):  # it failed before, which is told
                    target.close()
        digests = [xxhash.xxh64_intdigest(bytes(target.model)) for target in self._targets]
        self.trail.end(digests[0], digests[-1])

    def _step(self) -> None:
        target = self._targets[self._chance.random() < 0.5 and len(self._targets) > 1]
        operation = target.draw()
        self.trail.note(target.place, operation)
        try:
            target.do(operation)
        except OSError as error:
            if error.errno != errno.ENOTSUP or operation.name not in self._optional:
                raise
            self.refused[operation.name] += 1
        else:
            self.done[operation.name] += 1
        if self.trail.begun % CHECK_EVERY == 0:
            target.check()


def own_file(folder: Path, process: int) -> Path:
    """The file that only one process uses."""
    return folder / f"fsx.{process}"


def shared_file(folder: Path) -> Path:
    """The file of which each process has a region."""
    return folder / "fsx.shared"


def _work(make: Callable[[], Exerciser], operations: int) -> None:
    """The life of a child."""
    libc.die_with_parent()
    try:
        exerciser = make()
        exerciser.run(operations)
    except (Differs, OSError) as error:
        sys.exit(f"fsx: {error}")
    refused = f"; refused: {dict(exerciser.refused)}" if exerciser.refused else ""
    print(f"{dict(exerciser.done)}{refused}", flush=True)  # noqa: T201


def _check_left(path: Path, must: int, *, base: int = 0, size: int = -1) -> bool:
    """Does this process, which did not write it, read what the model held?"""
    with path.open("rb") as file:
        file.seek(base)
        if xxhash.xxh64_intdigest(file.read(size)) == must:
            return True
    print(f"fsx: {path} from byte {base} on reads otherwise after its writer has ended", file=sys.stderr)  # noqa: T201
    return False


def exercise(folder: Path, operations: int, seed: int, *, processes: int = 1, optional: Collection[str] = ()) -> bool:
    """Run that many children, each with so many operations; say on stdout and stderr what came of it.

    Returns: nothing differs; the files are removed then.
    """
    has_shared = processes > 1
    if has_shared:
        with shared_file(folder).open("wb") as file:
            file.truncate(REGION_BYTES * processes)
    context = multiprocessing.get_context("fork")  # children share the trails
    trails = [Trail() for _ in range(processes)]
    children = []
    for process, trail in enumerate(trails):
        make = partial(Exerciser, folder, seed, process=process, has_shared=has_shared, optional=optional, trail=trail)
        children.append(context.Process(target=_work, args=(make, operations), daemon=True))
        children[-1].start()
    for child in children:
        child.join()
    is_right = True
    for process, (child, trail) in enumerate(zip(children, trails, strict=True)):
        begun, own, region = trail.read()
        if child.exitcode == 0:
            is_right &= _check_left(own_file(folder, process), own)
            if has_shared:
                is_right &= _check_left(shared_file(folder), region, base=process * REGION_BYTES, size=REGION_BYTES)
            continue
        is_right = False
        if child.exitcode is not None and child.exitcode < 0:
            told = f"seed {seed}, process {process}, operation {begun}: {signal.Signals(-child.exitcode).name}"
            print(f"fsx: {told}\nthe last operations:\n{trail}", file=sys.stderr)  # noqa: T201
    if is_right:
        for path in folder.glob("fsx.*"):
            path.unlink()
    return is_right


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="fsx", description="Exercise a folder with random operations on files.")
    parser.add_argument("folder", type=Path, help="where the files are made: fsx.0, fsx.1, ..., fsx.shared")
    parser.add_argument("--ops", type=int, default=10_000, help="operations of each process")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--optional", action="append", default=[], choices=CAN_BE_OPTIONAL, help="may be refused with ENOTSUP"
    )
    asked = parser.parse_args()
    began = time.monotonic()
    is_right = exercise(asked.folder, asked.ops, asked.seed, processes=asked.processes, optional=asked.optional)
    took = f"{asked.processes} x {asked.ops} operations, seed {asked.seed}: {time.monotonic() - began:.1f} s"
    print(f"{took}, {'all as the model says' if is_right else 'FAILED'}")  # noqa: T201
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
