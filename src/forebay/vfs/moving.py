"""Moves within the tree, as mv(1) does them: `forebay fs mv`.

Inside a mount a move is a rename.  From one mount to another everything is copied first, with its attributes; only
when all is there, what has not changed meanwhile is removed from its old place.  A copy that fails, or is stopped, is
undone.

*Callers*: the admin API, on the loop.  *Locks*: none.  *Awaits*: stores.  *Invariants*: a file goes from its old
place only when the store has it at its new one, in every write mode; what cannot be copied is never removed.
*On crash*: a rename is finished at the next start; of a copy, files are at their old places, or at both, or moved.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from dataclasses import dataclass, replace

import structlog

from forebay import paths
from forebay.errors import (
    Busy,
    CrossesMounts,
    FsError,
    Invalid,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    StaleVersion,
    Unsupported,
)
from forebay.types import Attributes, Buffer
from forebay.units import MIB
from forebay.vfs.below import entries_below
from forebay.vfs.drafts import AnyFile
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, is_link
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.parallel import each

log = structlog.get_logger()

EVENT_EVERY_S = 0.2
PARALLEL = 8  # files copied, or removed, at a time
COPY_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class MoveEvent:
    """How far a move is."""

    files_done: int = 0  # copied, or objects renamed
    files_total: int | None = None  # None: not known, or the store renames by itself
    bytes_done: int = 0
    bytes_total: int | None = None
    failed: tuple[str, str] | None = None  # path and message of what stays at its old place, too
    can_stop: bool = False  # closing the iterator now undoes what is done; else it goes on to its end
    done: bool = False


class Moves:
    """The moves under way."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._tasks: set[asyncio.Task[None]] = set()

    async def move(self, source: str, target: str) -> AsyncGenerator[MoveEvent, None]:
        """Give a file or folder that path; a file or an empty folder there is replaced.

        Raises:
            Invalid: both are the same, or the target lies in the source.
            NotFound: nothing is at the source, or the folder of the target is missing.
            IsADirectory, NotADirectory, NotEmpty: what is at the target cannot be replaced.
            Busy: one of them is or holds a mount, or is being written.
            ReadOnly, FsError: all is at its old place.
        """
        move = _Move(self._fs, source, target)
        task = asyncio.create_task(move.run(), name=f"move {source}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while not (await asyncio.wait({task}, timeout=EVENT_EVERY_S))[0]:
                yield move.event
            task.result()
            for failure in move.failed:
                yield replace(move.event, failed=failure)
            yield replace(move.event, done=True)
        finally:
            if not task.done():
                task.add_done_callback(_log_failure)
                if move.event.can_stop:
                    task.cancel()
                    await asyncio.wait({task})

    async def close(self) -> None:
        """Stop: renames go on at the next start, copies are undone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("move.failed", move=task.get_name(), reason=str(error))


class _Move:
    def __init__(self, fs: FileSystem, source: str, target: str) -> None:
        self._fs = fs
        self._source, self._target = source, target
        self.event = MoveEvent()
        self.failed: list[tuple[str, str]] = []
        self._made: list[str] = []  # folders, outermost first
        self._copied: list[tuple[FileEntry, str]] = []

    async def run(self) -> None:
        fs, source, target = self._fs, self._source, self._target
        if source == target:
            raise Invalid(f"{source} cannot be moved to itself", path=source)
        for path in (source, target):
            await fs.changes.settle_renames(path)
        entry = await fs.stat(source)
        await fs.has_folder(paths.split(target)[0], False)
        try:
            await fs.changes.rename(source, target, progress=self._renamed)
        except CrossesMounts:
            await self._copy_and_remove(entry)
        finally:
            fs.tell(source)
            fs.tell(target)

    def _renamed(self, done: int, total: int) -> None:
        self.event = MoveEvent(done, total)

    # ------------------------------------------------------------------ from one mount to another

    async def _copy_and_remove(self, entry: Entry) -> None:
        fs, source, target = self._fs, self._source, self._target
        if fs.tree.below(source) or fs.tree.below(target):
            raise Busy(f"a mount is at or below {source} or {target}; only what lies in mounts can be moved")
        await self._check_target(entry)
        await self._send_drafts(source)
        self._refuse_open()
        self.event = MoveEvent(can_stop=True)
        try:
            folders, files = await self._find(entry)
            sizes = sum(file.size for file in files)
            self.event = MoveEvent(0, len(files), 0, sizes, can_stop=True)
            for folder in folders:
                await self._make_folder(folder)
            await each(files, self._copy, parallel=PARALLEL)
            await self._send_drafts(target)
        except BaseException:
            if isinstance(entry, FolderEntry):  # a file is copied whole, or not at all
                await self._undo()
            raise
        self.event = replace(self.event, can_stop=False)
        await each(self._copied, self._remove, parallel=PARALLEL)
        for folder in reversed(folders):
            await self._attempt(folder.path, self._remove_folder(folder.path))

    async def _check_target(self, entry: Entry) -> None:
        there = (await self._fs.lookup(*paths.split(self._target))).entry
        if isinstance(entry, FileEntry) and isinstance(there, FolderEntry):
            raise IsADirectory(f"{self._target} is a folder", path=self._target)
        if isinstance(entry, FolderEntry) and isinstance(there, FileEntry):
            raise NotADirectory(f"{self._target} is a file", path=self._target)
        if isinstance(there, FolderEntry):
            listing = await self._fs.open_folder(self._target)
            await listing.wait(0)
            if len(listing) or listing.hidden:
                raise NotEmpty(f"{self._target} is not empty", path=self._target)

    async def _send_drafts(self, path: str) -> None:
        """Have the store hold what was written: it may refuse it, and only versions tell whether a file has changed."""
        for failed in await self._fs.uploader.drain(path):
            message = f"nothing is moved: {failed.path} could not be uploaded: {failed.error}"
            raise Busy(message, path=failed.path)
        for draft in self._fs.drafts.below(path):
            await self._fs.uploader.settle(draft)

    def _refuse_open(self) -> None:
        for draft in self._fs.drafts.below(self._source):
            raise Busy(f"{draft.path} is open; close it, then move it", path=draft.path)

    async def _find(self, entry: Entry) -> tuple[list[FolderEntry], list[FileEntry]]:
        """What is to be moved, folders before what they hold."""
        if isinstance(entry, FileEntry):
            return [], [entry]
        self._fs.metadata.forget(self._source)  # what others have put there lately must be copied, too
        hidden: list[str] = []
        folders, files = [entry], list[FileEntry]()
        async with contextlib.aclosing(entries_below(self._fs, self._source, hidden)) as entries:
            async for found in entries:
                if isinstance(found, FileEntry):
                    files.append(found)
                else:
                    folders.append(found)
        if hidden:
            raise Unsupported(f"{hidden[0]} holds keys that cannot be shown as files; it is not moved", path=hidden[0])
        return folders, files

    def _new(self, path: str) -> str:
        return self._target + path[len(self._source) :]

    async def _make_folder(self, entry: FolderEntry) -> None:
        path = self._new(entry.path)
        if (await self._fs.lookup(*paths.split(path))).entry is None:
            await self._fs.mkdir(path)
            self._made.append(path)
        if entry.posix is not None:
            await self._fs.changes.set_attributes(path, Attributes(*entry.posix[:3]))
        await self._carry_xattrs(entry, path)

    async def _copy(self, entry: FileEntry) -> None:
        changes, path = self._fs.changes, self._new(entry.path)
        if is_link(entry):
            assert entry.posix is not None
            if not self._fs.writer.check_writes(path).store.capabilities.links:
                raise Unsupported(f"{entry.path} is a symbolic link, and {path} cannot be one", path=entry.path)
            with contextlib.suppress(FileNotFoundError):
                await changes.unlink(path)
            await changes.symlink(path, os.fsdecode(await changes.readlink(entry)), entry.posix)
        else:
            mode, uid, gid = (None, None, None) if entry.posix is None else entry.posix[:3]
            attributes = Attributes(mode, uid, gid, entry.mtime_ns or None)
            opened = self._fs.open(entry)
            try:
                chunks = self._chunks(opened, entry)
                await changes.write_whole(path, chunks, overwrite=True, attributes=attributes)
            finally:
                opened.close()
        self._copied.append((entry, path))
        await self._carry_xattrs(entry, path)
        self.event = replace(self.event, files_done=self.event.files_done + 1)

    async def _chunks(self, opened: AnyFile, entry: FileEntry) -> AsyncIterator[Buffer]:
        at = 0
        while at < entry.size:
            data = bytes(memoryview(await opened.read(at, COPY_BYTES)))
            if not data:
                raise StaleVersion(f"{entry.path} has become shorter while it was moved", path=entry.path)
            at += len(data)
            self.event = replace(self.event, bytes_done=self.event.bytes_done + len(data))
            yield data

    async def _carry_xattrs(self, entry: Entry, path: str) -> None:
        xattrs = await self._fs.changes.xattrs(entry)
        if xattrs:
            made = await self._fs.stat(path)
            for name, value in xattrs.items():
                await self._fs.changes.set_xattr(made, name, value)

    async def _remove(self, copied: tuple[FileEntry, str]) -> None:
        await self._attempt(copied[0].path, self._remove_unchanged(*copied))

    async def _remove_unchanged(self, entry: FileEntry, copy: str) -> None:
        self._fs.metadata.doubt(*paths.split(entry.path))  # the store knows best
        with contextlib.suppress(FileNotFoundError):  # somebody else has removed it
            now = await self._fs.stat(entry.path)
            if not isinstance(now, FileEntry) or now.version != entry.version:
                message = f"{entry.path} was changed while it was moved, so it stays; {copy} is as it was before"
                raise StaleVersion(message, path=entry.path)
            await self._fs.changes.unlink(entry.path)

    async def _remove_folder(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # some stores let a folder go with what it held last
            await self._fs.rmdir(path)

    async def _attempt(self, path: str, work: Awaitable[None]) -> None:
        try:
            await work
        except FsError as error:
            self.failed.append((path, str(error)))

    async def _undo(self) -> None:
        """Take away what was copied."""
        for _, path in self._copied:
            with contextlib.suppress(FsError):
                await self._fs.changes.unlink(path)
        for folder in reversed(self._made):
            with contextlib.suppress(FsError):
                await self._fs.rmdir(folder)
