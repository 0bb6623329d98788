"""Symbolic links, followed for programs: of those who read a local folder the kernel follows them.

A link leads from the folder it lies in to another place of the tree; one whose target is absolute as well, if a local
folder shows that place.  What leads out of the tree leads to nothing here: nobody comes by a link to where they could
not go without it.

*Callers*: frontends and announced orders, on the loop.  *Awaits*: names, and the few bytes of a link.
"""

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from forebay import paths
from forebay.cache.cachedfile import CachedFile
from forebay.errors import Invalid, LinkLoop, NotFound
from forebay.vfs.changes import LINK_BYTES_MAX, Changes
from forebay.vfs.drafts import is_draft
from forebay.vfs.entries import Entry, FileEntry, Found, is_link

LINKS_MAX = 40  # on one path: MAXSYMLINKS of Linux

LocalFolders = Callable[[], Iterable[tuple[str, str]]]  # where folders of the tree show on this machine: (local, tree)


class Host(Protocol):
    """What links ask of the file system."""

    changes: Changes
    deadline_s: float
    local_folders: LocalFolders

    async def lookup(self, folder: str, name: str, *, ahead: bool = False) -> Found:
        """`name` in a folder; `ahead`: no reader waits for it."""
        ...

    async def stat(self, path: str, *, ahead: bool = False) -> Entry:
        """The entry at a path."""
        ...

    def cached(self, entry: FileEntry) -> CachedFile:
        """The cached file of an entry, acquired: release it when done."""
        ...


class Links:
    """See the module."""

    def __init__(self, fs: Host) -> None:
        self._fs = fs

    async def find(self, path: str, *, ahead: bool = False) -> Entry:
        """What a normal path leads to, links followed.

        Args:
            path: a normal path.
            ahead: no reader waits for it, and none reads the links on it.

        Raises:
            NotFound: nothing is there, or a link leads out of the tree.
            LinkLoop: links lead to each other.
        """
        try:
            entry = await self._fs.stat(path, ahead=ahead)
        except NotFound:
            if (real := await self._follow(path, ahead=ahead)) == path:
                raise
        else:
            if not is_link(entry):
                return entry
            real = await self._follow(path, ahead=ahead)
        return await self._fs.stat(real, ahead=ahead)

    async def place(self, path: str, *, last: bool = True) -> str:
        """Where a normal path leads, links followed, be anything there or not.

        Args:
            path: looked up once, as long as there is no link on it.
            last: False: the last name is what is meant, even if it is a link.

        Raises what `find` raises.
        """
        try:
            has_links = is_link(await self._fs.stat(path if last else paths.split(path)[0]))
        except NotFound:  # there may be links above it
            has_links = True
        return await self._follow(path, last=last) if has_links else path

    async def read(self, path: str) -> str:
        """The target of a link, as it was made.

        Raises:
            NotFound.
            Invalid: it is no link.
        """
        entry = await self._fs.stat(await self.place(path, last=False))
        if not isinstance(entry, FileEntry) or not is_link(entry):
            raise Invalid(f"{path} is no symbolic link", path=path)
        return await self._target(entry)

    async def _target(self, link: FileEntry, *, ahead: bool = False) -> str:
        if not ahead or is_draft(link):
            return os.fsdecode(await self._fs.changes.readlink(link))
        file, store, deadline_s = self._fs.cached(link), link.mount.store, self._fs.deadline_s
        try:
            return os.fsdecode(bytes(await file.read(0, LINK_BYTES_MAX, store=store, deadline_s=deadline_s)))
        finally:
            file.release()

    async def _follow(self, path: str, *, last: bool = True, ahead: bool = False) -> str:
        at, left, followed = "/", path.split("/")[::-1], 0
        while left:
            name = left.pop()
            if name in ("", "."):
                continue
            if name == "..":
                at = paths.split(at)[0]
                continue
            here = paths.normalize(paths.join(at, name))
            if not left and not last:
                return here
            entry = (await self._fs.lookup(at, name, ahead=ahead)).entry
            if entry is None:
                if ".." in left:
                    raise NotFound(f"{path} leads to {here}, where nothing is", path=path)
                return paths.normalize("/".join([here, *reversed(left)]))
            if not isinstance(entry, FileEntry) or not is_link(entry):
                at = here
                continue
            followed += 1
            if followed > LINKS_MAX:
                raise LinkLoop(f"{path} leads over more than {LINKS_MAX} symbolic links", path=path)
            target = await self._target(entry, ahead=ahead)
            if target.startswith("/"):
                at, target = self._in_tree(path, target)
            left += target.split("/")[::-1]
        return at

    def _in_tree(self, path: str, target: str) -> tuple[str, str]:
        found = paths.shown(target, self._fs.local_folders())
        if found is None:
            raise NotFound(f"{path} leads to {target}, which is in no local folder of Forebay", path=path)
        return found
