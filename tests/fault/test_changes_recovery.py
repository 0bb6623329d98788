"""Removals and replacements of files that wait to be sent, and kill -9: the next start finishes what was begun."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fault.lives import ended
from fault.test_writing_recovery import files_below
from fault.writing_child import RealRig, save
from forebay.errors import Unavailable
from forebay.stores.local import LocalStore
from forebay.types import Buffer
from forebay.vfs.entries import MountOptions

OLD, WAITS, NEW = b"old", b"waits", b"new"  # what the store has at first, what waits to be sent, what replaces both
SIZES = {"small": 1, "file": 60_000}  # the journal holds the first; of the other it names a file
CHANGES = ["unlink", "put", "rename"]
OUTCOMES: dict[str, dict[str, bytes]] = {"unlink": {}, "put": {"f": NEW}, "rename": {"f": NEW}}


def refuse_what_waits(factor: int) -> None:
    """The store takes everything else."""
    put = LocalStore.put

    async def refusing(self: LocalStore, key: str, data: Buffer, **options: object) -> object:
        if bytes(data) == WAITS * factor:
            raise Unavailable("the store is down")
        return await put(self, key, data, **options)  # type: ignore[arg-type]

    LocalStore.put = refusing  # type: ignore[method-assign,assignment]


async def change(home: Path, data: Path, mode: str, what: str, factor: int) -> None:
    """The child's life: a file waits to be sent, and is removed or replaced."""
    refuse_what_waits(factor)
    async with RealRig(home) as rig:
        await rig.fs.mount("/s", f"file://{data}", MountOptions(write_mode=mode))
        rig.fs.start()
        await save(rig, "/s/f", WAITS * factor)
        async with asyncio.timeout(30):
            while (draft := rig.fs.drafts.find("/s/f")) is None or draft.record is None:
                await asyncio.sleep(0.001)
        if what == "unlink":
            await rig.fs.changes.unlink("/s/f")
        elif what == "put":
            await rig.fs.write("/s/f", new(factor))
        else:
            await rig.fs.changes.rename("/s/other", "/s/f")


async def new(factor: int) -> AsyncIterator[bytes]:
    yield NEW * factor


async def finish(home: Path) -> None:
    """Another life, with a store that takes everything."""
    async with RealRig(home) as rig:
        rig.fs.start()
        assert await rig.fs.uploader.drain("/s") == []
        assert rig.fs.uploader.storing.conflicts == []
        async with asyncio.timeout(30):
            while list(rig.fs.drafts):
                await asyncio.sleep(0.001)


def run(tmp_path: Path, mode: str, what: str, *, has_old: bool, size: str, failpoint: str) -> dict[str, bytes]:
    """Kill it at a place, finish, and tell what the store has then, each file cut to what is repeated in it."""
    home, data, factor = tmp_path / "home", tmp_path / "data", SIZES[size]
    data.mkdir()
    (data / "stays").touch()
    if has_old:
        (data / "f").write_bytes(OLD * factor)
    if what == "rename":
        (data / "other").write_bytes(NEW * factor)
    child = ended(Path(__file__).stem, "change", home, data, mode, what, factor, failpoint=failpoint)
    assert child.returncode == -signal.SIGKILL, child.stderr
    asyncio.run(finish(home))
    assert os.listdir(home / "writes" / "files") == []
    found = files_below(data)
    assert found.pop("stays") == b""
    words = {word * factor: word for word in (OLD, WAITS, NEW)}
    return {name: words.get(content, content) for name, content in found.items()}


def cases(*, without: str) -> list[tuple[str, str, bool]]:
    """Each mode and change, with an object at the path and without, but for where the store is not asked."""

    def asks(mode: str, what: str, has_old: bool) -> bool:
        is_only_here = mode != "through" and not has_old
        return not (what == "unlink" and is_only_here) and not (what == without and mode != "through")

    every = itertools.product(("through", "back", "lazy"), CHANGES, (True, False))
    return [case for case in every if asks(*case)]


@pytest.mark.parametrize(
    ("mode", "what", "has_old", "size"),
    [(*case, "small") for case in cases(without="")]
    + [(mode, what, has_old, "file") for mode, what, has_old in cases(without="") if has_old and mode != "lazy"],
)
def test_what_was_removed_or_replaced_does_not_come_back_after_a_crash(
    tmp_path: Path, mode: str, what: str, has_old: bool, size: str
) -> None:
    found = run(tmp_path, mode, what, has_old=has_old, size=size, failpoint="draft.replaced")
    assert found == OUTCOMES[what]


@pytest.mark.parametrize(("mode", "what", "has_old"), cases(without="put"))
def test_what_is_about_to_be_removed_or_replaced_is_lost_to_nobody_after_a_crash(
    tmp_path: Path, mode: str, what: str, has_old: bool
) -> None:
    found = run(tmp_path, mode, what, has_old=has_old, size="small", failpoint="draft.gives_way")
    as_before = {"f": WAITS} | ({"other": NEW} if what == "rename" else {})
    assert found in (as_before, OUTCOMES[what])
    if has_old:
        assert found == as_before, "the store was not asked yet, and can tell"
