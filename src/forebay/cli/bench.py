"""`forebay bench train`: how fast a folder is read by something like a training's loader, from where it may lie."""

import contextlib
import importlib.util
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple

import typer

from forebay import paths
from forebay.cli.loader import Done, Work
from forebay.cli.output import (
    count_text,
    duration_text,
    note,
    percent,
    put,
    put_json,
    put_sentence,
    put_table,
)
from forebay.cli.session import connect, session_of
from forebay.cli.words import AsJson, Misuse, example
from forebay.clock import SystemClock
from forebay.daemon.client import Client
from forebay.errors import FsError, Invalid, NoSpace, NotFound
from forebay.units import format_size, parse_duration

app = typer.Typer(help="How fast this machine reads your data.", no_args_is_help=True)

QUIET_WAIT_S = 30.0  # after the cold pass, for what is fetched ahead
LOOK_S = 0.1
SEED = 1  # the order in which files are read is random, and the same in each run
DECODING_SHARE = 0.8  # of the time of workers: more than this, and a faster store changes little
PLACES = {
    "store": "the store, past the cache",
    "cold": "the mount, nothing cached",
    "warm": "the mount, all cached",
    "local": "a copy on the cache's disk",
}


class Places(NamedTuple):
    """A folder of the tree, and where a local folder of Forebay shows it."""

    path: str
    folder: str
    is_passed: bool  # the kernel reads cached files by itself, and keeps nothing of its own


class Sample(NamedTuple):
    """Files of the tree that are read, in the order of reading."""

    where: Places
    names: list[str]  # below it


@dataclass(frozen=True, slots=True)
class Pass:
    """All workers together, reading from one place."""

    place: str
    files: int
    size: int
    pictures: int
    seconds: float
    read_s: float  # summed over workers
    decode_s: float

    @property
    def stall_share(self) -> float:
        """How much of the workers' time went by waiting for data."""
        return self.read_s / max(self.read_s + self.decode_s, 1e-9)

    @property
    def rate(self) -> float:
        """Files per second."""
        return self.files / max(self.seconds, 1e-9)


@app.command(epilog=example("forebay bench train /mnt/fuse/imagenet/train --workers 4"))
def train(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(help="A folder in a local folder of Forebay, or of the tree.")],
    workers: Annotated[int, typer.Option(help="Processes that read.", min=1, max=256)] = 2,
    batch: Annotated[int, typer.Option(help="Files that one of them reads in a row.", min=1)] = 64,
    decode: Annotated[
        bool | None, typer.Option(help="Decode pictures, as a training does; by default if Pillow is installed.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many files to read, the first of the folder.", min=1)] = 1000,
    seconds: Annotated[str, typer.Option(help="How long to read from each place.", metavar="DURATION")] = "30s",
    as_json: AsJson = False,
) -> None:
    """Measure a folder as a training's loader reads it: from the store, cold, warm, and from the local disk.

    What is cached of the files that are read is dropped before the cold pass; afterwards they are cached.
    """
    seconds_each = parse_duration(seconds)
    if seconds_each <= 0:
        raise Misuse(f"--seconds {seconds}: more than 0")
    client = connect(context)
    sample = _sample(client, folder, limit)
    decode = _may_decode(decode)
    plan = _Plan(workers, batch, decode, seconds_each)
    passes = list(_measure(client, sample, plan, session_of(context).socket))
    if as_json:
        put_json([asdict(one) | {"stall_share": one.stall_share, "files_per_s": one.rate} for one in passes])
        return
    noun = "images/s" if all(one.pictures == one.files for one in passes) else "files/s"
    columns = [("read from", "left"), *((name, "right") for name in (noun, "MB/s", "waiting for data", "files"))]
    put_table(columns, [_row(one) for one in passes])
    put()
    for sentence in sentences({one.place: one for one in passes}):
        put_sentence(sentence)


def _may_decode(wanted: bool | None) -> bool:
    is_there = importlib.util.find_spec("PIL") is not None
    if wanted and not is_there:
        raise Invalid("Pillow is not installed, so nothing can be decoded: pip install pillow, or --no-decode")
    if wanted is None and not is_there:
        note("Pillow is not installed: files are read and not decoded; with it (pip install pillow) they are")
    return is_there if wanted is None else wanted


