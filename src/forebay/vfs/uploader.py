"""Drafts on their way to the store: sent at once, or recorded in the journal and sent soon after, in order.

What `close` and `fsync` wait for is `Uploader.flush`; what it means is the mount's write mode:

`through`   the store has it.  If the store fails, so does `close`; the bytes are kept, recorded and sent later.
`back`      the journal has it, on the local disk.  It is sent in the background, in the order of recording: small
            files a few at a time, a large one alone, so that nothing shows in the store before what a large file
            before it holds.  A file that the store refuses for now does not hold up the others.
`lazy`      `fsync` is as in `back`; `close` of a small file returns when a kill of the daemon cannot lose it.

*Callers*: changes and the file system, on the loop.  *Locks*: a draft's own.  *Awaits*: the store, the journal, the
pool.  *Invariants*: a draft is in the queue from its record until the store has what was recorded; what is sent while
somebody writes is never taken for all of it.
*On crash*: what was recorded is sent by the next daemon.
"""

import asyncio
import contextlib
import os
from array import array
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NoReturn, Protocol, TypeVar, cast

import structlog
import xxhash

from forebay import failpoints
from forebay.cache.cache import Cache
from forebay.cache.cachedfile import Source
from forebay.cache.pages import PAGE_BYTES
from forebay.clock import Clock
from forebay.errors import FsError, NotFound, StaleVersion
from forebay.stores.base import AttributesStore
from forebay.types import ByteRange
from forebay.vfs.content import (
    SMALL_BYTES,
    PatchedContent,
    Snapshot,
    WholeContent,
    begin_to_settle,
    differs,
    has_fine_times,
    sums_of,
)
from forebay.vfs.drafts import Draft, DraftTable
from forebay.vfs.entries import FileEntry, Mount, file_entry
from forebay.vfs.growing import Growing
from forebay.vfs.journal import Journal
from forebay.vfs.journal_format import BODY_MAX
from forebay.vfs.lull import Lull
from forebay.vfs.openfile import OpenFile
from forebay.vfs.records import UploadInfo, attributes_of, fields_of, has_attributes
from forebay.vfs.recovering import recovered_drafts
from forebay.vfs.retries import Retries
from forebay.vfs.sending import SINGLE_PUT_BYTES, Sender, Sent, Target, sums_in
from forebay.vfs.staging import Staging
from forebay.vfs.tree import Tree
from forebay.vfs.unsynced import is_unsynced, record_now, unsynced_fields

log = structlog.get_logger()

UPLOADS_MAX = 16  # small files on their way at a time
Result = TypeVar("Result")


class Host(Protocol):
    """What sending asks of the file system."""

    cache: Cache

    def source(self, entry: FileEntry) -> Source:
        """Where the cache finds an entry's bytes."""
        ...

    def open_version(self, entry: FileEntry) -> OpenFile:
        """Open one version for reading."""
        ...

    async def learn_file(self, path: str, entry: FileEntry | None, *, told: bool = True) -> None:
        """A path shows that file from now on; known in a way that outlives a crash."""
        ...

    async def foresee(self, path: str) -> None:
        """What a path shows is about to change."""
        ...

    def went_stale(self, entry: FileEntry) -> None:
        """The store has something else at an entry's path."""
        ...

    def settled(self, draft: Draft, entry: FileEntry) -> None:
        """A draft has become a version."""
        ...


