"""What the journal is told of drafts: what they hold, what they are called, and that it need not know them any more.

*Callers*: the uploader and what it is made of, on the loop.  *Locks*: `Draft.recording`, so that records of one draft
come one after another; it is never held while a store is waited for.  *Awaits*: the journal, the pool.
*Invariant*: `Draft.record` is the live record, and `Draft.recorded` what the file was like then.
*On crash*: see the journal.
"""

import asyncio
import contextlib
import os
from array import array
from collections.abc import Coroutine
from typing import Any

import structlog

from forebay import failpoints
from forebay.errors import FsError
from forebay.vfs.content import SMALL_BYTES, Snapshot, differs, has_fine_times, sums_in, sums_of
from forebay.vfs.drafts import Draft
from forebay.vfs.journal import Journal, Record
from forebay.vfs.journal_format import BODY_MAX
from forebay.vfs.records import fields_of
from forebay.vfs.sending import Pool, offer_of
from forebay.vfs.staging import Staging
from forebay.vfs.unsynced import held, record_now, unsynced_fields

log = structlog.get_logger()


class Recorder:
    """See the module."""

    def __init__(self, journal: Journal, staging: Staging, pool: Pool) -> None:
        self._journal = journal
        self._staging = staging
        self._pool = pool
        self._retired = self._settled = 0  # records that were retired, and those of them that cannot come back

    # ------------------------------------------------------------------ questions

    async def is_stored(self, draft: Draft) -> bool:
        """Has the store what a draft holds?"""
        return draft.stored is not None and not await self.differs(draft, draft.stored)

    async def is_recorded(self, draft: Draft) -> bool:
        """Has the journal what a draft holds, synced?"""
        if draft.recorded is None or draft.record is None or not draft.record.is_synced:
            return False
        return not await self.differs(draft, draft.recorded)

    async def differs(self, draft: Draft, then: Snapshot) -> bool:
        """Has a draft changed since?"""
        if draft.content.size() <= SMALL_BYTES or has_fine_times():
            return differs(draft.content, then)
        return await self._pool(differs, draft.content, then)

    # ------------------------------------------------------------------ records

    async def record(self, draft: Draft) -> bool:
        """Have the journal hold a draft as it is now; False if it need not, since the store does, or nobody shall.

        Raises:
            NoSpace: the journal's disk is full.
            FsError: it failed.
        """
        async with draft.recording:
            if draft.is_gone or (draft.record is None and await self.is_stored(draft)):
                return False
            if not await self.is_recorded(draft):
                await self._record(draft)
            return True

    async def _record(self, draft: Draft) -> None:
        content = draft.content
        stamp, body, sums = content.stamp(), None, array("Q")
        if stamp.size <= BODY_MAX:
            body = os.pread(content.fd, BODY_MAX, 0)
            stamp, sums = stamp._replace(size=len(body)), sums_in(body)
        else:
            if stamp.size <= SMALL_BYTES or not has_fine_times():  # before the sync: what is written after it differs
                sums = await self._pool(sums_of, content.fd)
            await self._pool(os.fdatasync, content.fd)
            await self._pool(self._staging.sync_names)
        await _replace(draft, self._journal.append(f"{draft.id:x}", fields_of(draft, stamp.size), body))
        draft.recorded = Snapshot(stamp, sums)
        self.drop_aside(draft)
        failpoints.hit("upload.recorded")

    def record_now(self, draft: Draft) -> bool:
        """Have the journal name a small file that nobody has asked to be synced, without waiting; False if it cannot.

        Raises:
            NoSpace, FsError: as `record`.
        """
        if draft.recording.locked() or draft.is_gone or not record_now(draft, self._journal):
            return False
        self.drop_aside(draft)
        failpoints.hit("upload.recorded")
        return True

    def record_here(self, draft: Draft) -> bool:
        """As `record`, before this returns; False if it is not a small file, or that may take long, or need not be.

        Raises:
            NoSpace, FsError: as `record`.
        """
        content = draft.content
        is_other = draft.recording.locked() or draft.is_gone or (draft.record is None and draft.stored is not None)
        if is_other or not content.is_whole or (stamp := content.stamp()).size > BODY_MAX:
            return False
        is_kept = draft.record is not None and draft.record.is_synced
        if is_kept and draft.recorded is not None and not differs(content, draft.recorded):
            return True
        body = held(content)
        record = self._journal.append_here(f"{draft.id:x}", fields_of(draft, len(body)), body)
        if record is None:
            return False
        draft.record, draft.recorded = record, Snapshot(stamp._replace(size=len(body)), sums_in(body))
        self.drop_aside(draft)
        failpoints.hit("upload.recorded")
        return True

    async def own(self, draft: Draft) -> None:
        """A draft is about to be another file, or to go: what an earlier daemon may have sent of it is ours too.

        Until then it is told by its bytes, which need not be read at a start.
        """
        if not draft.may_be_sent:
            return
        async with draft.recording:
            if draft.may_be_sent:
                draft.offered.append(offer_of(draft.content.size(), await self._pool(sums_of, draft.content.fd)))
                draft.may_be_sent = False

    async def amend(self, draft: Draft, **changed: object) -> None:
        """What the journal says of a draft beside its bytes is out of date, or is about to be as `changed` says.

        Raises:
            NoSpace, FsError: as `record`; the journal says what it said.
        """
        async with draft.recording:
            await self._amend(draft, **changed)

    async def _amend(self, draft: Draft, **changed: object) -> None:
        record = draft.record
        if record is not None:
            fields = fields_of(draft, record.fields["size"]) | {"staging": record.fields["staging"]} | changed
            if not record.is_synced:
                draft.record = self._journal.append_now(record.about, fields | unsynced_fields(record))
            elif fields != record.fields:
                await _replace(draft, self._journal.amend(record, fields))

    async def retire(self, draft: Draft) -> bool:
        """The store has what was sent: the journal need not; False if it has something newer by now.

        Raises:
            NoSpace, FsError: as `record`.
        """
        async with draft.recording:
            if draft.record is None:
                return True
            if draft.recorded is not draft.sent and not await self.is_stored(draft):
                await self._amend(draft)  # it replaces what was sent
                return False
            has_file = draft.record.is_synced and not draft.record.has_body
            self.drop(draft)
        if has_file:  # which is changed or moved from now on: the record must not come back and mean it
            await self.settle()
        return True

    def drop(self, draft: Draft) -> None:
        """The journal need not know a draft any more; a crash within a second may bring the record back."""
        if draft.record is not None:
            self._journal.retire(draft.record)
            self._retired += 1
            draft.record = draft.recorded = None
        self.drop_aside(draft)

    async def forget(self, draft: Draft, *, is_replaced: bool = False) -> None:
        """A draft has gone, and must not come back after a crash: who is told to stop meanwhile has forgotten it too.

        Args:
            is_replaced: the store has something else in its place, so it goes even if the journal cannot say so yet.

        Raises:
            NoSpace, FsError: as `record`; it has not gone.
        """
        async with draft.recording:
            if (record := draft.record) is not None:
                try:
                    record, _ = await _answer(self._journal.append(record.about, {"gone": True}))
                except FsError as error:
                    if not is_replaced:
                        raise
                    log.error("upload.not_recorded", path=draft.path, reason=str(error))
                self._journal.retire(record)
                draft.record = draft.recorded = None
            self.drop_aside(draft)
            draft.is_gone = True

    async def settle(self) -> None:
        """Return when no record of what the store has can come back after a crash.

        Whoever removes, moves or replaces an object waits for this: else the record would bring the old one back.
        """
        retired = self._retired
        if self._settled < retired:
            with contextlib.suppress(FsError):  # the journal says so; it is tried again
                await self._journal.settle()
                self._settled = max(self._settled, retired)

    def drop_aside(self, draft: Draft) -> None:
        """The file that the journal meant is not needed any more."""
        if draft.aside is not None:
            self._staging.remove(draft.aside)
            draft.aside = None


async def _replace(draft: Draft, asked: Coroutine[Any, Any, Record]) -> None:
    """What the journal answers is a draft's record, also if whoever waits for that is told to stop meanwhile.

    The record before is not there any more then, and the draft must not go on with it.
    """
    draft.record, stop = await _answer(asked)
    if stop is not None:
        raise stop


async def _answer(asked: Coroutine[Any, Any, Record]) -> tuple[Record, asyncio.CancelledError | None]:
    """What the journal answers, and whether whoever waits for it was told to stop: it does what it was asked anyway."""
    task, stop = asyncio.ensure_future(asked), None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            stop = error
    return task.result(), stop