# ---------------------------------------------------------------- what is read


def _sample(client: Client, folder: str, limit: int) -> Sample:
    where = _places(client, folder)
    names = [paths.relative(entry["path"], where.path) for entry in _files(client, where.path, limit)]
    if not names:
        raise NotFound(f"{folder} holds no files to read", path=where.path)
    random.Random(SEED).shuffle(names)
    return Sample(where, names)


def _files(client: Client, path: str, limit: int) -> Iterator[dict[str, Any]]:
    """The first files below a folder that hold something."""
    with contextlib.closing(client.stream("GET", "/v1/fs/list", query={"path": path, "recursive": 1})) as listing:
        found = (entry for entry in listing if entry.get("kind") == "file" and entry["size"])
        yield from itertools.islice(found, limit)


def _places(client: Client, folder: str) -> Places:
    mounts = client.call("GET", "/v1/fuse")
    shown = [(mount["mountpoint"], mount["path"], mount["mode"] == "passthrough") for mount in mounts]
    local = os.path.realpath(folder)
    for mountpoint, path, is_passed in sorted(shown, reverse=True):  # the innermost first
        if local == mountpoint or local.startswith(mountpoint + "/"):
            return Places(paths.normalize(path + local[len(mountpoint) :]), local, is_passed)
    if not folder.startswith("/"):
        raise NotFound(f"{folder} is in no local folder of Forebay; forebay fuse stat lists them", path=folder)
    path = paths.normalize(folder)
    try:
        kind = client.call("GET", "/v1/fs/stat", query={"path": path})["kind"]
    except NotFound as error:
        message = (
            f"{folder} is neither in a local folder of Forebay (forebay fuse stat lists them) nor a folder of the tree"
        )
        raise NotFound(message, path=folder) from error
    if kind != "folder":
        raise Invalid(f"{path} is a file; give a folder", path=path)
    for mountpoint, root, is_passed in shown:
        if paths.is_within(path, root):
            return Places(path, os.path.join(mountpoint, paths.relative(path, root)), is_passed)
    raise NotFound(
        f"no local folder shows {path}, and a training reads one: forebay fuse mount MOUNTPOINT {path}", path=path
    )


# ---------------------------------------------------------------- measuring


class _Plan(NamedTuple):
    workers: int
    batch: int
    decode: bool
    seconds: float


def _measure(client: Client, sample: Sample, plan: _Plan, socket: str) -> Iterator[Pass]:
    shares = _shares(sample.names, plan)
    where = sample.where
    yield _read("store", [[paths.join(where.path, name) for name in share] for share in shares], plan, socket)
    _make_cold(client, sample)
    local = [[os.path.join(where.folder, name) for name in share] for share in shares]
    done: list[Done] = []
    yield _read("cold", local, plan, done=done)
    _wait_until_quiet(client)
    # Only what the cold pass came to is warm by now.
    local = [names[: each.files] for names, each in zip(local, done, strict=True)]
    yield _read("warm", local, plan)
    with _copied(client, local) as copies:
        yield _read("local", copies, plan)


def _shares(names: Sequence[str], plan: _Plan) -> list[list[str]]:
    """The files of each worker: batches in turn, as a loader hands them out."""
    shares: list[list[str]] = [[] for _ in range(plan.workers)]
    for number, start in enumerate(range(0, len(names), plan.batch)):
        shares[number % plan.workers] += names[start : start + plan.batch]
    return shares


def _make_cold(client: Client, sample: Sample) -> None:
    where = sample.where
    for name in sample.names:
        client.call("POST", "/v1/fs/free", {"path": paths.join(where.path, name)})
    if stay := sum(entry["cached_bytes"] > 0 for entry in _files(client, where.path, len(sample.names))):
        note(f"{count_text(stay)} pinned or open: kept in the cache, so cold is not all cold")
    for name in () if where.is_passed else sample.names:
        with open(os.path.join(where.folder, name), "rb") as file:  # what the kernel itself holds of it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _wait_until_quiet(client: Client) -> None:
    for _ in range(round(QUIET_WAIT_S / LOOK_S)):
        if not any(store["requests"] for store in client.call("GET", "/v1/activity")["stores"]):
            return
        time.sleep(LOOK_S)


