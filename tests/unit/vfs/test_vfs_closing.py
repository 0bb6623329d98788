"""A close of a small file in mode `back` is one write and one sync, by who asks, while the disk is quick."""

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from forebay.stores.posix import posix_of
from forebay.testing.disks import Waiting, sync_by
from forebay.testing.rig import Rig
from forebay.vfs.drafts import OpenDraft
from forebay.vfs.journal_format import BODY_MAX
from forebay.vfs.quickness import RUN_MIN

SMALL = b"small" * 1_000


async def opened(rig: Rig, path: str, data: bytes) -> OpenDraft:
    written = await rig.fs.changes.create(path, posix_of(0o644, 0, 0), exclusive=False, truncate=True)
    written.draft.content.write(0, data)
    return written


async def begin(rig: Rig, mode: str) -> None:
    """Mount a store in a mode, on a disk that was quick for a while."""
    await rig.mount("/s", "s", write_mode=mode)
    journal = rig.fs.journal
    for number in range(1 + RUN_MIN):  # the first of them begins a segment
        journal.retire(await journal.append(f"{number}", {}))
    await journal.settle()
    async with asyncio.timeout(30):
        while journal._asked != journal._done:
            await asyncio.sleep(0.001)


def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that are synced from now on."""
    found: list[int] = []
    sync_by(monkeypatch, found.append)
    return found


async def test_it_outlasts_a_power_cut_and_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Rig(tmp_path / "home") as rig:
        await begin(rig, "back")
        written = await opened(rig, "/s/a", SMALL)
        synced = syncs(monkeypatch)
        assert rig.fs.uploader.sync_now(written.draft)
        assert len(synced) == 1
        assert rig.fs.uploader.sync_now(written.draft), "as close after fsync"
        assert len(synced) == 1, "there was nothing new"
        written.close()
        shutil.copytree(tmp_path / "home", tmp_path / "left", ignore=shutil.ignore_patterns("cache"))
        for file in (tmp_path / "left" / "writes" / "files").iterdir():
            file.unlink()  # nobody has synced it
        async with Rig(tmp_path / "left") as other:
            assert await other.read("/s/a") == SMALL
        rig.fs.start()
        assert await rig.fs.uploader.drain("/s") == []
        assert await rig.memory("s").get("a") == SMALL


async def test_what_is_written_after_it_is_recorded_again(tmp_path: Path) -> None:
    async with Rig(tmp_path / "home") as rig:
        await begin(rig, "back")
        written = await opened(rig, "/s/a", SMALL)
        assert rig.fs.uploader.sync_now(written.draft)
        first = written.draft.record
        written.draft.content.write(0, b"later")
        assert rig.fs.uploader.sync_now(written.draft)
        assert first is not None
        assert written.draft.record is not None
        assert written.draft.record.seq > first.seq
        written.close()


async def test_an_fsync_in_mode_lazy_is_a_sync_after_which_a_close_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rig(tmp_path / "home") as rig:
        await begin(rig, "lazy")
        written = await opened(rig, "/s/a", SMALL)
        assert rig.fs.uploader.close_now(written.draft)
        assert rig.fs.uploader.sync_now(written.draft)
        assert written.draft.record is not None
        assert written.draft.record.is_synced
        synced = syncs(monkeypatch)
        assert rig.fs.uploader.sync_now(written.draft)
        assert synced == []
        written.close()


async def test_who_may_not_wait_here_is_told_so(tmp_path: Path) -> None:
    async with Rig(tmp_path / "home") as rig:
        await begin(rig, "back")
        await rig.mount("/through", "t", write_mode="through")
        await rig.put("s", "there", b"before")
        known = await rig.fs.changes.open(await rig.stat_file("/s/there"), truncate=False)
        others = [
            await opened(rig, "/s/large", bytes(BODY_MAX + 1)),
            await opened(rig, "/through/a", SMALL),
            known,  # the store may have it as it is
        ]
        assert not any(rig.fs.uploader.sync_now(written.draft) for written in others)
        held = await opened(rig, "/s/held", SMALL)
        async with held.draft.recording:
            assert not rig.fs.uploader.sync_now(held.draft), "somebody else records it"
        assert rig.fs.uploader.sync_now(held.draft)
        for written in (*others, held):
            written.close()


@pytest.mark.parametrize("what", ["recorded", "amended", "forgotten"])
async def test_who_is_told_to_stop_while_the_journal_writes_leaves_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with Rig(tmp_path / "home") as rig:
        await begin(rig, "back")
        written = await opened(rig, "/s/a", SMALL)
        draft, recorder = written.draft, rig.fs.uploader.recorder
        if what != "recorded":
            await rig.fs.uploader.flush(draft)
        asked: Callable[[], Coroutine[Any, Any, None]] = {
            "recorded": lambda: rig.fs.uploader.flush(draft),
            "amended": lambda: recorder.amend(draft, base="other"),
            "forgotten": lambda: recorder.forget(draft),
        }[what]
        with monkeypatch.context() as patch:
            disk = Waiting(patch)
            asking = asyncio.ensure_future(asked())
            await asyncio.to_thread(disk.has_come.wait, 30)
            asking.cancel()
            await asyncio.sleep(0)
            disk.go_on.set()
            await asyncio.wait({asking})
        assert asking.cancelled() == (what != "forgotten")
        assert draft.is_gone == (what == "forgotten")
        if what != "forgotten":
            await recorder.amend(draft, base="another")
            assert draft.record is not None
            assert rig.fs.journal.body(draft.record) == SMALL
        written.close()
