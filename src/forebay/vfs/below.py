"""Every file and folder below a path, folder by folder: empty folders too, which a walk over keys does not show.

*Callers*: moves and changes of modes.  *Awaits*: listings.  *Invariants*: a folder comes before what it holds.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

from forebay.vfs.entries import Entry, FolderEntry
from forebay.vfs.listing import Listing


class Host(Protocol):
    """What is asked of the file system."""

    async def open_folder(self, path: str) -> Listing:
        """A folder's entries in order."""
        ...


async def entries_below(host: Host, path: str, hidden: list[str]) -> AsyncGenerator[Entry, None]:
    """What lies below a folder; folders with keys that no file name can show are added to `hidden`.

    Raises:
        NotFound, NotADirectory: the path is no folder.
        FsError: the store failed.
    """
    folders = [path]
    while folders:
        listing = await host.open_folder(folder := folders.pop())
        async for some in listing.batches():
            for _, entry in some:
                if isinstance(entry, FolderEntry):
                    folders.append(entry.path)
                yield entry
        if listing.hidden:
            hidden.append(folder)
