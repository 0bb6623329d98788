"""Removals and empty folders, straight to the store: what `forebay fs rm`, `mkdir` and `rmdir` need.

Acknowledged means that the store has it.  A file becomes visible whole or not at all.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Protocol

from forebay import paths
from forebay.errors import AlreadyExists, Busy, Invalid, IsADirectory, NotADirectory, NotEmpty, NotFound, ReadOnly
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Mount
from forebay.vfs.metadata import Metadata
from forebay.vfs.parallel import each
from forebay.vfs.tree import Tree

DELETES_MAX = 32  # under way at a time


class Host(Protocol):
    """What the writer asks of the file system."""

    tree: Tree
    metadata: Metadata

    async def stat(self, path: str) -> Entry:
        """The entry at a path, or NotFound."""
        ...

    def tell(self, path: str, *, below: bool = True) -> None:
        """Tell frontends that what is at a path, and all `below` it, may have changed."""
        ...


class Writer:
    """See the module."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def check_target(self, path: str, *, overwrite: bool) -> None:
        """Check that a file may be stored at a path.

        Raises:
            AlreadyExists, IsADirectory, NotADirectory.
        """
        await self._check_above(path)
        try:
            entry = await self._host.stat(path)
        except NotFound:
            return
        if isinstance(entry, FolderEntry):
            raise IsADirectory(f"{path} is a folder", path=path)
        if not overwrite:
            raise AlreadyExists(f"{path} exists already", path=path)

    async def _check_above(self, path: str) -> None:
        folder, _ = paths.split(path)
        while True:
            try:
                above = await self._host.stat(folder)
            except NotFound:
                folder, _ = paths.split(folder)  # object stores have no folders of their own: the key makes them
                continue
            if isinstance(above, FileEntry):
                raise NotADirectory(f"{folder} is a file; nothing can lie below it", path=path)
            return

    async def empty(self, path: str) -> int:
        """Remove a folder with all below it, or all that a mount shows; return how many objects are gone.

        What lies behind another mount stays, with the folders that lead there.

        Raises:
            ReadOnly.
            FsError: the store failed; some of it is gone.
        """
        mount, prefix = self._host.tree.folder_place(path)
        assert mount is not None
        self.check_writes(path)
        inner = [other.path for other in self._host.tree.below(path) if other is not mount]

        def is_kept(key: str) -> bool:
            place = paths.join(path, key.removeprefix(prefix).rstrip("/"))
            return any(paths.is_within(place, hidden) or paths.is_within(hidden, place) for hidden in inner)

        removed = 0
        markers = set() if path == mount.path else {prefix}
        try:
            async for page in self._host.metadata.pages(mount, prefix, recursive=True):
                keys = [meta.key for meta in page.objects if meta.key != prefix or path != mount.path]
                if inner:
                    keys = [key for key in keys if not is_kept(key)]
                markers.update(folder for key in keys for folder in _folders_of(key, prefix))
                removed += len(keys)
                await self._delete_all(mount, [key for key in keys if not key.endswith("/")])
            # Where folders exist by themselves, only an empty one can be removed.
            deepest_first = sorted((key for key in markers if not is_kept(key)), key=_depth, reverse=True)
            for _, level in itertools.groupby(deepest_first, key=_depth):
                await self._delete_all(mount, level)
        finally:
            self._host.metadata.forget(path)
        if path == mount.path:
            self._host.tell(path)
            await self._host.metadata.settle()
        else:
            await self.learn(mount, path, None)
        return removed

    async def make_marker(self, mount: Mount, key: str) -> None:
        """Make an empty folder: an empty object whose key ends in "/", as every S3 tool does.

        Raises:
            ReadOnly: the mount takes no writes.
        """
        self.writable(mount.path)
        await self._host.metadata.answer(mount, mount.store.put(key, b""))

    async def remove_marker(self, path: str) -> None:
        """Remove an empty folder of a mount.

        Raises:
            NotFound, NotADirectory, NotEmpty, Busy, ReadOnly.
        """
        if self._host.tree.mount_at(path) is not None:
            raise Busy(f"{path} is a mount; use `forebay fs unmount`", path=path)
        if isinstance(await self._host.stat(path), FileEntry):
            raise NotADirectory(f"{path} is a file; use `forebay fs rm`", path=path)
        mount, key = self.writable(path)
        async for page in self._host.metadata.pages(mount, key + "/", recursive=True):
            if any(meta.key != key + "/" for meta in page.objects):
                raise NotEmpty(f"{path} is not empty", path=path)
        await self._delete(mount, key + "/")
        await self.learn(mount, path, None)

    async def _delete_all(self, mount: Mount, keys: Iterable[str]) -> None:
        await each(keys, partial(self._delete, mount), parallel=DELETES_MAX)

    async def _delete(self, mount: Mount, key: str) -> None:
        await self._host.metadata.answer(mount, mount.store.delete(key))

    def writable(self, path: str) -> tuple[Mount, str]:
        """The mount and key of a path that takes writes.

        Raises:
            ReadOnly: it takes none, or lies in no mount.
        """
        mount, key = self._host.tree.locate(path)
        mount = _writable(mount, path)
        if path == mount.path and key == mount.prefix and key and not key.endswith("/"):
            raise Invalid(f"{path} is the mount itself", path=path)
        return mount, key

    def check_writes(self, path: str) -> Mount:
        """The mount of a path, if it takes writes.

        Raises:
            ReadOnly: it takes none, or the path lies in no mount.
        """
        return _writable(self._host.tree.locate(path).mount, path)

    async def learn(
        self, mount: Mount, path: str, entry: FileEntry | None, *, alone: bool = False, told: bool = True
    ) -> None:
        """Have it known what a path shows now, in a way that outlives a crash; frontends are told first.

        Args:
            alone: neither what is below the path has changed, nor can folders above it come or go.
            told: False if frontends know it.
        """
        metadata = self._host.metadata
        folder, name = paths.split(path)
        metadata.learn(mount, folder, name, entry)
        if told:
            self._host.tell(path, below=not alone)
        while not alone and folder != mount.path:  # folders come and go with the keys below them
            path = folder
            folder, name = paths.split(folder)
            known = metadata.peek(folder, name)
            if entry is not None and known is not None and isinstance(known.entry, FolderEntry):
                break
            self._host.tell(path, below=False)
            metadata.doubt(folder, name)
        await metadata.settle()


def _folders_of(key: str, prefix: str) -> Iterator[str]:
    """The folders below `prefix` that a key is, or lies in: without an object of their own, too, they have attributes.

    >>> list(_folders_of("p/a/b/c", "p/")), list(_folders_of("p/a/", "p/")), list(_folders_of("/a//b", ""))
    (['p/a/', 'p/a/b/'], ['p/a/'], ['/a/'])
    """
    at = key.find("/", len(prefix))
    while at >= 0:
        if key[max(0, at - 1) : at] not in ("", "/"):  # "/" itself, and "a//", are no folders
            yield key[: at + 1]
        at = key.find("/", at + 1)


def _depth(key: str) -> int:
    return key.count("/")


def _writable(mount: Mount | None, path: str) -> Mount:
    if mount is None:
        raise ReadOnly(f"{path} is not inside a mount; files live in mounts (forebay fs mount)", path=path)
    if mount.settings.readonly or not mount.store.capabilities.writable:
        raise ReadOnly(f"{mount.path} is mounted read-only", path=path)
    return mount
