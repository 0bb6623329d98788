"""Renames of files and whole folders inside one store: in one step where the store can, else object by object.

A store that cannot rename copies every object to its target, and removes the sources when all copies are there.  So
an object is always at its source, or at its target, or at both.  What a crash interrupts is finished at the next
start: before the last copy is made as well as after.  What fails before then is undone, and all is as it was.

Life of such a rename: it is kept in the control database (`Phase.COPYING`); before a page of objects is copied, their
versions are kept there too; when all are copied (`Phase.COPIED`) there is no way back; sources are removed that still
have the version that was copied, others are copied again; what is written here and not sent is carried along; the
rename is forgotten.  Objects that others put below the source meanwhile are moved too; what comes after the last look
stays at the source.  One step for a whole folder (`Phase.MOVING`) is kept too, since files that are written below it
are carried along after it.

*Callers*: the file system, on the loop; it lets nobody write at or below source and target meanwhile.  *Locks*: one
claim on both places for the whole of a rename; another rename that touches them is Busy.  *Awaits*: the store.
*Invariants*: above; nobody changes what is at a place of an interrupted rename before that is finished (`settle`): it
would take what is new for its own.  *On crash*: `resume`.  What fails or is cancelled half way is interrupted, too.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar, cast

import structlog

from forebay import failpoints
from forebay.errors import Busy, FsError, Invalid, NotEmpty, NotFound, StaleVersion, Unsupported
from forebay.paths import join, split
from forebay.stores.base import FolderStore, RenamingStore, Store, VersionCopyingStore
from forebay.types import Attributes, ByteRange, ObjectMeta
from forebay.units import MIB
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.control import ControlDb, Phase, Rename
from forebay.vfs.entries import Mount
from forebay.vfs.metadata import Metadata
from forebay.vfs.parallel import each

log = structlog.get_logger()

PARALLEL = 32  # copies, or removals, under way at a time
PASSES_MAX = 10  # over a source that others keep filling or changing
STREAM_TRIES = 3  # of an object that others change while it travels through here
CHUNK_BYTES = 8 * MIB

Item = TypeVar("Item")
Progress = Callable[[int, int], None]
Carry = Callable[[], Awaitable[None]]


async def _nothing(*_: object) -> None:
    """Nothing is to be carried along."""


class _Claim(NamedTuple):
    """Two places of a store that one rename works on."""

    location: str
    source: str
    target: str

    def meets(self, other: "_Claim") -> bool:
        """Do they have a key in common?"""
        pairs = itertools.product((self.source, self.target), (other.source, other.target))
        return self.location == other.location and any(_is_at_or_below(a, b) or _is_at_or_below(b, a) for a, b in pairs)


class Renames:
    """See the module."""

    def __init__(self, control: ControlDb, metadata: Metadata) -> None:
        self._control = control
        self._metadata = metadata
        self._claims: list[_Claim] = []
        self.interrupted = {record.id: record for record in control.renames()}  # nobody works on them
        self._resuming = asyncio.Lock()
        self.on_resumed: Callable[[str], None] = lambda _: None  # told of paths where it ended
        self.carry_along: Callable[[str, str], Awaitable[None]] = _nothing  # from a path to another, of a resumed one

    async def rename(
        self,
        mount: Mount,
        source: str,
        target: str,
        *,
        is_folder: bool,
        known: ObjectMeta | None = None,
        progress: Progress | None = None,
        carry: Carry = _nothing,
    ) -> ObjectMeta | None:
        """Give a file or folder of a mount another key, as rename(2) does; keys have no slash at their end.

        The caller has looked that `source` is what it says, and that the folder of `target` exists; a file at
        `target` is replaced, if `source` is one.

        What is returned is what the store says of a file at its target; None: it has not said it.

        Args:
            known: what is believed of a file at `source`, which is looked at before it is removed, and not before it is
                copied: another version is copied again.
            progress: told how many objects are copied, and of how many that are known so far; never if the store
                renames by itself.
            carry: has what is written in a folder, and not sent, at its target too; awaited when the store has done
                its part.  After a crash, or a failure of its own, `carry_along` does that.

        Raises:
            NotFound: nothing is at `source`.
            NotEmpty: `target` is a folder with entries.
            Invalid: `target` is below `source`.
            Busy: another rename works there.
            FsError: the store failed.  Before all is copied nothing has changed, but that a file that was to be
                replaced may have been; after that, all is at `target`, and what is at `source` still goes at the next
                rename there, or at the next start.
        """
        if source == target:
            return known
        if is_folder and _is_at_or_below(target, source):
            raise Invalid(f"{source!r} cannot be renamed to {target!r}, which is below it", path=source)
        store = mount.store
        in_one_step = store.capabilities.renames
        if in_one_step and not is_folder:
            await cast(RenamingStore, store).rename(source, target)
            return None
        if is_folder:
            source, target = source + "/", target + "/"
        claim = _Claim(store.location, source, target)
        await self.settle(mount, source, target)
        with self._claimed(claim):
            replaces = not in_one_step and await self._is_taken(mount, target, is_folder=is_folder)
            phase = Phase.MOVING if in_one_step else Phase.COPYING
            places = mount.path, store.location, source, target
            versions = {} if known is None else {"": known.version}
            record = self._control.add_rename(
                *places, is_folder=is_folder, replaces=replaces, phase=phase, versions=versions
            )
            failpoints.hit("rename.recorded")
            try:
                return await self._run(mount, record, progress, carry, known=known)
            except BaseException:
                self._look_again(record)
                raise

    async def resume(self, mounts: Iterable[Mount]) -> None:
        """Finish what was interrupted, of these mounts; what fails is logged, and stays for the next call."""
        for mount in mounts:
            for record in [record for record in self.interrupted.values() if _is_of(record, mount)]:
                try:
                    await self._finish(mount, record)
                except FsError as error:
                    about = {"mount": mount.path, "source": record.source, "target": record.target}
                    log.warning("rename.not_finished", **about, reason=str(error))

    async def settle(self, mount: Mount, *keys: str) -> bool:
        """Finish what was interrupted at some keys of a mount, or (without keys) anywhere in it: False if nothing was.

        Raises:
            FsError: the store failed; it is still to be finished.
        """
        has_waited = False
        while (record := self._interrupted_at(mount, keys)) is not None:
            has_waited = True
            try:
                await self._finish(mount, record)
            except FsError:
                if record.id in self.interrupted:  # else it was undone
                    raise
        return has_waited

    def is_interrupted(self, mount: Mount, *keys: str) -> bool:
        """Is one still to be finished at some keys of a mount?"""
        return self._interrupted_at(mount, keys) is not None

    def _interrupted_at(self, mount: Mount, keys: Iterable[str]) -> Rename | None:
        if not self.interrupted:
            return None
        claims = [_Claim(mount.store.location, key, key) for key in keys]
        for record in self.interrupted.values():
            if _is_of(record, mount) and (not claims or any(_claim_of(record).meets(claim) for claim in claims)):
                return record
        return None

    async def _finish(self, mount: Mount, record: Rename) -> None:
        """Finish one that was interrupted, unless somebody else has by now."""
        async with self._resuming:
            if record.id not in self.interrupted:
                return
            places = [join(mount.path, key[len(mount.prefix) :].rstrip("/")) for key in (record.source, record.target)]
            try:
                with self._claimed(_claim_of(record)):
                    carry = partial(self.carry_along, *places)
                    await self._run(mount, self.interrupted[record.id], None, carry, is_resumed=True)
            finally:
                self._look_again(record)
                for path in places:
                    self._metadata.forget(path)
                    self._metadata.doubt(*split(path))
                    self.on_resumed(path)

    def _look_again(self, record: Rename) -> None:
        """A rename has ended, or was interrupted."""
        self.interrupted.pop(record.id, None)
        self.interrupted |= {left.id: left for left in self._control.renames() if left.id == record.id}

    @contextlib.contextmanager
    def _claimed(self, claim: _Claim) -> Iterator[None]:
        if any(claim.meets(other) for other in self._claims):
            raise Busy(f"another rename works on {claim.source!r} or {claim.target!r}; wait for it", path=claim.source)
        self._claims.append(claim)
        try:
            yield
        finally:
            self._claims.remove(claim)

    async def _is_taken(self, mount: Mount, target: str, *, is_folder: bool) -> bool:
        """Is there an object at `target` itself?"""
        if not is_folder:
            try:
                await self._metadata.answer(mount, mount.store.head(target))
            except NotFound:
                return False
            return True
        is_taken = False
        async with contextlib.aclosing(self._metadata.pages(mount, target, recursive=True)) as pages:
            async for page in pages:
                if any(meta.key != target for meta in page.objects):
                    raise NotEmpty(f"{target!r} is a folder with entries", path=target)
                is_taken = True
        return is_taken

    # ------------------------------------------------------------------ the phases

    async def _run(
        self,
        mount: Mount,
        record: Rename,
        progress: Progress | None,
        carry: Carry,
        *,
        known: ObjectMeta | None = None,
        is_resumed: bool = False,
    ) -> ObjectMeta | None:
        """Do what is left to do; what the store said of the last copy."""
        copied = None
        if record.phase is Phase.UNDOING:
            await self._undo(mount, record)
            return None
        if record.phase is Phase.MOVING:
            await self._move(mount, record, is_resumed=is_resumed)
        elif record.phase is Phase.COPYING:
            try:
                copied = await self._copy_all(mount, record, progress, known)
                self._control.set_rename_phase(record.id, Phase.COPIED)
            except FsError as error:
                if not (is_resumed and error.retryable):  # nobody was told that it failed: it can wait for its store
                    await self._try_undo(mount, record)
                raise
            failpoints.hit("rename.copied")
        if record.phase is not Phase.MOVING:
            copied = await self._delete_sources(mount, record) or copied
        if record.is_folder and isinstance(mount.store, AttributedStore):
            await mount.store.move_folder(record.source, record.target)
        failpoints.hit("rename.moved")
        await carry()
        self._control.remove_rename(record.id)
        return copied

    async def _move(self, mount: Mount, record: Rename, *, is_resumed: bool) -> None:
        """Have the store rename a folder, unless it has done so before."""
        source, target = record.source.rstrip("/"), record.target.rstrip("/")
        try:
            await cast(RenamingStore, mount.store).rename(source, target)
        except FsError as error:
            if is_resumed and error.retryable:  # nobody was told that it failed: it can wait for its store
                raise
            if not (is_resumed and await self._has_moved(mount, target)):
                self._control.remove_rename(record.id)
                raise

    async def _has_moved(self, mount: Mount, target: str) -> bool:
        """Has the store renamed a folder, though nobody heard of it?  Then there is one, and before there was none."""
        try:
            await self._metadata.answer(mount, cast(FolderStore, mount.store).stat(target))
        except NotFound:
            return False
        return True

    async def _copy_all(
        self, mount: Mount, record: Rename, progress: Progress | None, known: ObjectMeta | None
    ) -> ObjectMeta | None:
        done = total = 0
        copied = None

        def count(copied: int) -> None:
            nonlocal done
            done += copied
            if progress is not None:
                progress(done, total)

        if record.is_folder and isinstance(mount.store, AttributedStore):
            await mount.store.forget_folder(record.target)
        async with contextlib.aclosing(self._sources(mount, record, known)) as pages:
            async for metas in pages:
                total += len(metas)
                count(0)
                if known is None:  # else it was kept with the rename
                    # Kept before: an undo must find them, and one that changes from now on is found out.
                    self._control.add_rename_copies(record.id, _versions(record, metas))
                copied = await self._copy_some(mount, record, metas, count)
        if not total:
            raise NotFound(f"{mount.store.location} has nothing at {record.source!r} any more", path=record.source)
        return copied

    async def _copy_some(
        self, mount: Mount, record: Rename, metas: Sequence[ObjectMeta], count: Callable[[int], None] | None = None
    ) -> ObjectMeta | None:
        """Copy them; what the store said of the last one."""
        copied = None

        async def copy(meta: ObjectMeta) -> None:
            nonlocal copied
            try:
                copied = await _copy(mount.store, meta, record.target + meta.key[len(record.source) :])
            except NotFound:
                if not record.is_folder:
                    raise
                return  # removed since it was listed
            failpoints.hit("rename.copied_one")
            if count is not None:
                count(1)

        await each(metas, copy, parallel=PARALLEL)
        return copied

    async def _try_undo(self, mount: Mount, record: Rename) -> None:
        try:
            await self._undo(mount, record)
        except FsError as error:
            about = {"mount": mount.path, "source": record.source, "target": record.target}
            log.warning("rename.not_undone", **about, reason=str(error))

    async def _undo(self, mount: Mount, record: Rename) -> None:
        """Remove the copies, those of a page that was under way too: nothing was there before, but at `replaces`."""
        self._control.set_rename_phase(record.id, Phase.UNDOING)
        while names := self._control.some_rename_copies(record.id):
            await self._delete(mount, [record.target + name for name in names if name or not record.replaces])
            self._control.remove_rename_copies(record.id, names)
        self._control.remove_rename(record.id)

    async def _delete_sources(self, mount: Mount, record: Rename) -> ObjectMeta | None:
        """Remove what is copied; what has changed is copied again before: what the store said of the last one."""
        again = None
        for _ in range(PASSES_MAX):
            count = 0
            markers: list[str] = []
            files: list[str] = []
            async with contextlib.aclosing(self._sources(mount, record)) as pages:
                async for metas in pages:
                    count += len(metas)
                    keys, copied = await self._copied(mount, record, metas)
                    again = copied or again
                    markers += (key for key in keys if key.endswith("/"))
                    files = [key for key in keys if not key.endswith("/")]
                    await self._delete(mount, files)
                    if record.is_folder:  # page by page, so that no change of the database takes long
                        self._control.remove_rename_copies(record.id, [key[len(record.source) :] for key in files])
            await self._delete(mount, markers)
            if not count or (files and not record.is_folder):  # a file of that name that comes now is another one
                return again
        log.warning("rename.source_still_changes", mount=mount.path, source=record.source, target=record.target)
        return again

    async def _copied(
        self, mount: Mount, record: Rename, metas: Sequence[ObjectMeta]
    ) -> tuple[list[str], ObjectMeta | None]:
        """Those of some source objects that have not changed since they were copied; the others are copied again."""
        cut = len(record.source)
        versions = self._control.rename_copies(record.id, [meta.key[cut:] for meta in metas])
        changed = [meta for meta in metas if versions.get(meta.key[cut:]) != meta.version]
        copied = None
        if changed:
            copied = await self._copy_some(mount, record, changed)
            self._control.add_rename_copies(record.id, _versions(record, changed))  # kept after: now they may go
        return [meta.key for meta in metas if versions.get(meta.key[cut:]) == meta.version], copied

    async def _sources(
        self, mount: Mount, record: Rename, known: ObjectMeta | None = None
    ) -> AsyncGenerator[Sequence[ObjectMeta], None]:
        """What is at the source now, page by page; of a file, what is `known`."""
        if record.is_folder:
            async with contextlib.aclosing(self._metadata.pages(mount, record.source, recursive=True)) as pages:
                async for page in pages:
                    yield page.objects
            return
        if known is not None:
            yield [known]
            return
        try:
            meta = await self._metadata.answer(mount, mount.store.head(record.source))
        except NotFound:
            return
        yield [meta]

    async def _delete(self, mount: Mount, keys: Iterable[str]) -> None:
        """Remove objects: files, then folders, the deepest first."""

        async def delete(key: str) -> None:
            await self._metadata.answer(mount, mount.store.delete(key))
            failpoints.hit("rename.deleted_one")

        ordered = sorted(keys, key=_removal_turn)
        for _, level in itertools.groupby(ordered, key=_removal_turn):
            await each(level, delete, parallel=PARALLEL)


async def _copy(store: Store, meta: ObjectMeta, target: str) -> ObjectMeta:
    """Copy one object with its attributes, however large it is.

    It may be another version that is copied: who removes the source looks for that.

    Raises:
        NotFound: it has gone.
        FsError: the store failed.
    """
    if meta.key.endswith("/") and not meta.size:  # file systems copy files only, and SeaweedFS finds no such object
        copied = await store.put(target, b"", attributes=await _attributes_of(store, meta))
    else:
        with contextlib.suppress(Unsupported):  # too large for the store, or it never copies
            if store.capabilities.copy_versions:
                with contextlib.suppress(StaleVersion):
                    return await cast(VersionCopyingStore, store).copy_version(meta, target)
            return await store.copy(meta.key, target)
        copied = await _copy_through(store, meta.key, target)
    return await store.carry(meta.key, copied) if isinstance(store, AttributedStore) else copied


async def _copy_through(store: Store, source: str, target: str) -> ObjectMeta:
    """Copy one object, its bytes travelling through here."""
    for is_last in (False,) * (STREAM_TRIES - 1) + (True,):
        meta = await store.head(source)
        attributes = await _attributes_of(store, meta)
        if not meta.size:
            return await store.put(target, b"", attributes=attributes)
        chunks = store.stream(source, ByteRange(0, meta.size), version=meta.version, chunk_bytes=CHUNK_BYTES)
        try:
            return await store.put_stream(target, chunks, attributes=attributes)
        except StaleVersion:
            if is_last:
                raise
    raise AssertionError("unreachable: the last try returns or raises")


async def _attributes_of(store: Store, meta: ObjectMeta) -> Attributes | None:
    """What the store must be told of a copy that it does not make itself; None: nothing, or `carry` sees to it."""
    if isinstance(store, AttributedStore) or not store.capabilities.attributes:
        return None
    if meta.posix is None:  # listings may not tell
        with contextlib.suppress(NotFound):  # SeaweedFS, of an empty folder
            meta = await store.head(meta.key)
    return None if meta.posix is None else Attributes(*meta.posix[:3], meta.mtime_ns)


def _versions(record: Rename, metas: Iterable[ObjectMeta]) -> dict[str, str]:
    """The versions of source objects, by name below the source."""
    return {meta.key[len(record.source) :]: meta.version for meta in metas}


def _is_of(record: Rename, mount: Mount) -> bool:
    """Is a rename of this very mount?  Another store at its path is not touched."""
    return (record.mount, record.location) == (mount.path, mount.store.location)


def _claim_of(record: Rename) -> _Claim:
    return _Claim(record.location, record.source, record.target)


def _is_at_or_below(key: str, other: str) -> bool:
    return (key.rstrip("/") + "/").startswith(other.rstrip("/") + "/")


def _removal_turn(key: str) -> int:
    """Files have the first, folders one by their depth."""
    return -key.count("/") if key.endswith("/") else -(1 << 30)
