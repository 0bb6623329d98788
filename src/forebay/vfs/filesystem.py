"""The file system: one tree over all mounts, read through the cache.  Frontends know only this.

Life of a read: `lookup` (or `peek`, from memory) gives an entry, which is one version of a file; `open` gives an
`OpenFile` on the cached bytes of that version; its `read_now` answers what is here, `read` asks the store for what
is not, and the rest of a window or of the folder follows in the background.

*Callers*: frontends and the admin API, on the daemon's loop.  Plain methods never wait; the FUSE loop calls them
inline.  *Locks*: none.  *Invariants*: no path outside a mount's prefix is ever asked of a store; an entry's bytes
are of its version, or an error.
"""

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from functools import partial

import structlog

from forebay import paths
from forebay.cache.cache import Cache
from forebay.cache.cachedfile import CachedFile, Source
from forebay.cache.policy import Dataset
from forebay.cache.throttle import background_share
from forebay.clock import Clock
from forebay.config.settings import Settings
from forebay.errors import AlreadyExists, Busy, FsError, Invalid, NotADirectory, NotFound
from forebay.stores.registry import open_store
from forebay.types import Buffer, ByteRange
from forebay.units import MIB
from forebay.vfs.attributes import ATTRIBUTES_FILE, KeptAttributes
from forebay.vfs.blocks import row_of
from forebay.vfs.changes import Changes
from forebay.vfs.control import ControlDb
from forebay.vfs.drafts import AnyFile, Draft, DraftTable, is_draft
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, Mount, MountOptions
from forebay.vfs.journal import Journal
from forebay.vfs.keeping import Keeper
from forebay.vfs.links import Links, LocalFolders
from forebay.vfs.listing import Listing, Wait, name_of
from forebay.vfs.load import LoadEvent, load
from forebay.vfs.load_names import NamesEvent, load_names
from forebay.vfs.metadata import Metadata
from forebay.vfs.mounter import MountChanges, Mounter
from forebay.vfs.mounttable import top_folder
from forebay.vfs.openfile import OpenFile
from forebay.vfs.orders import Orders
from forebay.vfs.prefetch import Prefetcher
from forebay.vfs.removing import remove
from forebay.vfs.renames import Renames
from forebay.vfs.staging import Staging
from forebay.vfs.staying import Staying
from forebay.vfs.tree import OpenStore, Tree
from forebay.vfs.uploader import Uploader
from forebay.vfs.views import REFRESHED_WITHIN_S, View, shown
from forebay.vfs.writer import Writer

log = structlog.get_logger()

DRAFT_TTL_S = 1.0  # a name of a file that is written: long enough for what is done next
VIRTUAL_TTL_S = 60.0  # virtual folders change by our own hand only, and frontends are told
SCRATCH_BYTES = 2 * MIB  # the largest read that is answered inline; the kernel asks for 1 MiB at most


