"""One draft to its store: its bytes, its attributes, and both files where somebody else has changed it meanwhile.

*Callers*: the uploader and what changes names, on the loop, with the draft's lock held.  *Awaits*: the store, the
journal, the pool.  *Invariants*: what is sent is what the file was at one moment; what others wrote is
never overwritten, and what we sent ourselves is never taken for theirs, though its answer was lost.
*On crash*: the journal has what is not in the store, and tells what of it may be.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, NoReturn, Protocol, cast

import structlog

from forebay import failpoints
from forebay.errors import FsError, NotFound, StaleVersion
from forebay.paths import NAME_BYTES_MAX, join, split
from forebay.stores.base import AttributesStore, Store
from forebay.types import ByteRange, ObjectMeta
from forebay.units import format_size
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.content import Content, PatchedContent, Snapshot, Stamp, sums_of
from forebay.vfs.drafts import Draft, DraftTable
from forebay.vfs.entries import FileEntry, Mount, file_entry
from forebay.vfs.growing import Growing
from forebay.vfs.leaving import Leaving
from forebay.vfs.openfile import OpenFile
from forebay.vfs.recording import Recorder
from forebay.vfs.records import UploadInfo, attributes_of, has_attributes
from forebay.vfs.sending import NOTHING, Changed, Offer, Pool, Sender, Sent, Target, look, offer_of

log = structlog.get_logger()

TRIES = 3  # to send a file that somebody goes on writing, for who waits; then others may see what it was in between
RANGES = ".ranges"  # how the name of the list of what is whose ends


class Host(Protocol):
    """What sending asks of the file system."""

    def open_version(self, entry: FileEntry) -> OpenFile:
        """Open one version for reading."""
        ...

    async def learn_file(self, path: str, entry: FileEntry | None, *, told: bool = True) -> None:
        """A path shows that file from now on; known in a way that outlives a crash."""
        ...

    async def settle_attributes(self, mount: Mount) -> None:
        """Return when what Forebay keeps of files of a mount is on the disk."""
        ...

    async def foresee(self, path: str) -> None:
        """What a path shows is about to change."""
        ...

    def cached_pages(self, entry: FileEntry) -> int:
        """Which pages of a version are cached, as a mask."""
        ...

    def went_stale(self, entry: FileEntry) -> None:
        """The store has something else at an entry's path."""
        ...


