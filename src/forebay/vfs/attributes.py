"""What stores cannot keep of files and folders, kept by Forebay: for the loop; a thread of its own does the work.

The key of a folder ends in "/".  Of a location of which nothing is kept nothing is asked, so a mount that is only
read pays nothing.

*Callers*: `attributed.py`, renames and frontends, on the loop.  *Locks*: none; a queue.  *Awaits*: the thread.
*Invariants*: whoever asks is told of every change that was asked for before; a change that has returned outlives
this process, and after `settle` the power; one that fails changes nothing.
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from forebay.errors import FsError
from forebay.stores.base import ListPage
from forebay.stores.posix import posix_of
from forebay.types import Attributes, FolderMeta, ObjectMeta, Posix
from forebay.vfs.attributes_db import AttributesDb, Kept

ATTRIBUTES_FILE = "attributes.db"  # in the home folder
JOBS_MAX = 256  # in one transaction: a few milliseconds
FILE_MODE, FOLDER_MODE = 0o644, 0o755  # of what has an owner kept but no mode: as a mount shows all others

Result = TypeVar("Result")
_Nothing: Mapping[str, bytes | None] = MappingProxyType({})


class _Job(NamedTuple):
    """One thing for the thread to do."""

    work: Callable[[AttributesDb], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    is_synced: bool  # it is told when all is on the disk


class KeptAttributes:
    """See the module."""

    def __init__(self, path: Path) -> None:
        """Open or create the database.

        Raises:
            FsError: the file is damaged, or made by a newer Forebay; the message says what to do.
            Denied: it cannot be opened.
        """
        self._db = AttributesDb(path)
        self._locations = set(self._db.locations())  # where something is, or was since the start
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ asking, on the loop

    async def _ask(self, work: Callable[[AttributesDb], Result], *, is_synced: bool = False) -> Result:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="attributes", daemon=True)
            self._thread.start()
        self._jobs.put(_Job(work, loop, answer, is_synced))
        return cast(Result, await answer)

    def has_any(self, location: str) -> bool:
        """May anything be kept of that location?"""
        return location in self._locations

    async def overlay(self, location: str, page: ListPage, folders: Collection[str] = ()) -> ListPage:
        """A page of a listing, with what is kept of its objects and folders, and of other `folders`, put in.

        Raises:
            FsError: the database cannot be read; so do all others here.
        """
        if not self.has_any(location):
            return page
        return await self._ask(partial(_overlaid, location=location, page=page, folders=folders))

    async def overlay_object(self, location: str, meta: ObjectMeta) -> ObjectMeta:
        """An object, with what is kept of it put in."""
        if not self.has_any(location):
            return meta
        kept = await self._ask(lambda db: db.find(location, [meta.key]))
        return shown_object(meta, kept[meta.key]) if kept else meta

    async def overlay_folder(self, location: str, key: str, meta: FolderMeta) -> FolderMeta:
        """A folder, with what is kept of it put in."""
        if not self.has_any(location):
            return meta
        kept = await self._ask(lambda db: db.find(location, [key]))
        return shown_folder(meta, kept[key]) if kept else meta

    async def of(self, location: str, key: str) -> Kept | None:
        """All that is kept of a file or folder; `Kept.of_version` says what of it still holds."""
        if not self.has_any(location):
            return None
        return await self._ask(lambda db: db.of(location, key))

    async def set(
        self,
        location: str,
        key: str,
        attributes: Attributes,
        *,
        version: str | None = None,
        xattrs: Mapping[str, bytes | None] = _Nothing,
    ) -> Kept:
        """Keep what is not None, beside what is kept already; return what is kept then.

        Args:
            version: of the object, which a time and a link hold for; of a folder, and where it does not matter, None.
            xattrs: extended attributes to set; None takes one away.

        Raises:
            Invalid: a time or a link without a version.
            NoSpace: the database cannot be written; nothing was changed.
        """
        self._locations.add(location)
        if key.endswith("/"):
            version = ""
        return await self._ask(lambda db: db.amend(location, key, attributes, version, xattrs))

    async def copy(self, location: str, source: str, target: str, *, source_version: str, version: str) -> Kept:
        """Keep of `target`, of `version`, what holds for `source_version` of `source`; return that.

        Raises:
            NoSpace: as `set`.
        """
        if not self.has_any(location):
            return Kept()
        return await self._ask(lambda db: db.copy(location, source, target, source_version, version))

    async def move(self, location: str, source: str, target: str) -> None:
        """After a rename of a file: what was kept of the one is kept of the other, if its version is the same."""
        if self.has_any(location):
            await self._ask(lambda db: db.move(location, source, target))

    async def move_below(self, location: str, source: str, target: str) -> None:
        """After a rename of a folder (prefixes end in "/"): what was kept of it and below is kept of the other.

        What is kept of `target` already stays, so that this may be done again after a crash.

        Raises:
            Invalid: one lies in the other.
        """
        if self.has_any(location):
            await self._ask(lambda db: db.move_below(location, source, target))

    async def forget(self, location: str, key: str) -> None:
        """After a removal: keep nothing of a key."""
        if self.has_any(location):
            await self._ask(lambda db: db.forget(location, key))

    async def forget_below(self, location: str, prefix: str) -> None:
        """After the removal of a folder (`prefix` ends in "/"): keep nothing of it and below."""
        if self.has_any(location):
            await self._ask(lambda db: db.forget_below(location, prefix))

    async def settle(self, location: str) -> None:
        """Return when all that was changed before of that location is on the disk, for a power cut too.

        Raises:
            NoSpace: the disk refuses.
        """
        if self.has_any(location):
            await self._ask(lambda _: None, is_synced=True)

    async def close(self) -> None:
        """Finish what was asked for, and end the thread; no call may follow."""
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        self._db.close()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = [self._jobs.get()]
            while not self._jobs.empty() and len(batch) < JOBS_MAX:
                batch.append(self._jobs.get())
            is_open = None not in batch
            self._do([job for job in batch if job is not None])

    def _do(self, jobs: list[_Job]) -> None:
        """Do some jobs in one transaction; if one of them fails, each in its own."""
        try:
            with self._db.transaction():
                answers = [job.work(self._db) for job in jobs]
        except Exception as error:  # noqa: BLE001 - the thread's outermost boundary: all who ask get an answer
            if len(jobs) == 1:
                _tell(jobs[0], error=error)
            else:
                for job in jobs:
                    self._do([job])
            return
        failed: FsError | None = None
        if any(job.is_synced for job in jobs):
            try:
                self._db.sync()
            except FsError as error:
                failed = error
        for job, answer in zip(jobs, answers, strict=True):
            _tell(job, answer, error=failed if job.is_synced else None)


def _tell(job: _Job, answer: object = None, *, error: Exception | None = None) -> None:
    def tell() -> None:
        if job.answer.done():  # who asked has gone
            return
        if error is None:
            job.answer.set_result(answer)
        else:
            job.answer.set_exception(error)

    with contextlib.suppress(RuntimeError):  # the loop is closed
        job.loop.call_soon_threadsafe(tell)


def _overlaid(db: AttributesDb, *, location: str, page: ListPage, folders: Collection[str]) -> ListPage:
    keys = [meta.key for meta in page.objects]
    named = dict.fromkeys((*page.folders, *page.folder_metas, *folders))
    kept = db.find(location, [*keys, *named])
    if not kept:
        return page
    objects = [shown_object(meta, kept[meta.key]) if meta.key in kept else meta for meta in page.objects]
    metas = dict(page.folder_metas)
    metas.update((key, shown_folder(metas.get(key), kept[key])) for key in named if key in kept)
    return ListPage(objects, page.folders, metas)


def shown_object(meta: ObjectMeta, kept: Kept) -> ObjectMeta:
    """An object with what is kept of its key put in, as far as that holds for its version."""
    is_folder = meta.key.endswith("/")
    kept = kept.of_version("" if is_folder else meta.version)
    mtime_ns = meta.mtime_ns if kept.mtime_ns is None else kept.mtime_ns
    posix = _shown_posix(meta.posix, kept, FOLDER_MODE if is_folder else FILE_MODE)
    return meta._replace(mtime_ns=mtime_ns, posix=posix)


def shown_folder(meta: FolderMeta | None, kept: Kept) -> FolderMeta:
    """A folder with what is kept of it put in."""
    mtime_ns, posix = (0, None) if meta is None else meta
    return FolderMeta(mtime_ns if kept.mtime_ns is None else kept.mtime_ns, _shown_posix(posix, kept, FOLDER_MODE))


def _shown_posix(posix: Posix | None, kept: Kept, default_mode: int) -> Posix | None:
    """What is kept; of the rest, what the store has; of the rest, this process's own."""
    if kept.mode is None and kept.uid is None and kept.gid is None:
        return posix
    mode, uid, gid = (default_mode, os.geteuid(), os.getegid()) if posix is None else posix[:3]
    return posix_of(
        mode if kept.mode is None else kept.mode,
        uid if kept.uid is None else kept.uid,
        gid if kept.gid is None else kept.gid,
    )
