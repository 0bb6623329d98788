"""What the names database knows, for the loop: a thread of its own does the work, in the order it was asked for.

Changes are committed together, as many as wait.  A database that cannot be used costs requests, never an answer: what
cannot be read is not known, what cannot be saved is not kept, and if something cannot be forgotten, all of it goes.

*Callers*: metadata, on the loop.  *Locks*: none; a queue.  *Awaits*: the thread.  *Invariants*: nothing is found
that was asked to be forgotten before; what `forget` was awaited for stays forgotten after a crash.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from forebay.cache.index import BOOT_ID, is_damage
from forebay.clock import Clock
from forebay.errors import Unavailable
from forebay.vfs.blocks import Block
from forebay.vfs.entries import Mount
from forebay.vfs.listing import Listing, Moment, StoredListing
from forebay.vfs.names_db import Asked, Kept, NamesDb, discard

log = structlog.get_logger()

JOBS_MAX = 64  # in one transaction: a few milliseconds
DROPPED_MAX = 1_000  # folders that are remembered to be dropped: each file that is written drops its folder


class _Job(NamedTuple):
    """One thing for the thread to do."""

    work: Callable[[NamesDb], Any]
    loop: asyncio.AbstractEventLoop | None = None
    answer: asyncio.Future[Any] | None = None
    is_due: bool = False  # it must be done, if all that is known goes with it


class Names:
    """See the module."""

    def __init__(self, path: Path, clock: Clock, *, in_memory_max: int) -> None:
        """`in_memory_max`: a folder of more names is read in pieces, of which half as many are held."""
        self._path = path
        self._clock = clock
        self._in_memory_max = in_memory_max
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._asked = self._done = 0  # jobs; equal while the thread has nothing to do
        self._dropped: dict[str, asyncio.Future[Any]] = {}  # folders of which nothing was saved since they were dropped
        self._is_closed = False

    # ------------------------------------------------------------------ asking, on the loop

    def _ask(self, work: Callable[[NamesDb], Any], *, is_due: bool = False) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if self._is_closed:
            answer.set_result(None)
            return answer
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="names", daemon=True)
            self._thread.start()
        self._asked += 1
        self._jobs.put(_Job(work, loop, answer, is_due))
        return answer

    async def recall(self, mount: Mount, path: str, prefix: str) -> Listing | None:
        """The listing of a folder, if it is known; its age is that of its `began`."""
        kept = await self._ask(partial(_find, path=path, place=_place(mount, prefix), whole_max=self._in_memory_max))
        if kept is None:
            return None
        (kept_id, age_s, hidden, stubs), blocks = kept
        began = Moment(self._clock.monotonic() - age_s, 0)
        if blocks is None:
            listing: Listing = StoredListing(
                path, mount, prefix, stubs, partial(self._load, path, kept_id),
                began=began, hidden=hidden, loaded_max=self._in_memory_max // 2,
            )  # fmt: skip
            weakref.finalize(listing, self._let_go, kept_id).atexit = False
            return listing
        listing = Listing(path, mount, prefix, began=began)
        for block in blocks:
            listing.add(block)
        listing.hidden = hidden
        listing.finish()
        return listing

    async def _load(self, path: str, kept_id: int, number: int) -> Block:
        found = await self._ask(lambda db: db.blocks(kept_id, number, number + 1))
        if not found:
            raise Unavailable(f"the names of {path} were lost with a damaged file; list it again", path=path)
        block: Block = found[0]
        return block

    def _let_go(self, kept_id: int) -> None:
        """Nobody reads that listing any more.  Any thread."""
        self._jobs.put(_Job(lambda db: db.let_go(kept_id)))

    def save(self, listing: Listing) -> None:
        """Keep a whole listing."""
        assert listing.mount is not None
        asked = Asked.at(self._clock, listing.began.at)
        place, blocks = _place(listing.mount, listing.prefix), list(listing.blocks)
        path, hidden = listing.path, listing.hidden
        self._dropped.pop(path, None)
        self._ask(lambda db: db.save(path, place, blocks, asked=asked, hidden=hidden))

    def drop(self, path: str) -> asyncio.Future[Any]:
        """Forget the listing of one folder; await it to know that a crash does not bring it back."""
        dropped = self._dropped.get(path)
        if dropped is None or dropped.cancelled():
            if len(self._dropped) >= DROPPED_MAX:
                self._dropped.clear()
            dropped = self._dropped[path] = self._ask(lambda db: db.drop(path), is_due=True)
        return dropped if dropped.done() else asyncio.shield(dropped)

    def forget(self, path: str) -> asyncio.Future[Any]:
        """Forget all listings at or below a path; await it to know that a crash does not bring them back."""
        return self._ask(lambda db: db.forget(path), is_due=True)

    async def settle(self) -> None:
        """Return when all that was asked for is done, and on the disk as far as a crash of this process goes."""
        if self._asked != self._done:
            await self._ask(lambda _: None)

    async def close(self) -> None:
        """Finish, and end the thread; what is asked from now on is not known, and not kept."""
        self._is_closed = True
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        db: NamesDb | None = None
        try:
            db = NamesDb(self._path, self._clock, BOOT_ID.read_text().strip())
        except (sqlite3.Error, OSError) as error:
            log.warning("names.not_kept", path=str(self._path), reason=str(error))
        is_open = True
        while is_open:
            batch = [self._jobs.get()]
            while not self._jobs.empty() and len(batch) < JOBS_MAX:
                batch.append(self._jobs.get())
            is_open = None not in batch
            db = self._do(db, [job for job in batch if job is not None])
            self._done += sum(job is not None and job.answer is not None for job in batch)
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _do(self, db: NamesDb | None, jobs: list[_Job]) -> NamesDb | None:
        """Do some jobs in one transaction; the database, or None if it cannot be used any more."""
        answers: list[Any] = [None] * len(jobs)
        if db is not None:
            try:
                with db.transaction():
                    answers = [job.work(db) for job in jobs]
            except Exception as error:  # noqa: BLE001 - the thread's outermost boundary: all who ask get an answer
                log.warning("names.not_kept", path=str(self._path), reason=str(error))
                is_unfit = isinstance(error, sqlite3.Error) and is_damage(error)
                if is_unfit or any(job.is_due for job in jobs):
                    db = self._begin_again(db, str(error))
        elif any(job.is_due for job in jobs):
            with contextlib.suppress(OSError):
                discard(self._path)  # it could not be opened, and may hold what must be forgotten
        for job, answer in zip(jobs, answers, strict=True):
            if job.answer is not None and job.loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    job.loop.call_soon_threadsafe(_tell, job.answer, answer)
        return db

    def _begin_again(self, db: NamesDb, reason: str) -> NamesDb | None:
        try:
            db.throw_away(reason)
        except (sqlite3.Error, OSError) as error:
            log.warning("names.not_kept", path=str(self._path), reason=str(error))
            return None
        return db


def _find(db: NamesDb, *, path: str, place: str, whole_max: int) -> tuple[Kept, list[Block] | None] | None:
    """A folder's listing: with its blocks, or held until `let_go` if there are too many for that."""
    kept = db.find(path, place)
    if kept is None:
        return None
    if sum(stub.entries for stub in kept.stubs) <= whole_max:
        return kept, db.blocks(kept.id, 0, len(kept.stubs))
    db.hold(kept.id)
    return kept, None


def _place(mount: Mount, prefix: str) -> str:
    """What a listing is of: another store or prefix at the same path is another."""
    return f"{mount.store.location}\0{prefix}"


def _tell(answer: asyncio.Future[Any], value: object) -> None:
    if not answer.done():  # who asked may have gone
        answer.set_result(value)
