"""Folder listings out of one recursive listing, so that a walk over everything leaves its names known.  No I/O.

Keys come in order, so a folder is whole as soon as a key comes that lies behind it.  Should a store break the order,
nothing more is learnt: a folder that comes back later would have lost its first names.
"""

from collections.abc import Callable

from forebay.paths import join
from forebay.stores.base import ListPage
from forebay.types import FolderMeta, ObjectMeta
from forebay.vfs.entries import FileEntry, Mount, file_entry, folder_entry
from forebay.vfs.folders import Listing, Moment, name_of


class _Open:
    """A folder whose keys are coming."""

    __slots__ = ("began", "listing", "name")

    def __init__(self, name: str, listing: Listing | None, began: Moment) -> None:
        self.name = name
        self.listing = listing  # None: a folder that no name can show
        self.began = began


class Walked:
    """See the module."""

    def __init__(
        self, mount: Mount, path: str, prefix: str, *, entries_max: int, learn: Callable[[Listing, Moment], None]
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

    def add_page(self, page: ListPage, began: Moment) -> list[FileEntry]:
        """Take the next page, whose request began then; the files it shows."""
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
        listing = self._stack[-1].listing
        if listing is None:
            self.hidden += 1
            return None
        if not name:  # a marker is the folder itself
            return None
        if name_of(name, "") != name:
            listing.hidden += 1
            self.hidden += 1
            return None
        entry = file_entry(join(listing.path, name), self._mount, meta)
        if len(listing) <= self._entries_max:
            listing.add(name, entry)
        return entry

    def _enter(self, folders: list[str], began: Moment) -> None:
        """Close the folders that lie behind, and open those on the way to the next key."""
        if not self._stack:
            self._stack.append(_Open("", Listing(self._path, self._mount), began))
        depth = 0
        for opened, name in zip(self._stack[1:], folders, strict=False):
            if opened.name != name:
                break
            depth += 1
        while len(self._stack) > depth + 1:
            self._close()
        for reached, name in enumerate(folders[depth:], depth + 1):
            key = self._prefix + "/".join([*folders[:reached], ""])
            self._stack.append(_Open(name, self._make(name, key), began))

    def _make(self, name: str, key: str) -> Listing | None:
        above = self._stack[-1].listing
        if above is None:
            return None
        if not name or name_of(name, "") != name:
            above.hidden += 1
            return None
        path = join(above.path, name)
        if len(above) <= self._entries_max:
            above.add(name, folder_entry(path, self._mount, self._folder_metas.pop(key, None)))
        return Listing(path, self._mount)

    def _close(self) -> None:
        opened = self._stack.pop()
        if opened.listing is not None and self._is_ordered and len(opened.listing) <= self._entries_max:
            opened.listing.finish()
            self._learn(opened.listing, opened.began)

    def finish(self, began: Moment) -> None:
        """The walk has come to its end, having begun then."""
        self._enter([], began)
        self._close()
