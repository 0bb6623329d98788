"""Mounting stores, changing how they are mounted, and taking them away.

*Callers*: the file system, on the loop.  *Awaits*: the store, within the deadline.  *Invariants*: a mount shows only
after its store has answered; a store is closed when nothing is under way through it any more.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from forebay import paths
from forebay.cache.cache import Cache
from forebay.errors import Busy, FsError, Invalid, NotADirectory, NotFound, TimedOut
from forebay.stores.base import Store
from forebay.vfs.drafts import DraftTable
from forebay.vfs.entries import FileEntry, Found, Mount, MountOptions
from forebay.vfs.metadata import Metadata
from forebay.vfs.prefetch import Prefetcher
from forebay.vfs.tree import Tree
from forebay.vfs.uploader import Uploader

log = structlog.get_logger()

QUIET_S, LOOK_S = 1.0, 0.02  # how long an unmount waits for what has just been closed, and how often it looks


class Host(Protocol):
    """What mounting asks of the file system."""

    tree: Tree
    metadata: Metadata
    cache: Cache
    prefetcher: Prefetcher
    drafts: DraftTable
    uploader: Uploader
    deadline_s: float

    async def lookup(self, folder: str, name: str) -> Found:
        """`name` in a folder."""
        ...

    async def has_folder(self, path: str, parents: bool) -> bool:
        """Check the folder above a new name; make it if `parents`."""
        ...

    def tell(self, path: str, *, below: bool = True) -> None:
        """Tell frontends that what is at a path, and all `below` it, may have changed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MountChanges:
    """What to change of a mount; None leaves it as it is."""

    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # to set; an empty value takes one away
    readonly: bool | None = None
    freshness: str | None = None
    ttl_s: float | None = None
    policy: str | None = None
    quota_bytes: int | None = None  # 0 takes it away
    cache_ttl_s: float | None = None  # 0 takes it away
    write_mode: str | None = None

    def apply(self, now: MountOptions) -> MountOptions:
        """The options of a mount with these changes made.

        Raises:
            Invalid: a time to live, for a mount whose freshness is another.
        """
        freshness = self.freshness or now.freshness
        if self.ttl_s is not None and freshness != "ttl":
            raise Invalid(f"a ttl means nothing with freshness {freshness}; add --freshness ttl")
        merged = dict(now.options) | dict(self.options)
        return replace(
            now,
            options=tuple((name, value) for name, value in merged.items() if value),
            readonly=now.readonly if self.readonly is None else self.readonly,
            freshness=freshness,
            ttl_s=now.ttl_s if self.ttl_s is None else self.ttl_s,
            policy=self.policy or now.policy,
            quota_bytes=now.quota_bytes if self.quota_bytes is None else self.quota_bytes or None,
            cache_ttl_s=now.cache_ttl_s if self.cache_ttl_s is None else self.cache_ttl_s or None,
            write_mode=self.write_mode or now.write_mode,
        )


