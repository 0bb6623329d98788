"""Drafts on their way to the store: sent at once, or recorded in the journal and sent soon after, in order.

What `close` and `fsync` wait for is `Uploader.flush`; what it means is the mount's write mode:

`through`   the store has it.  If the store fails, so does `close`; the bytes are kept, recorded and sent later.
`back`      the journal has it, on the local disk.  It is sent in the background, in the order of recording: small
            files a few at a time, a large one alone, so that nothing shows in the store before what a large file
            before it holds.  A file that the store refuses for now does not hold up the others.
`lazy`      `fsync` is as in `back`; `close` of a small file returns when a kill of the daemon cannot lose it.

In mode `back` nobody waits for an upload that is under way: neither who writes on, nor who removes or renames the file
(`held`).

*Callers*: changes and the file system, on the loop.  *Locks*: a draft's own.  *Awaits*: the store, the journal, the
pool.  *Invariant*: a draft is in the queue from its record until the store has what was recorded.
*On crash*: what was recorded is sent by the next daemon.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from forebay.cache.cache import Cache
from forebay.cache.cachedfile import Source
from forebay.clock import Clock
from forebay.errors import FsError, StaleVersion
from forebay.paths import is_within
from forebay.types import ObjectMeta
from forebay.vfs.content import WholeContent, sums_of
from forebay.vfs.drafts import Draft, DraftTable
from forebay.vfs.entries import FileEntry, Mount, file_entry
from forebay.vfs.journal import Journal, Record
from forebay.vfs.leaving import Leaving
from forebay.vfs.lull import Lull
from forebay.vfs.recording import Recorder
from forebay.vfs.records import UploadInfo, draft_of, offers_in
from forebay.vfs.renames import Renames
from forebay.vfs.retries import Retries
from forebay.vfs.sending import SINGLE_PUT_BYTES, Changed, Offer
from forebay.vfs.staging import Staging
from forebay.vfs.storing import Host as StoringHost
from forebay.vfs.storing import Storing
from forebay.vfs.tree import Tree
from forebay.vfs.unsynced import is_lost

log = structlog.get_logger()

UPLOADS_MAX = 16  # small files on their way at a time
ABORT_S = 5.0  # how long a stop waits for stores to drop parts
Result = TypeVar("Result")


class Host(StoringHost, Protocol):
    """What the uploader asks of the file system."""

    cache: Cache
    renames: Renames

    def source(self, entry: FileEntry) -> Source:
        """Where the cache finds an entry's bytes."""
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
        self._executor = ThreadPoolExecutor(4, thread_name_prefix="writes")
        self._queue: dict[Draft, None] = {}  # in the order of recording
        self._running: dict[Draft, asyncio.Task[None]] = {}
        self._retries = Retries(clock)  # of drafts that failed, and of mounts whose store does not answer
        self._lull = Lull()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()  # set whenever something has left the queue
        self._moving: list[str] = []  # folders whose names change: nothing below them is sent meanwhile
        self.recorder = Recorder(journal, staging, self.pool)
        self.leaving = Leaving(host, journal, self.pool)
        self.storing = Storing(
            host, table, self.recorder, self.leaving, self.pool, on_stored=self._stored, spawn=self._spawn
        )

    # ------------------------------------------------------------------ life

    def recover(self, tree: Tree) -> None:
        """Bring back what the journal has; the files of other writes go: nobody was told that they are kept.

        Raises:
            NoSpace: the disk is full; the journal keeps what it has.
        """
        records: list[Record] = []
        for record in self._journal.recovered():
            lost = is_lost(record, self._staging)
            if lost:
                log.warning("upload.not_synced", path=record.fields["path"], reason="the machine stopped before it was")
            if lost or record.fields.get("gone"):
                self._journal.retire(record)
            elif record.fields.get("leaving"):
                if (mount := self._mount_of(record, tree)) is not None:
                    self.leaving.recover(record, mount)
            else:
                records.append(record)
        gone = self._staging.sweep({record.fields["staging"] for record in records})
        for record in records:
            if (mount := self._mount_of(record, tree)) is None:
                continue
            draft = draft_of(record, self._journal.body(record), mount, self._staging)
            if draft is not None:
                if (older := self._table.find(draft.path)) is not None:  # it was being replaced when the daemon ended
                    self._discard(older)
                self._table.add(draft)
                self.enqueue(draft)
        if records or gone:
            log.info("uploads.recovered", files=len(records), removed=gone)

    @staticmethod
    def _mount_of(record: Record, tree: Tree) -> Mount | None:
        """The mount of a record; None, and a line in the log, if it is mounted no more, or elsewhere."""
        fields = record.fields
        mount = tree.mount_at(fields["mount"])
        if mount is not None and mount.store.location == fields["location"]:
            return mount
        log.error("upload.no_mount", path=fields["path"], mount=fields["mount"], url=fields["location"])
        return None

    def start(self, first: Coroutine[None, None, None]) -> None:
        """Begin to send what is queued, after what must be done `first`."""
        self._spawn(self._run(first), "uploads")
        self.leaving.start()

    async def close(self) -> None:
        """Record what is not in the store yet, and stop; the next daemon goes on."""
        tasks = [*self._tasks, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.leaving.close()
        if self._tasks:  # what was broken off just now
            await asyncio.wait(self._tasks, timeout=ABORT_S)
        for draft in self._table:
            try:
                await self.storing.growing.abort(draft)
                if await self.recorder.is_stored(draft):
                    continue
                if draft.content.is_whole:
                    await self.recorder.record(draft)
                else:
                    log.error("upload.lost", path=draft.path, reason="a part of a file cannot be kept over a restart")
            except OSError as error:
                log.error("upload.not_recorded", path=draft.path, reason=str(error))
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
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
            self._spawn(self.storing.growing.watch(draft), f"parts of {draft.path}")

    async def flush(self, draft: Draft, *, is_synced: bool = False) -> None:
        """Return when what was written is acknowledged, as the mount's write mode says.

        Args:
            is_synced: attributes that Forebay keeps are to outlast a power cut too, as after fsync(2).

        Raises:
            StaleVersion: somebody else has changed the object meanwhile; both are kept.
            NoSpace: the journal's disk is full.
            FsError: the store failed, in mode `through`.
        """
        if draft.mount.settings.write_mode == "through" or not draft.content.is_whole:
            await self._flush_to_store(draft, is_synced=is_synced)
        elif not draft.conflict and await self.recorder.record(draft):
            self.enqueue(draft)
        if draft.conflict:  # which may have come up while this waited
            raise StaleVersion(draft.conflict, path=draft.path)

    async def _flush_to_store(self, draft: Draft, *, is_synced: bool) -> None:
        async with self._sendable(draft):
            if draft.is_gone or draft.conflict:
                return
            await self.recorder.settle()
            try:
                await self.storing.store(draft)
            except FsError as error:
                if not draft.conflict:  # which is told already; else the caller gets a mere errno
                    log.warning("upload.failed", path=draft.path, reason=str(error))
                raise
            if is_synced:
                await self._host.settle_attributes(draft.mount)

    def close_now(self, draft: Draft) -> bool:
        """Acknowledge a close without waiting, if the write mode lets a small file be unsynced; False: use `flush`.

        Raises:
            NoSpace, FsError: the journal's disk is full, or failed.
        """
        if draft.mount.settings.write_mode != "lazy" or draft.conflict or not self.recorder.record_now(draft):
            return False
        self.enqueue(draft)
        return True

    def sync_now(self, draft: Draft, is_alone: Callable[[], bool] = lambda: True) -> bool:
        """Acknowledge close or fsync of a small file by a sync here and now, if the disk is quick; False: use `flush`.

        Args:
            is_alone: does nobody else wait meanwhile?  Asked only if it matters, since that costs a system call.

        Raises:
            NoSpace, FsError: the journal's disk is full, or failed.
        """
        is_through = draft.mount.settings.write_mode == "through"
        if is_through or draft.conflict or not is_alone() or not self.recorder.record_here(draft):
            return False
        self.enqueue(draft)
        return True

    @contextlib.asynccontextmanager
    async def _sendable(self, draft: Draft) -> AsyncIterator[None]:
        """A draft's lock, once no folder above it is being renamed, and no rename that was interrupted is left there.

        Raises:
            FsError: the store failed; that rename is still to be finished.
        """
        while True:
            while self._is_moving(draft):
                self._changed.clear()
                await self._changed.wait()
            await self._host.renames.settle(draft.mount, draft.key)
            async with draft.lock:
                if not (self._is_moving(draft) or self._host.renames.is_interrupted(draft.mount, draft.key)):
                    yield
                    return

    def _is_moving(self, draft: Draft) -> bool:
        return any(is_within(draft.path, folder) for folder in self._moving)

    # ------------------------------------------------------------------ names that change

    @contextlib.asynccontextmanager
    async def held(self, draft: Draft, *, lets_go: bool) -> AsyncIterator[None]:
        """A draft's lock, for who changes its name; an upload in the background is broken off, and begins anew.

        Args:
            lets_go: one whose last step is under way is not waited for either; `Draft.offered` says what it may make.
        """
        try:
            with self.unsent(draft):
                task, sender = self._running.get(draft), draft.sender
                if task is not None and (lets_go or sender is None or not sender.is_ending):
                    task.cancel()
                    await asyncio.wait({task})
                async with draft.lock:
                    await self.recorder.own(draft)
                    yield
        finally:
            if not draft.handles:  # who held it may have sent what waited
                self.released(draft)

    @contextlib.contextmanager
    def unsent(self, draft: Draft) -> Iterator[None]:
        """The queue does not begin to send a draft meanwhile."""
        draft.claims += 1
        try:
            yield
        finally:
            draft.claims -= 1
            self._changed.set()

    @contextlib.asynccontextmanager
    async def still(self, folder: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Every draft at or below a folder is held, and nothing there is sent, but by who asks for it.

        Who is given this calls what it gets to hold those too that were begun meanwhile.
        """
        async with contextlib.AsyncExitStack() as stack:
            drafts: set[Draft] = set()

            async def hold() -> None:
                while missing := [draft for draft in self._table.below(folder) if draft not in drafts]:
                    for draft in sorted(missing, key=lambda draft: draft.path):  # as who renames files does
                        await stack.enter_async_context(self.held(draft, lets_go=False))
                        drafts.add(draft)

            await hold()
            self._moving.append(folder)  # from now on nobody has such a lock who waits for this to end
            try:
                yield hold
            finally:
                self._moving.remove(folder)
                self._changed.set()

    async def amend(self, draft: Draft) -> None:
        """What the journal and the store have of a draft beside its bytes is out of date."""
        await self.recorder.amend(draft)
        if draft.record is not None:
            self.enqueue(draft, last=False)
        elif not draft.handles:
            self.released(draft)

    async def move(self, draft: Draft, path: str, key: str, base: str | None, offered: Sequence[Offer]) -> None:
        """Show a held draft elsewhere, where it replaces `base`, or what of us may be there.

        Raises:
            NoSpace, FsError: the journal cannot be told; nothing has changed.
        """
        await self.recorder.amend(draft, path=path, key=key, base=base, offered=offers_in(offered))
        self._table.move(draft, path, key)
        draft.base, draft.meta, draft.offered = base, None, list(offered)
        await self._was_moved(draft)

    async def moved(self, draft: Draft, path: str, meta: ObjectMeta) -> None:
        """Show a held draft where its store has the object by now."""
        self._table.move(draft, path, meta.key)
        draft.base, draft.meta = meta.version, meta
        self.storing.follow(draft)
        try:
            await self.recorder.amend(draft)
        except FsError as error:  # the store has moved it: there is no way back
            log.error("upload.not_recorded", path=path, reason=str(error))
        await self._was_moved(draft)

    async def _was_moved(self, draft: Draft) -> None:
        sender = self.storing.growing.find(draft)
        if sender is not None and sender.target.key != draft.key:
            await self.storing.growing.abort(draft)
        if draft.record is not None:
            self.enqueue(draft, last=False)

    # ------------------------------------------------------------------ the queue

    def enqueue(self, draft: Draft, *, last: bool = True) -> None:
        """Send a draft after all that are queued now; if not `last`, where it is, should it be there already."""
        held = self._lull_s() is not None
        if last:
            self._queue.pop(draft, None)
            self._lull.came(_now(), is_large=draft.content.size() > SINGLE_PUT_BYTES)
        self._queue.setdefault(draft, None)
        if not held or self._lull_s() is None:  # else it looks again by itself, and need not after each of many files
            self._changed.set()

    async def _stored(self, draft: Draft) -> None:
        """The store has what was sent: all that was recorded, or not what was recorded since."""
        if await self.recorder.retire(draft):
            self._dequeue(draft)

    def _dequeue(self, draft: Draft) -> None:
        self._queue.pop(draft, None)
        self._retries.forget(draft)
        self.recorder.drop(draft)
        self._idle.set()
        self._changed.set()

    def set_aside(self, draft: Draft) -> None:
        """Go on with an empty file; the local file of what the journal has stays until there is a newer record.

        One handle is open, and `Draft.recording` is held; an upload under way goes on with the old file.

        Raises:
            NoSpace, FsError: the disk refuses; nothing has changed.
        """
        staging_id = self._staging.new_id()
        fd = self._staging.make(staging_id)
        self._queue.pop(draft, None)
        self.recorder.drop_aside(draft)
        before = draft.content
        draft.aside, draft.staging = draft.staging, staging_id
        draft.content = WholeContent(fd)

        async def close() -> None:
            await self.storing.growing.abort(draft)
            async with draft.lock:  # whoever else reads it has it
                before.close()

        self._spawn(close(), f"close of what {draft.path} was")

    async def forget(self, draft: Draft, *, is_replaced: bool = False) -> None:
        """Have the journal forget a draft for good, which is not sent any more; see `Recorder.forget`."""
        await self.recorder.forget(draft, is_replaced=is_replaced)
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
        waits = self._retries.wait_s(), self._lull_s()
        return min((wait_s for wait_s in waits if wait_s is not None), default=None)

    def _lull_s(self) -> float | None:
        first = self._first()
        return self._lull.left_s(_now(), len(self._queue), is_open=first is not None and first.handles > 0)

    def _first(self) -> Draft | None:
        return next(iter(self._queue), None)

    def hurry(self) -> None:
        """What waits for a lull is sent from now on."""
        self._lull.end()
        self._changed.set()

    def _start_some(self) -> None:
        if not self._queue:
            self._lull.emptied()
        if self._lull_s() is not None:
            return
        for draft in list(self._queue):
            is_large = draft.content.size() > SINGLE_PUT_BYTES
            if draft in self._running:
                if is_large:
                    return
            elif self._retries.is_due(draft, draft.mount) and not draft.claims and not self._is_moving(draft):
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
            await self._host.renames.settle(draft.mount, draft.key)  # it may be carried along by that
            async with draft.lock:
                if draft not in self._queue or draft.claims or self._is_moving(draft):
                    return
                if draft.is_gone or (draft.writers and not await self.recorder.is_recorded(draft)):
                    self._queue.pop(draft, None)  # it is being changed: the next close or fsync queues it again
                    return
                await self.storing.store(draft, gives_way=True)
                await self._stored(draft)
                self._retries.forget(draft.mount)
        except Changed:  # the next close or fsync queues it again, or has done so
            self._retries.forget(draft)
            self._retries.failed(draft)
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
        """Wait until the store has everything at or below a path, and nothing that has gone here.

        Returns: what fails, once tried again.
        """
        waiting = [draft for draft in self._table.below(path) if draft in self._queue]
        for draft in waiting:
            self._retries.forget(draft)
            self._retries.forget(draft.mount)
            draft.error = ""
        self.leaving.hurry(path)
        self.hurry()

        def is_under_way() -> bool:
            queued = any(draft in self._queue and not draft.error for draft in waiting)
            return queued or not all(info.error for info in self.leaving.infos(path))

        while is_under_way():
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self._idle.wait()
        return [self._info(draft) for draft in waiting if draft in self._queue] + self.leaving.infos(path)

    def infos(self) -> list[UploadInfo]:
        """What the store does not have yet, in the order in which it is sent; what is to go from there; conflicts."""
        queued = [self._info(draft) for draft in self._queue]
        opened = [self._info(draft) for draft in self._table if draft.writers and draft not in self._queue]
        return queued + opened + self.leaving.infos() + self.storing.conflicts

    def _info(self, draft: Draft) -> UploadInfo:
        state = "sending" if draft in self._running else "failing" if draft.error else "waiting"
        return UploadInfo(draft.path, draft.content.size(), state if draft in self._queue else "open", draft.error)

    # ------------------------------------------------------------------ the end of a draft

    def released(self, draft: Draft) -> None:
        """A draft that nobody has open: let it become a cached version, or go, if it can."""
        if draft is self._first():
            self._changed.set()  # it may be this that uploads wait for
        waits_unsent = draft in self._queue and draft.stored is None and not draft.is_gone
        if not draft.is_lingering and not waits_unsent:
            self._spawn(self.settle(draft), f"settle {draft.path}")

    async def settle(self, draft: Draft) -> None:
        """See `released`."""
        async with draft.lock:
            if draft.handles or draft.is_lingering or draft.is_ended:
                return
            if draft.is_gone:
                await self.storing.growing.abort(draft)
                self._discard(draft)
                return
            try:
                if await self.recorder.is_stored(draft):
                    await self.storing.growing.abort(draft)
                    await self._become_cached(draft)
                elif draft not in self._queue:
                    # `close` failed, or it was written through a mapping after that: recorded, it cannot be lost.
                    if draft.content.is_whole:
                        await self.recorder.record(draft)
                    self.enqueue(draft)
            except OSError as error:  # the journal's disk is full, or the store does not take the attributes
                self._postpone(draft, error)

    async def _become_cached(self, draft: Draft) -> None:
        assert draft.stored is not None
        await self.storing.store(draft)  # attributes that the store does not have
        assert draft.meta is not None
        entry = file_entry(draft.path, draft.mount, draft.meta)
        pages, sums = draft.content.pages(), draft.stored.sums
        if not draft.content.is_whole:
            sums = await self.pool(partial(sums_of, pages=pages), draft.content.fd)
        if not await self.recorder.is_stored(draft) or draft.handles or draft.is_gone or draft.has_new_attributes:
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
