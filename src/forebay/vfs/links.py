"""Symbolic links, followed for programs: of those who read a local folder the kernel follows them.

A link leads from the folder it lies in to another place of the tree; one whose target is absolute as well, if a local
folder shows that place.  What leads out of the tree leads to nothing here: nobody comes by a link to where they could
not go without it.

*Callers*: frontends, on the loop.  *Awaits*: names, and the few bytes of a link.
"""

import os
from collections.abc import Callable, Iterable

from forebay import paths
from forebay.errors import Invalid, LinkLoop, NotFound
from forebay.vfs.entries import Entry, FileEntry, is_link
from forebay.vfs.filesystem import FileSystem

LINKS_MAX = 40  # on one path: MAXSYMLINKS of Linux

LocalFolders = Callable[[], Iterable[tuple[str, str]]]  # where folders of the tree show on this machine: (local, tree)


class Links:
    """See the module."""

    def __init__(self, fs: FileSystem, local_folders: LocalFolders) -> None:
        self._fs = fs
        self._local_folders = local_folders

    async def find(self, path: str) -> Entry:
        """What a normal path leads to, links followed.

        Raises:
            NotFound: nothing is there, or a link leads out of the tree.
            LinkLoop: links lead to each other.
        """
        try:
            entry = await self._fs.stat(path)
        except NotFound:
            if (real := await self._follow(path)) == path:
                raise
        else:
            if not is_link(entry):
                return entry
            real = await self._follow(path)
        return await self._fs.stat(real)

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

    async def _target(self, link: FileEntry) -> str:
        return os.fsdecode(await self._fs.changes.readlink(link))

    async def _follow(self, path: str, *, last: bool = True) -> str:
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
            entry = (await self._fs.lookup(at, name)).entry
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
            target = await self._target(entry)
            if target.startswith("/"):
                at, target = self._in_tree(path, target)
            left += target.split("/")[::-1]
        return at

    def _in_tree(self, path: str, target: str) -> tuple[str, str]:
        found = paths.shown(target, self._local_folders())
        if found is None:
            raise NotFound(f"{path} leads to {target}, which is in no local folder of Forebay", path=path)
        return found