class Mounter:
    """See the module."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._retiring: dict[Store, asyncio.Task[None]] = {}

    async def mount(self, path: str, url: str, options: MountOptions) -> Mount:
        """Show a store's prefix at a path, after trying it.

        Raises:
            Invalid: the URL or an option is wrong.
            AlreadyExists, NotEmpty, NotFound, NotADirectory: the path cannot take a mount.
            Denied, NotFound, Unavailable, ...: the store says so.
        """
        tree = self._host.tree
        mount = tree.make_mount(path, url, options)
        try:
            if not tree.is_virtual(path) and tree.mount_at(path) is None:
                await self._check_path(path)
            tree.check_mount(path)
            await self._probe(mount)
            self._host.metadata.forget(path)
            await self._host.metadata.settle()  # what an earlier mount knew here is not this one's to tell
            tree.add_mount(mount)
        except BaseException:
            await mount.store.close()
            raise
        self._forget(path)
        log.info("mount.added", path=path, url=url)
        return mount

    async def _check_path(self, path: str) -> None:
        folder, name = paths.split(path)
        await self._host.has_folder(folder, False)
        if isinstance((await self._host.lookup(folder, name)).entry, FileEntry):
            raise NotADirectory(f"{path} is a file; mount at a folder or at a new name", path=path)

    async def _probe(self, mount: Mount) -> None:
        try:
            async with asyncio.timeout(self._host.deadline_s):
                await mount.store.probe(mount.prefix)
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
            message = f"{mount.url}: no answer within {self._host.deadline_s:g} s; check its endpoint and the network"
            raise TimedOut(message, path=mount.path) from error

    async def update(self, path: str, changes: MountChanges) -> Mount:
        """Change how a store is mounted, after trying it; open files go on, and read by the new options.

        Raises:
            NotFound: no mount is there.
            Invalid: an option is wrong.
            Denied, NotFound, Unavailable, ...: the store says so; the mount stays as it was.
        """
        tree = self._host.tree
        mount = tree.mount_at(path)
        if mount is None:
            raise NotFound(f"{path} is not a mount; `forebay fs mounts` lists them", path=path)
        changed = tree.make_mount(path, mount.url, changes.apply(mount.settings))
        old = mount.store
        try:
            await self._probe(changed)
            tree.update_mount(mount, changed)  # the same object still: open files go on
        except BaseException:
            await changed.store.close()
            raise
        self._forget(path)
        await self._host.metadata.settle()
        if old is not mount.store:
            self._retiring[old] = asyncio.create_task(self._retire(old), name=f"retire a store of {path}")
        log.info("mount.updated", path=path, url=mount.url)
        return mount

    async def _retire(self, store: Store) -> None:
        """Close a store that is mounted no more, once nobody can be reading through it."""
        while True:
            await asyncio.sleep(self._host.deadline_s)  # every request that began before has ended
            if not self._host.cache.is_reading(store):
                break
        del self._retiring[store]
        await store.close()

    async def close(self) -> None:
        """Close the stores that were still needed by readers; no call may follow."""
        retiring, self._retiring = self._retiring, {}
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(*retiring.values(), return_exceptions=True)
        for store in retiring:
            await store.close()

    async def unmount(self, path: str) -> None:
        """Take a mount away; what it cached stays, for the next mount of the same place.

        Raises:
            NotFound: no mount is there.
            Busy: files of it are open or wait for their upload, or something is mounted inside it; what has just been
                closed, or sent, is waited for a moment.
        """
        host = self._host
        mount = host.tree.mount_at(path)
        if mount is not None:
            host.uploader.hurry()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET_S):
                    await self._until_quiet(mount)
            self._check_quiet(mount)
        mount = host.tree.remove_mount(path)
        self._forget(path)
        await host.prefetcher.forget(path)
        await host.metadata.end(mount)
        await host.metadata.settle()
        await host.cache.settle(mount.store)  # no call may follow a store's close
        await mount.store.close()
        log.info("mount.removed", path=path, url=mount.url)

    async def _until_quiet(self, mount: Mount) -> None:
        for pause_s in itertools.chain([0.0], itertools.repeat(LOOK_S)):
            await asyncio.sleep(pause_s)
            if not mount.open_files and await self._is_sent(mount):
                return

    async def _is_sent(self, mount: Mount) -> bool:
        """Has the store all that was written, and nothing that is to go?"""
        for draft in self._host.drafts.below(mount.path):
            draft.is_lingering = False  # nobody will open it any more
            with contextlib.suppress(FsError):
                await self._host.uploader.settle(draft)  # one whose upload has just ended is about to go
        return not self._host.drafts.below(mount.path) and not self._host.uploader.leaving.count_in(mount)

    def _check_quiet(self, mount: Mount) -> None:
        """Raise Busy if the store lacks what was written, or somebody has a file open: without its mount it is lost."""
        path = mount.path
        if mount.open_files:
            opened = "1 of its files is" if mount.open_files == 1 else f"{mount.open_files:,} of its files are"
            raise Busy(f"{path} is busy: {opened} open; end the programs that read or write there first", path=path)
        if count := len(self._host.drafts.below(path)):
            waiting = "1 file waits for its" if count == 1 else f"{count:,} files wait for their"
            raise Busy(f"{path} is busy: {waiting} upload: forebay fs flush {path}", path=path)
        if self._host.uploader.leaving.count_in(mount):
            message = f"{path} is busy: a file that was removed while it was uploaded is being removed from the store"
            raise Busy(f"{message}: forebay fs flush {path}", path=path)

    def _forget(self, path: str) -> None:
        self._host.metadata.forget(path)
        self._host.cache.pins = self._host.tree.pins()
        self._host.tell(path)
