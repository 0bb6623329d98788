"""Names at scale: walks and long listings through a mount, and what a million known files cost.

The store is a listing server of our own (forebay/testing/listing_server.py): it makes its pages on the fly, as fast
for one side as for the other, and needs no million objects.
"""

import json
import os
import subprocess
import time
from functools import partial
from itertools import count
from pathlib import Path

import obstore
from obstore.store import S3Store

from common import Figure, Result, World, in_turns, ratio, save, say
from forebay.testing.listing_server import ListingServer

WALK_FOLDERS, WALK_FILES = 100, 1_000
LARGE_FILES = 100_000
KNOWN_FOLDERS, KNOWN_FILES = 1_000, 1_000
ROUNDS = 7
MB = 1e6


class Mounts:
    """Mounts of the listing server's buckets, each new one at a path of its own, and so cold."""

    def __init__(self, world: World, server: ListingServer) -> None:
        self._world = world
        self._endpoint = server.endpoint
        self._numbers = count()

    def mount(self, bucket: str, *options: str) -> tuple[str, Path]:
        """The path in the tree, and the local folder that shows it."""
        name = f"names{next(self._numbers)}"
        store = [f"s3.endpoint={self._endpoint}", "s3a.accessKeyID=any", "s3a.secretKey=any"]
        words = [word for each in store for word in ("--option", each)]
        self._world.forebay("fs", "mount", f"/{name}", f"s3://{bucket}", *words, *options)
        mountpoint = self._world.show(name)
        return f"/{name}", mountpoint

    def unmount(self, path: str) -> None:
        """Take both away."""
        self._world.unmount(path[1:])


def timed(*command: str) -> float:
    """Run a command, its output to a pipe that is read and dropped; seconds."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        lines = 0
        while piece := child.stdout.read(1 << 20):
            lines += piece.count(b"\n")
    if child.returncode != 0 or not lines:
        raise RuntimeError(f"{command} failed")
    return time.perf_counter() - begin


def first_entry(folder: Path) -> float:
    """Seconds until a folder tells its first name."""
    begin = time.perf_counter()
    with os.scandir(folder) as entries:
        next(entries)
    return time.perf_counter() - begin


def open_listed(endpoint: str, bucket: str) -> S3Store:
    """Bare obstore's client of a bucket of the listing server."""
    return S3Store(
        bucket, endpoint=endpoint, access_key_id="any", secret_access_key="any", region="us-east-1",
        virtual_hosted_style_request=False, client_options={"allow_http": True},
    )  # fmt: skip


def list_flat(store: S3Store) -> float:
    """One listing of all keys, as a user would write it; seconds."""
    begin = time.perf_counter()
    found = sum(len(page) for page in obstore.list(store))
    assert found == WALK_FOLDERS * WALK_FILES
    return time.perf_counter() - begin


def list_folders(store: S3Store) -> float:
    """One listing for each folder, one after the other, as a walk does it; seconds."""
    begin = time.perf_counter()
    folders = obstore.list_with_delimiter(store)["common_prefixes"]
    found = sum(len(obstore.list_with_delimiter(store, folder)["objects"]) for folder in folders)
    assert found == WALK_FOLDERS * WALK_FILES
    return time.perf_counter() - begin


def _resident_mb(world: World) -> float:
    return float(world.status()["rss_bytes"]) / MB


def _measure_walk(mounts: Mounts, endpoint: str) -> dict[str, list[float]]:
    bucket = f"{WALK_FOLDERS}x{WALK_FILES}"
    store = open_listed(endpoint, bucket)

    def cold_find() -> float:
        path, mountpoint = mounts.mount(bucket)
        seconds = timed("find", str(mountpoint))
        mounts.unmount(path)
        return seconds

    return in_turns(
        ROUNDS,
        {
            "cold find": cold_find,
            "obstore, flat": lambda: list_flat(store),
            "obstore, by folder": lambda: list_folders(store),
        },
    )


