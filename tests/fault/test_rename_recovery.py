"""Renames and kill -9: at each point where it may come, the next start finishes what was begun."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fault.lives import ended
from fault.writing_child import RealRig
from forebay import failpoints
from forebay.clock import SystemClock
from forebay.config.settings import Settings
from forebay.errors import AlreadyExists, FsError, IsADirectory, NotEmpty, NotFound
from forebay.stores.base import Store
from forebay.stores.local import LocalStore
from forebay.stores.posix import HIDDEN
from forebay.testing.faulty_store import Hang
from forebay.testing.rig import Rig
from forebay.types import Attributes
from forebay.vfs.control import ControlDb, Phase
from forebay.vfs.entries import Mount, MountOptions
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.metadata import Metadata
from forebay.vfs.moving import Moves
from forebay.vfs.renames import Renames

POINTS = {
    "rename.recorded": Phase.COPYING,
    "rename.copied_one": Phase.COPYING,
    "rename.copied": Phase.COPIED,
    "rename.deleted_one": Phase.COPIED,
    "rename.moved": Phase.COPIED,
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


def prepared(tmp_path: Path) -> tuple[Path, Path]:
    """A home, and a folder with what is to be renamed."""
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir(parents=True)
    for file, content in FILES.items():
        (data / "a" / file).parent.mkdir(parents=True, exist_ok=True)
        (data / "a" / file).write_bytes(content)
    (data / "a" / "empty").mkdir()
    (data / "b").mkdir()
    return home, data


def kill(life: str, home: Path, data: Path, failpoint: str) -> None:
    """Live so in another process, which is killed at that point."""
    child = ended(Path(__file__).stem, life, home, data, failpoint=failpoint)
    assert child.returncode == -signal.SIGKILL, child.stderr


def test_every_point_of_a_rename_is_tried() -> None:
    assert set(POINTS) == {name for name in failpoints.NAMES if name.startswith("rename.")}


@pytest.mark.parametrize(
    ("name", "count"), [(name, count) for name in POINTS for count in (1, 4) if count == 1 or name.endswith("_one")]
)
async def test_after_kill_minus_9_the_rename_is_finished(tmp_path: Path, name: str, count: int) -> None:
    home, data = prepared(tmp_path)
    kill("rename", home, data, f"{name}:{count}")
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


# ------------------------------------------------------------------ who comes to its places before it is finished


class NoRenames(RealRig):
    """Over a folder in which nothing is renamed in one step."""

    def _open_store(self, url: str, options: Mapping[str, str], *, settings: Settings) -> tuple[Store, str]:
        store, prefix = super()._open_store(url, options, settings=settings)
        store.capabilities = replace(store.capabilities, renames=False)
        return store, prefix


async def move(home: Path, data: Path) -> None:
    """The child's life."""
    async with NoRenames(home) as rig:
        await rig.fs.mount("/s", f"file://{data}", MountOptions())
        await rig.fs.changes.rename("/s/a", "/s/b/c")


async def move_away(fs: FileSystem) -> None:
    """To another mount, which has it all then."""
    await fs.mount("/t", "mem://t", MountOptions())
    async for _ in Moves(fs).move("/s/b/c", "/t/c"):
        pass
    assert {entry.path for page in [page async for page in fs.walk("/t")] for entry in page} == {
        f"/t/c/{file}" for file in FILES
    }


async def one(*_: object) -> AsyncIterator[bytes]:
    yield b"new"


