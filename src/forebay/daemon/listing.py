"""Folders and trees as batches of JSON objects, while the store's pages come.

*Callers*: the admin API, for users, who are readers that wait as any others.  *Awaits*: the file system; between
batches the loop is let go, since looking up how much of each file is cached costs 10 us.
"""

import asyncio
import heapq
import os
from collections.abc import AsyncGenerator, Sequence

from forebay import paths
from forebay.daemon.wire import Json, entry_info
from forebay.vfs.entries import Entry, FileEntry, FolderEntry
from forebay.vfs.filesystem import FileSystem

BATCH = 256  # entries; about 3 ms of work
USAGE_EVERY_S = 0.2


async def list_folder(fs: FileSystem, path: str) -> AsyncGenerator[Sequence[Json], None]:
    """The entries of a folder, or the file at `path`; last `{"hidden": n}` if keys cannot be shown.

    Raises:
        NotFound: nothing is there.
    """
    entry = await fs.stat(path)
    if isinstance(entry, FileEntry):
        yield [entry_info(fs, entry)]
        return
    listing = await fs.open_folder(path, reads=True)
    async for batch in listing.batches(BATCH, listing.counted(fs.monotonic)):
        yield [entry_info(fs, found) for _, found in batch]
        await asyncio.sleep(0)
    if listing.hidden:
        yield [{"hidden": listing.hidden}]


async def list_below(fs: FileSystem, path: str) -> AsyncGenerator[Sequence[Json], None]:
    """Every file and folder below a path, folders before what they hold; of a file, the file itself.

    Last `{"hidden": n}` if keys cannot be shown, so that a copy of it all does not pass for whole.

    Raises:
        NotFound: nothing is there.
    """
    entry = await fs.stat(path)
    if isinstance(entry, FileEntry):
        yield [entry_info(fs, entry)]
        return
    hidden: list[int] = []
    async for batch in _below(fs, path, hidden):
        yield batch
    if sum(hidden):
        yield [{"hidden": sum(hidden)}]


async def _below(fs: FileSystem, path: str, hidden: list[int]) -> AsyncGenerator[Sequence[Json], None]:
    if fs.tree.is_virtual(path):
        overlay = fs.tree.overlay(path) or {}
        for name in sorted(overlay):
            yield [entry_info(fs, overlay[name])]
            async for batch in _below(fs, overlay[name].path, hidden):
                yield batch
        return
    above = path
    # A mount inside another comes after it, and drafts before all: the folders above them come up more than once.
    apart = [mount.path for mount in fs.tree.below(path)] + [draft.path for draft in fs.drafts.below(path)]
    around = {folder for one in apart for folder in _folders_above(one)}
    untold = set(around)
    folders: list[FolderEntry] = []  # of the page to come
    async for files in fs.walk(path, reads=True, on_hidden=hidden.append, on_folders=folders.extend):
        found: list[Entry] = []
        pages: tuple[list[Entry], list[Entry]] = [*folders], [*files]
        for entry in heapq.merge(*pages, key=_key):
            for folder in _new_folders(entry, above):
                if folder.path not in around:
                    found.append(folder)
                elif folder.path in untold:
                    untold.discard(folder.path)
                    found.append(folder)
            above = _folder_of(entry)
            if isinstance(entry, FileEntry):
                found.append(entry)
        folders.clear()
        for start in range(0, len(found), BATCH):
            yield [entry_info(fs, one) for one in found[start : start + BATCH]]
            await asyncio.sleep(0)


def _folders_above(path: str) -> list[str]:
    found = []
    while path != "/":
        path = paths.split(path)[0]
        found.append(path)
    return found


def _folder_of(entry: Entry) -> str:
    """A folder itself, or the one that a file lies in."""
    return paths.split(entry.path)[0] if isinstance(entry, FileEntry) else entry.path


def _key(entry: Entry) -> bytes:
    """The order of stores."""
    return os.fsencode(entry.path if isinstance(entry, FileEntry) else entry.path + "/")


def _new_folders(entry: Entry, last: str) -> list[FolderEntry]:
    """The folders that an entry is, or lies in, and the folder `last`, of the one before, does not; outermost first."""
    found: list[FolderEntry] = []
    folder = _folder_of(entry)
    while not paths.is_within(last, folder):
        if isinstance(entry, FolderEntry) and folder == entry.path:
            found.append(entry)
        else:
            assert entry.mount is not None
            found.append(FolderEntry(folder, entry.mount, entry.mount.mounted_ns))
        folder = paths.split(folder)[0]
    return found[::-1]


async def usage(fs: FileSystem, path: str) -> AsyncGenerator[Sequence[Json], None]:
    """How many files and bytes lie at or below a path, and how many of those bytes are cached; a count now and then.

    Raises:
        NotFound: nothing is there.
    """
    await fs.stat(path)
    loop = asyncio.get_running_loop()
    files = size = cached = 0
    due = loop.time() + USAGE_EVERY_S

    def count(*, done: bool) -> Sequence[Json]:
        return [{"files": files, "bytes": size, "cached_bytes": cached, "done": done}]

    async for page in fs.walk(path, reads=True):
        for start in range(0, len(page), BATCH):
            for file in page[start : start + BATCH]:
                files, size = files + 1, size + file.size
                cached += fs.residency(file) if file.size else 0
            await asyncio.sleep(0)
        if loop.time() >= due:
            yield count(done=False)
            due = loop.time() + USAGE_EVERY_S
    yield count(done=True)
