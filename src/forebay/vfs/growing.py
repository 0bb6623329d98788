"""Files that are sent while they are written: parts go ahead, and `close` waits for the last of them only.

*Callers*: the uploader, on the loop.  *Locks*: none; no part is begun while somebody has a draft's own, and who gives a
draft another name or file aborts what has begun.  *Awaits*: the store, the pool.
*Invariant*: a sender is in one hand: here, or with whoever took it.
"""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from forebay.errors import FsError
from forebay.stores.uploads import PART_BYTES
from forebay.vfs.drafts import Draft
from forebay.vfs.sending import Pool, Sender, Target

log = structlog.get_logger()

LOOK_S = 0.05  # how often a file is looked at


class Growing:
    """See the module."""

    def __init__(self, target: Callable[[Draft], Target], pool: Pool) -> None:
        self._target = target
        self._pool = pool
        self._senders: dict[Draft, Sender] = {}

    async def watch(self, draft: Draft) -> None:
        """Send the parts of a file as it grows, until nobody writes it any more."""
        while draft.writers and not draft.is_gone:
            sender = self._senders.get(draft)
            if sender is None or not sender.is_full:
                await asyncio.sleep(LOOK_S)
            else:
                await sender.until_one_ends()
            if not draft.writers or draft.is_ended:
                return
            size = draft.content.size() - PART_BYTES  # what was written last may well be written again
            is_stored = draft.stored is not None and draft.stored.stamp == draft.content.stamp()
            if size < PART_BYTES or is_stored or draft.lock.locked():
                continue
            sender = self._sender(draft)
            if sender.failed is not None:
                log.info("upload.parts_failed", path=draft.path, reason=str(sender.failed))  # close tries, and tells
                await self.abort(draft)
                return
            sender.advance(size)

    def _sender(self, draft: Draft) -> Sender:
        sender = self._senders.get(draft)
        if sender is None:
            sender = self._senders[draft] = Sender(self._target(draft), draft.content, self._pool)
        return sender

    def find(self, draft: Draft) -> Sender | None:
        """The sender of a file of which parts have gone ahead."""
        return self._senders.get(draft)

    def take(self, draft: Draft) -> Sender | None:
        """The same, for the caller to finish."""
        return self._senders.pop(draft, None)

    async def abort(self, draft: Draft) -> None:
        """Take back what has gone ahead."""
        sender = self.take(draft)
        if sender is not None:
            with contextlib.suppress(FsError):
                await sender.abort()
