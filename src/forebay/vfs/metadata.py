"""Names and versions: answers lookups and listings from memory, or asks the store once for all who wait.

A lookup in a folder that is not known costs one HEAD and one LIST of one page, at the same time; after a few of
them the folder is listed whole, and every later lookup in it costs nothing.

*Callers*: the file system, on the loop.  *Locks*: none.  *Awaits*: the store, each request within the deadline.
*Invariants*: one request per question at a time; what is told carries the age of the request that began it, so an
answer is never believed longer than the mount promises.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from forebay.clock import Clock
from forebay.config.settings import Settings
from forebay.errors import FsError, NotADirectory, NotFound, TimedOut
from forebay.paths import join
from forebay.stores.base import ListPage
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, Mount
from forebay.vfs.folders import Folder, FolderCache, Listing

LIST_AFTER_MISSES = 3  # lookups in one folder that ask the store before it is listed whole
Answer = TypeVar("Answer")


class Metadata:
    """See the module."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._deadline_s = settings.store_deadline_s
        self._clock = clock
        self.folders = FolderCache(settings.metadata_entries)
        self._listings: dict[str, tuple[Mount, Listing]] = {}
        self._lookups: dict[str, asyncio.Task[Found]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.store_requests = 0  # HEADs and pages of listings asked for

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
        folder.misses += 1
        if folder.misses > LIST_AFTER_MISSES and mount.ttl_s > 0:
            self._ensure_listing(mount, path, key_prefix)
        whole = join(path, name)
        task = self._lookups.get(whole)
        if task is None:
            task = asyncio.create_task(self._ask(folder, key_prefix, name), name=f"lookup {whole}")
            self._lookups[whole] = task
            task.add_done_callback(lambda _: self._lookups.pop(whole, None))
        return await asyncio.shield(task)

    async def _ask(self, folder: Folder, key_prefix: str, name: str) -> Found:
        began_at = self._clock.monotonic()
        head = asyncio.ensure_future(self._head(folder, key_prefix, name))
        try:
            is_folder = await self._has_keys(folder.mount, f"{key_prefix}{name}/")
            file = await head
        finally:
            head.cancel()
        path = join(folder.path, name)
        entry: Entry | None = FolderEntry(path, folder.mount, folder.mount.mounted_ns) if is_folder else file
        folder.learn(name, entry, began_at)
        self.folders.trim()
        return Found(entry, max(0.0, folder.mount.ttl_s - (self._clock.monotonic() - began_at)))

    async def _head(self, folder: Folder, key_prefix: str, name: str) -> FileEntry | None:
        self.store_requests += 1
        key = key_prefix + name
        try:
            meta = await self._answer(folder.mount, folder.mount.store.head(key))
        except NotFound:
            return None
        return FileEntry(join(folder.path, name), folder.mount, key, meta.size, meta.mtime_ns, meta.version)

    async def _has_keys(self, mount: Mount, prefix: str) -> bool:
        pages = mount.store.list(prefix)
        self.store_requests += 1
        page = await self._answer(mount, anext(pages, None))
        return page is not None and bool(page.objects or page.folders)

    def listing(self, mount: Mount, path: str, key_prefix: str) -> Listing:
        """The folder's entries: those known if they are young enough, else as the store sends them."""
        folder = self.folders.get(path)
        if folder is not None and folder.mount is mount and folder.is_listed(self._clock.monotonic()):
            self.folders.touch(path, mount)
            return folder.as_listing()
        return self._ensure_listing(mount, path, key_prefix)

    def _ensure_listing(self, mount: Mount, path: str, key_prefix: str) -> Listing:
        running = self._listings.get(path)
        if running is not None and running[0] is mount:
            return running[1]
        listing = Listing(path, mount)
        self._listings[path] = (mount, listing)
        task = asyncio.create_task(self._list(listing, mount, key_prefix), name=f"list {path}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return listing

    async def _list(self, listing: Listing, mount: Mount, key_prefix: str) -> None:
        began_at = self._clock.monotonic()
        base = listing.path.rstrip("/") + "/"
        error: FsError | None = TimedOut("the daemon is stopping")
        try:
            async for page in self.pages(mount, key_prefix):
                listing.add_page(page, key_prefix, base)
            error = None
        except FsError as failed:
            error = failed
        finally:
            if self._listings.get(listing.path) == (mount, listing):
                del self._listings[listing.path]  # a refresh may have begun another one
                if error is None:
                    self.folders.touch(listing.path, mount).learn_listing(listing, began_at)
                    self.folders.trim()
            listing.finish(error)

    async def pages(self, mount: Mount, key_prefix: str, *, recursive: bool = False) -> AsyncIterator[ListPage]:
        """The store's pages below a prefix, each within the deadline."""
        pages = mount.store.list(key_prefix, recursive=recursive)
        while True:
            page = await self._answer(mount, anext(pages, None))
            if page is None:
                return
            self.store_requests += 1
            yield page

    async def _answer(self, mount: Mount, call: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await call
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
            raise TimedOut(f"{mount.url}: no answer within {self._deadline_s:g} s") from error

    def learn(self, mount: Mount, folder: str, name: str, entry: Entry | None) -> None:
        """Note what we did ourselves: a file written or removed."""
        self.folders.touch(folder, mount).learn(name, entry, self._clock.monotonic())

    def doubt(self, folder: str, name: str) -> None:
        """The store said that what we know of a name is out of date."""
        known = self.folders.get(folder)
        if known is not None:
            known.doubt(name)

    def forget(self, path: str) -> None:
        """Forget everything at or below a path, listings under way included."""
        self.folders.forget(path)
        prefix = path.rstrip("/") + "/"
        for running in [other for other in self._listings if other == path or other.startswith(prefix)]:
            del self._listings[running]

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = [*self._tasks, *self._lookups.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def require_folder(found: Found, path: str) -> None:
    """Check that a lookup found a folder.

    Raises:
        NotFound, NotADirectory.
    """
    if found.entry is None:
        raise NotFound(f"no such file or folder: {path}", path=path)
    if isinstance(found.entry, FileEntry):
        raise NotADirectory(f"{path} is a file, not a folder", path=path)