@contextlib.contextmanager
def _copied(client: Client, local: list[list[str]]) -> Iterator[list[list[str]]]:
    """The files as plain ones, in a folder on the cache's disk that is gone afterwards."""
    disk = max(client.call("GET", "/v1/fs/df"), key=lambda disk: disk["disk_free_bytes"])
    size = sum(os.stat(name).st_size for names in local for name in names)
    if size > disk["disk_free_bytes"] - disk["reserve_bytes"]:
        raise NoSpace(f"{disk['directory']} has no room for a copy of {format_size(size)}; read less: --limit")
    # A name that the next start of a daemon removes, should this process be killed.
    with tempfile.TemporaryDirectory(prefix="lost-bench-", dir=disk["directory"]) as folder:
        copies = []
        for worker, names in enumerate(local):
            copies.append([os.path.join(folder, f"{worker}-{number}") for number in range(len(names))])
            for name, copy in zip(names, copies[-1], strict=True):
                shutil.copyfile(name, copy)
        yield copies


def _read(
    place: str, names: list[list[str]], plan: _Plan, socket: str | None = None, *, done: list[Done] | None = None
) -> Pass:
    """Have all workers read at once; `done` gets what each of them did."""
    note(f"reading from {PLACES[place]}, for {duration_text(plan.seconds)} at most")
    clock = SystemClock()
    works = [Work(share, plan.batch, plan.decode, plan.seconds, socket) for share in names]
    with contextlib.ExitStack() as stack:
        loaders = [stack.enter_context(Loader(work)) for work in works]
        for loader in loaders:
            loader.answer()  # it is ready
        began_s = clock.monotonic()
        for loader in loaders:
            loader.tell("go")
        found = [Done(**loader.answer()) for loader in loaders]
        seconds = clock.monotonic() - began_s
    if done is not None:
        done += found
    return Pass(
        place,
        files=sum(each.files for each in found),
        size=sum(each.size for each in found),
        pictures=sum(each.pictures for each in found),
        seconds=seconds,
        read_s=sum(each.read_s for each in found),
        decode_s=sum(each.decode_s for each in found),
    )


class Loader:
    """A worker process; it is gone at the end of its `with`."""

    def __init__(self, work: Work) -> None:
        command = [sys.executable, "-m", "forebay.cli.loader"]
        # A session of its own: Ctrl-C is for us, and its stdin ends with us.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.tell(json.dumps(asdict(work)))

    def tell(self, line: str) -> None:
        """Give it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:  # noqa: ANN401 - as `forebay.cli.loader` says it
        """What it says next.

        Raises:
            FsError: it could not read, or has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise FsError("a process that reads has ended; is the machine short of memory?")
        found = json.loads(line)
        if isinstance(found, dict) and "error" in found:
            raise FsError(found["error"])
        return found

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()


# ---------------------------------------------------------------- what is told


def _row(one: Pass) -> list[str]:
    return [
        PLACES[one.place],
        f"{one.rate:,.0f}",
        f"{one.size / 1e6 / max(one.seconds, 1e-9):,.1f}",
        percent(round(one.stall_share * 1000), 1000),
        f"{one.files:,}",
    ]


def sentences(passes: dict[str, Pass]) -> Iterator[str]:
    """What the passes, by place, mean for the one who trains."""
    store, cold, warm, local = (passes[place] for place in PLACES)
    yield (
        f"Cached, it is read {warm.rate / max(store.rate, 1e-9):.1f} times as fast as from the store, "
        f"and at {warm.rate / max(local.rate, 1e-9):.0%} of the local disk; "
        f"the first epoch at {cold.rate / max(store.rate, 1e-9):.1f} times the store."
    )
    if warm.decode_s and 1 - warm.stall_share > DECODING_SHARE:
        yield "Once cached, decoding is what takes the time: more workers help, a faster disk does not."
    elif warm.decode_s and store.stall_share < 1 - DECODING_SHARE:
        yield "Even from the store, decoding is what takes the time."
