"""Removal of whole folders and of what mounts show: `forebay fs rm`.

*Callers*: the file system, on the loop.  *Locks*: none; what others put there meanwhile may stay.  *Awaits*: stores.
*Invariants*: a mount stays a mount; what another mount hides is not touched.  *On crash*: some of it is gone.
"""

from typing import Protocol

from forebay.errors import Busy, IsADirectory
from forebay.vfs.changes import Changes
from forebay.vfs.drafts import DraftTable
from forebay.vfs.entries import Entry, FileEntry
from forebay.vfs.staying import Staying
from forebay.vfs.tree import Tree
from forebay.vfs.writer import Writer


class Host(Protocol):
    """What a removal asks of the file system."""

    tree: Tree
    writer: Writer
    staying: Staying
    changes: Changes
    drafts: DraftTable

    async def stat(self, path: str) -> Entry:
        """The entry at a path, or NotFound."""
        ...


async def remove(host: Host, path: str, *, recursive: bool, force: bool) -> int:
    """Remove a file, or with `recursive` a folder and all below it; return how many objects are gone.

    Args:
        force: what mounts at or below the path show goes too; the mounts stay, and the folders that hold them.

    Raises:
        Busy: the path is the root or a mount, or holds one, and not `force`.
        IsADirectory: a folder, and not `recursive`.
        NotFound, ReadOnly.
        FsError: a store failed; some of it is gone.
    """
    mounts = host.tree.below(path)
    if not force:
        _refuse_mounts(path, [mount.path for mount in mounts])
    for place in [path, *(mount.path for mount in mounts)]:
        await host.changes.rest(place)
    if isinstance(await host.stat(path), FileEntry):
        await host.changes.unlink(path)
        return 1
    if not recursive:
        raise IsADirectory(f"{path} is a folder; use -r to remove it with all it holds", path=path)
    around = host.tree.locate(path).mount
    places = [mount.path for mount in mounts]
    if around is not None and path not in places:
        places.insert(0, path)
    for place in places:
        host.writer.check_writes(place)
    removed = 0
    await host.staying.keep_above(path)
    for draft in host.drafts.below(path):
        removed += draft.base is None  # the others are counted as objects
        await host.changes.unlink(draft.path)
    for place in places:
        await host.changes.rest(place)
        async with host.changes.turns.change(place):
            removed += await host.writer.empty(place)
            host.staying.gone(place)
    if around is None:
        _remove_virtual(host.tree, path)
    return removed


def _refuse_mounts(path: str, mounts: list[str]) -> None:
    if path == "/":
        raise Busy("/ is the whole tree; with --force, what all mounts show is removed from their stores", path=path)
    if path in mounts:
        message = f"{path} is a mount: forebay fs unmount {path} takes it away; --force removes the files in its store"
        raise Busy(message, path=path)
    if mounts:
        message = f"{path} holds the mount {mounts[0]}: unmount that first; --force removes the files in its store too"
        raise Busy(message, path=path)


def _remove_virtual(tree: Tree, path: str) -> None:
    """Remove a virtual folder and those in it, as far as they hold no mount."""
    for entry in list((tree.overlay(path) or {}).values()):
        if tree.is_virtual(entry.path):
            _remove_virtual(tree, entry.path)
    if path != "/" and not tree.overlay(path):
        tree.remove_folder(path)
