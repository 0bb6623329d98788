"""Modes and times, changed by path: `forebay fs chmod` and `fs touch`.

*Callers*: the admin API, on the loop.  *Awaits*: stores.
"""

import asyncio
import contextlib
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace

from forebay.errors import FsError, NotFound, Unsupported
from forebay.modes import ModeChange
from forebay.types import Attributes, Buffer
from forebay.vfs.attributes import FILE_MODE, FOLDER_MODE
from forebay.vfs.below import entries_below
from forebay.vfs.entries import Entry, FolderEntry, is_link
from forebay.vfs.filesystem import FileSystem

PARALLEL = 16  # changes under way at a time


@dataclass(frozen=True, slots=True)
class ModeEvent:
    """How far a change of modes is."""

    files_done: int = 0  # files and folders
    failed: tuple[str, str] | None = None  # path and message of one that has just failed
    done: bool = False


async def touch(fs: FileSystem, path: str, *, mtime_ns: int | None = None) -> None:
    """Set the time of a file or folder, or make an empty file.

    Args:
        mtime_ns: nanoseconds since 1970; None: now.

    Raises:
        Unsupported: the path is a mount.
        ReadOnly, NotDirectory, FsError.
    """
    wanted = Attributes(mtime_ns=fs.now_ns() if mtime_ns is None else mtime_ns)
    try:
        await _amend(fs, await fs.stat(path), wanted)
    except NotFound:
        await fs.changes.write_whole(path, _nothing(), overwrite=False, attributes=wanted)


async def change_modes(
    fs: FileSystem, path: str, change: ModeChange, *, recursive: bool
) -> AsyncGenerator[ModeEvent, None]:
    """Change the permission bits of what is at a path, with `recursive` of all below it too; links are passed over.

    Yields progress, each failure, and an end with `done`.

    Raises:
        NotFound: nothing is there.
        FsError: the listing failed; or, without `recursive`, the change.
    """
    top = await fs.stat(path)
    if not recursive:
        await _change_mode(fs, top, change)
        yield ModeEvent(1, done=True)
        return
    event, running = ModeEvent(), set[asyncio.Task[tuple[str, str] | None]]()
    try:
        async with contextlib.aclosing(_all_of(fs, top)) as entries:
            async for entry in entries:
                running.add(asyncio.ensure_future(_try(fs, entry, change)))
                if len(running) < PARALLEL:
                    continue
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    event = _counted(event, task.result())
                    yield event
        for failed in await asyncio.gather(*running):
            event = _counted(event, failed)
            yield event
        yield replace(event, failed=None, done=True)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _all_of(fs: FileSystem, top: Entry) -> AsyncGenerator[Entry, None]:
    """What a recursive change is of: all but links, mounts and virtual folders, which have no modes."""
    if _has_mode(fs, top):
        yield top
    if isinstance(top, FolderEntry):
        async with contextlib.aclosing(entries_below(fs, top.path, [])) as entries:
            async for entry in entries:
                if _has_mode(fs, entry):
                    yield entry


def _has_mode(fs: FileSystem, entry: Entry) -> bool:
    if is_link(entry):
        return False
    return not fs.tree.is_virtual(entry.path) and fs.tree.mount_at(entry.path) is None


async def _try(fs: FileSystem, entry: Entry, change: ModeChange) -> tuple[str, str] | None:
    try:
        await _change_mode(fs, entry, change)
    except FsError as error:
        return entry.path, str(error)
    return None


def _counted(event: ModeEvent, failed: tuple[str, str] | None) -> ModeEvent:
    return ModeEvent(event.files_done + (failed is None), failed)


async def _change_mode(fs: FileSystem, entry: Entry, change: ModeChange) -> None:
    if is_link(entry):
        raise Unsupported(f"{entry.path} is a symbolic link, which has no mode of its own", path=entry.path)
    is_folder = isinstance(entry, FolderEntry)
    now = entry.posix.mode if entry.posix is not None else FOLDER_MODE if is_folder else FILE_MODE
    await _amend(fs, entry, Attributes(mode=change.apply(stat.S_IMODE(now), is_folder=is_folder)))


async def _amend(fs: FileSystem, entry: Entry, wanted: Attributes) -> None:
    if fs.tree.mount_at(entry.path) is not None:
        raise Unsupported(f"{entry.path} is a mount, which keeps no mode or time of its own", path=entry.path)
    await fs.changes.set_attributes(entry.path, wanted)
    fs.tell(entry.path, below=False)


async def _nothing() -> AsyncIterator[Buffer]:
    for chunk in list[bytes]():
        yield chunk
