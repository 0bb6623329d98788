"""Files opened for writing: what becomes of a version when somebody begins to change it, and of a new name.

The cached bytes of a version become the draft's own if nobody else reads them, else they are copied; of a large file
that is not cached only what is written is kept here.

*Callers*: `forebay.vfs.changes`, on the loop.  *Locks*: one per path while a draft is made; a draft's own.
*Awaits*: stores, the pool.  *Invariants*: a draft that is found is open, or held by its lock, before anything waits;
none is made where an interrupted rename is not finished.
"""

import asyncio
import contextlib
import os
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from forebay import failpoints, paths
from forebay.cache.cache import Cache
from forebay.cache.cachedfile import Source
from forebay.errors import (
    AlreadyExists,
    FsError,
    IsADirectory,
    StaleVersion,
)
from forebay.types import Attributes, Buffer, ObjectMeta, Posix
from forebay.units import MIB
from forebay.vfs.ahead import FilesAhead
from forebay.vfs.attributes import KeptAttributes
from forebay.vfs.content import PatchedContent, Snapshot, WholeContent, sums_of
from forebay.vfs.drafts import AnyFile, Draft, DraftTable, OpenDraft, is_draft
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, Mount, file_entry
from forebay.vfs.metadata import Metadata
from forebay.vfs.openfile import OpenFile
from forebay.vfs.renames import Renames
from forebay.vfs.sending import Offer, offer_of
from forebay.vfs.staging import Staging
from forebay.vfs.staying import Staying
from forebay.vfs.tree import Tree
from forebay.vfs.turns import Turns
from forebay.vfs.uploader import Uploader
from forebay.vfs.writer import Writer

FETCHED_BYTES = 32 * MIB
"""A file up to this size is fetched whole when it is opened for writing; of a larger one that is not cached, only what
is written is kept here, and the store copies the rest (S3 copies parts of 5 MiB and more)."""
LINGER_S = 5.0  # a draft that the kernel was told to look for is kept so long for its open
COPY_BYTES = 4 * MIB


class Host(Protocol):
    """What drafts and changes ask of the file system."""

    tree: Tree
    metadata: Metadata
    cache: Cache
    kept: KeptAttributes
    writer: Writer
    staying: Staying
    scratch: memoryview

    async def stat(self, path: str) -> Entry:
        """The entry at a path, or NotFound."""
        ...

    def peek(self, folder: str, name: str) -> Found | None:
        """A lookup from memory, if it is known and still within its promise; None: use `lookup`."""
        ...

    async def lookup(self, folder: str, name: str) -> Found:
        """`name` in a folder."""
        ...

    async def has_folder(self, path: str, parents: bool) -> bool:
        """Check the folder above a new name; make it if `parents`."""
        ...

    def now_ns(self) -> int:
        """The time, nanoseconds since 1970."""
        ...

    def source(self, entry: FileEntry) -> Source:
        """Where the cache finds an entry's bytes."""
        ...

    def open_version(self, entry: FileEntry) -> OpenFile:
        """Open one version for reading."""
        ...

    def open(self, entry: FileEntry) -> AnyFile:
        """Open what an entry's path shows now for reading."""
        ...

    async def learn_folder(self, path: str, entry: FolderEntry | None) -> None:
        """A path shows that folder from now on, or none."""
        ...

    async def fetch(self, entry: FileEntry) -> None:
        """Bring one file into the cache."""
        ...

    async def learn_file(self, path: str, entry: FileEntry | None, *, told: bool = True) -> None:
        """A path shows that file from now on."""
        ...

    def tell(self, path: str, *, below: bool = True) -> None:
        """Tell frontends that what is at a path, and all `below` it, may have changed."""
        ...


