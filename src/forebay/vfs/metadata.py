"""Names and versions: answers lookups and listings from memory or from disk, or asks the store once for all who wait.

A lookup in a folder that is not known costs one HEAD and one LIST of one page, at the same time; after a few of
them the folder is listed whole, and every later lookup in it costs nothing.  Listed folders are kept in the names
database; what memory has no room for, and what an earlier daemon knew, is recalled from there.

*Callers*: the file system, on the loop.  *Locks*: none.  *Awaits*: the store, each request within the deadline; the
names database.  *Invariants*: one request per question at a time; what is told carries the age of the request that
began it, so an answer is never believed longer than the mount promises; what we changed, doubt, or were told to
forget is not brought back by anything that began before.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from forebay.clock import Clock
from forebay.config.settings import Settings
from forebay.errors import FsError, NotFound, TimedOut, Unavailable
from forebay.paths import is_within, join, split
from forebay.stores.base import FolderStore, ListPage
from forebay.types import FolderMeta, ObjectMeta
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, Mount, file_entry, folder_entry
from forebay.vfs.folders import Folder, FolderCache, Known
from forebay.vfs.listing import Listing, Moment, StoredListing
from forebay.vfs.names import Names
from forebay.vfs.told import Told, is_silent
from forebay.vfs.walkahead import WalkAhead
from forebay.vfs.walked import Walked

NAMES_FILE = "names.db"  # in the home folder
LIST_AFTER_MISSES = 3  # lookups in one folder that ask the store before it is listed whole
LIST_AGAIN_MISSES = 10_000  # more of them before a folder is listed that was too large
Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Running:
    """A listing under way."""

    mount: Mount
    listing: Listing
    task: asyncio.Task[None]
    is_overtaken: bool = False  # we have changed a name in the folder since it began


class Metadata:
    """See the module."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._deadline_s = settings.store_deadline_s
        self._listed_max = settings.metadata_entries // 2
        self._clock = clock
        self._turns = itertools.count(1)
        self._forgotten_turn = 0  # what began before it may be of before a refresh
        self._changed_turn = 0  # and what began before this, of before a write of ours
        self.folders = FolderCache(settings.metadata_entries)
        self.names = Names(settings.home / NAMES_FILE, clock, in_memory_max=self._listed_max)
        self._told = Told(clock, self._ask_head)
        self._recalls: dict[str, asyncio.Task[None]] = {}
        self._walks = WalkAhead()
        self._listings: dict[str, _Running] = {}
        self._wanted: set[Listing] = set()  # of those, the ones that somebody asked for
        self._lookups: dict[str, asyncio.Task[Found | None]] = {}
        self._tasks: dict[asyncio.Task[Any], Mount] = {}
        self.store_requests = 0  # HEADs and pages of listings asked for

    def moment(self) -> Moment:
        """Now: what is learnt of later requests is newer."""
        return Moment(self._clock.monotonic(), next(self._turns))

    @property
    def changed_turn(self) -> int:
        """Grows with every name that is changed here, doubted or forgotten; what a store tells leaves it as it is."""
        return max(self._forgotten_turn, self._changed_turn)

    def peek(self, path: str, name: str) -> Found | None:
        """A lookup in a mount's folder from memory, if it is known and young enough."""
        folder = self.folders.get(path)
        return None if folder is None else folder.find(name, self._clock.monotonic())

    def believed_s(self, listing: Listing) -> float | None:
        """How long every entry of a listing may be believed, seconds; None if it must be asked for each."""
        folder, running = self.folders.get(listing.path), self._listings.get(listing.path)
        if folder is None or folder.looked_up or listing.mount is None or listing.fixed:
            return None
        if folder.listed != listing.began and (running is None or running.listing is not listing):
            return None
        return max(0.0, listing.mount.left_s(listing.began.at, self._clock.monotonic()))

    async def lookup(self, mount: Mount, path: str, key_prefix: str, name: str) -> Found:
        """A lookup in the folder at `path`, whose keys start with `key_prefix`."""
        while True:
            folder = self.folders.touch(path, mount)
            found = folder.find(name, self._clock.monotonic()) or await self._recall(folder, key_prefix, name)
            if found is not None:
                return found
            if (found := await asyncio.shield(self._asking(folder, key_prefix, name))) is not None:
                return found

    def _asking(self, folder: Folder, key_prefix: str, name: str) -> "asyncio.Task[Found | None]":
        """The one request for a name that is under way; it gives None if what it says was of before a change."""
        whole = join(folder.path, name)
        task = self._lookups.get(whole)
        if task is None:
            folder.misses += 1
            if folder.misses > LIST_AFTER_MISSES and folder.mount.ttl_s > 0:
                self._ensure_listing(folder.mount, folder.path, key_prefix)
            task = self._lookups[whole] = self._spawn(self._ask(folder, key_prefix, name), folder.mount)
            task.add_done_callback(lambda done: self._end_lookup(whole, done))
        return task

    async def _recall(self, folder: Folder, key_prefix: str, name: str) -> Found | None:
        """A lookup in what the names database knows."""
        await self._recall_folder(folder, key_prefix)
        if isinstance(folder.listing, StoredListing) and folder.left_s(self._clock.monotonic()) >= 0:
            with contextlib.suppress(Unavailable):  # lost: the store is asked
                await folder.listing.fetch(name)
        return folder.find(name, self._clock.monotonic())

    async def _recall_folder(self, folder: Folder, key_prefix: str) -> None:
        """Let the names database tell what it knows of a folder, once for all who ask."""
        if folder.was_recalled or folder.mount.ttl_s <= 0:
            return
        task = self._recalls.get(folder.path)
        if task is None:
            task = self._recalls[folder.path] = self._spawn(self._learn_kept(folder, key_prefix), folder.mount)
            task.add_done_callback(lambda done: self._end_recall(folder.path, done))
        await asyncio.shield(task)

    def _end_recall(self, path: str, task: asyncio.Task[None]) -> None:
        if self._recalls.get(path) is task:
            del self._recalls[path]

    async def _learn_kept(self, folder: Folder, key_prefix: str) -> None:
        began = next(self._turns)
        listing = await self.names.recall(folder.mount, folder.path, key_prefix)
        if began < self._forgotten_turn:
            return
        folder.was_recalled = True
        if listing is not None:
            folder.learn_listing(listing)
            self.folders.trim()

    def _end_lookup(self, path: str, task: "asyncio.Task[Found | None]") -> None:
        if self._lookups.get(path) is task:  # else it is forgotten, and another one runs
            del self._lookups[path]

    def _spawn(self, work: Coroutine[None, None, Answer], mount: Mount) -> asyncio.Task[Answer]:
        task = asyncio.create_task(work, name=f"metadata of {mount.path}")
        self._tasks[task] = mount
        task.add_done_callback(self._end_task)
        return task

    def _end_task(self, task: asyncio.Task[Any]) -> None:
        del self._tasks[task]
        if not task.cancelled():
            task.exception()  # told to those who wait; perhaps nobody does any more

    async def _ask(self, folder: Folder, key_prefix: str, name: str) -> Found | None:
        began = self.moment()
        find = self._stat if folder.mount.store.capabilities.folders else self._head_and_list
        entry = await find(folder, key_prefix, name)
        if self._lookups.get(join(folder.path, name)) is not asyncio.current_task():
            return None  # we have changed, doubted or forgotten it meanwhile
        folder.learn(name, Known(entry, began))
        self.folders.trim()
        return Found(entry, max(0.0, folder.mount.ttl_s - (self._clock.monotonic() - began.at)))

    async def _head_and_list(self, folder: Folder, key_prefix: str, name: str) -> Entry | None:
        below = f"{key_prefix}{name}/"
        answers = await asyncio.gather(
            self._head(folder, key_prefix, name),
            self._first_page(folder.mount, below),
            return_exceptions=True,
        )
        file, page = answers
        if isinstance(file, BaseException):
            raise file
        if isinstance(page, BaseException):
            raise page
        if page is None:
            return file
        meta = page.folder_metas.get(below) or await self._marker(folder.mount, below)
        return folder_entry(join(folder.path, name), folder.mount, meta)

    async def _stat(self, folder: Folder, key_prefix: str, name: str) -> Entry | None:
        self.store_requests += 1
        store = cast(FolderStore, folder.mount.store)
        try:
            meta = await self.answer(folder.mount, store.stat(key_prefix + name))
        except NotFound:
            return None
        path = join(folder.path, name)
        if isinstance(meta, ObjectMeta):
            return file_entry(path, folder.mount, meta)
        return folder_entry(path, folder.mount, meta)

    async def _head(self, folder: Folder, key_prefix: str, name: str) -> FileEntry | None:
        try:
            meta = await self._ask_head(folder.mount, key_prefix + name)
        except NotFound:
            return None
        return file_entry(join(folder.path, name), folder.mount, meta)

    async def _marker(self, mount: Mount, prefix: str) -> FolderMeta | None:
        """What the object of a folder says of it, where listings do not."""
        if not is_silent(mount):
            return None
        try:
            meta = await self._ask_head(mount, prefix)
        except NotFound:
            return None
        return FolderMeta(meta.mtime_ns, meta.posix)

    async def _ask_head(self, mount: Mount, key: str) -> ObjectMeta:
        self.store_requests += 1
        return await self.answer(mount, mount.store.head(key))

    async def _first_page(self, mount: Mount, prefix: str) -> ListPage | None:
        """The first page of a folder; None if there is no such folder."""
        async with contextlib.aclosing(self.pages(mount, prefix)) as pages:
            page = await anext(pages, None)
        return page if page is not None and (page.objects or page.folders) else None

    async def listing(self, mount: Mount, path: str, key_prefix: str) -> Listing:
        """The folder's entries: those known if they are young enough, else as the store sends them."""
        folder = self.folders.touch(path, mount)
        if not folder.is_listed(self._clock.monotonic()):
            await self._recall_folder(folder, key_prefix)
        self._look_ahead(mount, path, key_prefix)
        if folder.is_listed(self._clock.monotonic()):
            return folder.as_listing()
        listing = self._ensure_listing(mount, path, key_prefix)
        self._wanted.add(listing)
        return listing

    def _look_ahead(self, mount: Mount, path: str, key_prefix: str) -> None:
        """Ask for the listings that a walk, of which this folder seems to be a step, will want next."""
        above, name = split(path)
        known = self.folders.get(above)
        if path == mount.path or known is None or known.mount is not mount or known.listing is None:
            return
        for other in self._walks.opened(known.listing, name):
            self._spawn(self._list_ahead(mount, join(above, other), f"{known.listing.prefix}{other}/"), mount)

    async def _list_ahead(self, mount: Mount, path: str, key_prefix: str) -> None:
        folder = self.folders.touch(path, mount)
        if not folder.is_listed(self._clock.monotonic()):
            await self._recall_folder(folder, key_prefix)
        if mount.ttl_s > 0 and not folder.is_listed(self._clock.monotonic()):
            self._ensure_listing(mount, path, key_prefix)

    def _ensure_listing(self, mount: Mount, path: str, key_prefix: str) -> Listing:
        running = self._listings.get(path)
        if running is not None and running.mount is mount:
            began = running.listing.began.at
            if mount.left_s(began, self._clock.monotonic()) >= 0:  # else it may not have seen the latest change
                return running.listing
        listing = Listing(path, mount, key_prefix, began=self.moment())
        task = self._spawn(self._list(listing, mount), mount)
        self._listings[path] = _Running(mount, listing, task)
        task.add_done_callback(lambda _: self._end_listing(listing, _given_up(listing)))  # unless it has ended
        return listing

    def _end_listing(self, listing: Listing, error: FsError | None) -> _Running | None:
        """Nobody joins it any more, and those who wait are told; None if it was forgotten, or has ended before."""
        running = self._listings.get(listing.path)
        if running is not None and running.listing is listing:
            del self._listings[listing.path]
        else:
            running = None  # a refresh may have begun another one
        self._wanted.discard(listing)
        if not listing.done:
            listing.finish(error)
        return running

    async def _list(self, listing: Listing, mount: Mount) -> None:
        try:
            async with contextlib.aclosing(self.pages(mount, listing.prefix)) as pages:
                async for page in pages:
                    listing.add_page(await self._told.page(mount, page))
                    if len(listing) > self._listed_max and listing not in self._wanted:
                        # Too large to list for the sake of lookups alone.
                        self.folders.touch(listing.path, mount).misses = -LIST_AGAIN_MISSES
                        self._end_listing(listing, _given_up(listing))
                        return
        except FsError as failed:
            self._end_listing(listing, failed)
            return
        running = self._end_listing(listing, None)
        if running is not None:  # else what it says may be of before a refresh
            self._learn(listing, is_kept=not running.is_overtaken)

    def _learn(self, listing: Listing, *, is_kept: bool) -> None:
        """Note a whole listing: in memory, and on disk; of one that is too large for memory, only there."""
        mount = listing.mount
        assert mount is not None
        if is_kept and mount.ttl_s > 0:
            self.names.save(listing)
        folder = self.folders.touch(listing.path, mount)
        folder.learn_listing(listing)
        if is_kept and len(listing) > self._listed_max:
            folder.shelve()
        self.folders.trim()

    async def pages(
        self, mount: Mount, key_prefix: str, *, recursive: bool = False, reads: bool = False
    ) -> AsyncGenerator[ListPage, None]:
        """The store's pages below a prefix, each within the deadline; `reads`: a reader waits for them."""
        pages = mount.store.list(key_prefix, recursive=recursive)
        self.store_requests += 1
        count = 0
        try:
            while True:
                with mount.traffic.waits_for_listing(self._clock.monotonic) if reads else contextlib.nullcontext():
                    page = await self.answer(mount, anext(pages, None))
                if page is None:
                    return
                count += 1
                self.store_requests += count > 1  # the first is counted above, and costs a request if it is empty too
                yield page
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()

    async def walk(
        self,
        mount: Mount,
        path: str,
        key_prefix: str,
        on_hidden: Callable[[int], None] = lambda _: None,
        on_folders: Callable[[list[FolderEntry]], None] = lambda _: None,
        *,
        reads: bool,
    ) -> AsyncGenerator[list[FileEntry], None]:
        """Every file below a folder, page by page; the listings of its folders are known afterwards.

        Args:
            on_hidden: told how many keys of a page no file name can show.
            on_folders: told, before each page, of folders in it that are objects themselves, as empty ones are.
            reads: a reader waits for it.
        """
        walked = Walked(mount, path, key_prefix, entries_max=self._listed_max, learn=self._learn_walked)
        began = page_began = self.moment()
        async with contextlib.aclosing(self.pages(mount, key_prefix, recursive=True, reads=reads)) as pages:
            async for page in pages:
                hidden = walked.hidden
                found = walked.add_page(await self._told.page(mount, page), page_began)
                if walked.hidden > hidden:
                    on_hidden(walked.hidden - hidden)
                on_folders(walked.folders)
                yield found
                page_began = self.moment()
        walked.finish(began)

    def _learn_walked(self, listing: Listing) -> None:
        if listing.began.turn > self._forgotten_turn:
            self._learn(listing, is_kept=listing.began.turn > self._changed_turn)

    async def answer(self, mount: Mount, call: Awaitable[Answer]) -> Answer:
        """What one call of the store returns, within the deadline.

        Raises:
            TimedOut: no answer came.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                return await call
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
            raise TimedOut(f"{mount.url}: no answer within {self._deadline_s:g} s", path=mount.path) from error

    def learn(self, mount: Mount, folder: str, name: str, entry: Entry | None) -> None:
        """Note what we did ourselves: a file written or removed."""
        self.folders.touch(folder, mount).learn(name, Known(entry, self._overtake(folder)))
        self._lookups.pop(join(folder, name), None)

    def learn_empty(self, mount: Mount, path: str, key_prefix: str, began: Moment) -> None:
        """Note that a folder held nothing at a moment: we have made it then."""
        if mount.ttl_s > 0:
            listing = Listing(path, mount, key_prefix, began=began)
            listing.finish()
            self._learn(listing, is_kept=True)

    def doubt(self, folder: str, name: str) -> None:
        """What is known of a name is out of date: the next lookup asks, and joins none that runs."""
        doubted = Known(None, self._overtake(folder), is_doubted=True)
        known = self.folders.get(folder)
        if known is not None:
            known.learn(name, doubted)
        self._lookups.pop(join(folder, name), None)

    def _overtake(self, folder: str) -> Moment:
        """Now: what the names database has of a folder, and what began before, is not kept on."""
        now = self.moment()
        self._changed_turn = now.turn
        self.names.drop(folder)
        if (running := self._listings.get(folder)) is not None:
            running.is_overtaken = True
        return now

    async def foresee(self, folder: str) -> None:
        """A name in a folder is about to change: a daemon that ends before we know of it must not remember the old."""
        self.names.drop(folder)
        await self.names.settle()

    async def settle(self) -> None:
        """Return when nothing that was forgotten or changed before this call can come back, not even by a crash."""
        await self.names.settle()

    def forget(self, path: str) -> None:
        """Forget everything at or below a path, answers under way included."""
        self.folders.forget(path)
        self.names.forget(path)
        self._forgotten_turn = next(self._turns)
        for running in [other for other in self._listings if is_within(other, path)]:
            del self._listings[running]
        for asked in [other for other in self._lookups if is_within(other, path)]:
            del self._lookups[asked]
        for recalled in [other for other in self._recalls if is_within(other, path)]:
            del self._recalls[recalled]

    async def end(self, mount: Mount) -> None:
        """Cancel what is asked of a mount's store: it is about to be closed."""
        await _cancel([task for task, other in self._tasks.items() if other is mount])

    async def close(self) -> None:
        """Cancel what is under way, and keep what is known."""
        await _cancel(list(self._tasks))
        await self.names.close()


def _given_up(listing: Listing) -> FsError:
    return Unavailable(f"the listing of {listing.path} was given up", path=listing.path)


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
