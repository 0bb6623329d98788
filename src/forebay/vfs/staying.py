"""Folders that stay when the last thing in them goes, as on a disk.

Where folders are only the beginnings of keys, one is made an object before it would go; where they exist by
themselves they stay.

*Callers*: changes and removals, on the loop.  *Awaits*: the store.
*On crash*: the object stays, and the folder with it.
"""

from typing import Protocol

from forebay import paths
from forebay.vfs.tree import Tree
from forebay.vfs.writer import Writer


class Host(Protocol):
    """What is asked of the file system."""

    tree: Tree
    writer: Writer


class Staying:
    """See the module."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._made: set[str] = set()  # folders that are objects

    async def keep_above(self, path: str) -> None:
        """Have the folder of a path stay, where it would go with its last key."""
        mount = self._host.tree.locate(path).mount
        folder = paths.split(path)[0]
        if mount is None or mount.path in (path, folder):  # the folder is none of a store, or all of what is mounted
            return
        if mount.store.capabilities.folders or folder in self._made:
            return
        await self._host.writer.make_marker(mount, self._host.tree.locate(folder).key + "/")
        self._made.add(folder)

    def made(self, path: str) -> None:
        """A folder was made: it stays by itself."""
        self._made.add(path)

    def gone(self, path: str) -> None:
        """Folders at and below a path have gone."""
        self._made = {folder for folder in self._made if not paths.is_within(folder, path)}
