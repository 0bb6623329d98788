"""Everything that changes files and folders: what the system calls of a writer mean on stores that keep objects.

Files are written as drafts (`drafts.py`), which the uploader sends.  Names change in the store at once, in every
write mode, save those of files that the store does not have yet: these change here alone.

*Callers*: frontends and the admin API, on the loop.  *Locks*: one per path while a draft is made; a draft's own.
*Awaits*: stores, the pool.  *Invariants*: a file that is moved is at one of its two places at every moment; what is
open goes on after its name is gone.
"""

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from typing import cast

from forebay import failpoints, paths
from forebay.errors import (
    AlreadyExists,
    Busy,
    CrossesMounts,
    FsError,
    Invalid,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    StaleVersion,
    Unsupported,
)
from forebay.stores.base import AttributesStore
from forebay.types import Attributes, Posix
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.drafting import Drafting, Host, is_back, meta_of
from forebay.vfs.drafts import Draft, DraftTable, changed_posix
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Mount, file_entry
from forebay.vfs.renames import Progress, Renames
from forebay.vfs.sending import NOTHING, offer_of
from forebay.vfs.staging import Staging
from forebay.vfs.uploader import Uploader

LINK_BYTES_MAX = 4096  # PATH_MAX
LINK_MODE = stat.S_IFLNK | 0o777