Act = Callable[[FileSystem], Awaitable[object]]
MOVED = {f"b/c/{file}": content for file, content in FILES.items()}
GONE = dict[str, bytes]()
ACTS: dict[str, tuple[Act, type[FsError] | None, dict[str, bytes]]] = {
    "rm -r a": (lambda fs: fs.remove("/s/a", recursive=True), NotFound, MOVED),
    "rm -r a/d": (lambda fs: fs.remove("/s/a/d", recursive=True), NotFound, MOVED),
    "rm -r b/c": (lambda fs: fs.remove("/s/b/c", recursive=True), None, GONE),
    "rm -r b": (lambda fs: fs.remove("/s/b", recursive=True), None, GONE),
    "rm -r --force .": (lambda fs: fs.remove("/s", recursive=True, force=True), None, GONE),
    "rm -r --force /": (lambda fs: fs.remove("/", recursive=True, force=True), None, GONE),
    "rmdir a": (lambda fs: fs.rmdir("/s/a"), NotFound, MOVED),
    "rmdir a/empty": (lambda fs: fs.rmdir("/s/a/empty"), NotFound, MOVED),
    "rmdir b/c/empty": (lambda fs: fs.rmdir("/s/b/c/empty"), None, MOVED),
    "rmdir b": (lambda fs: fs.rmdir("/s/b"), NotEmpty, MOVED),
    "mkdir a": (lambda fs: fs.mkdir("/s/a"), None, MOVED),
    "mkdir a/new": (lambda fs: fs.mkdir("/s/a/new"), NotFound, MOVED),
    "mkdir b/c": (lambda fs: fs.mkdir("/s/b/c"), AlreadyExists, MOVED),
    "chmod a/1": (lambda fs: fs.changes.set_attributes("/s/a/1", Attributes(mode=0o600)), NotFound, MOVED),
    "put b/c": (lambda fs: fs.write("/s/b/c", one()), IsADirectory, MOVED),
    "mv b/c away": (move_away, None, GONE),
    "mv a": (lambda fs: fs.changes.rename("/s/a", "/s/new"), NotFound, MOVED),
}


@pytest.mark.parametrize(
    ("what", "point"),
    [(what, "rename.copied_one") for what in ACTS]
    + [(what, point) for what in ("rm -r a", "rm -r b", "put b/c") for point in POINTS if point != "rename.copied_one"],
)
async def test_who_changes_something_at_the_places_of_a_rename_that_was_killed_waits_for_its_end(
    tmp_path: Path, what: str, point: str
) -> None:
    act, refused, expected = ACTS[what]
    home, data = prepared(tmp_path)
    kill("move", home, data, point)
    async with NoRenames(home) as rig:  # which does not finish it by itself yet
        if refused is None:
            await act(rig.fs)
        else:
            with pytest.raises(refused):
                await act(rig.fs)
        assert files_in(data) == expected
        assert (data / "a").exists() == (what == "mkdir a")
        assert (data / "b/c/empty").exists() == (expected == MOVED and what != "rmdir b/c/empty")
    async with NoRenames(home) as rig:
        await rig.fs.renames.resume(rig.fs.mounts)
    assert files_in(data) == expected


@pytest.mark.parametrize("place", ["/s/a", "/s/b", "/s/b/c", "/s"])
async def test_who_removes_a_folder_waits_for_a_rename_that_is_under_way_there(tmp_path: Path, place: str) -> None:
    async with Rig(tmp_path) as rig:
        await rig.mount("/s", "s")
        for file, content in FILES.items():
            await rig.put("s", f"a/{file}", content)
        await rig.put("s", "b/", b"")
        gate = asyncio.Event()
        rig.store("s").script.extend([*[None] * 8, Hang(gate)])
        rename = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
        async with asyncio.timeout(30):
            while rig.store("s").script:
                await asyncio.sleep(0)
        rm = asyncio.create_task(rig.fs.remove(place, recursive=True, force=True))
        await asyncio.wait({rm}, timeout=0.05)
        assert not rm.done()
        assert not rename.done()
        gate.set()
        await rename
        keys = {f"b/c/{file}" for file in FILES}
        if place == "/s/a":
            with pytest.raises(NotFound):
                await rm
        else:
            assert await rm >= len(FILES)
            keys = set()
        assert {key for key in rig.memory("s")._objects if not key.endswith("/")} == keys