class Storing:
    """See the module."""

    def __init__(
        self,
        host: Host,
        table: DraftTable,
        recorder: Recorder,
        leaving: Leaving,
        pool: Pool,
        *,
        on_stored: Callable[[Draft], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
    ) -> None:
        """`on_stored` is told when the store has what was sent; `spawn` does what nobody waits for."""
        self._host = host
        self._table = table
        self._recorder = recorder
        self._leaving = leaving
        self._pool = pool
        self._on_stored = on_stored
        self._spawn = spawn
        self.growing = Growing(target_of, pool)
        self.conflicts: list[UploadInfo] = []

    async def store(self, draft: Draft, *, gives_way: bool = False) -> None:
        """Have the store hold a draft.

        Args:
            gives_way: nobody waits for it: to who goes on writing.

        Raises:
            Changed: somebody went on writing, and it gives way; nothing was written.
            StaleVersion: somebody else has changed the object meanwhile; both are kept.
            FsError: the store failed.
        """
        for tried in range(1, TRIES + 1):
            if await self._recorder.is_stored(draft):
                break
            try:
                await self._send(draft, may_change=tried == TRIES)
                break
            except Changed:
                if gives_way:
                    raise
        while draft.has_new_attributes:
            await self._finish(draft)

    def follow(self, draft: Draft) -> None:
        """The store has a draft's version at another place by now: what is not here is read there."""
        if isinstance(draft.content, PatchedContent):
            assert draft.meta is not None
            base = self._host.open_version(file_entry(draft.path, draft.mount, draft.meta))
            draft.content.follow(base.read, base.close)

    # ------------------------------------------------------------------ bytes

    async def _send(self, draft: Draft, *, may_change: bool) -> None:
        """Have the store hold the bytes; the rest is `_finish`."""
        content, began = draft.content, draft.recorded
        stamp = content.stamp()
        content.begin_sending()
        await self._leaving.left(draft.mount, draft.key)
        if await self._is_void(draft):
            return
        await self._host.foresee(draft.path)
        sender = self.growing.take(draft) or Sender(target_of(draft), content, self._pool)
        sender.on_offer = partial(self._offered, draft, began)
        try:
            failpoints.hit("upload.begun")
            sent = await self._all_of(draft, sender, None if may_change else stamp)
            failpoints.hit("upload.sent")
        except StaleVersion as error:
            found, is_all = await self._find_ours(draft, content)
            if found is None:
                if draft.is_unseen:
                    raise
                if await self._was_replaced(draft):
                    return
                if draft.base is None or NOTHING not in draft.offered or not await self._shows(draft, NOTHING):
                    await self._keep_both(draft, content, error)
                draft.base = draft.base_sums = None  # it was us who removed what was there
                draft.offered.remove(NOTHING)
                await self._send(draft, may_change=may_change)
                return
            if not is_all:
                draft.base, draft.base_sums = found.meta.version, found.sums
                await self._send(draft, may_change=may_change)
                return
            sent = found
        except Changed:
            raise
        except FsError as error:
            draft.error = str(error)
            raise
        draft.stored, draft.meta, draft.base = Snapshot(stamp, sent.sums), sent.meta, sent.meta.version
        draft.base_sums = sent.sums if content.is_whole else None
        draft.sent, draft.offered, draft.may_be_sent = began, [], False
        draft.has_new_attributes, draft.replaces_any = True, False  # the first until they are known to be there

    async def _all_of(self, draft: Draft, sender: Sender, stamp: Stamp | None) -> Sent:
        """Send it; who cancels that does not wait for the store."""
        draft.sender = sender
        try:
            return await sender.finish(stamp)
        except asyncio.CancelledError:
            if sender.is_ending:
                self._leaving.let_end(draft.mount, sender.target.key, sender)
            else:
                self._spawn(sender.abort(), f"abort of the upload of {draft.path}")
            raise
        except BaseException:
            await sender.abort()
            raise
        finally:
            draft.sender = None

    async def _offered(self, draft: Draft, began: Snapshot | None, offer: Offer) -> None:
        """The store may show that from now on: after a crash it must be known for ours.

        What is in the journal is that, unless there is something newer by now, or will be in a moment.
        """
        if not draft.content.is_whole:
            return
        if offer not in draft.offered:
            draft.offered.append(offer)
        if draft.recorded is not began or draft.writers:
            with contextlib.suppress(FsError):  # the disk is full: at worst ours is kept twice
                await self._recorder.amend(draft)

    async def _find_ours(self, draft: Draft, content: Content) -> tuple[Sent | None, bool]:
        """What is in the store if we have sent it, and whether it is all that was to be sent now.

        An earlier daemon sent it, or the answer was lost.
        """
        sizes = {offer.size for offer in draft.offered}
        if content.is_whole:
            sizes.add(content.size())
        found = await look(draft.mount.store, draft.key, sizes, self._pool) if sizes else None
        if found is None:
            return None, False
        if content.is_whole and found.sums == await self._pool(sums_of, content.fd):
            return found, True
        return (found if offer_of(found.meta.size, found.sums) in draft.offered else None), False

    async def _shows(self, draft: Draft, offer: Offer) -> bool:
        """Has the store just that where a draft is to go?"""
        store, key = draft.mount.store, draft.key
        if offer == NOTHING:
            return not await _exists(store, key)
        found = await look(store, key, {offer.size}, self._pool)
        return found is not None and offer_of(found.meta.size, found.sums) == offer

    async def _is_void(self, draft: Draft) -> bool:
        """Was the last that an earlier daemon did a removal or a replacement of a draft, and has the store done it?"""
        void_if = draft.record and draft.record.fields.get("void_if")
        if not void_if or not await self._shows(draft, Offer(*void_if)):
            return False
        await self._drop(draft)
        return True

    async def _was_replaced(self, draft: Draft) -> bool:
        """Was the last that an earlier daemon did a rename over a draft?  Then what its store has takes its place."""
        source = draft.record and draft.record.fields.get("replaced_by")
        if not source or await _exists(draft.mount.store, source):
            return False
        await self._drop(draft)
        return True

    async def _drop(self, draft: Draft) -> None:
        """What the store has takes a draft's place."""
        self._table.remove(draft)
        self._host.went_stale(draft.entry())
        await self._recorder.forget(draft)
        await self._on_stored(draft)

    # ------------------------------------------------------------------ what comes after the bytes

    async def _finish(self, draft: Draft) -> None:
        """The store has the bytes; let it have the attributes too, names know of it, and the journal forget it."""
        draft.has_new_attributes = False
        try:
            await self._set_attributes(draft)
            assert draft.meta is not None
            entry = file_entry(draft.path, draft.mount, draft.meta)
            if isinstance(draft.content, PatchedContent):
                base = self._host.open_version(entry)
                draft.content.rebase(entry.size, base.read, base.close)
            await self._host.learn_file(draft.path, entry, told=False)
            if draft.record is not None:  # which has the attributes, and is about to go
                await self._host.settle_attributes(draft.mount)
        except BaseException:
            draft.has_new_attributes = True
            raise
        failpoints.hit("upload.learned")
        draft.error = ""
        await self._on_stored(draft)

    async def _set_attributes(self, draft: Draft) -> None:
        """Give the object its modes and times, where the store keeps them and has not taken them with the bytes."""
        assert draft.meta is not None
        store, wanted = draft.mount.store, attributes_of(draft)
        if not store.capabilities.attributes or has_attributes(draft.meta, wanted):
            return
        if isinstance(store, AttributedStore) and store.keeps_all:  # the object stays as it is, and need not be asked
            draft.meta = await store.written(draft.meta, wanted)
        else:
            await cast(AttributesStore, store).set_attributes(draft.key, wanted)
            draft.meta = await store.head(draft.key)
            draft.base = draft.meta.version

    # ------------------------------------------------------------------ conflicts

    async def _keep_both(self, draft: Draft, content: Content, error: StaleVersion) -> NoReturn:
        """Somebody else's change stays where it is; ours goes beside it, and its name is told."""
        while True:
            began = draft.recorded
            path, meta, told = await self._keep_ours(draft, content)
            if draft.recorded is began:
                break
            content = draft.content  # more was acknowledged meanwhile
        draft.error = draft.conflict = told
        self.conflicts.append(UploadInfo(path, meta.size, "conflict", told))
        log.warning("upload.conflict", path=draft.path, kept_as=path, told=told)
        await self._host.learn_file(path, file_entry(path, draft.mount, meta))
        await self._drop(draft)
        raise StaleVersion(told, path=draft.path) from error

    async def _keep_ours(self, draft: Draft, content: Content) -> tuple[str, ObjectMeta, str]:
        """Put ours beside theirs; where it is, and what to say.  Done again, it is at the same place."""
        name = split(draft.path)[1]
        ours = conflict_name(name, draft.id)
        path, key = join(split(draft.path)[0], ours), draft.key.removesuffix(name) + ours
        told = f"{draft.path} was changed by somebody else while it was written here; what was written here is {path}"
        target = target_of(draft)._replace(key=key, base=None, base_sums=None, replaces_any=True)
        try:
            return path, (await self._all_of(draft, Sender(target, content, self._pool), content.stamp())).meta, told
        except StaleVersion:
            if not isinstance(content, PatchedContent):
                raise
        cached = self._host.cached_pages(file_entry(draft.path, draft.mount, cast(ObjectMeta, draft.meta)))
        remains, lost = content.without_base(cached)
        meta = (await self._all_of(draft, Sender(target, remains, self._pool), remains.stamp())).meta
        ranges = await draft.mount.store.put(key + RANGES, ranges_text(ours, content.written(), lost))
        await self._host.learn_file(path + RANGES, file_entry(path + RANGES, draft.mount, ranges))
        size = format_size(sum(span.size for span in lost))
        return path, meta, f"{told}, but {size} that only the old version had are zeros there: see {path}{RANGES}"


async def _exists(store: Store, key: str) -> bool:
    try:
        await store.head(key)
    except NotFound:
        return False
    return True


def target_of(draft: Draft) -> Target:
    """Where a draft goes, and what it replaces."""
    attributes = attributes_of(draft)
    return Target(draft.mount.store, draft.key, draft.base, draft.base_sums, attributes, draft.replaces_any)


def conflict_name(name: str, draft_id: int) -> str:
    """The name of what was written here where somebody else has changed the file; always the same of one draft.

    >>> conflict_name("a.csv", 1700000000000000000)
    'a.csv.forebay-conflict-1700000000000000000'
    """
    suffix = f".forebay-conflict-{draft_id}"
    room = NAME_BYTES_MAX - len(suffix) - len(RANGES)
    raw = name.encode("utf-8", "surrogateescape")
    return (name if len(raw) <= room else raw[:room].decode("utf-8", "ignore")) + suffix


def ranges_text(name: str, written: Iterable[ByteRange], lost: Iterable[ByteRange]) -> bytes:
    """What of a file is whose, a range a line, for who puts two files together.

    >>> ranges_text("f", [ByteRange(5, 7)], [ByteRange(10, 20)]).splitlines()[-2:]
    [b'written 5 2', b'lost 10 10']
    """
    lines = [
        f"# Of {name}, by offset and size in bytes: what was written here; what is lost, and zeros there.",
        "# The rest is as it was in the version that the file began with.",
    ]
    for word, spans in (("written", written), ("lost", lost)):
        lines += (f"{word} {span.start} {span.size}" for span in spans)
    return "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")
