"""`make demo`: Forebay from an empty folder to a trained net, on this machine alone, and what it gains.

Starts a real S3 server, fills it with pictures, puts it behind a slow link, mounts it with Forebay's command line,
trains over the mount, and compares with reading the store directly and with the local disk.  Everything lives in a
temporary folder; nothing is left behind, neither after Ctrl-C nor after a failure.  Results: demo/out/.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import obstore
from obstore.store import S3Store

from forebay.errors import FsError
from forebay.testing.leash import leashed
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.slowproxy import SlowProxy
from pictures import DataSet, make_data_set, read_records
from report import Report, Row, describe_machine, draw_chart

HERE = Path(__file__).resolve().parent
SHARDS = 8
RTT_MS, MBPS = 20.0, 50.0
ROUNDS = 6  # epochs of Forebay and of the local disk, in turns
COMMAND_WITHIN_S = 120.0
TRAINING_WITHIN_S = 900.0  # an idle machine needs seconds
SECRETS = ("s3a.secretKey=",)

_began = time.monotonic()


class DemoError(Exception):
    """The demo cannot go on; the message says why, and what to do."""


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.monotonic() - _began:4.0f} s] {text}", flush=True)


def call(what: str, command: list[str], *, within_s: float, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a command that ends with this process.

    Raises:
        DemoError: it has not ended in time.
    """
    try:
        return subprocess.run(leashed(command), timeout=within_s, check=False, **options)
    except subprocess.TimeoutExpired:
        raise DemoError(f"{what} took longer than {within_s:g} s; is this machine busy with something else?") from None


class Forebay:
    """The real command line, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._program = Path(sys.executable).parent / "forebay"
        self._mountpoints: list[Path] = []
        self._daemon_pid: int | None = None

    def run(self, *words: str, quiet: bool = False) -> str:
        """Run one command as a user would; its output.

        Raises:
            DemoError: it failed.
        """
        if not quiet:
            say("$ forebay " + " ".join(_hide(word) for word in words))
        done = call(
            f"forebay {words[0]}",
            [str(self._program), *words],
            within_s=COMMAND_WITHIN_S,
            env=os.environ | {"FOREBAY_HOME": str(self._home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise DemoError(f"forebay {words[0]} {words[1]} failed: {done.stderr.strip() or done.stdout.strip()}")
        for line in () if quiet else (done.stdout + done.stderr).splitlines():
            print(f"         {line}")
        return done.stdout

    def mount(self, mountpoint: Path, path: str) -> None:
        """`forebay fuse mount`, and remember to unmount."""
        mountpoint.mkdir(parents=True, exist_ok=True)
        self._mountpoints.append(mountpoint)
        self.run("fuse", "mount", str(mountpoint), path)
        self._daemon_pid = self.status()["pid"]

    def unmount(self, mountpoint: Path) -> None:
        """`forebay fuse unmount`."""
        self.run("fuse", "unmount", str(mountpoint))
        self._mountpoints.remove(mountpoint)

    def status(self) -> dict[str, Any]:
        """What `forebay status --json` tells."""
        status: dict[str, Any] = json.loads(self.run("status", "--json", quiet=True))
        return status

    def end(self) -> None:
        """Unmount and stop, by force where it does not go well."""
        for mountpoint in self._mountpoints:
            self._try("fuse", "unmount", str(mountpoint))
        self._try("stop")
        if self._daemon_pid is not None and _is_forebay(self._daemon_pid):
            os.kill(self._daemon_pid, signal.SIGKILL)
        for mountpoint in self._mountpoints:
            if os.path.ismount(mountpoint) or not _answers(mountpoint):
                subprocess.run(["umount", "-l", str(mountpoint)], check=False, capture_output=True)

    def _try(self, *words: str) -> None:
        try:
            self.run(*words, quiet=True)
        except DemoError as error:
            say(f"while cleaning up: {error}")


def _hide(word: str) -> str:
    for name in SECRETS:
        if word.startswith(name):
            return name + "***"
    return word


def _answers(folder: Path) -> bool:
    try:
        folder.stat()
    except OSError:
        return False
    return True


def _is_forebay(pid: int) -> bool:
    """Is that process still Forebay's daemon, and no other that got its number?"""
    try:
        return b"forebay" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


# ---------------------------------------------------------------- the parts


def check_machine() -> None:
    """Is there what only the machine can give?

    Raises:
        DemoError: no.
    """
    if not os.path.exists("/dev/fuse"):
        raise DemoError(
            "there is no /dev/fuse here, which the demo's mount needs.\n"
            "  On a machine of your own: sudo modprobe fuse\n"
            "  In Docker: docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined ...\n"
            "  In Kubernetes: a privileged pod, or a device plug-in for /dev/fuse"
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise DemoError("/dev/fuse is there, but may not be opened: sudo chmod 666 /dev/fuse, or run as root")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise DemoError("without root, mounting needs fusermount3: sudo apt-get install fuse3 (or dnf install fuse3)")


def upload(server: SeaweedS3, bucket: str, folder: Path) -> None:
    """Every file below a folder, as objects of a new bucket."""
    server.make_bucket(bucket)
    store = S3Store(
        bucket,
        endpoint=server.endpoint,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )

    def put(path: Path) -> None:
        obstore.put(store, str(path.relative_to(folder)), path.read_bytes())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put, (path for path in folder.rglob("*") if path.is_file())))


