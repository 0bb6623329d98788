"""Local files that are made before somebody creates them."""

import asyncio
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.clock import FakeClock
from forebay.errors import FsError
from forebay.stores.posix import posix_of
from forebay.testing.rig import Rig
from forebay.vfs.ahead import FilesAhead
from forebay.vfs.staging import Staging

OWNER = posix_of(0o644, 0, 0)


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "files", FakeClock())


@pytest.fixture
def ahead(staging: Staging) -> Iterator[FilesAhead]:
    ahead = FilesAhead(staging)
    yield ahead
    ahead.close()


async def _take(ahead: FilesAhead) -> int:
    """A file's id; whatever is made after that has been made."""
    staging_id, fd = ahead.take()
    os.close(fd)
    await asyncio.sleep(0)
    return staging_id


async def test_a_file_alone_is_made_when_it_is_wanted_and_no_other(ahead: FilesAhead, tmp_path: Path) -> None:
    taken = await _take(ahead)
    assert os.listdir(tmp_path / "files") == [f"{taken:016x}"]


async def test_of_many_files_the_next_one_is_there_before_it_is_wanted(ahead: FilesAhead, tmp_path: Path) -> None:
    taken = [await _take(ahead) for _ in range(2)]
    for _ in range(3):
        (made,) = {int(name, 16) for name in os.listdir(tmp_path / "files")} - set(taken)
        taken.append(await _take(ahead))
        assert taken[-1] == made


async def test_who_has_a_moment_to_spare_makes_the_next_one(ahead: FilesAhead, tmp_path: Path) -> None:
    ahead.make()
    assert os.listdir(tmp_path / "files") == [], "nobody has created any"
    await _take(ahead)
    ahead.make()
    assert len(os.listdir(tmp_path / "files")) == 1, "one is not many"
    os.close(ahead.take()[1])
    ahead.make()
    assert len(os.listdir(tmp_path / "files")) == 3
    ahead.make()
    await asyncio.sleep(0)
    assert len(os.listdir(tmp_path / "files")) == 3


async def test_what_was_made_ahead_is_as_new_as_what_is_made_now(
    ahead: FilesAhead, staging: Staging, tmp_path: Path
) -> None:
    taken = {await _take(ahead) for _ in range(2)}
    (made,) = {int(name, 16) for name in os.listdir(tmp_path / "files")} - taken
    os.utime(staging.path(made), (1, 1))
    before = time.time() - 1  # file times are some milliseconds coarse
    assert await _take(ahead) == made
    status = os.stat(staging.path(made))
    assert status.st_mtime >= before
    assert status.st_size == 0


async def test_what_was_made_ahead_goes_when_nobody_wants_it(ahead: FilesAhead, tmp_path: Path) -> None:
    taken = {await _take(ahead) for _ in range(2)}
    async with asyncio.timeout(10):
        while {int(name, 16) for name in os.listdir(tmp_path / "files")} != taken:
            await asyncio.sleep(0.01)


async def test_who_wants_a_file_is_told_that_none_can_be_made(ahead: FilesAhead) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    await _take(ahead)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        for _ in range(2):
            with pytest.raises(FsError, match="Too many open files"):
                ahead.take()
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await _take(ahead)


async def test_an_end_leaves_no_file_but_those_of_drafts(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.mount("/m", "s", write_mode="lazy")
        await rig.fs.lookup("/m", "none")
        opened = []
        for name in ("a", "b"):
            await rig.fs.lookup("/m", name)
            opened.append(rig.fs.changes.create_now("/m", name, OWNER))
        await asyncio.sleep(0)
        staged = {file.draft.staging for file in opened if file is not None}
        assert len(staged) == 2
        assert len(os.listdir(tmp_path / "writes" / "files")) == 3
    assert {int(name, 16) for name in os.listdir(tmp_path / "writes" / "files")} == staged
