"""Folder listings out of one recursive listing, so that a walk over everything leaves its names known.  No I/O.

Keys come in order, so a folder is whole as soon as a key comes that lies behind it.  Should a store break the order,
nothing more is learnt: a folder that comes back later would have lost its first names.
"""

from collections.abc import Callable

from forebay.paths import join
from forebay.stores.base import ListPage
from forebay.types import FolderMeta, ObjectMeta
from forebay.vfs.blocks import Row, file_row, folder_row
from forebay.vfs.entries import FileEntry, FolderEntry, Mount, file_entry, folder_entry
from forebay.vfs.listing import Listing, Moment, name_of


class _Open:
    """A folder whose keys are coming."""

    __slots__ = ("listing", "name", "rows")

    def __init__(self, name: str, listing: Listing | None) -> None:
        self.name = name
        self.listing = listing  # None: a folder that no name can show
        self.rows: list[Row] = []


class Walked:
    """See the module."""

    def __init__(
        self, mount: Mount, path: str, prefix: str, *, entries_max: int, learn: Callable[[Listing], None]
    ) -> None:
        self._mount = mount
        self._path = path
        self._prefix = prefix
        self._entries_max = entries_max  # in one folder; a larger one is not kept
        self._learn = learn
        self._stack: list[_Open] = []
        self._last_key = b""
        self._folder_metas: dict[str, FolderMeta] = {}  # of folders not yet reached
        self._is_ordered = True
        self.hidden = 0  # keys that no file name can show, markers of folders aside
        self.folders: list[FolderEntry] = []  # of the last page, those that are objects themselves: empty ones are

    def add_page(self, page: ListPage, began: Moment) -> list[FileEntry]:
        """Take the next page, whose request began then; the files it shows."""
        self.folders = []
        self._folder_metas.update(page.folder_metas)
        found = [self._add(meta, began) for meta in page.objects]
        return [file for file in found if file is not None]

    def _add(self, meta: ObjectMeta, began: Moment) -> FileEntry | None:
        """Take the next object; the file it shows as, if there is one."""
        raw = meta.key.encode("utf-8", "surrogateescape")
        self._is_ordered &= raw > self._last_key
        self._last_key = raw
        *folders, name = meta.key[len(self._prefix) :].split("/")
        self._enter(folders, began)
        opened = self._stack[-1]
        listing = opened.listing
        if listing is None:
            self.hidden += 1
            return None
        if not name:  # a marker is the folder itself
            if folders:
                self.folders.append(folder_entry(listing.path, self._mount, FolderMeta(meta.mtime_ns, meta.posix)))
            return None
        if name_of(name, "") != name:
            listing.hidden += 1
            self.hidden += 1
            return None
        if len(opened.rows) <= self._entries_max:
            opened.rows.append(file_row(name, meta))
        return file_entry(join(listing.path, name), self._mount, meta)

    def _enter(self, folders: list[str], began: Moment) -> None:
        """Close the folders that lie behind, and open those on the way to the next key."""
        if not self._stack:
            self._stack.append(_Open("", Listing(self._path, self._mount, self._prefix, began=began)))
        depth = 0
        for opened, name in zip(self._stack[1:], folders, strict=False):
            if opened.name != name:
                break
            depth += 1
        while len(self._stack) > depth + 1:
            self._close()
        for reached, name in enumerate(folders[depth:], depth + 1):
            key = self._prefix + "/".join([*folders[:reached], ""])
            self._stack.append(_Open(name, self._make(name, key, began)))

    def _make(self, name: str, key: str, began: Moment) -> Listing | None:
        opened = self._stack[-1]
        above = opened.listing
        if above is None:
            return None
        if not name or name_of(name, "") != name:
            above.hidden += 1
            return None
        if len(opened.rows) <= self._entries_max:
            opened.rows.append(folder_row(name, self._folder_metas.pop(key, None)))
        return Listing(join(above.path, name), self._mount, key, began=began)

    def _close(self) -> None:
        opened = self._stack.pop()
        if opened.listing is not None and self._is_ordered and len(opened.rows) <= self._entries_max:
            opened.listing.add_rows(opened.rows)
            opened.listing.finish()
            self._learn(opened.listing)

    def finish(self, began: Moment) -> None:
        """The walk has come to its end, having begun then."""
        self._enter([], began)
        self._close()
