"""What the benches share: a world to measure in (a real S3 server, a Forebay of its own, mounts), and the records.

Every figure that counts is a ratio of runs that took turns on one machine; absolute figures move by a factor of two.
"""

import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

import obstore
from obstore.store import S3Store

from forebay.testing.leash import leashed
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.slowproxy import SlowProxy
from idle import idle_poll_ns, kernel_default
from scratch import scratch_folder
from sink_server import SinkServer

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
COMMAND_WITHIN_S = 600.0
UPLOADED_WITHIN_S = 600.0
KINDS = ("", "readonly", "small-files")  # of local folders: options of `forebay fuse mount`
SMALL_BYTES = 110 * 1024
FOLDERS = 10
RTT_MS, MBPS = 20.0, 200.0  # the far store


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured against what it must be."""

    what: str
    must: float
    measured: float
    at_most: bool = False  # it must not be above `must`; else not below
    unit: str = ""

    @property
    def met(self) -> bool:
        """Is it as it must be?"""
        return self.measured <= self.must if self.at_most else self.measured >= self.must


@dataclass(frozen=True)
class Result:
    """One run of one script."""

    name: str
    how: str  # a sentence for the table
    figures: list[Figure]
    runs: dict[str, list[float]]  # every repeat of every side
    unit: str  # of the runs
    parameters: dict[str, Any] = field(default_factory=dict)


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def results_file(name: str, *, as_found: bool) -> Path:
    """Where every run of a script stands, one line each."""
    return RESULTS / f"{name}{'.as-found' if as_found else ''}.jsonl"


def save(result: Result, *, as_found: bool = False) -> None:
    """Print, and append to bench/results/NAME.jsonl."""
    line = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": _commit(), "machine": _machine()}
    line |= asdict(result)
    RESULTS.mkdir(exist_ok=True)
    with results_file(result.name, as_found=as_found).open("a") as file:
        file.write(json.dumps(line) + "\n")
    for side, values in result.runs.items():
        spread = f"{min(values):,.4g} to {max(values):,.4g}, {len(values)} runs"
        say(f"  {side}: {statistics.median(values):,.4g} {result.unit} ({spread})")
    for figure in result.figures:
        sign = "<=" if figure.at_most else ">="
        verdict = "met" if figure.met else "MISSED"
        say(f"  {figure.what}: {figure.measured:.3g}{figure.unit} (must be {sign} {figure.must:g}) {verdict}")


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "../src") else "")


def _machine() -> dict[str, Any]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "idle_poll_ns": idle_poll_ns(),
    }


def in_turns(rounds: int, sides: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every side once a round, the order turned round each time; what each returned."""
    runs: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(sides):
            runs[name].append(sides[name]())
    return runs


def ratio(runs: dict[str, list[float]], above: str, below: str) -> float:
    """The median of the rounds' ratios: neighbours in time saw the same machine."""
    return statistics.median(a / b for a, b in zip(runs[above], runs[below], strict=True))


def open_bucket(endpoint: str, bucket: str) -> S3Store:
    """Bare obstore's client of a bucket of the server."""
    return S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=SeaweedS3.access_key,
        secret_access_key=SeaweedS3.secret_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


def _put(store: S3Store, folder: Path, path: Path) -> None:
    obstore.put(store, str(path.relative_to(folder)), path)


# ---------------------------------------------------------------- the world


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