class FileSystem:
    """See the module."""

    def __init__(
        self, settings: Settings, control: ControlDb, cache: Cache, clock: Clock, *, open_store: OpenStore = open_store
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.monotonic = clock.monotonic
        self.kept = KeptAttributes(settings.home / ATTRIBUTES_FILE)
        self.tree = Tree(settings, control, clock, open_store, self.kept)
        self.cache = cache
        self.metadata = Metadata(settings, clock)
        self.prefetcher = Prefetcher(
            clock,
            list_folder=self.open_folder,
            look_up=self.look_up,
            is_cached=self.is_cached,
            fetch=partial(self.fetch, is_load=False),
        )
        self.orders = Orders(self, window_max=settings.readahead_bytes, memory_bytes=settings.memory_bytes // 4)
        self.on_change: list[Callable[[str, bool], None]] = []
        self.views: list[View] = []  # of kernel mounts
        self.local_folders: LocalFolders = tuple  # who shows some, says where
        self.links = Links(self)
        self.on_settle: list[Callable[[str, str, FileEntry], None]] = []  # path and version of a draft, its new version
        self.writer = Writer(self)
        self.staying = Staying(self)
        self.drafts = DraftTable()
        self.staging = Staging(settings.writes_folder / "files", clock)
        self.journal = Journal(settings.writes_folder / "journal", clock=clock)
        self.uploader = Uploader(self, self.drafts, self.staging, self.journal, clock)
        self.renames = Renames(control, self.metadata)
        self.renames.on_resumed = self.tell
        self.changes = Changes(self, self.drafts, self.staging, self.uploader, self.renames)
        self.mounter = Mounter(self)
        self.keeper = Keeper(self.tree, cache)
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.deadline_s = settings.store_deadline_s

    # ------------------------------------------------------------------ life

    def restore(self) -> None:
        """Bring back the tree as it was kept, and what was written and not sent; no store is asked."""
        self.tree.restore()
        self.cache.pins = self.tree.pins()
        self.uploader.recover(self.tree)

    def start(self) -> None:
        """Begin to finish what an earlier daemon left, renames, then uploads; and to look what may leave the cache."""
        self.keeper.start()
        self.uploader.start(self.renames.resume(list(self.mounts)))

    async def close(self) -> None:
        """Stop background work, keep what is not in the stores yet, save the cache's index, and close the stores."""
        await self.keeper.close()
        await self.orders.close()
        await self.prefetcher.close()
        self.changes.close()
        await self.uploader.close()
        await self.journal.close()
        await self.metadata.close()
        await self.cache.close()
        await self.mounter.close()
        await self.kept.close()
        for mount in self.tree.mounts:
            with contextlib.suppress(FsError):
                await mount.store.close()

    def tell(self, path: str, *, below: bool = True) -> None:
        """Tell frontends that what is at a path, and all `below` it, may have changed."""
        for told in self.on_change:
            told(path, below)

    # ------------------------------------------------------------------ names

    def peek(self, folder: str, name: str) -> Found | None:
        """A lookup from memory, if it is known and still within its promise; None: use `lookup`."""
        overlay = self.tree.overlay(folder)
        if overlay is not None and name in overlay:
            return Found(overlay[name], VIRTUAL_TTL_S)
        if self.tree.is_virtual(folder):
            return Found(None, VIRTUAL_TTL_S)
        draft = self.drafts.in_folder(folder).get(name)
        if draft is not None:
            return Found(draft.entry(), DRAFT_TTL_S)
        if name in self.uploader.leaving.in_folder(folder):
            return Found(None, DRAFT_TTL_S)
        return self.metadata.peek(folder, name)

    async def lookup(self, folder: str, name: str, *, ahead: bool = False) -> Found:
        """`name` in a folder; `Found.entry` is None if there is nothing of that name.

        Args:
            folder: a normal path.
            name: any.
            ahead: no reader waits for it.

        Raises:
            FsError: the store fails.
        """
        found = self.peek(folder, name)
        if found is not None:
            return found
        mount, prefix = self.tree.folder_place(folder)
        if mount is None:
            return Found(None, VIRTUAL_TTL_S)
        if name_of(prefix + name, prefix) != name:
            return Found(None, mount.ttl_s)
        if not name.isprintable() and not mount.store.capabilities.undecodable_keys and not paths.is_utf8(name):
            return Found(None, mount.ttl_s)
        with nullcontext() if ahead else mount.traffic.waits_for_name(self.monotonic):
            return await self.metadata.lookup(mount, folder, prefix, name)

    async def stat(self, path: str, *, ahead: bool = False) -> Entry:
        """The entry at a normal path; `ahead` as in `lookup`.

        Raises:
            NotFound: nothing is there.
        """
        if path == "/":
            return FolderEntry("/", None, self._clock.time_ns())
        folder, name = paths.split(path)
        entry = (await self.lookup(folder, name, ahead=ahead)).entry
        if entry is None:
            raise NotFound(f"no such file or folder: {path}", path=path)
        return entry

    async def open_folder(self, path: str, *, reads: bool = False) -> Listing:
        """A folder's entries in order; a large folder's come while its pages do.

        Args:
            path: a normal path.
            reads: a reader waits for it.

        Raises:
            NotFound, NotADirectory: the path is no folder.
        """
        is_rooted = self.tree.is_virtual(path) or self.tree.mount_at(path) is not None
        if not is_rooted and isinstance(await self.stat(path), FileEntry):
            raise NotADirectory(f"{path} is a file, not a folder", path=path)
        mount, prefix = self.tree.folder_place(path)
        overlay: dict[str, Entry] = {**(self.tree.overlay(path) or {})}
        overlay |= {name: draft.entry() for name, draft in self.drafts.in_folder(path).items()}
        leaving = frozenset(self.uploader.leaving.in_folder(path))
        if mount is not None and not overlay and not leaving:
            return await self.metadata.listing(mount, path, prefix)
        listing = Listing(path, mount, prefix, fixed=sorted(overlay.items()))
        if mount is not None:
            source = await self.metadata.listing(mount, path, prefix)
            await self._merge(listing, source, without=leaving, wait=source.counted(self.monotonic) if reads else None)
        listing.finish()
        return listing

    @staticmethod
    async def _merge(into: Listing, listing: Listing, *, without: Collection[str], wait: Wait | None) -> None:
        async for some in listing.batches(wait=wait):
            into.add_rows([row_of(name, entry) for name, entry in some if name not in without])
        into.hidden = listing.hidden

    def believed_s(self, listing: Listing) -> float | None:
        """How long every entry of an open folder may be believed, seconds; None if each must be looked up."""
        return self.metadata.believed_s(listing)

    async def walk(
        self,
        path: str,
        *,
        reads: bool = False,
        on_hidden: Callable[[int], None] = lambda _: None,
        on_folders: Callable[[list[FolderEntry]], None] = lambda _: None,
    ) -> AsyncIterator[list[FileEntry]]:
        """Every file at or below a path, page by page.

        Args:
            reads: a reader waits for it.
            on_hidden: told how many keys of a page no file name can show.
            on_folders: told, before each page, of folders in it that are objects themselves, as empty ones are.

        Raises:
            NotFound: nothing is at the path.
        """
        entry = await self.stat(path)
        if isinstance(entry, FileEntry):
            yield [entry]
            return
        mount, prefix = self.tree.folder_place(path)
        if drafts := [draft for draft in self.drafts.below(path) if draft.mount is mount]:
            yield [draft.entry() for draft in drafts]
        told = {draft.path for draft in drafts}  # by now they may have become versions, which the store lists
        told |= self.uploader.leaving.below(path)
        inner = [other for other in self.tree.below(path) if other is not mount]
        if mount is not None:

            def is_shown(entry: Entry) -> bool:
                return not any(paths.is_within(entry.path, other.path) for other in inner)

            def tell_folders(folders: list[FolderEntry]) -> None:
                on_folders([folder for folder in folders if is_shown(folder)])

            pages = self.metadata.walk(mount, path, prefix, on_hidden, tell_folders, reads=reads)
            async with contextlib.aclosing(pages):
                async for files in pages:
                    shown = [file for file in files if file.path not in told] if told else files
                    yield [file for file in shown if is_shown(file)] if inner else shown
        for other in inner:
            if self.tree.locate(paths.split(other.path)[0]).mount in (mount, None):
                async for below in self.walk(other.path, reads=reads, on_hidden=on_hidden, on_folders=on_folders):
                    yield below

    def hidden(self, path: str) -> int:
        """How many keys of a listed folder no file name can show."""
        folder = self.metadata.folders.get(path)
        return 0 if folder is None or folder.listing is None else folder.listing.hidden

    # ------------------------------------------------------------------ bytes

    def source(self, entry: FileEntry) -> Source:
        """Where the cache finds an entry's bytes."""
        mount = entry.mount
        dataset = self.dataset(mount, entry.key)
        policy = mount.settings.policy or self._settings.cache_policy
        quota = mount.settings.quota_bytes
        return Source(mount.store, entry.key, entry.size, entry.version, dataset, policy, mount.traffic, quota)

    def dataset(self, mount: Mount, key: str) -> Dataset:
        """On whose account a key is cached."""
        return Dataset(mount.place, top_folder(mount, key))

    def cached(self, entry: FileEntry) -> CachedFile:
        """The cached file of an entry, acquired: release it when done."""
        known = self.cache.open_known(entry.mount.store, entry.key, entry.version)
        return known or self.cache.open(self.source(entry))

    def open_version(self, entry: FileEntry) -> OpenFile:
        """Open one version in a store for reading; no I/O.  The caller closes it."""
        file = self.cached(entry)
        entry.mount.open_files += 1
        traffic = entry.mount.traffic
        if file.complete:
            traffic.hits += 1
        else:
            traffic.misses += 1
        traffic.opened.add((entry.key, entry.version), entry.size)
        is_announced = self.orders.jobs and self.orders.opened(file)
        if self._settings.prefetch and not is_announced:
            self.prefetcher.opened(entry)
        return OpenFile(self, entry, file)

    def open(self, entry: FileEntry) -> AnyFile:
        """Open what an entry's path shows now for reading: what is being written there, or its version."""
        draft = self.draft_of(entry) or self.drafts.find(entry.path)
        return self.open_version(entry) if draft is None else self.changes.opened(draft, os.O_RDONLY)

    def draft_of(self, entry: Entry) -> Draft | None:
        """The draft that an entry is of, whatever has become of its name; None if it is no draft any more."""
        return self.drafts.of(entry) if isinstance(entry, FileEntry) else None

    def now_ns(self) -> int:
        """The time, nanoseconds since 1970."""
        return self._clock.time_ns()

    def settled(self, draft: Draft, entry: FileEntry) -> None:
        """A draft has become a version (uploader.Host)."""
        for told in self.on_settle:
            told(draft.path, draft.version, entry)

    async def learn_file(self, path: str, entry: FileEntry | None, *, told: bool = True) -> None:
        """A path shows that file from now on, known in a way that outlives a crash (uploader.Host)."""
        mount = self.tree.locate(path).mount
        assert mount is not None
        await self.writer.learn(mount, path, entry, alone=entry is None, told=told)

    async def settle_attributes(self, mount: Mount) -> None:
        """Return when what is kept of files of a mount is on the disk (storing.Host)."""
        await self.kept.settle(mount.store.location)

    async def foresee(self, path: str) -> None:
        """What a path shows is about to change (uploader.Host)."""
        await self.metadata.foresee(paths.split(path)[0])

    async def learn_folder(self, path: str, entry: FolderEntry | None) -> None:
        """A path shows that folder from now on, or none (changes.Host)."""
        mount = self.tree.locate(path).mount
        assert mount is not None
        self.metadata.learn(mount, *paths.split(path), entry)
        await self.metadata.settle()

    def reopen(self, entry: FileEntry, file: CachedFile, local_id: int) -> bool:
        """Open a file that was closed once more, if all of it is cached still (openfile.Host)."""
        if not self.cache.reopen(file, local_id):
            return False
        entry.mount.open_files += 1
        self.opened_again(entry, file)
        return True

    def opened_again(self, entry: FileEntry, file: CachedFile) -> None:
        """A file is opened once more while it is open, or after it was closed (openfile.Host)."""
        if self.orders.jobs:
            self.orders.opened(file)
        if self.prefetcher.is_running:
            self.prefetcher.opened(entry)

    def read_missed(self, entry: FileEntry) -> None:
        """A reader had to wait for the store (openfile.Host)."""
        if self._settings.prefetch and not self.orders.covers(entry):
            self.prefetcher.missed(entry)

    def went_stale(self, entry: FileEntry) -> None:
        """The store no longer has this version (openfile.Host): the next lookup asks again."""
        folder, name = paths.split(entry.path)
        self.metadata.doubt(folder, name)
        self.tell(entry.path, below=False)

    def look_up(self, entries: Iterable[FileEntry]) -> None:
        """Have the cache look for files that will be opened soon, all at once."""
        self.cache.look_up(self.source(entry) for entry in entries if entry.size)

    def cached_pages(self, entry: FileEntry) -> int:
        """Which pages of a version are cached, as a mask (storing.Host)."""
        file = self.cache.find(self.source(entry))
        return 0 if file is None else file.stored.residency.mask

    def is_cached(self, entry: FileEntry) -> bool:
        """Is the whole file in the cache?"""
        return self.residency(entry) == entry.size

    def residency(self, entry: FileEntry) -> int:
        """Bytes of this version in the cache."""
        if is_draft(entry):
            return entry.size
        return self.cache.residency(entry.mount.store, entry.key, entry.version, entry.size)

    async def fetch(self, entry: FileEntry, *, is_load: bool = True) -> None:
        """Bring one file into the cache, if it is not there; `is_load` if nobody is about to read it.

        Raises:
            NoSpace: the cache does not admit it.
            FsError: the store fails.
        """
        if entry.size == 0 or is_draft(entry):
            return
        file = self.cached(entry)
        try:
            if not file.complete:
                await file.fetch_all(entry.mount.store, is_load=is_load)
        finally:
            file.release()

    def stream_past_cache(self, entry: FileEntry, span: ByteRange) -> AsyncGenerator[Buffer, None]:
        """The bytes of a version as its store has them; see `Cache.stream_past`."""
        return self.cache.stream_past(self.source(entry), span)

    def load(self, path: str, *, parallel: int | None = None) -> AsyncIterator[LoadEvent]:
        """Bring everything below a path into the cache; see `forebay.vfs.load.load`."""
        parallel = parallel or background_share(self._settings.store_requests)
        return load(self.walk(path), self.fetch, parallel=parallel, look_up=self.look_up)

    async def load_names(self, path: str, *, parallel: int | None = None) -> AsyncIterator[NamesEvent]:
        """Learn and keep every name at and below a path; see `forebay.vfs.load_names`.

        Raises:
            NotFound, NotADirectory: the path is no folder.
            Invalid: its mount keeps no names.
        """
        mounts = [mount for mount in (self.tree.folder_place(path).mount, *self.tree.below(path)) if mount is not None]
        if mounts and all(mount.ttl_s <= 0 for mount in mounts):
            raise Invalid(
                f"{path} asks its store at every use, so there are no names to keep; "
                "mount it with --freshness ttl or immutable",
                path=path,
            )
        await self.open_folder(path)
        parallel = parallel or background_share(self._settings.store_requests)
        async with contextlib.aclosing(load_names(path, self.open_folder, parallel=parallel)) as events:
            async for event in events:
                yield event
        await self.metadata.settle()

    async def free(self, path: str) -> tuple[int, int]:
        """Drop what is cached at or below a path, unless pinned or open; return files and bytes."""
        files = size = 0
        is_folder = isinstance(await self.stat(path), FolderEntry)
        for location, prefix in self.tree.keys_of(path + "/" if is_folder else path):
            more_files, more_bytes = await self.cache.free(location, prefix)
            files, size = files + more_files, size + more_bytes
        return files, size

    async def pin(self, path: str) -> None:
        """Never evict what is at or below a path.

        Raises:
            NotFound: nothing is there.
        """
        self.tree.add_pin(path, is_folder=isinstance(await self.stat(path), FolderEntry))
        self.cache.pins = self.tree.pins()

    async def unpin(self, path: str) -> None:
        """Take a pin away.

        Raises:
            NotFound: the path is not pinned itself.
        """
        self.tree.remove_pin(path)
        self.cache.pins = self.tree.pins()

    def statfs(self) -> tuple[int, int]:
        """Capacity and free bytes of the cache."""
        capacity = sum(disk.capacity_bytes() for disk in self.cache.disks)
        return capacity, max(0, capacity - sum(disk.used_bytes for disk in self.cache.disks))

    async def refresh(self, path: str) -> None:
        """Forget what is known of names and versions at or below a path, and tell frontends.

        Raises:
            NotFound: nothing is at the path any more.
        """
        folder, name = paths.split(path)
        self.metadata.forget(path)
        self.metadata.doubt(folder, name)
        self.tell(path)
        await self.metadata.settle()
        await shown(self.views, within_s=REFRESHED_WITHIN_S)
        await self.stat(path)

    # ------------------------------------------------------------------ the shape of the tree

    @property
    def mounts(self) -> Sequence[Mount]:
        """Every mount, by path."""
        return self.tree.mounts

    async def mkdir(self, path: str, *, parents: bool = False) -> None:
        """Make a virtual folder, or an empty folder marker inside a mount.

        Raises:
            AlreadyExists: the path is taken.
            NotFound: the folder above is missing, and not `parents`.
            ReadOnly: inside a mount that takes no writes.
        """
        if path == "/":
            if parents:
                return
            raise AlreadyExists("/ exists already", path=path)
        folder, name = paths.split(path)
        mount = self.tree.locate(path).mount
        if mount is not None:
            await self.changes.rest(path)
        if parents or mount is None:
            await self.has_folder(folder, parents)
        if mount is not None:
            await self.changes.mkdir(path, is_wanted=parents)
        elif (entry := (await self.lookup(folder, name)).entry) is None:
            self.tree.add_folder(path)
        elif not (parents and isinstance(entry, FolderEntry)):
            raise AlreadyExists(f"{path} exists already", path=path)
        self.tell(path)

    async def has_folder(self, path: str, parents: bool) -> bool:
        """Check the folder above a new name; make it if `parents`."""
        try:
            entry = await self.stat(path)
        except NotFound as error:
            if parents:
                await self.mkdir(path, parents=True)
                return True
            raise NotFound(f"{path} does not exist; make it first: forebay fs mkdir -p {path}", path=path) from error
        if isinstance(entry, FileEntry):
            raise NotADirectory(f"{path} is a file; nothing can lie below it", path=path)
        return True

    async def rmdir(self, path: str) -> None:
        """Remove an empty folder.

        Raises:
            NotFound, NotADirectory, NotEmpty, Busy: it is not an empty folder, or a mount.
        """
        if self.tree.mount_at(path) is not None:
            raise Busy(f"{path} is a mount; use `forebay fs unmount`", path=path)
        if self.tree.is_virtual(path):
            self.tree.remove_folder(path)
        else:
            await self.changes.rmdir(path)
        self.tell(path)

    async def mount(self, path: str, url: str, options: MountOptions) -> Mount:
        """Show a store's prefix at a path, after trying it.

        Raises:
            Invalid: the URL or an option is wrong.
            AlreadyExists, NotEmpty, NotFound, NotADirectory: the path cannot take a mount.
            Denied, NotFound, Unavailable, ...: the store says so.
        """
        return await self.mounter.mount(path, url, options)

    async def update_mount(self, path: str, changes: MountChanges) -> Mount:
        """Change how a store is mounted, without taking it away; see `forebay.vfs.mounter`."""
        mount = await self.mounter.update(path, changes)
        await self.keeper.look()
        return mount

    async def unmount(self, path: str) -> None:
        """Take a mount away; what it cached stays, for the next mount of the same place.

        Raises:
            NotFound: no mount is there.
            Busy: files of it are open, or something is mounted inside it.
        """
        await self.mounter.unmount(path)

    # ------------------------------------------------------------------ writing

    async def write(self, path: str, chunks: AsyncIterator[Buffer], *, overwrite: bool = True) -> FileEntry:
        """Store a whole file; it is visible whole or not at all.  See `forebay.vfs.changes`."""
        return await self.changes.write_whole(path, chunks, overwrite=overwrite)

    async def remove(self, path: str, *, recursive: bool = False, force: bool = False) -> int:
        """Remove a file, or a folder with all below it; see `forebay.vfs.removing.remove`."""
        removed = await remove(self, path, recursive=recursive, force=force)
        self.tell(path)
        return removed

    def counters(self) -> dict[str, int]:
        """What has happened since the start; every number only grows."""
        return {
            **self.tree.ledger.counts(),
            **self.cache.counters(),
            "metadata_requests": self.metadata.store_requests,
            "names_known": len(self.metadata.folders),
        }