class Uploader:
    """See the module."""

    def __init__(self, host: Host, table: DraftTable, staging: Staging, journal: Journal, clock: Clock) -> None:
        self._host = host
        self._table = table
        self._staging = staging
        self._journal = journal
        self._clock = clock
        self._executor = ThreadPoolExecutor(4, thread_name_prefix="writes")
        self._queue: dict[Draft, None] = {}  # in the order of recording
        self._running: dict[Draft, asyncio.Task[None]] = {}
        self._retries = Retries(clock)  # of drafts that failed, and of mounts whose store does not answer
        self._lull = Lull()
        self._growing = Growing(self._target, self.pool)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()  # set whenever something has left the queue
        self._retired = self._settled = 0  # records that were retired, and those of them that cannot come back
        self.conflicts: list[UploadInfo] = []

    # ------------------------------------------------------------------ life

    def recover(self, tree: Tree) -> None:
        """Bring back what the journal has; the files of other writes go: nobody was told that they are kept.

        Raises:
            NoSpace: the disk is full; the journal keeps what it has.
        """
        for draft in recovered_drafts(self._journal, self._staging, tree):
            if (older := self._table.find(draft.path)) is not None:  # it was being replaced when the daemon ended
                self._discard(older)
            self._table.add(draft)
            self.enqueue(draft)

    def start(self, first: Coroutine[None, None, None]) -> None:
        """Begin to send what is queued, after what must be done `first`."""
        self._spawn(self._run(first), "uploads")

    async def close(self) -> None:
        """Record what is not in the store yet, and stop; the next daemon goes on."""
        tasks = [*self._tasks, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for draft in self._table:
            try:
                await self._growing.abort(draft)
                if await self._is_stored(draft):
                    continue
                if draft.content.is_whole:
                    await self._record(draft)
                else:
                    log.error("upload.lost", path=draft.path, reason="a part of a file cannot be kept over a restart")
            except OSError as error:
                log.error("upload.not_recorded", path=draft.path, reason=str(error))
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _spawn(self, work: Awaitable[None], name: str) -> None:
        task = asyncio.ensure_future(work)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("upload.task_failed", name=task.get_name(), exc_info=error)

    def pool(self, work: Callable[..., Result], /, *args: object) -> Awaitable[Result]:
        """What `work` returns or raises, from a thread."""
        return asyncio.get_running_loop().run_in_executor(self._executor, work, *args)

    # ------------------------------------------------------------------ what close and fsync wait for

    def watch(self, draft: Draft) -> None:
        """Begin to send a file while it grows, if the store takes parts and close will wait for it."""
        can = draft.mount.store.capabilities.parts and draft.content.is_whole
        if can and draft.mount.settings.write_mode == "through" and draft.writers == 1:
            self._spawn(self._growing.watch(draft), f"parts of {draft.path}")

    async def flush(self, draft: Draft) -> None:
        """Return when what was written is acknowledged, as the mount's write mode says.

        Raises:
            StaleVersion: somebody else has changed the object meanwhile; both are kept.
            NoSpace: the journal's disk is full.
            FsError: the store failed, in mode `through`.
        """
        is_back = draft.mount.settings.write_mode != "through" and draft.content.is_whole
        if is_back and await self._is_recorded(draft):
            return  # an fsync before this close, say: it need not wait for the upload, which has the lock meanwhile
        async with draft.lock:
            if draft.conflict:
                raise StaleVersion(draft.conflict, path=draft.path)
            if draft.is_gone:
                return
            if is_back:
                await self._record(draft)
            else:
                await self.settle_records()
                await self.store(draft)

    def close_now(self, draft: Draft) -> bool:
        """Acknowledge a close without waiting, if the write mode lets a small file be unsynced; False: use `flush`.

        Raises:
            NoSpace, FsError: the journal's disk is full, or failed.
        """
        if draft.mount.settings.write_mode != "lazy" or draft.lock.locked() or draft.conflict or draft.is_gone:
            return False
        if not record_now(draft, self._journal):
            return False
        self._drop_aside(draft)
        self.enqueue(draft)
        return True

    async def _is_recorded(self, draft: Draft) -> bool:
        if draft.recorded is None or is_unsynced(draft.record):
            return False
        return not await self._differs(draft, draft.recorded)

    async def _is_stored(self, draft: Draft) -> bool:
        return draft.stored is not None and not await self._differs(draft, draft.stored)

    async def _differs(self, draft: Draft, then: Snapshot) -> bool:
        if draft.content.size() <= SMALL_BYTES or has_fine_times():
            return differs(draft.content, then)
        return await self.pool(differs, draft.content, then)

    async def _record(self, draft: Draft) -> None:
        """Have the journal hold a draft; its lock is held, or nobody else can have it."""
        if await self._is_stored(draft) and not draft.record:
            return
        if await self._is_recorded(draft):
            self.enqueue(draft)
            return
        content = draft.content
        stamp, body, sums = content.stamp(), None, array("Q")
        if stamp.size <= BODY_MAX:
            body = os.pread(content.fd, BODY_MAX, 0)
            stamp, sums = stamp._replace(size=len(body)), sums_in(body)
        else:
            if stamp.size <= SMALL_BYTES or not has_fine_times():  # before the sync: what is written after it differs
                sums = await self.pool(sums_of, content.fd)
            await self.pool(os.fdatasync, content.fd)
            await self.pool(self._staging.sync_names)
        draft.record = await self._journal.append(f"{draft.id:x}", fields_of(draft, stamp.size), body)
        draft.recorded = Snapshot(stamp, sums)
        self._drop_aside(draft)
        failpoints.hit("upload.recorded")
        self.enqueue(draft)

    async def store(self, draft: Draft) -> None:
        """Have the store hold a draft, whose lock is held.

        Raises what `flush` raises.
        """
        if not await self._is_stored(draft):
            await self._send(draft)
        if draft.has_new_attributes:
            await self._finish(draft)

    async def _send(self, draft: Draft) -> None:
        """Have the store hold the bytes; the rest is `_finish`."""
        content = draft.content
        stamp = content.stamp()
        content.begin_sending()
        if content.is_whole and stamp.size > SMALL_BYTES:  # after the look, so that any later store changes the time
            await self.pool(begin_to_settle, content.fd)
        sender = self._growing.take(draft) or Sender(self._target(draft), content, self.pool)
        await self._host.foresee(draft.path)
        try:
            failpoints.hit("upload.begun")
            sent = await sender.finish()
            failpoints.hit("upload.sent")
        except StaleVersion as error:
            await sender.abort()
            found = await self._find_ours(draft)
            if found is None and draft.is_unseen:
                raise
            if found is None:
                await self._keep_both(draft, error)
            sent = found
        except BaseException as error:
            draft.error = str(error)
            await sender.abort()
            raise
        draft.stored, draft.meta, draft.base = Snapshot(stamp, sent.sums), sent.meta, sent.meta.version
        draft.base_sums = sent.sums if content.is_whole else None
        draft.has_new_attributes, draft.replaces_any = True, False  # the first until they are known to be there

    async def _finish(self, draft: Draft) -> None:
        """The store has the bytes; let it have the attributes too, names know of it, and the journal forget it."""
        await self._set_attributes(draft)
        assert draft.meta is not None
        entry = file_entry(draft.path, draft.mount, draft.meta)
        if isinstance(draft.content, PatchedContent):
            base = self._host.open_version(entry)
            draft.content.rebase(entry.size, base.read, base.close)
        await self._host.learn_file(draft.path, entry, told=False)
        failpoints.hit("upload.learned")
        draft.error, draft.has_new_attributes = "", False
        await self._done(draft)

    async def _set_attributes(self, draft: Draft) -> None:
        """Give the object its modes and times, where the store keeps them and has not taken them with the bytes."""
        assert draft.meta is not None
        store, wanted = draft.mount.store, attributes_of(draft)
        if store.capabilities.attributes and not has_attributes(draft.meta, wanted):
            await cast(AttributesStore, store).set_attributes(draft.key, wanted)
            draft.meta = await store.head(draft.key)
            draft.base = draft.meta.version

    def _target(self, draft: Draft) -> Target:
        return Target(
            draft.mount.store, draft.key, draft.base, draft.base_sums, attributes_of(draft), draft.replaces_any
        )

    async def _find_ours(self, draft: Draft) -> Sent | None:
        """What is in the store if it is what we meant to send: an earlier daemon, or a lost answer, sent it."""
        if not draft.content.is_whole:
            return None
        store, sums = draft.mount.store, await self.pool(sums_of, draft.content.fd)
        try:
            meta = await store.head(draft.key)
            if meta.size != draft.content.size():
                return None
            for page, known in enumerate(sums):
                span = ByteRange(page * PAGE_BYTES, min((page + 1) * PAGE_BYTES, meta.size))
                data = await store.get(draft.key, span, version=meta.version)
                if await self.pool(xxhash.xxh3_64_intdigest, data) != known:
                    return None
        except (NotFound, StaleVersion):
            return None
        return Sent(meta, sums)

    async def _keep_both(self, draft: Draft, error: StaleVersion) -> NoReturn:
        """Somebody else's change stays where it is; ours goes beside it, and its name is told."""
        suffix = f".forebay-conflict-{self._clock.time_ns() // 1_000_000}"
        sender = Sender(
            self._target(draft)._replace(key=draft.key + suffix, base=None, replaces_any=True), draft.content, self.pool
        )
        try:
            sent = await sender.finish()
        except BaseException:
            await sender.abort()
            raise
        path = draft.path + suffix
        told = f"{draft.path} was changed by somebody else while it was written here; what was written here is {path}"
        draft.error = draft.conflict = told
        self.conflicts.append(UploadInfo(path, sent.meta.size, "conflict", told))
        log.warning("upload.conflict", path=draft.path, kept_as=path)
        self._table.remove(draft)
        draft.is_gone = True
        self._host.went_stale(draft.entry())
        await self._host.learn_file(path, file_entry(path, draft.mount, sent.meta))
        await self.forget(draft)
        raise StaleVersion(told, path=draft.path) from error

    # ------------------------------------------------------------------ the queue

    def enqueue(self, draft: Draft, *, last: bool = True) -> None:
        """Send a draft after all that are queued now; if not `last`, where it is, should it be there already."""
        if last:
            self._queue.pop(draft, None)
            self._lull.came(_now(), is_large=draft.content.size() > SINGLE_PUT_BYTES)
        self._queue.setdefault(draft, None)
        self._changed.set()

    async def _done(self, draft: Draft) -> None:
        """The store has what was recorded."""
        has_file = draft.record is not None and draft.record.body is None
        self._dequeue(draft)
        if has_file:  # which is changed or moved from now on: the record must not come back and mean it
            await self.settle_records()

    def _dequeue(self, draft: Draft) -> None:
        self._queue.pop(draft, None)
        self._retries.forget(draft)
        if draft.record is not None:
            self._journal.retire(draft.record)
            self._retired += 1
            draft.record = draft.recorded = None
        self._drop_aside(draft)
        self._idle.set()
        self._changed.set()

    def _drop_aside(self, draft: Draft) -> None:
        if draft.aside is not None:
            self._staging.remove(draft.aside)
            draft.aside = None

    def set_aside(self, draft: Draft) -> None:
        """Go on with an empty file; the local file of what the journal has stays until there is a newer record.

        Nobody has the draft open.
        """
        self._queue.pop(draft, None)
        self._drop_aside(draft)
        self._spawn(self._growing.abort(draft), f"abort of parts of {draft.path}")
        draft.content.close()
        draft.aside, draft.staging = draft.staging, self._staging.new_id()
        draft.content = WholeContent(self._staging.make(draft.staging))

    async def moved(self, draft: Draft) -> None:
        """What the journal says of a draft beside its bytes is out of date."""
        sender = self._growing.find(draft)
        if sender is not None and sender.target.key != draft.key:
            await self._growing.abort(draft)
        if draft.record is not None:
            fields = fields_of(draft, draft.content.size()) | unsynced_fields(draft.record)
            if draft.aside is not None:
                fields["staging"] = draft.aside
            draft.record = await self._journal.append(f"{draft.id:x}", fields, draft.record.body)
            self.enqueue(draft, last=False)

    async def settle_records(self) -> None:
        """Return when no record of what the store has can come back after a crash.

        Whoever removes, moves or replaces an object waits for this: else the record would bring the old one back.
        """
        retired = self._retired
        if self._settled < retired:
            with contextlib.suppress(FsError):  # the journal says so; it is tried again
                await self._journal.settle()
                self._settled = max(self._settled, retired)

    async def forget(self, draft: Draft) -> None:
        """Have the journal forget a draft for good: it must not come back after a crash."""
        if draft.record is not None:
            gone = await self._journal.append(f"{draft.id:x}", {"gone": True})
            self._journal.retire(gone)
            draft.record = draft.recorded = None
        self._dequeue(draft)

    async def _run(self, first: Coroutine[None, None, None]) -> None:
        await first
        while True:
            self._changed.clear()
            self._start_some()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s()):
                    await self._changed.wait()

    def _wait_s(self) -> float | None:
        waits = self._retries.wait_s(), self._lull.left_s(_now(), len(self._queue))
        return min((wait_s for wait_s in waits if wait_s is not None), default=None)

    def _start_some(self) -> None:
        if not self._queue:
            self._lull.emptied()
        if self._lull.left_s(_now(), len(self._queue)) is not None:
            return
        for draft in list(self._queue):
            is_large = draft.content.size() > SINGLE_PUT_BYTES
            if draft in self._running:
                if is_large:
                    return
            elif self._retries.is_due(draft, draft.mount):
                if len(self._running) >= (1 if is_large else UPLOADS_MAX):
                    return
                task = asyncio.ensure_future(self._send_queued(draft))
                task.set_name(f"upload {draft.path}")
                self._running[draft] = task
                task.add_done_callback(partial(self._ran, draft))
                if is_large:
                    return

    def _ran(self, draft: Draft, task: "asyncio.Task[None]") -> None:
        del self._running[draft]
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("upload.task_failed", name=task.get_name(), exc_info=error)
            self._postpone(draft, error)
        if not draft.handles:
            self.released(draft)

    async def _send_queued(self, draft: Draft) -> None:
        try:
            async with draft.lock:
                if draft.is_gone or draft not in self._queue:
                    self._queue.pop(draft, None)
                elif draft.writers and (draft.recorded is None or await self._differs(draft, draft.recorded)):
                    self._queue.pop(draft, None)  # it is being changed: the next close or fsync queues it again
                else:
                    await self.store(draft)
                    await self._done(draft)
                    self._retries.forget(draft.mount)
        except OSError as error:
            if draft.conflict:
                return  # both are kept, and told of
            if isinstance(error, FsError) and error.retryable and not await self._answers(draft.mount):
                self._hold(draft.mount, error)
            else:
                self._postpone(draft, error)

    @staticmethod
    async def _answers(mount: Mount) -> bool:
        """Does the store answer at all?  Then it is this file that it refuses."""
        try:
            await mount.store.probe(mount.prefix)
        except FsError as error:
            return not error.retryable
        return True

    def _postpone(self, draft: Draft, error: BaseException) -> None:
        """Try a file again after a while; others go on meanwhile."""
        self.enqueue(draft, last=False)
        draft.error = str(error)
        log.warning("upload.failed", path=draft.path, again_s=self._retries.failed(draft), reason=str(error))

    def _hold(self, mount: Mount, error: FsError) -> None:
        """A store is down: all that goes there waits, so that it arrives in order afterwards."""
        if self._retries.is_due(mount):  # else others of the same turn have said so
            log.warning("uploads.held", mount=mount.path, again_s=self._retries.failed(mount), reason=str(error))
        for draft in self._queue:
            if draft.mount is mount:
                draft.error = str(error)

    async def drain(self, path: str) -> list[UploadInfo]:
        """Wait until the store has everything at or below a path; what fails, once tried again, is returned."""
        waiting = [draft for draft in self._table.below(path) if draft in self._queue]
        for draft in waiting:
            self._retries.forget(draft)
            self._retries.forget(draft.mount)
            draft.error = ""
        self._lull.end()
        self._changed.set()
        while any(draft in self._queue and not draft.error for draft in waiting):
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self._idle.wait()
        return [self._info(draft) for draft in waiting if draft in self._queue]

    def infos(self) -> list[UploadInfo]:
        """What the store does not have yet, in the order in which it is sent; and conflicts since the start."""
        queued = [self._info(draft) for draft in self._queue]
        opened = [self._info(draft) for draft in self._table if draft.writers and draft not in self._queue]
        return queued + opened + self.conflicts

    def _info(self, draft: Draft) -> UploadInfo:
        state = "sending" if draft in self._running else "failing" if draft.error else "waiting"
        return UploadInfo(draft.path, draft.content.size(), state if draft in self._queue else "open", draft.error)

    # ------------------------------------------------------------------ the end of a draft

    def released(self, draft: Draft) -> None:
        """A draft that nobody has open: let it become a cached version, or go, if it can."""
        waits_unsent = draft in self._queue and draft.stored is None and not draft.is_gone
        if not draft.is_lingering and not waits_unsent:
            self._spawn(self.settle(draft), f"settle {draft.path}")

    async def settle(self, draft: Draft) -> None:
        """See `released`."""
        async with draft.lock:
            if draft.handles or draft.is_lingering or draft.is_ended:
                return
            if draft.is_gone:
                await self._growing.abort(draft)
                self._discard(draft)
                return
            try:
                if await self._is_stored(draft):
                    await self._growing.abort(draft)
                    await self._become_cached(draft)
                elif draft not in self._queue:
                    # `close` failed, or it was written through a mapping after that: recorded, it cannot be lost.
                    if draft.content.is_whole:
                        await self._record(draft)
                    self.enqueue(draft)
            except OSError as error:  # the journal's disk is full, or the store does not take the attributes
                self._postpone(draft, error)

    async def _become_cached(self, draft: Draft) -> None:
        assert draft.meta is not None
        assert draft.stored is not None
        if draft.has_new_attributes:
            await self._finish(draft)
        entry = file_entry(draft.path, draft.mount, draft.meta)
        pages, sums = draft.content.pages(), draft.stored.sums
        if not draft.content.is_whole:
            sums = await self.pool(sums_of, draft.content.fd)
        if not await self._is_stored(draft) or draft.handles or draft.is_gone:
            return
        if pages:
            self._host.cache.adopt(self._host.source(entry), self._staging.path(draft.staging), sums, pages)
        self._table.remove(draft)
        self._host.settled(draft, entry)
        self._discard(draft)

    def _discard(self, draft: Draft) -> None:
        self._dequeue(draft)
        draft.content.close()
        self._staging.remove(draft.staging)
        draft.is_ended = True


def _now() -> float:
    return asyncio.get_running_loop().time()