def _measure_large(world: World, mounts: Mounts) -> dict[str, list[float]]:
    native = world.scratch / "native-names"
    native.mkdir()
    for number in range(LARGE_FILES):
        (native / f"file-{number:07d}.bin").touch()
    runs: dict[str, list[float]] = {}
    for _ in range(3):
        path, mountpoint = mounts.mount(f"1x{LARGE_FILES}")
        runs.setdefault("cold, first name of 100,000", []).append(first_entry(mountpoint / "folder-000000"))
        runs.setdefault("the rest of that ls", []).append(timed("ls", "-f", str(mountpoint / "folder-000000")))
        mounts.unmount(path)
        path, mountpoint = mounts.mount(f"1x{LARGE_FILES}")
        runs.setdefault("cold ls -l of 100,000", []).append(timed("ls", "-l", str(mountpoint / "folder-000000")))
        mounts.unmount(path)
    path, mountpoint = mounts.mount(f"1x{LARGE_FILES}", "--freshness", "immutable")
    folder = mountpoint / "folder-000000"
    timed("ls", "-l", str(folder))
    sides = {
        "warm ls -l": lambda: timed("ls", "-l", str(folder)),
        "warm ls -l, native": lambda: timed("ls", "-l", str(native)),
        "warm ls -f": lambda: timed("ls", "-f", str(folder)),
        "warm ls -f, native": lambda: timed("ls", "-f", str(native)),
    }
    runs |= in_turns(ROUNDS, sides)
    mounts.unmount(path)
    return runs


def _measure_million(world: World, mounts: Mounts) -> dict[str, list[float]]:
    path, mountpoint = mounts.mount(f"{KNOWN_FOLDERS}x{KNOWN_FILES}", "--freshness", "immutable")
    told = json.loads(world.forebay("fs", "load", "--metadata", "--json", path))
    assert told["files"] == KNOWN_FOLDERS * KNOWN_FILES
    runs = {"load --metadata of 1,000,000": [told["seconds"]], "memory after the load, MB": [_resident_mb(world)]}
    runs["find over 1,000,000, known"] = [timed("find", str(mountpoint))]
    runs["memory after find, MB"] = [_resident_mb(world)]
    for number in range(3):
        world.forebay("stop")
        begin = time.perf_counter()
        world.forebay("start")
        timed("ls", str(mountpoint / f"folder-{number:06d}"))
        runs.setdefault("restart until the first ls", []).append(time.perf_counter() - begin)
    runs["memory after the restart, MB"] = [_resident_mb(world)]
    runs["find over 1,000,000, after a restart"] = [timed("find", str(mountpoint))]
    runs["memory after that find, MB"] = [_resident_mb(world)]
    mounts.unmount(path)
    return runs


def measure(world: World) -> Result:
    server: ListingServer = world.enter(ListingServer())
    mounts = Mounts(world, server)
    runs = _measure_walk(mounts, server.endpoint)
    runs |= _measure_large(world, mounts)
    runs |= _measure_million(world, mounts)
    memory = max(value for side, values in runs.items() if side.startswith("memory") for value in values)
    restart = sorted(runs["restart until the first ls"])[1]
    at_most = partial(Figure, at_most=True)
    return Result(
        name="metadata",
        how=f"a listing server on loopback; walks of {WALK_FOLDERS} folders of {WALK_FILES:,} keys, nothing known "
        f"before; a folder of {LARGE_FILES:,}; {KNOWN_FOLDERS * KNOWN_FILES:,} files in {KNOWN_FOLDERS:,} folders of "
        f"a mount that is immutable; {ROUNDS} rounds in turns",
        figures=[
            at_most("cold find, against bare obstore's flat listing", 1.3, ratio(runs, "cold find", "obstore, flat")),
            at_most("cold find, against one listing a folder", 1.3, ratio(runs, "cold find", "obstore, by folder")),
            at_most("warm ls -l of 100,000 files, against ext4", 2.0, ratio(runs, "warm ls -l", "warm ls -l, native")),
            at_most("daemon's memory with 1,000,000 known files", 300, memory, unit=" MB"),
            at_most("restart with 1,000,000 known files, until the first ls", 2.0, restart, unit=" s"),
        ],
        runs=runs,
        unit="s",
        parameters={"walk": [WALK_FOLDERS, WALK_FILES], "large": LARGE_FILES, "known": [KNOWN_FOLDERS, KNOWN_FILES]},
    )


if __name__ == "__main__":
    say("names at scale")
    with World() as world:
        save(measure(world))
