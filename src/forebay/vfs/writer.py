"""Whole-file writes and removals, straight to the store: what `forebay fs cp`, `rm`, `mkdir` and `rmdir` need.

Acknowledged means that the store has it.  A file becomes visible whole or not at all.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Protocol

from forebay import paths
from forebay.errors import AlreadyExists, Busy, Invalid, IsADirectory, NotADirectory, NotEmpty, NotFound, ReadOnly
from forebay.types import Buffer, ObjectMeta
from forebay.units import MIB
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Mount, file_entry, folder_entry
from forebay.vfs.metadata import Metadata
from forebay.vfs.tree import Tree

DELETES_MAX = 32  # under way at a time
SINGLE_PUT_BYTES = 8 * MIB  # up to this size one PUT; more is a multipart upload


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

    async def write(self, path: str, chunks: AsyncIterator[Buffer], *, overwrite: bool) -> FileEntry:
        """Store a whole file.

        Raises:
            ReadOnly: the mount takes no writes, or the path lies in none.
            AlreadyExists: the file is there, and not `overwrite`.
            IsADirectory, NotADirectory: the path, or a name above it, is the wrong thing.
            FsError: the store failed; nothing became visible.
        """
        mount, key = self._writable(path)
        await self._check_target(path, overwrite=overwrite)
        meta = await _put(mount, key, chunks, if_absent=not overwrite)
        entry = file_entry(path, mount, meta)
        await self._learn(mount, path, entry)
        return entry

    async def _check_target(self, path: str, *, overwrite: bool) -> None:
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

    async def remove(self, path: str, *, recursive: bool) -> int:
        """Remove a file, or with `recursive` a folder and all below it; return how many objects are gone.

        Raises:
            IsADirectory: a folder, and not `recursive`.
            Busy: a mount lies at or below the path.
            NotFound, ReadOnly.
        """
        if self._host.tree.is_virtual(path) or self._host.tree.below(path):
            raise Busy(
                f"{path} is, or holds, a mount or a virtual folder; use `forebay fs unmount` and `rmdir`", path=path
            )
        mount, key = self._writable(path)
        entry = await self._host.stat(path)
        if isinstance(entry, FileEntry):
            await self._delete(mount, key)
            await self._learn(mount, path, None)
            return 1
        if not recursive:
            raise IsADirectory(f"{path} is a folder; use -r to remove it with all it holds", path=path)
        removed = 0
        markers: list[str] = []  # where folders exist by themselves, only an empty one can be removed
        try:
            async for page in self._host.metadata.pages(mount, key + "/", recursive=True):
                markers += (meta.key for meta in page.objects if meta.key.endswith("/"))
                removed += len(page.objects)
                await self._delete_all(mount, [meta.key for meta in page.objects if not meta.key.endswith("/")])
            deepest_first = sorted({*markers, key + "/"}, key=_depth, reverse=True)
            for _, level in itertools.groupby(deepest_first, key=_depth):
                await self._delete_all(mount, list(level))
        finally:
            self._host.metadata.forget(path)
        await self._learn(mount, path, None)
        return removed

    async def make_marker(self, mount: Mount, key: str) -> None:
        """Make an empty folder: an empty object whose key ends in "/", as every S3 tool does.

        Raises:
            ReadOnly: the mount takes no writes.
        """
        self._writable(mount.path)
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
        mount, key = self._writable(path)
        async for page in self._host.metadata.pages(mount, key + "/", recursive=True):
            if any(meta.key != key + "/" for meta in page.objects):
                raise NotEmpty(f"{path} is not empty", path=path)
        await self._delete(mount, key + "/")
        await self._learn(mount, path, None)

    async def _delete_all(self, mount: Mount, keys: list[str]) -> None:
        for start in range(0, len(keys), DELETES_MAX):
            some = keys[start : start + DELETES_MAX]
            failed = await asyncio.gather(*(self._delete(mount, key) for key in some), return_exceptions=True)
            for error in failed:
                if error is not None:
                    raise error

    async def _delete(self, mount: Mount, key: str) -> None:
        await self._host.metadata.answer(mount, mount.store.delete(key))

    def _writable(self, path: str) -> tuple[Mount, str]:
        mount, key = self._host.tree.locate(path)
        if mount is None:
            raise ReadOnly(f"{path} is not inside a mount; files live in mounts (forebay fs mount)", path=path)
        if mount.settings.readonly or not mount.store.capabilities.writable:
            raise ReadOnly(f"{mount.path} is mounted read-only", path=path)
        if path == mount.path and key == mount.prefix and key and not key.endswith("/"):
            raise Invalid(f"{path} is the mount itself", path=path)
        return mount, key

    async def _learn(self, mount: Mount, path: str, entry: FileEntry | None) -> None:
        """Have it known, in a way that outlives a crash; frontends are told first."""
        folder, name = paths.split(path)
        self._host.metadata.learn(mount, folder, name, entry)
        self._host.tell(path)
        while folder != mount.path:  # folders come and go with the keys below them
            self._host.tell(folder, below=False)
            path = folder
            folder, name = paths.split(folder)
            if entry is None:
                self._host.metadata.doubt(folder, name)
            else:
                self._host.metadata.learn(mount, folder, name, folder_entry(path, mount))
        await self._host.metadata.settle()


async def _put(mount: Mount, key: str, chunks: AsyncIterator[Buffer], *, if_absent: bool) -> ObjectMeta:
    head = bytearray()
    async for chunk in chunks:
        head += memoryview(chunk)
        if len(head) > SINGLE_PUT_BYTES:
            return await mount.store.put_stream(key, _again(bytes(head), chunks))
    if_absent = if_absent and mount.store.capabilities.conditional_put
    return await mount.store.put(key, bytes(head), if_absent=if_absent)


async def _again(head: bytes, rest: AsyncIterator[Buffer]) -> AsyncIterator[Buffer]:
    yield head
    async for chunk in rest:
        yield chunk


def _depth(key: str) -> int:
    return key.count("/")
