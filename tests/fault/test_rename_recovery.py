"""Renames and kill -9: at each point where it may come, the next start finishes what was begun."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from forebay import failpoints
from forebay.clock import SystemClock
from forebay.config.settings import Settings
from forebay.stores.local import LocalStore
from forebay.stores.posix import HIDDEN
from forebay.testing.leash import leashed
from forebay.vfs.control import ControlDb, Phase
from forebay.vfs.entries import Mount, MountOptions
from forebay.vfs.metadata import Metadata
from forebay.vfs.renames import Renames

POINTS = {
    "rename.recorded": Phase.COPYING,
    "rename.copied_one": Phase.COPYING,
    "rename.copied": Phase.COPIED,
    "rename.deleted_one": Phase.COPIED,
}
FILES = {name: name.encode() * 100 for name in ("1", "2", "d/3", "d/e/4", "d/e/5", "f/6")}


def mount_of(data: Path) -> Mount:
    store = LocalStore(data)
    store.capabilities = replace(store.capabilities, renames=False)
    return Mount(path="/m", url=f"file://{data}", store=store, prefix="", settings=MountOptions(), ttl_s=60.0)


async def rename(home: Path, data: Path) -> None:
    """The child's life."""
    renames = Renames(ControlDb(home / "control.db"), Metadata(Settings(home=home), SystemClock()))
    await renames.rename(mount_of(data), "a", "b/c", is_folder=True)


def files_in(folder: Path) -> dict[str, bytes]:
    """Files by path, without those that were being written: they have a name that the store never shows."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(HIDDEN)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_point_of_a_rename_is_tried() -> None:
    assert set(POINTS) == {name for name in failpoints.NAMES if name.startswith("rename.")}


@pytest.mark.parametrize(
    ("name", "count"), [(name, count) for name in POINTS for count in (1, 4) if count == 1 or name.endswith("_one")]
)
async def test_after_kill_minus_9_the_rename_is_finished(tmp_path: Path, name: str, count: int) -> None:
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    for file, content in FILES.items():
        (data / "a" / file).parent.mkdir(parents=True, exist_ok=True)
        (data / "a" / file).write_bytes(content)
    (data / "a" / "empty").mkdir()
    (data / "b").mkdir()
    code = (
        f"import asyncio, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
        f"from {Path(__file__).stem} import rename; asyncio.run(rename(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    child = subprocess.run(
        leashed([sys.executable, "-c", code, str(home), str(data)]),
        env={**os.environ, "FOREBAY_FAILPOINT": f"{name}:{count}"},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    at_source, at_target = files_in(data / "a"), files_in(data / "b" / "c")
    assert at_source | at_target == FILES  # nothing is at neither place, nothing is half there
    control = ControlDb(home / "control.db")
    assert [record.phase for record in control.renames()] == [POINTS[name]]
    metadata, mount = Metadata(Settings(home=home), SystemClock()), mount_of(data)
    await Renames(control, metadata).resume([mount])
    assert files_in(data) == {f"b/c/{file}": content for file, content in FILES.items()}
    assert (data / "b" / "c" / "empty").is_dir()
    assert control.renames() == []
    await metadata.close()
    await mount.store.close()
    control.close()
