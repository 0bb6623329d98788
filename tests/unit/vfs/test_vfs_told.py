"""Attributes that a store keeps and its listings do not tell, through the file system."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.errors import Denied
from forebay.stores.memory import MemoryStore
from forebay.stores.posix import posix_of
from forebay.testing.faulty_store import FaultyStore
from forebay.testing.rig import Rig
from forebay.types import ObjectMeta
from forebay.vfs import told

FIND = 2  # heads of a lookup of the folder itself
OWNER = os.geteuid(), os.getegid()


class Silent(MemoryStore):
    """A store whose objects have a mode by their names, `600` for one; its heads alone tell it."""

    async def head(self, key: str) -> ObjectMeta:
        meta = await super().head(key)
        name = key.rstrip("/").rpartition("/")[2]
        return meta._replace(posix=posix_of(int(name, 8), *OWNER)) if name.isdigit() else meta


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(tmp_path) as rig:
        store = Silent("s", clock=rig.clock)
        store.capabilities = replace(store.capabilities, attributes=True, links=True)
        rig.stores["s"] = FaultyStore(store)
        for key in ("d/600", "d/755", "d/plain", "d/700/", "d/700/x", "d/prefix/x"):
            await store.put(key, b"x")
        yield rig


async def modes(rig: Rig, *names: str) -> dict[str, int | None]:
    entries = {name: await rig.fs.stat(f"/s/d/{name}") for name in names}
    return {name: entry.posix and entry.posix.mode for name, entry in entries.items()}


EXPECTED = {"600": 0o600, "755": 0o755, "plain": None, "700": 0o700, "prefix": None}


async def test_a_file_shows_its_mode_before_and_after_its_folder_is_listed(rig: Rig) -> None:
    await rig.mount("/s", "s")
    assert await modes(rig, *EXPECTED) == EXPECTED
    await rig.fs.refresh("/s")
    await rig.names("/s/d")
    assert await modes(rig, *EXPECTED) == EXPECTED


async def test_a_walk_and_the_names_that_outlast_a_restart_tell_modes(rig: Rig) -> None:
    await rig.mount("/s", "s", freshness="immutable")
    async for _ in rig.fs.load_names("/s"):
        pass
    await rig.restart()
    before = rig.memory("s").requests.copy()
    assert await modes(rig, *EXPECTED) == EXPECTED
    assert rig.memory("s").requests == before


async def test_what_a_listing_shows_unchanged_is_not_asked_for_again(rig: Rig) -> None:
    await rig.mount("/s", "s")
    rig.clock.advance(told.RESTED_NS / 1e9)
    for _ in range(2):
        await rig.names("/s/d")
        await rig.fs.refresh("/s")
    before = rig.memory("s").requests["head"]
    await rig.memory("s").put("d/755", b"new")
    await rig.names("/s/d")
    folders = 2  # a listing tells nothing of them by which a change could be seen
    assert rig.memory("s").requests["head"] - before == FIND + 1 + folders


async def test_what_was_changed_a_moment_ago_is_asked_for_again(rig: Rig) -> None:
    await rig.mount("/s", "s")
    await rig.names("/s/d")
    await rig.fs.refresh("/s")
    before = rig.memory("s").requests["head"]
    await rig.names("/s/d")
    assert rig.memory("s").requests["head"] - before == FIND + len(EXPECTED)


async def test_an_object_that_may_not_be_asked_for_shows_as_it_is_listed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = rig.memory("s").head

    async def refuse(key: str) -> ObjectMeta:
        if key == "d/600":
            raise Denied("403")
        return await head(key)

    monkeypatch.setattr(rig.memory("s"), "head", refuse)
    await rig.mount("/s", "s")
    await rig.names("/s/d")
    assert await modes(rig, *EXPECTED) == EXPECTED | {"600": None}