class Changes(Drafting):
    """See the module."""

    def __init__(self, host: Host, table: DraftTable, staging: Staging, uploader: Uploader, renames: Renames) -> None:
        super().__init__(host, table, staging, uploader, renames)
        renames.carry_along = self._carry_along

    # ------------------------------------------------------------------ names

    async def unlink(self, path: str) -> None:
        """Remove a file; who has it open goes on with it.

        Raises:
            NotFound, IsADirectory, ReadOnly.
            FsError: the store failed; the file is still there.
        """
        mount, key = self._host.writer.writable(path)
        async with self.turns.change(path), self._alone(path):
            await self._renames.settle(mount, key)
            async with self._held(path, lets_go=_is_only_here) as draft:
                if draft is not None:
                    await self._remove_draft(draft)
                else:
                    entry = await self._host.stat(path)
                    if isinstance(entry, FolderEntry):
                        raise IsADirectory(f"{path} is a folder", path=path)
                    await self._keep_open(entry)
                    await self._delete(mount, path, key)
            await self._host.kept.forget(mount.store.location, key)
            await self._host.learn_file(path, None)

    async def _remove_draft(self, draft: Draft) -> None:
        may_be_stored = draft.base is not None or (bool(draft.offered) and not is_back(draft))
        if may_be_stored:
            async with self._giving_way(draft, void_if=NOTHING):
                await self._delete(draft.mount, draft.path, draft.key)
        else:
            await self._leave(draft)
        draft.base = draft.base_sums = draft.stored = None
        await self._end(draft, is_replaced=may_be_stored)

    async def _delete(self, mount: Mount, path: str, key: str) -> None:
        """Have the store remove a file."""
        await self._host.staying.keep_above(path)
        await self._uploader.recorder.settle()
        await self._uploader.leaving.left(mount, key)
        await self._host.metadata.foresee(paths.split(path)[0])
        await self._host.metadata.answer(mount, mount.store.delete(key))

    async def _leave(self, draft: Draft) -> None:
        """The key of a draft is not its own any more: what the store may have of it there is to go."""
        if draft.offered:
            await self._uploader.leaving.add(draft.mount, draft.path, draft.key, draft.offered)

    async def _keep_open(self, entry: FileEntry) -> None:
        """Bytes that somebody has open and that are not here would go with the object: bring them here."""
        if entry.mount.open_files and self._host.cache.is_open(self._host.source(entry)) and not self._is_here(entry):
            with contextlib.suppress(FsError):
                await self._host.fetch(entry)

    async def settle_renames(self, path: str) -> bool:
        """Return when no rename that was interrupted is left to be finished at, above or below a path; False: none was.

        What is there is moved by that, or moved back: who changes names looks what they are after this.

        Raises:
            FsError: the store failed.
        """
        mount, key = self._host.tree.locate(path)
        return mount is not None and await self._renames.settle(mount, *([] if path == mount.path else [key]))

    async def rest(self, path: str) -> None:
        """The same, of renames that are under way too; for who holds nothing that they wait for."""
        await self.turns.renames_at(path)
        await self.settle_renames(path)

    async def rename(self, source: str, target: str, *, replace: bool = True, progress: Progress | None = None) -> None:
        """Move a file or a folder, over a file or an empty folder if need be; for `progress` see `Renames.rename`.

        Raises:
            AlreadyExists: the target is there, and not `replace`.
            NotFound, IsADirectory, NotADirectory, NotEmpty, ReadOnly, Busy: as rename(2).
            Invalid: a folder into itself.
            FsError: the store failed; `source` is still whole.
        """
        if source == target:
            return
        (mount, key), (target_mount, target_key) = map(self._host.writer.writable, (source, target))
        if mount is not target_mount:
            raise CrossesMounts(f"{source} and {target} are in different mounts", path=target)
        if self._host.tree.below(source) or self._host.tree.below(target):
            raise Busy(f"a mount is at or below {source} or {target}", path=target)
        if paths.is_within(target, source):
            raise Invalid(f"{target} is inside {source}", path=target)
        async with self.turns.rename(source, target) as has_waited:
            if await self._renames.settle(mount, key, target_key) or has_waited:
                await self._host.has_folder(paths.split(target)[0], False)
            await self._rename(source, target, target_key, replace, progress)

    async def _rename(
        self, source: str, target: str, target_key: str, replace: bool, progress: Progress | None
    ) -> None:
        entry = await self._host.stat(source)
        there = (await self._host.lookup(*paths.split(target))).entry
        if there is not None and not replace:
            raise AlreadyExists(f"{target} exists already", path=target)
        if isinstance(entry, FileEntry):
            if isinstance(there, FolderEntry):
                raise IsADirectory(f"{target} is a folder", path=target)
            first, second = sorted((source, target))
            async with self._alone(first), self._alone(second):
                await self._rename_file(entry, there, target, target_key)
        else:
            if isinstance(there, FileEntry):
                raise NotADirectory(f"{target} is a file", path=target)
            await self._rename_folder(entry, there, target, progress)

    async def _rename_file(self, entry: FileEntry, there: Entry | None, target: str, target_key: str) -> None:
        source, mount, old_key = entry.path, entry.mount, entry.key
        if paths.split(source)[0] != paths.split(target)[0]:  # else the folder has the target, at least
            await self._host.staying.keep_above(source)
        await self._uploader.recorder.settle()
        for path in (source, target):
            await self._host.metadata.foresee(paths.split(path)[0])
        async with self._both(source, target) as (draft, replaced):
            self._refuse_interrupted(mount, old_key, target_key)
            base = replaced.base if replaced is not None else there.version if isinstance(there, FileEntry) else None
            if isinstance(there, FileEntry) and replaced is None:
                await self._keep_open(there)
            moved = None
            if draft is None or draft.base is not None:
                gives_way = self._giving_way(replaced, replaced_by=old_key) if replaced is not None else nullcontext()
                async with gives_way:
                    moved = await self._rename_stored(entry, draft, target, target_key)
            if draft is None:
                assert moved is not None
                self._move_cached(entry, moved)
            elif moved is not None:
                await self._uploader.moved(draft, target, meta_of(moved))
            else:
                await self._leave(draft)
                await self._uploader.move(draft, target, target_key, base, [] if replaced is None else replaced.offered)
            if replaced is not None:  # last: until then, a crash leaves what was acknowledged there
                await self._end(replaced, is_replaced=True)
        if moved is None or not isinstance(mount.store, AttributedStore):  # else it has gone along
            await self._host.kept.move(mount.store.location, old_key, target_key)
        await self._host.learn_file(source, None)
        if moved is not None:  # else the store has what it had there
            await self._host.learn_file(target, moved)

    async def _rename_stored(self, entry: FileEntry, draft: Draft | None, target: str, target_key: str) -> FileEntry:
        """Have the store rename a file that it has, once it has what was written of it here."""
        mount = entry.mount
        if draft is not None:
            await self._uploader.storing.store(draft)
            await self._tell_ours(draft)
            await self._uploader.recorder.settle()  # a crash must not bring it back where it is moved away from
        for key in (entry.key, target_key):
            await self._uploader.leaving.left(mount, key)
        known = meta_of(entry) if draft is None else draft.meta
        meta = await self._renames.rename(mount, entry.key, target_key, is_folder=False, known=known)
        return file_entry(target, mount, meta or await mount.store.head(target_key))

    @contextlib.asynccontextmanager
    async def _both(self, source: str, target: str) -> AsyncIterator[tuple[Draft | None, Draft | None]]:
        """The drafts of a source and of the target that it replaces, held; in one order, so that no two wait for each
        other."""
        first, second = sorted((source, target))

        def lets_go(draft: Draft) -> bool:
            return is_back(draft) if draft.path == target else _is_only_here(draft)

        async with self._held(first, lets_go=lets_go) as one, self._held(second, lets_go=lets_go) as other:
            yield (one, other) if first == source else (other, one)

    def _refuse_interrupted(self, mount: Mount, *keys: str) -> None:
        """What is held cannot be carried along: a rename that was interrupted while that was waited for goes first."""
        if self._renames.is_interrupted(mount, *keys):
            raise Busy(f"a rename of {keys[0]} or {keys[1]} was interrupted just now; try again", path=keys[0])

    async def _tell_ours(self, draft: Draft) -> None:
        """What the store has of a draft is moved: should a crash come, it is ours at its new place too."""
        if draft.content.is_whole and draft.stored is not None and draft.meta is not None:
            offer = offer_of(draft.meta.size, draft.stored.sums)
            if offer not in draft.offered:
                draft.offered.append(offer)
            await self._uploader.recorder.amend(draft)

    def _move_cached(self, old: FileEntry, new: FileEntry) -> None:
        """The bytes are the same under the new name: they need not be fetched again."""
        if old.size != new.size:
            return
        path = self._staging.path(self._staging.new_id())
        sums = self._host.cache.give_up(self._host.source(old), path, opens=0)
        if sums and not self._host.cache.adopt(self._host.source(new), path, sums, (1 << len(sums)) - 1):
            os.unlink(path)

    async def _rename_folder(
        self, entry: FolderEntry, there: Entry | None, target: str, progress: Progress | None
    ) -> None:
        source, mount = entry.path, entry.mount
        assert mount is not None
        source_key, target_key = (self._host.tree.locate(path).key for path in (source, target))
        if there is not None:
            await self._rmdir(target)
        async with self._uploader.still(source) as hold:
            self._refuse_interrupted(mount, source_key, target_key)
            for key in (source_key, target_key):
                await self._uploader.leaving.left(mount, key, below=True)
            for draft in self._table.below(source):
                if draft.base is not None:
                    await self._uploader.storing.store(draft)
                    await self._tell_ours(draft)
            await self._uploader.recorder.settle()
            await self._host.staying.keep_above(source)

            async def carry() -> None:
                await self._move_kept(mount, source_key, target_key)
                await hold()  # those too that were begun meanwhile
                for draft in self._table.below(source):
                    rest = draft.path[len(source) :]
                    if draft.base is None:
                        await self._uploader.move(draft, target + rest, target_key + rest, None, draft.offered)
                    else:
                        await self._uploader.moved(draft, target + rest, await mount.store.head(target_key + rest))
                    failpoints.hit("draft.moved")

            try:
                await self._renames.rename(
                    mount, source_key, target_key, is_folder=True, progress=progress, carry=carry
                )
            finally:
                self._host.metadata.forget(source)
                self._host.metadata.forget(target)
            await self._host.learn_folder(source, None)
            await self._host.learn_folder(target, FolderEntry(target, mount, entry.mtime_ns, entry.posix))
            while self._table.below(source):  # begun while that was told: after this, nothing waits any more
                await carry()

    async def _carry_along(self, source: str, target: str) -> None:
        """The store has finished a rename that was interrupted: what is written there and not sent moves too."""
        mount, key = self._host.tree.locate(target)
        if mount is not None:
            await self._move_kept(mount, self._host.tree.locate(source).key, key)
        for draft in self._table.below(source):
            async with draft.lock:
                if draft.is_ended or not paths.is_within(draft.path, source):
                    continue
                rest = draft.path[len(source) :]
                carry = self._carry_whole if draft.content.is_whole else self._carry_part
                await carry(draft, target + rest, key + rest)

    async def _carry_whole(self, draft: Draft, path: str, key: str) -> None:
        """Which version its store has of it now is not known: that it is ours is told by its bytes, when it is sent."""
        await self._uploader.recorder.own(draft)
        draft.stored = None
        await self._uploader.move(draft, path, key, draft.base, draft.offered)

    async def _carry_part(self, draft: Draft, path: str, key: str) -> None:
        """What is not here of it is what its store has moved, if that looks so; else it will be in conflict."""
        with contextlib.suppress(NotFound):
            meta = await draft.mount.store.head(key)
            if draft.meta is not None and meta.size == draft.meta.size:
                await self._uploader.moved(draft, path, meta)

    async def _move_kept(self, mount: Mount, source_key: str, target_key: str) -> None:
        """What Forebay keeps of files goes along with their folder, where the store has not seen to it."""
        if not isinstance(mount.store, AttributedStore):
            await self._host.kept.move_below(mount.store.location, source_key + "/", target_key + "/")

    async def mkdir(self, path: str, attributes: Attributes | None = None, *, is_wanted: bool = False) -> FolderEntry:
        """Make an empty folder of a mount.

        Args:
            attributes: what it is to have, where the store keeps them.
            is_wanted: a folder that is there already is as good.

        Raises:
            AlreadyExists, NotFound, NotADirectory, ReadOnly, FsError.
            StaleVersion: a folder above was being renamed; whoever looks again finds what the path shows.
        """
        mount, key = self._host.tree.locate(path)
        assert mount is not None
        folder, name = paths.split(path)
        async with self._unmoved(path):
            await self._host.has_folder(folder, False)
            found = (await self._host.lookup(folder, name)).entry
            if isinstance(found, FolderEntry) and is_wanted:
                return found
            if found is not None:
                raise AlreadyExists(f"{path} exists already", path=path)
            await self._make_folder(mount, path, key)
            if attributes is not None:
                await self._set_attributes(path, attributes)
            made = await self._host.stat(path)
            assert isinstance(made, FolderEntry)
            return made

    async def _make_folder(self, mount: Mount, path: str, key: str) -> None:
        began = self._host.metadata.moment()  # what others put there before we know that it is there is newer
        await self._host.writer.make_marker(mount, key + "/")
        self._host.staying.made(path)
        entry = FolderEntry(path, mount, self._host.now_ns())
        self._host.metadata.learn(mount, *paths.split(path), entry)
        self._host.metadata.learn_empty(mount, path, key + "/", began)
        await self._host.metadata.settle()

    async def rmdir(self, path: str) -> None:
        """Remove an empty folder.

        Raises:
            NotEmpty, NotADirectory, NotFound, Busy, ReadOnly.
        """
        await self.turns.renames_at(path)
        async with self.turns.change(path):
            await self.settle_renames(path)
            await self._host.stat(path)
            await self._rmdir(path)

    async def _rmdir(self, path: str) -> None:
        mount = self._host.tree.locate(path).mount
        if mount is not None and mount.path != path:
            self._host.writer.writable(path)
        if self._table.has_below(path):
            raise NotEmpty(f"{path} is not empty", path=path)
        if mount is not None:
            await self._uploader.leaving.left(mount, self._host.tree.locate(path).key, below=True)
        await self._host.writer.remove_marker(path)
        await self._host.staying.keep_above(path)
        self._host.staying.gone(path)

    async def symlink(self, path: str, target: str, owner: Posix) -> FileEntry:
        """Make a symbolic link: an object that holds the target's name, and is marked as a link.

        Raises:
            Unsupported: the store has no way to keep one.
            AlreadyExists, ReadOnly, FsError.
        """
        mount, _ = self._host.writer.writable(path)
        if not mount.store.capabilities.links:
            raise Unsupported(f"{mount.path} keeps no symbolic links", path=path)
        opened = await self.create(path, owner._replace(mode=LINK_MODE), exclusive=True)
        try:
            opened.draft.content.write(0, os.fsencode(target))
            await self._uploader.flush(opened.draft)
            return opened.entry
        finally:
            opened.close()

    async def readlink(self, entry: FileEntry) -> bytes:
        """Where a symbolic link points."""
        opened = self._host.open(entry)
        try:
            return bytes(memoryview(await opened.read(0, LINK_BYTES_MAX)))
        finally:
            opened.close()

    # ------------------------------------------------------------------ attributes

    async def xattrs(self, entry: Entry) -> Mapping[str, bytes]:
        """What users have set of a file or folder."""
        mount, key = self._host.tree.locate(entry.path)
        if mount is None:
            return {}
        kept = await self._host.kept.of(mount.store.location, _kept_key(entry, key))
        return {} if kept is None else kept.xattrs

    async def set_xattr(self, entry: Entry, name: str, value: bytes | None) -> None:
        """Set an attribute of a file or folder, or take it away.

        Raises:
            NotFound, ReadOnly, FsError.
            StaleVersion: it, or a folder above, was being renamed; whoever looks again finds what the path shows.
        """
        mount, key = self._host.writer.writable(entry.path)
        async with self._unmoved(entry.path) as may_be_gone:
            if may_be_gone:
                await self._host.stat(entry.path)
            await self._host.kept.set(mount.store.location, _kept_key(entry, key), Attributes(), xattrs={name: value})

    async def set_attributes(self, path: str, wanted: Attributes) -> Entry:
        """Change modes, owner or time; the entry as it is then.

        Raises:
            NotFound, ReadOnly, Unsupported, FsError.
            StaleVersion: it, or a folder above, was being renamed; whoever looks again finds what the path shows.
        """
        async with self._unmoved(path):
            return await self._set_attributes(path, wanted)

    @contextlib.asynccontextmanager
    async def _unmoved(self, path: str) -> AsyncIterator[bool]:
        """What is at a path is not renamed meanwhile.  Given: was an interrupted rename finished first?

        Raises:
            StaleVersion: it, or a folder above, was being renamed; whoever looks again finds what the path shows.
            FsError: the store failed.
        """
        async with self.turns.change(path) as has_waited:
            if has_waited:
                raise StaleVersion(f"{path} was being renamed; look again", path=path)
            yield await self.settle_renames(path)

    async def _set_attributes(self, path: str, wanted: Attributes) -> Entry:
        mount, key = self._host.writer.writable(path)
        draft = self._table.find(path)
        if draft is not None:
            draft.amend(wanted)
            await self._uploader.amend(draft)
            return draft.entry()
        entry = await self._host.stat(path)
        if not mount.store.capabilities.attributes:
            raise Unsupported(f"{mount.path} keeps no modes, owners or times", path=path)
        kept_key = _kept_key(entry, key)
        if isinstance(mount.store, AttributedStore) and isinstance(entry, FileEntry):
            change = mount.store.set_attributes(kept_key, wanted, version=entry.version)
        else:
            change = cast(AttributesStore, mount.store).set_attributes(kept_key, wanted)
        await self._host.metadata.answer(mount, change)
        return await self._restat(mount, entry, key, wanted)

    async def _restat(self, mount: Mount, entry: Entry, key: str, wanted: Attributes) -> Entry:
        posix = changed_posix(entry.posix, wanted, folder=isinstance(entry, FolderEntry))
        time = entry.mtime_ns if wanted.mtime_ns is None else wanted.mtime_ns
        if isinstance(entry, FolderEntry):
            folder = entry._replace(posix=posix, mtime_ns=time)
            await self._host.learn_folder(entry.path, folder)
            return folder
        changed = entry._replace(posix=posix, mtime_ns=time)
        if not (isinstance(mount.store, AttributedStore) and mount.store.keeps_all):  # a time may be part of versions
            changed = file_entry(entry.path, mount, await mount.store.head(key))
            self._move_cached(entry, changed)
        await self._host.learn_file(entry.path, changed)
        return changed


def _is_only_here(draft: Draft) -> bool:
    """Is a draft acknowledged without its store, which has nothing of that name that is not ours?"""
    return draft.base is None and is_back(draft)


def _kept_key(entry: Entry, key: str) -> str:
    return key + "/" if isinstance(entry, FolderEntry) else key
