"""Mode `lazy`: a close syncs nothing and outlasts a kill, an fsync a power cut, and nothing half is ever sent."""

import itertools
import os
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.errors import NotFound
from forebay.stores.posix import posix_of
from forebay.testing.disks import sync_by
from forebay.testing.rig import Rig
from forebay.vfs import unsynced
from forebay.vfs.drafts import OpenDraft
from forebay.vfs.journal_format import BODY_MAX


async def opened(rig: Rig, path: str, data: bytes) -> OpenDraft:
    written = await rig.fs.changes.create(path, posix_of(0o644, 0, 0), exclusive=False, truncate=True)
    written.draft.content.write(0, data)
    return written


async def close(rig: Rig, path: str, data: bytes) -> None:
    """As open(2), write(2) and close(2): without waiting, or the test fails."""
    written = await opened(rig, path, data)
    assert rig.fs.uploader.close_now(written.draft)
    written.close()


def left(rig: Rig, tmp_path: Path) -> Rig:
    """What a kill at this moment leaves, with the same stores."""
    shutil.copytree(tmp_path / "home", tmp_path / "left", ignore=shutil.ignore_patterns("cache"))
    other = Rig(tmp_path / "left")
    other.stores = rig.stores
    return other


def local_file(rig: Rig, path: str) -> Path:
    draft = rig.fs.drafts.find(path)
    assert draft is not None
    return rig.settings.writes_folder / "files" / f"{draft.staging:016x}"


@pytest.fixture
def power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start finds another boot than what was written was written in."""
    boots = itertools.count()
    monkeypatch.setattr(unsynced, "boot_id", lambda: f"boot {next(boots)}")


async def test_a_close_syncs_nothing_and_outlasts_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Rig(tmp_path / "home") as rig:
        await rig.mount("/s", "s", write_mode="lazy")
        with monkeypatch.context() as patch:
            sync_by(patch, lambda fd: pytest.fail("somebody waits for the disk"))
            for number in range(3):
                await close(rig, f"/s/{number}", b"%d" % number)
        async with left(rig, tmp_path) as other:
            assert await other.names("/s") == ["0", "1", "2"]
            other.fs.start()
            assert await other.fs.uploader.drain("/s") == []
            assert await rig.memory("s").get("2") == b"2"


async def test_a_large_file_and_one_that_the_store_has_are_synced_at_close(tmp_path: Path) -> None:
    async with Rig(tmp_path / "home") as rig:
        await rig.mount("/s", "s", write_mode="lazy")
        large = await opened(rig, "/s/large", bytes(BODY_MAX + 1))
        assert not rig.fs.uploader.close_now(large.draft)
        large.close()
        await rig.put("s", "there", b"before")
        known = await rig.fs.changes.open(await rig.stat_file("/s/there"), truncate=False)
        assert not rig.fs.uploader.close_now(known.draft)
        known.close()


@pytest.mark.usefixtures("power_cut")
@pytest.mark.parametrize("harm", ["cut", "zeros", "gone"])
async def test_after_a_power_cut_a_file_is_as_it_was_closed_or_not_there(tmp_path: Path, harm: str) -> None:
    async with Rig(tmp_path / "home") as rig:
        await rig.mount("/s", "s", write_mode="lazy")
        await close(rig, "/s/whole", b"whole")
        await close(rig, "/s/lost", b"lost")
        harmed = local_file(rig, "/s/lost")
        other = left(rig, tmp_path)
        harmed = other.settings.writes_folder / "files" / harmed.name
        if harm == "gone":
            harmed.unlink()
        else:
            os.truncate(harmed, 0)
            os.truncate(harmed, 4 if harm == "zeros" else 2)
        with capture_logs() as logs:
            other.begin()
        assert [line["path"] for line in logs if line["event"] == "upload.not_synced"] == ["/s/lost"]
        assert await other.names("/s") == ["whole"]
        other.fs.start()
        assert await other.fs.uploader.drain("/s") == []
        assert await rig.memory("s").get("whole") == b"whole"
        with pytest.raises(NotFound):
            await rig.memory("s").get("lost")
        await other.restart()
        assert other.fs.journal.recovered() == []
        await other.end()


@pytest.mark.usefixtures("power_cut")
async def test_what_was_synced_is_there_after_a_power_cut_whatever_is_closed_after_it(tmp_path: Path) -> None:
    async with Rig(tmp_path / "home") as rig:
        await rig.mount("/s", "s", write_mode="lazy")
        await close(rig, "/s/a", b"closed")
        again = await opened(rig, "/s/a", b"synced")
        await rig.fs.uploader.flush(again.draft)
        again.draft.content.write(0, b"later!")
        assert not rig.fs.uploader.close_now(again.draft)  # else a power cut could take both
        again.close()
        other = left(rig, tmp_path)
        for file in (other.settings.writes_folder / "files").iterdir():
            os.truncate(file, 0)
        async with other:
            assert await other.read("/s/a") == b"synced"


async def test_a_file_that_was_closed_is_synced_when_somebody_asks(tmp_path: Path) -> None:
    async with Rig(tmp_path / "home") as rig:
        await rig.mount("/s", "s", write_mode="lazy")
        await close(rig, "/s/a", b"closed")
        again = await rig.fs.changes.open(await rig.stat_file("/s/a"), truncate=False)
        await rig.fs.uploader.flush(again.draft)
        assert again.draft.record is not None
        assert again.draft.record.is_synced
        assert again.draft.record.has_body
        again.close()
