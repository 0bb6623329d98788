"""CPU per file of the paths that Python walks for every one: open of a cached file, lookup, fetch, load.

    python bench/micro_cache.py [FILES]

Prints one line per path, in microseconds of CPU time of the whole process; the cost of store and local disk
themselves is taken off where it says so.
"""

import asyncio
import gc
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from forebay.testing.rig import Rig
from forebay.types import ByteRange
from forebay.vfs.entries import FileEntry
from forebay.vfs.filesystem import FileSystem

SIZE = 110 * 1024


def timed(name: str, count: int, work: Callable[[], object]) -> float:
    gc.collect()
    began = time.process_time()
    work()
    each = (time.process_time() - began) / count * 1e6
    print(f"{name:<58} {each:8.1f} us")
    return each


def open_and_close(fs: FileSystem, entries: list[FileEntry], *, fd: bool) -> None:
    for entry in entries:
        file = fs.open(entry)
        if fd:
            assert file.local_fd() is not None
        file.close()


def read_at_once(fs: FileSystem, entries: list[FileEntry]) -> None:
    for entry in entries:
        file = fs.open(entry)
        file.read_now(0, 1 << 20)
        file.close()


def write_bare(folder: Path, count: int, data: bytes) -> float:
    """What the local disk itself takes to create such a file."""
    folder.mkdir()
    began = time.process_time()
    for index in range(count):
        fd = os.open(folder / f"{index:06}", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, data, 0)
        os.close(fd)
    each = (time.process_time() - began) / count * 1e6
    shutil.rmtree(folder)
    return each


async def bare(rig: Rig, entries: list[FileEntry]) -> float:
    store = rig.memory("bench")
    gc.collect()
    began = time.process_time()
    for entry in entries:
        await store.get(entry.key, ByteRange(0, entry.size), version=entry.version)
    return (time.process_time() - began) / len(entries) * 1e6


async def cold(rig: Rig, entries: list[FileEntry], parallel: int) -> float:
    queue = list(entries)

    async def reader() -> None:
        while queue:
            file = rig.fs.open(queue.pop())
            data = file.read_now(0, 1 << 17)
            if data is None:
                data = await file.read(0, 1 << 17)
            assert len(data) == SIZE
            file.close()

    gc.collect()
    began = time.process_time()
    await asyncio.gather(*(reader() for _ in range(parallel)))
    await rig.landed()  # the writes behind count too
    return (time.process_time() - began) / len(entries) * 1e6


async def load(rig: Rig) -> float:
    gc.collect()
    began, last = time.process_time(), None
    async for event in rig.fs.load("/bench"):
        last = event
    assert last is not None
    assert last.files_done == last.files_total
    await rig.cache.save()
    return (time.process_time() - began) / max(1, last.files_done) * 1e6


async def main(files: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder:
        async with Rig(Path(folder), prefetch=False) as rig:
            data = random.Random(1).randbytes(SIZE)
            for index in range(files):
                await rig.put("bench", f"train/{index:06}", data)
            await rig.mount("/bench", "bench", freshness="immutable")
            await rig.names("/bench/train")
            entries = [await rig.stat_file(f"/bench/train/{index:06}") for index in range(files)]
            random.Random(2).shuffle(entries)
            fs, own = rig.fs, await bare(rig, entries)
            local = write_bare(Path(folder) / "bare", files, data)
            print(
                f"{files} files of {SIZE} bytes; store in memory {own:.1f} us, writing a local file {local:.1f} us each"
            )
            own += local
            timed(
                "peek (a stat in a listed folder)",
                files,
                lambda: [fs.peek("/bench/train", e.path[-6:]) for e in entries],
            )
            print(f"{'cold: open, read, close, 8 readers, less both':<58} {await cold(rig, entries, 8) - own:8.1f} us")
            for again in ("", ", again"):
                timed(f"warm: open, close{again}", files, lambda: open_and_close(fs, entries, fd=False))
            timed("warm: open, local_fd, close", files, lambda: open_and_close(fs, entries, fd=True))
            timed("warm: open, read 110 KiB at once, close", files, lambda: read_at_once(fs, entries))
            await rig.restart()
            entries = [await rig.stat_file(entry.path) for entry in entries]
            fs = rig.fs
            timed(
                "warm after a restart: open (from the index), close",
                files,
                lambda: open_and_close(fs, entries, fd=False),
            )
            await rig.fs.free("/bench")
            print(f"{'load, 64 at a time, less both':<58} {await load(rig) - own:8.1f} us")
            print(f"{'load of what is cached already':<58} {await load(rig):8.1f} us")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000))