class World:
    """A scratch folder with a server, a Forebay home and mounts, made when first used; all gone at the end."""

    def __init__(self, *, as_found: bool = False) -> None:
        """`as_found`: leave idle processors as they are (see idle.py)."""
        self.as_found = as_found
        self._ends = ExitStack()
        self._forebay_used = False
        self._mountpoints: set[Path] = set()
        self.environment: dict[str, str] = {}  # of Forebay's commands, and of programs that talk to its daemon

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, _stop)  # so that the clean-up runs
        self.scratch = self._ends.enter_context(scratch_folder())
        self.environment["FOREBAY_HOME"] = str(self.scratch / "home")
        if not self.as_found:
            self._ends.enter_context(kernel_default())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    @cached_property
    def server(self) -> SeaweedS3:
        """The S3 server."""
        return self._ends.enter_context(SeaweedS3(self.scratch / "seaweed"))

    @cached_property
    def far(self) -> SlowProxy:
        """The same server behind 20 ms and 200 MB/s."""
        return self._ends.enter_context(SlowProxy(self.server.port, rtt_ms=RTT_MS, mbps=MBPS))

    @cached_property
    def sink(self) -> SinkServer:
        """A server that costs next to nothing; its second port is as far away."""
        return self._ends.enter_context(SinkServer(rtt_ms=RTT_MS, mbps=MBPS))

    def enter(self, context: Any) -> Any:  # noqa: ANN401 - whatever it gives
        """Keep a context until the world ends."""
        return self._ends.enter_context(context)

    # -------- data

    def small_files(self, name: str, count: int, *, buckets: Sequence[str] = (), in_sink: bool = False) -> Path:
        """`count` files of 110 KiB in ten folders on the local disk, and as objects of each bucket (`name` alone).

        They stay until the world ends, and so should what is cached of them: for minutes after a few thousand files
        were removed, ext4 makes new ones several times slower (it steps over inodes that were just freed).  So a
        bench that begins cold more than once takes another bucket each time.
        """
        folder = self.scratch / name
        for number in range(count):
            path = folder / f"class{number % FOLDERS}" / f"{number:05d}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(SMALL_BYTES))
        for bucket in buckets or (name,):
            self.upload(bucket, folder, in_sink=in_sink)
        return folder

    def upload(self, bucket: str, folder: Path, *, in_sink: bool = False) -> Path:
        """Put every file below a folder into a bucket, of the real server or of the sink, and return the folder."""
        put = partial(_put, open_bucket(self.sink.endpoint, bucket) if in_sink else self._bucket(bucket), folder)
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(put, sorted(path for path in folder.rglob("*") if path.is_file())))
        return folder

    def large_file(self, name: str, size: int) -> Path:
        """One file of so many bytes on the local disk, `large.bin`, and as an object of the bucket `name`."""
        folder = self.scratch / name
        folder.mkdir()
        path = folder / "large.bin"
        block = os.urandom(16 << 20)
        with path.open("wb") as file:
            for number in range(size // len(block)):
                file.write(number.to_bytes(8, "big") + block[8:])
        _put(self._bucket(name), folder, path)
        return path

    def _bucket(self, name: str) -> S3Store:
        self.server.make_bucket(name)
        return open_bucket(self.server.endpoint, name)

    # -------- Forebay

    def forebay(self, *words: str) -> str:
        """Run the real command line; its output."""
        if not self._forebay_used:
            self._forebay_used = True
            self._ends.callback(self._end_forebay)
        program = str(Path(sys.executable).parent / "forebay")
        done = subprocess.run(
            leashed([program, *words]),
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_WITHIN_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"forebay {' '.join(words[:2])} failed: {done.stderr.strip()}")
        return done.stdout

    @contextmanager
    def another_forebay(self, name: str, **settings: object) -> Iterator[Path]:
        """A daemon of its own with these settings serves every command until the context ends; its home."""
        home, others = self.scratch / name, self.environment
        self.environment = {f"FOREBAY_{key.upper()}": str(value) for key, value in settings.items()}
        self.environment["FOREBAY_HOME"] = str(home)
        try:
            yield home
        finally:
            self.forebay("stop")
            self.environment = others

    def mount(self, name: str, *, far: bool = False, endpoint: str = "", write_mode: str = "through") -> Path:
        """Mount the bucket `name` at /NAME, show that at a local folder of its own, and return this folder."""
        endpoint = endpoint or (self.far.endpoint if far else self.server.endpoint)
        options = [f"s3.endpoint={endpoint}", f"s3a.accessKeyID={self.server.access_key}"]
        options.append(f"s3a.secretKey={self.server.secret_key}")
        words = [word for each in options for word in ("--option", each)]
        self.forebay("fs", "mount", f"/{name}", f"s3://{name}", "--write-mode", write_mode, *words)
        return self.show(name)

    def wait_until_uploaded(self) -> None:
        """Return when the stores have all that was written: its local files have moved into the cache then."""
        deadline = time.monotonic() + UPLOADED_WITHIN_S
        while any((self.scratch / "home" / "writes" / "files").iterdir()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"what was written is not in its store after {UPLOADED_WITHIN_S:g} s")
            time.sleep(0.1)

    def show(self, name: str, kind: str = "") -> Path:
        """Show /NAME at a local folder of its own, one for each of KINDS, and return this folder."""
        mountpoint = self.shown(name, kind)
        mountpoint.mkdir(parents=True, exist_ok=True)
        self._mountpoints.add(mountpoint)
        self.forebay("fuse", "mount", *([f"--{kind}"] if kind else []), str(mountpoint), f"/{name}")
        return mountpoint

    def hide(self, name: str, kind: str = "") -> None:
        """Show it there no more."""
        mountpoint = self.shown(name, kind)
        self.forebay("fuse", "unmount", str(mountpoint))
        self._mountpoints.discard(mountpoint)

    def shown(self, name: str, kind: str = "") -> Path:
        """The local folder that shows it, or will."""
        return self.scratch / "mnt" / f"{name}{kind}"

    def unmount(self, name: str, *, free: bool = False) -> None:
        """Take it away, wherever it is shown; with `free` also what was cached: the next `mount` begins cold."""
        for kind in KINDS:
            if self.shown(name, kind) in self._mountpoints:
                self.hide(name, kind)
        if free:
            self.forebay("fs", "free", f"/{name}")
        self.forebay("fs", "unmount", f"/{name}")

    def status(self) -> dict[str, Any]:
        """`forebay status --json`."""
        status: dict[str, Any] = json.loads(self.forebay("status", "--json"))
        return status

    def _end_forebay(self) -> None:
        self.forebay("stop")
        for mountpoint in self._mountpoints:
            if os.path.ismount(mountpoint):
                subprocess.run(["umount", "-l", str(mountpoint)], check=False)


# ---------------------------------------------------------------- readers


def shuffled_paths(folder: Path, seed: int) -> list[str]:
    """All files below, in a random order that the seed decides."""
    paths = sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    random.Random(seed).shuffle(paths)
    return paths


def shuffled_keys(folder: Path, seed: int) -> list[str]:
    """The keys of the same files in the same order."""
    return [os.path.relpath(path, folder) for path in shuffled_paths(folder, seed)]


def read_files(paths: list[str]) -> float:
    """Read whole files one after the other as loaders do, by Python's open() and read(); files per second."""
    begin = time.perf_counter()
    for path in paths:
        with open(path, "rb") as file:
            file.read()
    return len(paths) / (time.perf_counter() - begin)


def read_files_bare(paths: list[str]) -> float:
    """The same by bare system calls: open(2), read(2) until the end, close(2); files per second."""
    begin = time.perf_counter()
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        while os.read(file, 1 << 18):
            pass
        os.close(file)
    return len(paths) / (time.perf_counter() - begin)


def read_large(path: Path, step: int = 1 << 20) -> float:
    """Read one file from start to end, `step` bytes at a time; bytes per second."""
    begin = time.perf_counter()
    total = 0
    room = bytearray(step)
    with open(path, "rb", buffering=0) as file:
        while got := file.readinto(room):
            total += got
    return total / (time.perf_counter() - begin)


class Program:
    """A process of a script beside this one: it says `ready`, and answers each line that it is told with a number."""

    def __init__(self, script: str, child: "subprocess.Popen[str]") -> None:
        self._script = script
        self._child = child

    def ask(self, line: str = "") -> float:
        """Tell it a line; its answer."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()
        return float(self._hear())

    def _hear(self) -> str:
        assert self._child.stdout is not None
        answer = self._child.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._script} failed; its reason is above")
        return answer

    @classmethod
    @contextmanager
    def started(cls, script: str, *words: str, environment: Mapping[str, str] | None = None) -> Iterator[Self]:
        """One that is ready; ended with the context.  Its environment has these variables too."""
        command = leashed([sys.executable, str(HERE / script), *words])
        variables = os.environ | (environment or {})
        with subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            program = cls(script, child)
            assert program._hear() == "ready\n"
            yield program


class Readers:
    """Reader processes that wait for the start, so that only reading is timed."""

    def __init__(self, paths: list[str], count: int) -> None:
        self._files = len(paths)
        self._children = [self._start(paths[number::count]) for number in range(count)]

    def _start(self, paths: list[str]) -> subprocess.Popen[str]:
        command = leashed([sys.executable, str(HERE / "reader.py")])
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n".join(paths) + "\n\n")
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        return child

    def run(self) -> float:
        """Start all, wait for all; files per second."""
        begin = time.perf_counter()
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        failed = [code for child in self._children if (code := child.wait()) != 0]
        seconds = time.perf_counter() - begin
        for child in self._children:
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                pipe.close()
        if failed:
            raise RuntimeError(f"{len(failed)} readers failed")
        return self._files / seconds


def plain_obstore(
    endpoint: str, bucket: str, way: str, keys: list[str], *, folder: Path | None = None, must_list: bool = False
) -> float:
    """Read whole objects by bare obstore in a process of its own (see plain_obstore.py); objects per second.

    With `must_list` it is not told the keys, which must be all there are in the bucket.
    """
    command = [sys.executable, str(HERE / "plain_obstore.py"), endpoint, bucket, way, str(folder or "")]
    told = "" if must_list else "\n".join(keys)
    done = subprocess.run(leashed(command), input=told, capture_output=True, text=True, check=False)
    if not done.stdout.strip():  # its exit code says nothing: the asyncio API may abort at the interpreter's end
        raise RuntimeError(f"plain obstore failed: {done.stderr}")
    return len(keys) / float(done.stdout)
