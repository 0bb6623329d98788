"""Folders that stay when the last thing in them goes, as on a disk.

Where folders are only the beginnings of keys, one is made an object before it would go; where they exist by
themselves and a store lets one go with its last file, it is made again.

*Callers*: changes and removals, on the loop.  *Awaits*: the store.
*On crash*: the object stays, and the folder with it; a folder that was to be made again is gone.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Protocol, cast

from forebay import paths
from forebay.errors import NotFound
from forebay.stores.base import FolderStore
from forebay.types import Attributes
from forebay.vfs.entries import Entry, Mount
from forebay.vfs.metadata import Metadata
from forebay.vfs.tree import Tree
from forebay.vfs.writer import Writer


class Host(Protocol):
    """What is asked of the file system."""

    tree: Tree
    metadata: Metadata
    writer: Writer

    async def stat(self, path: str) -> Entry:
        """The entry at a path, or NotFound."""
        ...


class Staying:
    """See the module."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._made: set[str] = set()  # folders that are objects

    @contextlib.asynccontextmanager
    async def without(self, path: str) -> AsyncIterator[None]:
        """What is at a path is removed meanwhile: its folder stays, though nothing is left in it."""
        mount = self._host.tree.locate(path).mount
        if mount is None or path == mount.path:  # its folder is none of a store
            yield
            return
        await self.keep_above(mount, path)
        above = await self._host.stat(paths.split(path)[0])
        yield
        await self._bring_back(mount, above)

    async def keep_above(self, mount: Mount, path: str) -> None:
        """Have the folder of a path stay, where it would go with its last key."""
        folder = paths.split(path)[0]
        if folder == mount.path or mount.store.capabilities.folders or folder in self._made:
            return
        await self._host.writer.make_marker(mount, self._host.tree.locate(folder).key + "/")
        self._made.add(folder)

    async def _bring_back(self, mount: Mount, folder: Entry) -> None:
        """Stores whose folders exist by themselves let one go with its last file."""
        if folder.path == mount.path or not mount.store.capabilities.folders:
            return
        key = self._host.tree.locate(folder.path).key
        try:
            await self._host.metadata.answer(mount, cast(FolderStore, mount.store).stat(key))
        except NotFound:
            attributes = None if folder.posix is None else Attributes(*folder.posix[:3])
            await self._host.metadata.answer(mount, mount.store.put(key + "/", b"", attributes=attributes))

    def made(self, path: str) -> None:
        """A folder was made: it stays by itself."""
        self._made.add(path)

    def gone(self, path: str) -> None:
        """Folders at and below a path have gone."""
        self._made = {folder for folder in self._made if not paths.is_within(folder, path)}
