"""Folders are renamed into each other while files in them are created, changed, removed, listed and looked up.

Afterwards what is shown is what the store has, and both are what was acknowledged.  Each request of the store waits
for a moment before it is carried out, and its answer for another one; no time passes for what is believed, so nothing
that is shown wrongly is asked for again.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fault.writing_rig import MINE, Writing
from forebay.config.settings import Settings
from forebay.errors import AlreadyExists, Busy, FsError, NotADirectory, NotEmpty, NotFound, StaleVersion
from forebay.stores.base import ListPage, Store
from forebay.stores.local import LocalStore
from forebay.stores.memory import MemoryStore
from forebay.types import Attributes
from forebay.vfs.drafts import OpenDraft

SEED = 7
WORKERS, TURNS = 8, 60
WAIT_S = 0.002  # of a request, at most, and of its answer
TOPS, INNER = ("/s/a", "/s/b", "/s/c"), ("n", "m")  # where folders are renamed to and fro
TOO_LATE = (NotFound, StaleVersion, Busy, NotEmpty, AlreadyExists, NotADirectory)  # somebody renamed it before

Result = TypeVar("Result")


def delay(store: Store, chance: random.Random) -> Store:
    """Have requests and their answers wait."""

    async def pause() -> None:
        await asyncio.sleep(chance.random() * WAIT_S if chance.random() < 0.5 else 0)

    async def late(method: Callable[..., Awaitable[object]], *words: object, **options: object) -> object:
        await pause()
        try:
            return await method(*words, **options)
        finally:
            await pause()

    async def pages(method: Callable[..., AsyncIterator[ListPage]], *words: Any, **options: Any) -> Any:
        await pause()
        async for page in method(*words, **options):
            await pause()
            yield page

    for name in ("head", "stat", "put", "copy", "copy_version", "rename", "delete", "set_attributes"):
        if hasattr(store, name):
            setattr(store, name, partial(late, getattr(store, name)))
    store.list = partial(pages, store.list)  # type: ignore[method-assign]
    return store


class Stress(Writing):
    """A rig over a slow store: in memory, where renames are copies, or a folder that renames in one step."""

    def __init__(self, folder: Path, seed: int, data: Path | None) -> None:
        super().__init__(folder, page_keys=5)
        self.chance = random.Random(seed)
        self.files: dict[str, bytes | None] = {}  # by name, as acknowledged; None: removed
        self.unsure: set[str] = set()  # a change of them was refused half way
        self.slow = delay(LocalStore(data) if data else MemoryStore("s", page_keys=5, clock=self.clock), self.chance)
        self.is_over = False

    def _open_store(self, url: str, options: Mapping[str, str], *, settings: Settings) -> tuple[Store, str]:
        return self.slow, ""

    # ------------------------------------------------------------------ what programs do

    def place(self, name: str) -> str:
        """A folder where a file may be: some stay right in a or b, the others in a folder that goes anywhere."""
        if name.startswith("top"):
            return self.chance.choice(TOPS[:2])
        return f"{self.chance.choice(TOPS)}/{self.chance.choice(INNER)}"

    async def attempt(self, act: Callable[[str], Awaitable[bool]], name: str) -> bool:
        """Do something with a file, wherever it is by now; False if it was not found."""
        for _ in range(12):
            try:
                await self.fs.stat(place := self.place(name))
                return await act(f"{place}/{name}")
            except TOO_LATE:
                continue
        return False

    async def create(self, name: str, data: bytes) -> None:
        async def act(path: str) -> bool:
            await self.write(await self.fs.changes.create(path, MINE, exclusive=True), name, data)
            return True

        await self.attempt(act, name)

    async def append(self, name: str, data: bytes) -> None:
        async def act(path: str) -> bool:
            await self.write(await self.fs.changes.open(await self.stat_file(path), truncate=False), name, data)
            return True

        await self.attempt(act, name)

    async def write(self, opened: OpenDraft, name: str, data: bytes) -> None:
        try:
            opened.draft.content.write(opened.draft.content.size(), data)
            await asyncio.sleep(0)
            await self.fs.uploader.flush(opened.draft)
            self.files[name] = (self.files.get(name) or b"") + data
        except FsError as error:
            raise AssertionError(f"{name} could not be closed") from error
        finally:
            opened.close()

    async def unlink(self, name: str) -> None:
        async def act(path: str) -> bool:
            await self.fs.changes.unlink(path)
            self.files[name] = None
            return True

        await self.attempt(act, name)

    async def chmod(self, name: str) -> None:
        async def act(path: str) -> bool:
            await self.fs.changes.set_attributes(path, Attributes(mtime_ns=self.chance.randrange(10**18)))
            return True

        await self.attempt(act, name)

    async def look(self, name: str) -> None:
        async def act(path: str) -> bool:
            await self.fs.stat(path)
            return True

        await self.attempt(act, name)

    async def list(self) -> None:
        with contextlib.suppress(*TOO_LATE):
            await self.names(self.place(self.chance.choice(("top", "inner"))))

    async def work(self, number: int) -> None:
        chance, mine = self.chance, list[str]()
        for turn in range(TURNS):
            kind = chance.choice(["create"] * 3 + ["append"] * 3 + ["unlink", "chmod", "list", "look"])
            if kind == "create" or not mine:
                mine.append(f"{chance.choice(('top', 'inner'))}-{number}-{turn}")
                await self.create(mine[-1], mine[-1].encode())
            elif kind == "list":
                await self.list()
            elif kind == "append":
                await self.append(chance.choice(mine), b"+%d" % turn)
            else:
                await getattr(self, kind)(chance.choice(mine))
            await asyncio.sleep(chance.random() * WAIT_S)

    async def rename(self) -> None:
        """Folders and files are renamed until the others have done their work."""
        chance = self.chance
        while not self.is_over:
            if chance.random() < 0.4:
                source, target = chance.sample(TOPS[:2], 2)
            else:
                source, target = (f"{chance.choice(TOPS)}/{chance.choice(INNER)}" for _ in range(2))
            with contextlib.suppress(*TOO_LATE):
                await self.fs.stat(source)
                await self.fs.stat(target.rpartition("/")[0])
                await self.fs.changes.rename(source, target)
            await asyncio.sleep(chance.random() * 4 * WAIT_S)

    async def run(self) -> None:
        for folder in ("/s/a", "/s/a/n", "/s/c", "/s/c/m"):
            await self.fs.mkdir(folder)
        renaming = [asyncio.create_task(self.rename()) for _ in range(2)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(self.work(number) for number in range(WORKERS)))
            self.is_over = True
            await asyncio.gather(*renaming)
        await self.settled()

    # ------------------------------------------------------------------ what came of it

    async def shown(self, folder: str) -> dict[str, bytes]:
        """Every file below a folder, as listed and looked up."""
        found: dict[str, bytes] = {}
        for name in await self.names(folder):
            path = f"{folder}/{name}"
            if await self.is_folder(path):
                found |= await self.shown(path)
            else:
                found[path] = await self.read(path)
        return found

    async def is_folder(self, path: str) -> bool:
        try:
            await self.stat_file(path)
        except FsError as error:
            if isinstance(error, NotFound):
                raise
            return True
        return False

    async def kept(self) -> dict[str, bytes]:
        """Every file in the store."""
        found: dict[str, bytes] = {}
        async for page in self.slow.list("", recursive=True):
            for meta in page.objects:
                if not meta.key.endswith("/"):
                    found[f"/s/{meta.key}"] = bytes(memoryview(await self.slow.get(meta.key)))
        return found


@pytest.mark.parametrize("seed", [SEED])
@pytest.mark.parametrize("renames", [True, False], ids=["in one step", "copied"])
@pytest.mark.parametrize("mode", ["through", "back"])
async def test_what_is_shown_after_renames_is_what_was_acknowledged(
    tmp_path: Path, mode: str, renames: bool, seed: int
) -> None:
    (tmp_path / "data").mkdir()
    async with Stress(tmp_path / "home", seed, tmp_path / "data" if renames else None) as rig:
        await rig.start(mode)
        await rig.run()
        acknowledged = {name: data for name, data in rig.files.items() if data is not None}
        kept, shown = await rig.kept(), await rig.shown("/s")
        assert {path.rpartition("/")[2]: data for path, data in kept.items()} == acknowledged
        assert len(kept) == len(acknowledged), "each at one place"
        differing = {path: (shown.get(path), kept.get(path)) for path in shown | kept}
        assert not (differing := {path: both for path, both in differing.items() if both[0] != both[1]}), differing
        for name in rig.files:  # looked up everywhere, also where a listing has nothing
            for place in [*TOPS, *(f"{top}/{inner}" for top in TOPS for inner in INNER)]:
                path = f"{place}/{name}"
                assert ((await rig.fs.lookup(place, name)).entry is not None) == (path in kept), path