class Trainer:
    """Runs demo/train.py, in a process of its own each time."""

    def __init__(self, scratch: Path, proxy: SlowProxy, server: SeaweedS3) -> None:
        self._scratch = scratch
        self._environment = os.environ | {
            "AWS_ENDPOINT_URL": proxy.endpoint,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }

    def run(self, *data_dirs: str, epochs: int, read_only: bool = False) -> list[dict[str, Any]]:
        """Train; the epochs, in the order they went.

        Raises:
            DemoError: training failed; its reason is above.
        """
        results = self._scratch / "epochs.jsonl"
        results.unlink(missing_ok=True)
        words = [*(f"--data_dir={data_dir}" for data_dir in data_dirs), f"--epochs={epochs}"]
        words += ["--read_only"] if read_only else []
        say(f"$ python demo/train.py {' '.join(words)}")
        command = [sys.executable, str(HERE / "train.py"), *words, f"--json={results}"]
        done = call("demo/train.py", command, within_s=TRAINING_WITHIN_S, env=self._environment)
        if done.returncode != 0:
            raise DemoError(f"demo/train.py ended with {done.returncode}; its reason is above")
        return [json.loads(line) for line in results.read_text().splitlines()]


def walk_through(forebay: Forebay, proxy: SlowProxy, server: SeaweedS3, mountpoint: Path) -> None:
    """The founding walk-through: a folder of the tree, two buckets in it, shown as a local folder."""
    store = ["--option", f"s3a.accessKeyID={server.access_key}", "--option", f"s3a.secretKey={server.secret_key}"]
    store += ["--option", f"s3.endpoint={proxy.endpoint}"]
    forebay.run("fs", "mkdir", "/training-data")
    forebay.run("fs", "mount", "/training-data/imagenet/", "s3://imagenet/", *store)
    forebay.run("fs", "mount", "/training-data/shards/", "s3://shards/", *store)
    forebay.mount(mountpoint, "/training-data")
    say(f"$ ls {mountpoint}/imagenet")
    print("         " + "  ".join(sorted(os.listdir(mountpoint / "imagenet"))))


def make_cold(forebay: Forebay, mountpoint: Path) -> None:
    """Nothing cached, neither by Forebay nor, for the mount, by the kernel."""
    forebay.unmount(mountpoint)
    forebay.run("fs", "free", "/training-data/imagenet")
    forebay.mount(mountpoint, "/training-data")


def read_shards(folder: Path, count: int) -> float:
    """Read all TFRecord shards in order, checking each record; the seconds it took.

    Raises:
        DemoError: a record is missing.
    """
    begin = time.perf_counter()
    found = sum(1 for shard in sorted(folder.iterdir()) for _ in read_records(shard))
    if found != count:
        raise DemoError(f"the shards at {folder} hold {found} records in place of {count}")
    return time.perf_counter() - begin


def measure(forebay: Forebay, trainer: Trainer, mountpoint: Path, data: DataSet) -> Report:
    """Every figure of the table."""
    mounted, local, direct = str(mountpoint / "imagenet"), str(data.images), "s3://imagenet"
    say("three epochs over the mount, cold at first")
    epochs = trainer.run(mounted, epochs=3)
    say("Forebay and the local disk, in turns")
    turns = trainer.run(mounted, local, epochs=ROUNDS)
    say("the store read directly, without a cache")
    [direct_epoch] = trainer.run(direct, epochs=1)
    say("the same again, reading only")
    [direct_reading] = trainer.run(direct, epochs=1, read_only=True)
    make_cold(forebay, mountpoint)
    reading = trainer.run(mounted, epochs=3, read_only=True)
    reading_turns = trainer.run(mounted, local, epochs=ROUNDS, read_only=True)
    say("the TFRecord shards through the mount, one after the other")
    first, second = (read_shards(mountpoint / "shards", data.count) for _ in range(2))
    pairs = zip(_of(turns, mounted), _of(turns, local), strict=True)
    return Report(
        training=_rows(direct_epoch, epochs, _of(turns, mounted), _of(turns, local)),
        reading=_rows(direct_reading, reading, _of(reading_turns, mounted), _of(reading_turns, local)),
        local_ratios=[there["seconds"] / here["seconds"] for here, there in pairs],
        direct_ratio=direct_reading["seconds"] / reading[1]["seconds"],
        facts=[*_facts(data), _shard_fact(data, first, second), _memory_fact(forebay)],
    )


