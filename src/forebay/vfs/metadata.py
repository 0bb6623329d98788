"""Names and versions: answers lookups and listings from memory, or asks the store once for all who wait.

A lookup in a folder that is not known costs one HEAD and one LIST of one page, at the same time; after a few of
them the folder is listed whole, and every later lookup in it costs nothing.

*Callers*: the file system, on the loop.  *Locks*: none.  *Awaits*: the store, each request within the deadline.
*Invariants*: one request per question at a time; what is told carries the age of the request that began it, so an
answer is never believed longer than the mount promises.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar, cast

from forebay.clock import Clock
from forebay.config.settings import Settings
from forebay.errors import FsError, NotFound, TimedOut, Unavailable
from forebay.paths import is_within, join
from forebay.stores.base import FolderStore, ListPage
from forebay.types import ObjectMeta
from forebay.vfs.entries import Entry, FileEntry, Found, Mount, file_entry, folder_entry
from forebay.vfs.folders import Folder, FolderCache, Known, Listing, Moment
from forebay.vfs.walked import Walked

LIST_AFTER_MISSES = 3  # lookups in one folder that ask the store before it is listed whole
LIST_AGAIN_MISSES = 10_000  # more of them before a folder is listed that was too large
Answer = TypeVar("Answer")


class _Running(NamedTuple):
    """A listing under way."""

    mount: Mount
    listing: Listing
    task: asyncio.Task[None]


class Metadata:
    """See the module."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._deadline_s = settings.store_deadline_s
        self._listed_max = settings.metadata_entries // 2
        self._clock = clock
        self._turns = itertools.count(1)
        self._forgotten_turn = 0  # what began before it may be of before a refresh
        self.folders = FolderCache(settings.metadata_entries)
        self._listings: dict[str, _Running] = {}
        self._wanted: set[Listing] = set()  # of those, the ones that somebody asked for
        self._lookups: dict[str, asyncio.Task[Found]] = {}
        self._tasks: dict[asyncio.Task[Any], Mount] = {}
        self.store_requests = 0  # HEADs and pages of listings asked for

    def _moment(self) -> Moment:
        return Moment(self._clock.monotonic(), next(self._turns))

    def peek(self, path: str, name: str) -> Found | None:
        """A lookup in a mount's folder from memory, if it is known and young enough."""
        folder = self.folders.get(path)
        return None if folder is None else folder.find(name, self._clock.monotonic())

    async def lookup(self, mount: Mount, path: str, key_prefix: str, name: str) -> Found:
        """A lookup in the folder at `path`, whose keys start with `key_prefix`."""
        folder = self.folders.touch(path, mount)
        found = folder.find(name, self._clock.monotonic())
        if found is not None:
            return found
        whole = join(path, name)
        task = self._lookups.get(whole)
        if task is None:
            folder.misses += 1
            if folder.misses > LIST_AFTER_MISSES and mount.ttl_s > 0:
                self._ensure_listing(mount, path, key_prefix)
            task = self._lookups[whole] = self._spawn(self._ask(folder, key_prefix, name), mount)
            task.add_done_callback(lambda done: self._end_lookup(whole, done))
        return await asyncio.shield(task)

    def _end_lookup(self, path: str, task: asyncio.Task[Found]) -> None:
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

    async def _ask(self, folder: Folder, key_prefix: str, name: str) -> Found:
        began = self._moment()
        find = self._stat if folder.mount.store.capabilities.folders else self._head_and_list
        entry = await find(folder, key_prefix, name)
        folder.learn(name, Known(entry, began))
        self.folders.trim()
        return Found(entry, max(0.0, folder.mount.ttl_s - (self._clock.monotonic() - began.at)))

    async def _head_and_list(self, folder: Folder, key_prefix: str, name: str) -> Entry | None:
        answers = await asyncio.gather(
            self._head(folder, key_prefix, name),
            self._has_keys(folder.mount, f"{key_prefix}{name}/"),
            return_exceptions=True,
        )
        file, is_folder = answers
        if isinstance(file, BaseException):
            raise file
        if isinstance(is_folder, BaseException):
            raise is_folder
        return folder_entry(join(folder.path, name), folder.mount) if is_folder else file

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
        self.store_requests += 1
        key = key_prefix + name
        try:
            meta = await self.answer(folder.mount, folder.mount.store.head(key))
        except NotFound:
            return None
        return file_entry(join(folder.path, name), folder.mount, meta)

    async def _has_keys(self, mount: Mount, prefix: str) -> bool:
        async with contextlib.aclosing(self.pages(mount, prefix)) as pages:
            page = await anext(pages, None)
        return page is not None and bool(page.objects or page.folders)

    def listing(self, mount: Mount, path: str, key_prefix: str) -> Listing:
        """The folder's entries: those known if they are young enough, else as the store sends them."""
        folder = self.folders.get(path)
        if folder is not None and folder.mount is mount and folder.is_listed(self._clock.monotonic()):
            return folder.as_listing()
        listing = self._ensure_listing(mount, path, key_prefix)
        self._wanted.add(listing)
        return listing

    def _ensure_listing(self, mount: Mount, path: str, key_prefix: str) -> Listing:
        running = self._listings.get(path)
        if running is not None and running.mount is mount:
            return running.listing
        listing = Listing(path, mount)
        task = self._spawn(self._list(listing, mount, key_prefix), mount)
        self._listings[path] = _Running(mount, listing, task)
        task.add_done_callback(lambda _: self._end_listing(listing, _given_up(listing)))  # unless it has ended
        return listing

    def _end_listing(self, listing: Listing, error: FsError | None) -> bool:
        """Nobody joins it any more, and those who wait are told; False if it was forgotten, or has ended before."""
        running = self._listings.get(listing.path)
        is_current = running is not None and running.listing is listing  # a refresh may have begun another one
        if is_current:
            del self._listings[listing.path]
        self._wanted.discard(listing)
        if not listing.done:
            listing.finish(error)
        return is_current

    async def _list(self, listing: Listing, mount: Mount, key_prefix: str) -> None:
        began = self._moment()
        base = listing.path.rstrip("/") + "/"
        try:
            async with contextlib.aclosing(self.pages(mount, key_prefix)) as pages:
                async for page in pages:
                    listing.add_page(page, key_prefix, base)
                    if len(listing) > self._listed_max and listing not in self._wanted:
                        # Too large to keep for the sake of lookups alone.
                        self.folders.touch(listing.path, mount).misses = -LIST_AGAIN_MISSES
                        self._end_listing(listing, _given_up(listing))
                        return
        except FsError as failed:
            self._end_listing(listing, failed)
            return
        if self._end_listing(listing, None):  # else what it says may be of before a refresh
            self.folders.touch(listing.path, mount).learn_listing(listing, began)
            self.folders.trim()

    async def pages(self, mount: Mount, key_prefix: str, *, recursive: bool = False) -> AsyncGenerator[ListPage, None]:
        """The store's pages below a prefix, each within the deadline."""
        pages = mount.store.list(key_prefix, recursive=recursive)
        self.store_requests += 1
        count = 0
        try:
            while (page := await self.answer(mount, anext(pages, None))) is not None:
                count += 1
                self.store_requests += count > 1  # the first is counted above, and costs a request if it is empty too
                yield page
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()

    async def walk(
        self, mount: Mount, path: str, key_prefix: str, on_hidden: Callable[[int], None] | None = None
    ) -> AsyncGenerator[list[FileEntry], None]:
        """Every file below a folder, page by page; the listings of its folders are known afterwards.

        `on_hidden` is told how many keys of a page no file name can show.
        """
        walked = Walked(mount, path, key_prefix, entries_max=self._listed_max, learn=self._learn_walked)
        began = page_began = self._moment()
        async with contextlib.aclosing(self.pages(mount, key_prefix, recursive=True)) as pages:
            async for page in pages:
                hidden = walked.hidden
                found = walked.add_page(page, page_began)
                if on_hidden is not None and walked.hidden > hidden:
                    on_hidden(walked.hidden - hidden)
                yield found
                page_began = self._moment()
        walked.finish(began)

    def _learn_walked(self, listing: Listing, began: Moment) -> None:
        mount = listing.mount
        if mount is not None and began.turn > self._forgotten_turn:
            self.folders.touch(listing.path, mount).learn_listing(listing, began)
            self.folders.trim()

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
        self.folders.touch(folder, mount).learn(name, Known(entry, self._moment()))
        self._lookups.pop(join(folder, name), None)

    def doubt(self, folder: str, name: str) -> None:
        """What is known of a name is out of date: the next lookup asks, and joins none that runs."""
        known = self.folders.get(folder)
        if known is not None:
            known.learn(name, Known(None, self._moment(), is_doubted=True))
        self._lookups.pop(join(folder, name), None)

    def forget(self, path: str) -> None:
        """Forget everything at or below a path, answers under way included."""
        self.folders.forget(path)
        self._forgotten_turn = next(self._turns)
        for running in [other for other in self._listings if is_within(other, path)]:
            del self._listings[running]
        for asked in [other for other in self._lookups if is_within(other, path)]:
            del self._lookups[asked]

    async def end(self, mount: Mount) -> None:
        """Cancel what is asked of a mount's store: it is about to be closed."""
        await _cancel([task for task, other in self._tasks.items() if other is mount])

    async def close(self) -> None:
        """Cancel what is under way."""
        await _cancel(list(self._tasks))


def _given_up(listing: Listing) -> FsError:
    return Unavailable(f"the listing of {listing.path} was given up", path=listing.path)


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
