"""What is changed here is seen at once, though answers of the store of before that come late."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fault.writing_rig import Writing
from forebay.errors import StaleVersion
from forebay.testing.faulty_store import Hang
from forebay.vfs.entries import file_entry


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Writing]:
    async with Writing(tmp_path) as rig:
        yield rig


class Late:
    """The answers of one method of the store come when they are let go; what they say was so before."""

    def __init__(self, rig: Writing, patch: pytest.MonkeyPatch, name: str, key: str) -> None:
        method: Callable[..., Awaitable[object]] = getattr(rig.memory("s"), name)
        self.done, self.let_go = asyncio.Event(), asyncio.Event()

        async def late(asked: str, *words: Any, **options: Any) -> object:
            try:
                return await method(asked, *words, **options)
            finally:
                if asked == key:
                    self.done.set()
                    await self.let_go.wait()

        patch.setattr(rig.memory("s"), name, late)


async def test_an_absence_of_before_a_file_came_hides_it_in_no_listing_that_was_amended_since(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "d/other", b"other")
    await rig.start("through", freshness="ttl")
    await rig.names("/s/d")
    rig.fs.metadata.doubt("/s/d", "new")
    late = Late(rig, monkeypatch, "head", "d/new")
    looking = asyncio.create_task(rig.fs.lookup("/s/d", "new"))
    await late.done.wait()
    meta = await rig.put("s", "d/new", b"new")
    await rig.fs.learn_file("/s/d/new", file_entry("/s/d/new", rig.fs.mounts[0], meta))
    assert sorted(await rig.names("/s/d")) == ["new", "other"]  # with what is newer put in
    late.let_go.set()
    await looking
    assert sorted(await rig.names("/s/d")) == ["new", "other"]
    assert await rig.read("/s/d/new") == b"new"


@pytest.mark.parametrize("change", ["write", "remove", "rename"])
async def test_who_looks_up_a_name_while_it_is_changed_is_not_told_what_it_was_before(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    await rig.put("s", "d/f", b"first")
    await rig.start("through", freshness="ttl")
    entry = await rig.stat_file("/s/d/f")
    rig.fs.metadata.doubt("/s/d", "f")
    with monkeypatch.context() as patch:
        late = Late(rig, patch, "head", "d/f")
        looking = asyncio.create_task(rig.fs.lookup("/s/d", "f"))
        await late.done.wait()
        changes = rig.fs.changes
        if change == "write":
            opened = await changes.open(entry, truncate=True)
            opened.draft.content.write(0, b"second")
            await rig.close(opened)
            await rig.settled()
        elif change == "remove":
            rig.fs.metadata.learn(entry.mount, "/s/d", "f", entry)
            await changes.unlink("/s/d/f")
        else:
            await changes.rename("/s/d", "/s/e")
        late.let_go.set()
        found = (await looking).entry
    if change == "write":
        assert found == await rig.stat_file("/s/d/f")
        assert found != entry
    else:
        assert found is None


async def test_a_file_is_seen_that_comes_into_a_folder_before_who_made_that_hears_of_it(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.start("through")
    with monkeypatch.context() as patch:
        late = Late(rig, patch, "put", "d/")
        making = asyncio.create_task(rig.fs.mkdir("/s/d"))
        await late.done.wait()
        await rig.save("/s/d/new", b"new")
        await rig.settled()
        late.let_go.set()
        await making
    assert await rig.names("/s/d") == ["new"]
    assert await rig.read("/s/d/new") == b"new"


async def test_a_file_that_a_rename_brings_is_seen_though_another_of_its_name_was_just_removed(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a/f", "b/f"):
        await rig.put("s", key, key.encode())
    await rig.start("through")
    with monkeypatch.context() as patch:
        late = Late(rig, patch, "delete", "a/f")
        removing = asyncio.create_task(rig.fs.changes.unlink("/s/a/f"))
        await late.done.wait()
        renaming = [
            asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/c")),
            asyncio.create_task(rig.fs.changes.rename("/s/b", "/s/a")),
        ]
        await asyncio.wait(renaming, timeout=0.05)
        late.let_go.set()
        await asyncio.gather(removing, *renaming)
    assert await rig.names("/s/a") == ["f"]
    assert await rig.read("/s/a/f") == b"b/f"
    assert await rig.names("/s/c") == []


async def test_two_renames_of_one_folder_wait_for_each_other(rig: Writing) -> None:
    await rig.put("s", "a/n/f", b"f")
    await rig.start("back")
    opened = await rig.open("/s/a/n/f")
    gate = asyncio.Event()
    rig.faulty.script.append(Hang(gate))
    renaming = [
        asyncio.create_task(rig.fs.changes.rename("/s/a/n", "/s/a/m")),
        asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b")),
    ]
    await asyncio.wait(renaming, timeout=0.05)
    gate.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*renaming)
    await rig.close(opened)
    await rig.settled()
    assert await rig.read("/s/b/m/f") == b"f"


async def test_who_waits_to_open_a_file_that_is_being_removed_does_not_bring_it_back(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "f", b"first")
    await rig.start("through")
    entry = await rig.stat_file("/s/f")
    assert await rig.read("/s/f") == b"first"  # from now on it is cached
    with monkeypatch.context() as patch:
        late = Late(rig, patch, "delete", "f")
        removing = asyncio.create_task(rig.fs.changes.unlink("/s/f"))
        await late.done.wait()
        opening = asyncio.create_task(rig.fs.changes.open(entry, truncate=False))
        await asyncio.wait({opening}, timeout=0.05)
        late.let_go.set()
        await removing
        with pytest.raises(StaleVersion):
            await opening
    assert not list(rig.fs.drafts)


async def test_a_file_that_a_rename_of_its_folder_has_sent_is_a_version_then(rig: Writing) -> None:
    await rig.put("s", "a/f", b"first")
    await rig.start("back")
    opened = await rig.open("/s/a/f")
    rig.down()
    opened.draft.content.write(0, b"FIRST")
    await rig.close(opened)
    await rig.pass_time(3)
    rig.up()
    await rig.fs.changes.rename("/s/a", "/s/b")
    await rig.settled()
    assert await rig.stored("b/f") == b"FIRST"
