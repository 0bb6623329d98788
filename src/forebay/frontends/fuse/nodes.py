"""What the kernel knows of the tree: node ids and lookup counts.  Pure.

A node is a folder, or *one version* of a file.  A changed file gets a new node when its name is looked up again, and
whoever has the old one open keeps reading the old version: the kernel's page cache, which belongs to a node, can
never mix two versions, and a passthrough file never changes under its readers.

Names that the kernel was told do not exist are remembered too, for as long as it may believe that: when one appears,
the kernel must be told.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from forebay.frontends.fuse.abi import ROOT_ID
from forebay.paths import is_within, join, split
from forebay.vfs.drafts import is_draft
from forebay.vfs.entries import Entry, FileEntry, FolderEntry

NODES_MAX = 150_000  # about 0.9 KB each; beyond, the kernel is asked to forget those that it was told of first
PRUNED = 10_000  # at a time
ABSENCES_MAX = 10_000  # beyond that the oldest are forgotten; they run out by themselves after `ABSENCE_S_MAX`
ABSENCE_S_MAX = 60.0  # the kernel believes an absence no longer than this


class Node:
    """One node.  `lookups` is how often the kernel was told of it, less what it has forgotten."""

    __slots__ = ("entry", "has_moved", "ino", "lookups")

    def __init__(self, ino: int, entry: Entry) -> None:
        self.ino = ino
        self.entry = entry
        self.has_moved = False  # with a folder above: its path is right, its key and version are those of before
        self.lookups = 0


class NodeTable:
    """Nodes by id, and the current node of each name.

    Invariants (checked by tests/model/test_node_table.py after every step):
        1. A node is in the table as long as its lookup count is above 0; the root always is.
        2. One entry has at most one node; another version of a file has another.
        3. The current node of a name is the one told last.
    """

    def __init__(self, root: FolderEntry) -> None:
        self._nodes: dict[int, Node] = {ROOT_ID: Node(ROOT_ID, root)}
        self._current: dict[str, dict[str, Node]] = {}  # by folder path, then name
        self._absent: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._last_ino = ROOT_ID
        self._root_path = root.path

    def __len__(self) -> int:
        return len(self._nodes)

    def clear(self) -> None:
        """Forget every node but the root: the mount has ended."""
        self._nodes = {ROOT_ID: self._nodes[ROOT_ID]}
        self._current = {}
        self._absent.clear()

    def find(self, ino: int) -> Node | None:
        """The node of an id, if the kernel may still use it."""
        return self._nodes.get(ino)

    def tell(self, folder: str, name: str, entry: Entry) -> Node:
        """Count one lookup that answers `entry`; return its node, a new one if need be."""
        names = self._current.get(folder)
        if names is None:
            names = self._current[folder] = {}
        node = names.get(name)
        if node is None or not _is_same(node.entry, entry):
            self._last_ino += 1
            node = names[name] = self._nodes[self._last_ino] = Node(self._last_ino, entry)
        node.entry, node.has_moved = entry, False  # a folder's time and modes may be others by now
        node.lookups += 1
        return node

    def settled(self, path: str, version: str, entry: FileEntry) -> None:
        """A file that was written has become that version of it, with the same bytes: its node stays what it is."""
        node = self._at(path)
        if node is not None and isinstance(node.entry, FileEntry) and node.entry.version == version:
            node.entry = entry

    def _at(self, path: str) -> Node | None:
        folder, name = split(path)
        return self._current.get(folder, {}).get(name)

    def current(self, folder: str, name: str) -> Node:
        """The node of a name that the kernel was told of last."""
        return self._current[folder][name]

    def current_or_none(self, folder: str, name: str) -> Node | None:
        """The same, if there is one."""
        return self._current.get(folder, {}).get(name)

    def drop(self, folder: str, name: str) -> None:
        """A name is gone; who has its node open keeps it."""
        self._current.get(folder, {}).pop(name, None)

    def detach(self, node: Node) -> None:
        """The next lookup of its name gives another node: this one cannot take what is to come."""
        folder, name = split(node.entry.path)
        names = self._current.get(folder, {})
        if names.get(name) is node:
            del names[name]

    def moved(self, source: str, target: str) -> list[tuple[int, str]]:
        """The kernel has moved a name, and with it all below it; what was at the target is nameless now.

        Returns:
            Folder ids and names of files below: under other keys they are other versions, so it must ask again.
        """
        node, replaced = self._at(source), self._at(target)
        if replaced is not None:
            self.detach(replaced)
        if node is None:
            return []
        self.detach(node)
        self._place(node, target)
        again = []
        for folder in [folder for folder in self._current if is_within(folder, source)]:
            for name, other in self._current.pop(folder).items():
                moved_to = target + folder[len(source) :]
                self._place(other, join(moved_to, name))
                if isinstance(other.entry, FileEntry) and not is_draft(other.entry):
                    other.has_moved = True
                    again.append((moved_to, name))
        for folder, name in [key for key in self._absent if is_within(key[0], source)]:
            del self._absent[folder, name]
            self._absent[target + folder[len(source) :], name] = None
        return [(ino, name) for folder, name in again if (ino := self._folder_ino(folder)) is not None]

    def _place(self, node: Node, path: str) -> None:
        node.entry = node.entry._replace(path=path)
        folder, name = split(path)
        self._current.setdefault(folder, {})[name] = node

    def tell_absent(self, folder: str, name: str) -> None:
        """Note that the kernel was told that a name does not exist."""
        key = (folder, name)
        self._absent[key] = None
        self._absent.move_to_end(key)
        if len(self._absent) > ABSENCES_MAX:
            self._absent.popitem(last=False)

    def expect(self, folder: str, name: str) -> bool:
        """The kernel itself is about to make a name: it need not be told; was it told that there is none?"""
        return self._absent.pop((folder, name), True) is None

    def forget(self, ino: int, lookups: int) -> None:
        """Take lookups back; a node without any goes.  An unknown id is ignored: the kernel may race with us."""
        node = self._nodes.get(ino)
        if node is None or ino == ROOT_ID:
            return
        node.lookups -= lookups
        if node.lookups > 0:
            return
        del self._nodes[ino]
        folder, name = split(node.entry.path)
        names = self._current.get(folder)
        if names is not None and names.get(name) is node:
            del names[name]
            if not names:
                del self._current[folder]

    def eldest_files(self, count: int) -> list[Node]:
        """Up to `count` files that the kernel was told of longest ago; asked again, others come first."""
        found = []
        for ino in list(islice(self._nodes, 1, 1 + 2 * count)):  # the root stays the first
            node = self._nodes.pop(ino)
            self._nodes[ino] = node
            if isinstance(node.entry, FileEntry):
                found.append(node)
                if len(found) == count:
                    break
        return found

    def known_names(self, path: str, *, below: bool) -> Iterator[tuple[int, str]]:
        """Folder id and name of what the kernel knows at a path, and all `below` it, absences included.

        The absences are forgotten: the caller tells the kernel to ask again.
        """
        folder, name = split(path)
        was_absent = self._absent.pop((folder, name), True) is None  # a name may have been told both ways
        if was_absent or name in self._current.get(folder, ()):
            yield from self._named(folder, [name])
        if not below:
            return
        for other, names in self._current.items():
            if is_within(other, path):
                yield from self._named(other, names)
        for key in [key for key in self._absent if is_within(join(*key), path)]:
            del self._absent[key]
            yield from self._named(key[0], [key[1]])

    def _named(self, folder: str, names: Iterable[str]) -> Iterator[tuple[int, str]]:
        ino = self._folder_ino(folder)
        if ino is not None:
            for name in names:
                yield ino, name

    def _folder_ino(self, path: str) -> int | None:
        if path == self._root_path:
            return ROOT_ID
        folder, name = split(path)
        node = self._current.get(folder, {}).get(name)
        return None if node is None else node.ino


def _is_same(known: Entry, entry: Entry) -> bool:
    if isinstance(known, FileEntry) and isinstance(entry, FileEntry):
        # The version fixes the bytes; times and modes may be others by now, and of a draft the name and the bytes too.
        same_place = is_draft(entry) or (known.key == entry.key and known.mount is entry.mount)
        return known.version == entry.version and same_place
    return isinstance(known, FolderEntry) and isinstance(entry, FolderEntry) and known.mount is entry.mount
