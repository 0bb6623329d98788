"""What a program that writes waits for: a store that hangs holds up nobody who does not need it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fault.writing_rig import Writing
from forebay.errors import StaleVersion
from forebay.testing.faulty_store import Hang

SMALL, LARGE = b"small", bytes(range(256)) * 4096 * 9  # the second goes in parts
SIZES = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
WAIT_S = 30.0


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Writing]:
    async with Writing(tmp_path) as rig:
        yield rig


@SIZES
async def test_a_close_after_an_fsync_asks_the_store_for_nothing_if_nothing_is_new(rig: Writing, data: bytes) -> None:
    await rig.start("through")
    opened = await rig.open("/s/f")
    opened.draft.content.write(0, data)
    await rig.fs.uploader.flush(opened.draft)
    before = rig.memory("s").requests.copy()
    rig.faulty.script.append(Hang(asyncio.Event()))  # whatever is asked is never answered
    async with asyncio.timeout(WAIT_S):
        await rig.close(opened)
    assert rig.memory("s").requests == before
    rig.up()
    await rig.settled()
    assert await rig.stored("f") == data


async def test_who_writes_on_is_told_of_a_conflict_as_soon_as_it_is_known(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although what is in the journal has not changed since, which would do otherwise."""
    known, go_on = asyncio.Event(), asyncio.Event()
    learn_file = rig.fs.learn_file

    async def learn(path: str, *rest: object, **more: object) -> None:
        if "conflict" in path:
            known.set()
            await go_on.wait()
        await learn_file(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.fs, "learn_file", learn)
    await rig.put("s", "f", b"before")
    await rig.start("back")
    opened = await rig.open("/s/f", truncate=True)
    opened.draft.content.write(0, b"ours")
    await rig.put("s", "f", b"theirs")
    await rig.fs.uploader.flush(opened.draft)
    async with asyncio.timeout(WAIT_S):
        await known.wait()
    with pytest.raises(StaleVersion, match="conflict"):
        await rig.fs.uploader.flush(opened.draft)
    go_on.set()
    opened.close()
    await rig.settled()