class Drafting:
    """See the module."""

    def __init__(self, host: Host, table: DraftTable, staging: Staging, uploader: Uploader, renames: Renames) -> None:
        self._host = host
        self._table = table
        self._staging = staging
        self._ahead = FilesAhead(staging)
        self._uploader = uploader
        self._renames = renames
        self.turns = Turns()
        self._making: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()  # for those locks

    def make_ahead(self) -> None:
        """Make the local file of who creates the next one, if one is to come; takes some microseconds."""
        self._ahead.make()

    def close(self) -> None:
        """Leave no local file but those of drafts."""
        self._ahead.close()

    # ------------------------------------------------------------------ files

    async def create(
        self, path: str, posix: Posix | None, *, exclusive: bool, access: int = os.O_RDWR, truncate: bool = False
    ) -> OpenDraft:
        """Make an empty file, or open the one that is there, cut to nothing if `truncate`.

        Args:
            posix: whose a new file is; None: as the mount shows files anyway.
            access: one of `O_RDONLY`, `O_WRONLY` and `O_RDWR`.

        Raises:
            AlreadyExists: it is there, and `exclusive`.
            StaleVersion: a folder above was renamed meanwhile; whoever opens the path again finds what it shows now.
            IsADirectory, NotADirectory, NotFound, ReadOnly.
        """
        mount, key = self._host.writer.writable(path)
        while True:
            if await self.turns.renames_above(path):
                raise StaleVersion(f"a folder above {path} was being renamed; open it again", path=path)
            async with self._alone(path):
                await self._renames.settle(mount, key)
                with self.turns.look(path) as look:
                    found = (await self._host.lookup(*paths.split(path))).entry
                if look.is_stale:  # nothing is there, perhaps, since it has been moved away already
                    raise StaleVersion(f"a folder above {path} was being renamed; open it again", path=path)
                if isinstance(found, FolderEntry):
                    raise IsADirectory(f"{path} is a folder", path=path)
                if found is not None and exclusive:
                    raise AlreadyExists(f"{path} exists already", path=path)
                if found is None:
                    return self._begin(self._make(mount, path, key), posix, access)
            async with self.turns.change(path), self._alone(path):
                found = (await self._host.lookup(*paths.split(path))).entry
                if isinstance(found, FileEntry):
                    return await self._open_draft(await self._draft_of(found, truncate, 0, False), truncate, access)

    def create_now(self, folder: str, name: str, posix: Posix, *, access: int = os.O_RDWR) -> OpenDraft | None:
        """Make an empty file where it is known that there is none, without waiting; None: use `create`.

        Raises:
            ReadOnly.
        """
        path = paths.join(folder, name)
        mount, key = self._host.writer.writable(path)
        found = self._host.peek(folder, name)
        if found is None or found.entry is not None or path in self._making or self._renames.interrupted:
            return None
        if self.turns.is_renamed(path):
            return None
        staging_id, fd = self._ahead.take()
        draft = Draft(self._staging.new_id(), mount, path, key, WholeContent(fd))
        draft.staging = staging_id
        return self._begin(draft, posix, access)

    def _begin(self, draft: Draft, posix: Posix | None, access: int) -> OpenDraft:
        draft.posix = posix
        self._table.add(draft)
        self._host.tell(draft.path, below=False)
        return self.opened(draft, access)

    async def open(
        self,
        entry: FileEntry,
        *,
        truncate: bool,
        access: int = os.O_RDWR,
        opens: int = 0,
        must_share: bool = False,
    ) -> OpenDraft:
        """Open a file for writing.

        Args:
            access: `O_WRONLY` or `O_RDWR`.
            opens: handles of this version that the caller knows of, and has read the draft from now on.
            must_share: the kernel reads the version's local file for some of them, so that file must be the draft's.

        Raises:
            StaleVersion: it cannot be; whoever opens the path again gets the draft.
            ReadOnly, FsError.
        """
        self._host.writer.writable(entry.path)
        async with self.turns.change(entry.path) as was_renamed, self._alone(entry.path) as was_changed:
            if await self._renames.settle(entry.mount, entry.key) or was_renamed:
                raise StaleVersion(f"{entry.path} was being renamed; open it again", path=entry.path)
            if was_changed:
                await self._check_shown(entry)
            return await self._open_draft(await self._draft_of(entry, truncate, opens, must_share), truncate, access)

    async def _check_shown(self, entry: FileEntry) -> None:
        """Who had the path for itself until now may have removed or replaced what was there."""
        found = (await self._host.lookup(*paths.split(entry.path))).entry
        if not isinstance(found, FileEntry) or (found.version != entry.version and not is_draft(found)):
            raise StaleVersion(f"{entry.path} was being changed; open it again", path=entry.path)

    async def _open_draft(self, draft: Draft, truncate: bool, access: int) -> OpenDraft:
        opened = self.opened(draft, access)  # before anything waits: it must not become a version meanwhile
        try:
            await self._uploader.recorder.own(draft)
            if truncate and draft.content.size():
                async with draft.recording:
                    self._empty(draft)
                draft.content.may_be_mapped |= access == os.O_RDWR
        except BaseException:
            opened.close()
            raise
        return opened

    def opened(self, draft: Draft, access: int) -> OpenDraft:
        """One more open of a draft, which the caller closes."""
        draft.is_lingering = False
        opened = OpenDraft(draft, self._host.scratch, self._closed, access)
        if opened.is_writer:
            self._uploader.watch(draft)
        return opened

    def _closed(self, opened: OpenDraft) -> None:
        if not opened.draft.handles:
            self._uploader.released(opened.draft)

    @contextlib.asynccontextmanager
    async def _alone(self, path: str) -> AsyncIterator[bool]:
        """Nobody else makes or removes a draft of a path meanwhile.  Given: did somebody, until now?"""
        lock = self._making.setdefault(path, asyncio.Lock())
        has_waited = lock.locked()
        self._waiting[path] += 1
        try:
            async with lock:
                yield has_waited
        finally:
            self._waiting[path] -= 1
            if not self._waiting[path]:
                del self._waiting[path], self._making[path]

    @contextlib.asynccontextmanager
    async def _held(self, path: str, *, lets_go: Callable[[Draft], bool]) -> AsyncIterator[Draft | None]:
        """The draft of a path, if it has one, with its lock held: it stays one until this ends.

        An upload of it begins anew after that; `lets_go` says if one that is ending is not waited for either.
        """
        while (draft := self._table.find(path)) is not None:
            async with self._uploader.held(draft, lets_go=lets_go(draft)):
                if self._table.find(path) is draft and not draft.is_ended:
                    yield draft
                    return
        yield None

    def _make(self, mount: Mount, path: str, key: str) -> Draft:
        draft_id = self._staging.new_id()
        return Draft(draft_id, mount, path, key, WholeContent(self._staging.make(draft_id)))

    async def _draft_of(self, entry: FileEntry, truncate: bool, opens: int, must_share: bool) -> Draft:
        """The draft of a file, begun from the version that is there if there is none."""
        draft = self._table.find(entry.path)
        if draft is not None:
            return draft
        if is_draft(entry):
            raise StaleVersion(f"{entry.path} is not being written any more; open it again", path=entry.path)
        draft = await self._in_place_of(entry, truncate, opens)
        if must_share and draft.stored is None:
            self._linger(draft)
            raise StaleVersion(f"{entry.path} is being read from another file; open it again", path=entry.path)
        return draft

    async def _in_place_of(self, entry: FileEntry, truncate: bool, opens: int) -> Draft:
        """A draft that begins with a version, and takes its place."""
        if not truncate and entry.size > FETCHED_BYTES and not opens and not self._is_here(entry):
            draft = self._patch(entry)
        else:
            draft = await self._take_over(entry, truncate, opens)
        draft.posix, draft.base = entry.posix, entry.version
        draft.mtime_ns = entry.mtime_ns
        self._table.add(draft)
        self._host.tell(entry.path, below=False)
        return draft

    def _is_here(self, entry: FileEntry) -> bool:
        return self._host.cache.residency(entry.mount.store, entry.key, entry.version, entry.size) == entry.size

    def _linger(self, draft: Draft) -> None:
        draft.is_lingering = True

        def end() -> None:
            if draft.is_lingering:
                draft.is_lingering = False
                if not draft.handles:
                    self._uploader.released(draft)

        asyncio.get_running_loop().call_later(LINGER_S, end)

    def _patch(self, entry: FileEntry) -> Draft:
        draft_id = self._staging.new_id()
        fd = self._staging.make(draft_id)
        base = self._host.open_version(entry)
        try:
            content = PatchedContent(fd, entry.size, base.read, base.close)
        except OSError:
            base.close()
            os.close(fd)
            self._staging.remove(draft_id)
            raise
        draft = Draft(draft_id, entry.mount, entry.path, entry.key, content)
        draft.stored, draft.meta = Snapshot(content.stamp(), array("Q")), meta_of(entry)
        return draft

    async def _take_over(self, entry: FileEntry, truncate: bool, opens: int) -> Draft:
        """A draft that begins with the whole file: its cached bytes become the draft's own, else they are copied."""
        draft_id, source = self._staging.new_id(), self._host.source(entry)
        if not truncate and entry.size and not self._is_here(entry):
            with contextlib.suppress(FsError):  # the cache is full: it is copied
                await self._host.fetch(entry)
        sums = None
        if opens or not truncate:  # else nobody needs the old bytes
            sums = self._host.cache.give_up(source, self._staging.path(draft_id), opens=opens)
            if sums is None:
                await self._host.cache.saved()  # it may have been in the hands of the index
                sums = self._host.cache.give_up(source, self._staging.path(draft_id), opens=opens)
        if sums is not None:
            content = WholeContent(self._staging.open(draft_id))
            draft = Draft(draft_id, entry.mount, entry.path, entry.key, content)
            draft.stored = Snapshot(content.stamp(), array("Q", sums))
            draft.base_sums, draft.meta = array("Q", sums), meta_of(entry)
            return draft
        draft = self._make(entry.mount, entry.path, entry.key)
        if not truncate and entry.size:
            try:
                await self._copy(entry, draft)
                kept = await self._uploader.pool(sums_of, draft.content.fd)
            except BaseException:
                draft.content.close()
                self._staging.remove(draft.staging)
                raise
            draft.meta, draft.base_sums = meta_of(entry), kept
            if not opens:
                draft.stored = Snapshot(draft.content.stamp(), kept)
        return draft

    async def _copy(self, entry: FileEntry, draft: Draft) -> None:
        file = self._host.open_version(entry)
        try:
            at = 0
            while at < entry.size:
                data = await file.read(at, COPY_BYTES)
                await self._uploader.pool(draft.content.write, at, bytes(memoryview(data)))
                at += len(data)
        finally:
            file.close()

    def _empty(self, draft: Draft) -> None:
        """Cut a draft to nothing, but never what was acknowledged and is only here: that stays until there is newer."""
        is_alone = draft.handles == 1  # others would go on with the old file
        if draft.record is not None and not draft.record.has_body and is_alone:
            self._uploader.set_aside(draft)
        else:
            draft.content.truncate(0)

    async def truncate(self, path: str, size: int) -> None:
        """Cut a file, or fill it with zeros, and have it stored as a close would."""
        entry = await self._host.stat(path)
        if not isinstance(entry, FileEntry):
            raise IsADirectory(f"{path} is a folder", path=path)
        opened = await self.open(entry, truncate=size == 0)
        try:
            opened.draft.content.truncate(size)
            await self._uploader.flush(opened.draft)
        finally:
            opened.close()

    async def write_whole(
        self, path: str, chunks: AsyncIterator[Buffer], *, overwrite: bool, attributes: Attributes | None = None
    ) -> FileEntry:
        """Store a whole file; it shows whole or not at all, and is acknowledged as a close would be.

        Raises:
            AlreadyExists: it is there, and not `overwrite`.
            FsError: nothing has changed.
        """
        mount, key = self._host.writer.writable(path)
        await self._renames.settle(mount, key)
        await self._host.writer.check_target(path, overwrite=overwrite)
        draft = self._make(mount, path, key)
        try:
            at = 0
            async for chunk in chunks:
                data = bytes(memoryview(chunk))
                await self._uploader.pool(draft.content.write, at, data)
                at += len(data)
        except BaseException:
            draft.content.close()
            self._staging.remove(draft.staging)
            raise
        draft.is_unseen, draft.replaces_any = True, overwrite
        opened = OpenDraft(draft, self._host.scratch, self._closed, os.O_WRONLY)
        try:
            async with self.turns.change(path) as has_waited, self._alone(path):
                if await self._renames.settle(mount, key) or has_waited:
                    await self._host.writer.check_target(path, overwrite=overwrite)
                async with self._held(path, lets_go=is_back) as before:
                    await self._put_in_place(draft, before, attributes)
        except BaseException as error:
            await self._end(draft)
            if isinstance(error, StaleVersion) and not overwrite:
                raise AlreadyExists(f"{path} exists already", path=path) from error
            raise
        finally:
            opened.close()
        self._host.tell(path)
        return draft.entry() if draft.meta is None else file_entry(path, mount, draft.meta)

    async def _put_in_place(self, draft: Draft, before: Draft | None, attributes: Attributes | None) -> None:
        """Have a draft acknowledged in place of what its path shows; if that fails, nothing has changed."""
        found = (await self._host.lookup(*paths.split(draft.path))).entry
        if isinstance(found, FileEntry):
            draft.posix = found.posix
            draft.base = found.version if before is None else before.base
            draft.offered = [] if before is None else list(before.offered)
        if attributes is not None:
            draft.amend(attributes)
        self._table.add(draft)
        with self._uploader.unsent(draft):  # sent and forgotten before the other is, it would give way to that
            try:
                async with self._replacing(before, draft):
                    await self._uploader.flush(draft)
                draft.is_unseen = False
            except BaseException:
                self._table.remove(draft)
                if before is not None:
                    self._table.add(before)
                raise
            if before is not None:
                await self._end(before, is_replaced=True)

    @contextlib.asynccontextmanager
    async def _replacing(self, before: Draft | None, draft: Draft) -> AsyncIterator[None]:
        """See `_giving_way`; in the journal, the newer one of a path is the one that counts."""
        if before is None or is_back(draft):
            yield
            return
        offer = offer_of(draft.content.size(), await self._uploader.pool(sums_of, draft.content.fd))
        async with self._giving_way(before, void_if=offer):
            yield

    @contextlib.asynccontextmanager
    async def _giving_way(
        self, draft: Draft, *, void_if: Offer | None = None, replaced_by: str | None = None
    ) -> AsyncIterator[None]:
        """The store is asked for something else in a held draft's place: after a crash it tells whether it has done it.

        Args:
            void_if: it has, if this is there.
            replaced_by: it has, if nothing is at this key any more.

        Raises:
            NoSpace, FsError: the journal cannot be told; the store has not been asked.
        """
        if void_if is not None and void_if not in draft.offered:
            draft.offered.append(void_if)
        await self._uploader.recorder.amend(draft, void_if=void_if, replaced_by=replaced_by)
        failpoints.hit("draft.gives_way")
        try:
            yield
        except FsError:
            await self._uploader.recorder.amend(draft)
            raise

    async def _end(self, draft: Draft, *, is_replaced: bool = False) -> None:
        """A draft shows no more and is never sent; who has it open keeps it.

        Args:
            is_replaced: the store has something else in its place, or nothing any more: there is no way back.

        Raises:
            NoSpace, FsError: the journal cannot be told.
        """
        if is_replaced:
            failpoints.hit("draft.replaced")
        await self._uploader.forget(draft, is_replaced=is_replaced)
        self._table.remove(draft)
        if not draft.handles:
            self._uploader.released(draft)


def is_back(draft: Draft) -> bool:
    """Is a draft acknowledged by the journal, so that nobody waits for its store?"""
    return draft.mount.settings.write_mode != "through"


def meta_of(entry: FileEntry) -> ObjectMeta:
    """What the store says of a version."""
    return ObjectMeta(entry.key, entry.size, entry.mtime_ns, entry.version, entry.posix)