def _of(epochs: list[dict[str, Any]], data_dir: str) -> list[dict[str, Any]]:
    return [epoch for epoch in epochs if epoch["data_dir"] == data_dir]


def _rows(
    direct: dict[str, Any], mounted: list[dict[str, Any]], warm: list[dict[str, Any]], local: list[dict[str, Any]]
) -> list[Row]:
    return [
        Row("(a) the store, read directly", [direct]),
        Row("(b) Forebay, epoch 1", [mounted[0]]),
        Row("(c) Forebay, epoch 2", [mounted[1]]),
        Row("(c) Forebay, epoch 3", [mounted[2]]),
        Row("(c) Forebay, in turns with (d)", warm),
        Row("(d) local disk", local),
    ]


def _facts(data: DataSet) -> list[str]:
    megabytes = data.image_bytes / 1e6
    return [
        f"{data.count:,} JPEGs, {megabytes:,.0f} MB, in SeaweedFS behind {RTT_MS:g} ms round trip and {MBPS:g} MB/s: "
        f"one epoch cannot cross that link in less than {megabytes / MBPS:.1f} s.",
        "The phases are milliseconds for each image.  Reading and preparing are done by 2 loader processes while the "
        "step runs in a third, on the same cores, so the phases overlap and do not add up to the epoch.",
        "(a) reads with obstore, one GET for each image, in the same 2 loader processes.",
        f"Rows of (c) in turns and (d): the median of {ROUNDS} epochs each, alternating in one process.",
        "The kernel's page cache was left as it was: what the local disk and Forebay's cache hold is in memory for "
        "both.  Before the reading-only epoch 1 the cache was emptied and the folder mounted anew.",
        f"Machine: {describe_machine()}; server, link, Forebay and training share it.",
    ]


def _shard_fact(data: DataSet, first_s: float, second_s: float) -> str:
    first, second = (f"{data.shard_bytes / 1e6 / seconds:,.0f} MB/s" for seconds in (first_s, second_s))
    return (
        f"The same pictures as {SHARDS} TFRecord shards, read in order through the mount, every checksum checked: "
        f"first {first} of the link's {MBPS:g}, then {second}."
    )


def _memory_fact(forebay: Forebay) -> str:
    return f"Forebay's daemon held {forebay.status()['rss_bytes'] / 1e6:,.0f} MB of memory after all of it."


# ---------------------------------------------------------------- the whole


@contextmanager
def ending_calmly() -> Iterator[None]:
    """While the clean-up runs, a second Ctrl-C does not cut it short."""
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def check_nothing_is_left(scratch: Path) -> None:
    """No process, no mount, no folder.

    Raises:
        DemoError: there is.
    """
    left = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(scratch) in line]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is none of ours
        if str(scratch).encode() in words:
            left.append(f"process {folder.name}: {words.replace(bytes(1), b' ').decode(errors='replace')}")
    if scratch.exists():
        left.append(str(scratch))
    if left:
        raise DemoError("the clean-up left behind: " + "; ".join(left))


def run(count: int, out: Path) -> None:
    """The demo, from nothing to the table, and back to nothing."""
    with ExitStack() as ends:
        scratch = Path(
            ends.enter_context(tempfile.TemporaryDirectory(prefix="forebay-demo-", ignore_cleanup_errors=True))
        )
        say(f"drawing {count:,} pictures")
        data = make_data_set(scratch, count=count, shard_count=SHARDS, seed=1, processes=len(os.sched_getaffinity(0)))
        say(f"{data.image_bytes / 1e6:,.0f} MB of JPEGs and {SHARDS} TFRecord shards; starting SeaweedFS, uploading")
        server = ends.enter_context(SeaweedS3(scratch / "seaweed"))
        upload(server, "imagenet", data.images)
        upload(server, "shards", data.shards)
        say(f"a link of {RTT_MS:g} ms and {MBPS:g} MB/s to it")
        proxy = ends.enter_context(SlowProxy(server.port, rtt_ms=RTT_MS, mbps=MBPS))
        forebay = Forebay(scratch / "home")
        ends.callback(forebay.end)
        ends.enter_context(ending_calmly())
        walk_through(forebay, proxy, server, scratch / "mnt" / "fuse")
        report = measure(forebay, Trainer(scratch, proxy, server), scratch / "mnt" / "fuse", data)
        say("unmounting, stopping, removing everything")
    check_nothing_is_left(scratch)
    out.mkdir(parents=True, exist_ok=True)
    table = out / "table.md"
    table.write_text(report.markdown())
    draw_chart(report, out / "chart.png")
    print(f"\n{report.markdown()}")
    say(f"the table is in {table}, the chart in {out / 'chart.png'}")


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description="Forebay's demo; see demo/run.py.")
    parser.add_argument("--images", type=int, default=2000, help="how many pictures (2000)")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where table and chart go (demo/out)")
    words = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        check_machine()
        run(words.images, words.out)
    except (DemoError, FsError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped; nothing is left behind", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
