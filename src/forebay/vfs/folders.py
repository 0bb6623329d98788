"""What is known of the folders of mounts: names, absences, and since when.  No I/O.

A folder is known whole (listed), or name by name (looked up).  Everything known has an age; a mount's `ttl_s` says
how old it may be.  The whole is bounded by a number of names; the folder touched least recently goes first.
"""

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from forebay.errors import FsError
from forebay.paths import NAME_BYTES_MAX, is_within
from forebay.stores.base import ListPage
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, Mount, folder_entry


def name_of(key: str, prefix: str) -> str | None:
    """The file name a key shows as below `prefix`, or None if no file can have that name.

    A key that equals the prefix (a folder marker) gives "".

    >>> name_of("a/b", "a/"), name_of("a/b/", "a/"), name_of("a/", "a/"), name_of("a//", "a/"), name_of("a/..", "a/")
    ('b', 'b', '', None, None)
    """
    rest = key[len(prefix) :]
    if not rest:
        return ""
    name = rest.removesuffix("/")
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return None
    if len(name) * 4 > NAME_BYTES_MAX and len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
        return None
    return name


class Listing:
    """A folder's entries in the order the store gives them; grows while pages come.

    An object and a folder of one name show as the folder, in one place.
    """

    def __init__(self, path: str, mount: Mount | None) -> None:
        self.path = path
        self.mount = mount
        self.entries: list[tuple[str, Entry]] = []
        self.hidden = 0  # keys that no file name can show
        self.done = False
        self.error: FsError | None = None
        self._index: dict[str, int] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, name: str, entry: Entry) -> None:
        """Put an entry in; a folder takes the place of a file of the same name, never the reverse."""
        position = self._index.get(name)
        if position is None:
            self._index[name] = len(self.entries)
            self.entries.append((name, entry))
            return
        self.hidden += 1
        if isinstance(entry, FolderEntry):
            self.entries[position] = (name, entry)

    def find(self, name: str) -> Entry | None:
        """The entry of that name, if it is in."""
        position = self._index.get(name)
        return None if position is None else self.entries[position][1]

    def knows(self, name: str) -> bool:
        """Is an entry of that name in?"""
        return name in self._index

    def add_page(self, page: ListPage, prefix: str, base: str) -> None:
        """Put in one page of the store's listing of `prefix`; `base` is this folder's path with a final slash."""
        mount = self.mount
        assert mount is not None
        found: list[tuple[str, Entry]] = []
        for meta in page.objects:
            name = name_of(meta.key, prefix)
            if name is None or (name and meta.key.endswith("/")):
                self.hidden += 1
            elif name:
                found.append((name, FileEntry(base + name, mount, *meta)))
        for folder in page.folders:
            name = name_of(folder, prefix)
            if name:
                found.append((name, folder_entry(base + name, mount, page.folder_metas.get(folder))))
            else:
                self.hidden += 1
        found.sort(key=_first)
        for name, entry in found:
            self.add(name, entry)
        self._wake()

    def finish(self, error: FsError | None = None) -> None:
        """No further page will come."""
        self.done, self.error = True, error
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def ready(self, index: int) -> bool:
        """Is entry `index`, or the end before it, known?"""
        return index < len(self.entries) or self.done

    async def wait(self, index: int) -> None:
        """Return when `ready(index)`.

        Raises:
            FsError: the store failed before that entry.
        """
        while not self.ready(index):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self.error is not None and index >= len(self.entries):
            raise self.error

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[str, Entry]:
        return self.entries[index]


def _first(pair: tuple[str, Entry]) -> str:
    return pair[0]


class Moment(NamedTuple):
    """When a request or a write began: facts are as old as that."""

    at: float  # on the clock of all ages
    turn: int  # of two facts the one of the later turn is right; times may be equal


class Known(NamedTuple):
    """What is known of one name, beside its folder's listing."""

    entry: Entry | None  # None: there is nothing of that name
    since: Moment
    is_doubted: bool = False  # known to be out of date


class Tally:
    """How many names are known in all folders together."""

    __slots__ = ("names",)

    def __init__(self) -> None:
        self.names = 0


class Folder:
    """What is known of one folder."""

    __slots__ = ("_tally", "listed_at", "listed_turn", "listing", "looked_up", "misses", "mount", "path")

    def __init__(self, path: str, mount: Mount, tally: Tally) -> None:
        self.path = path
        self.mount = mount
        self.listing: Listing | None = None  # whole, when it was last listed
        self.listed_at = float("-inf")
        self.listed_turn = 0
        self.looked_up: dict[str, Known] = {}  # newer than the listing where both know a name
        self.misses = 0  # lookups that had to ask the store; after a few the folder is listed
        self._tally = tally
        tally.names += 1

    def __len__(self) -> int:
        return 1 + (0 if self.listing is None else len(self.listing)) + len(self.looked_up)

    def retire(self) -> None:
        """This folder is known no more; requests under way may still tell it something."""
        self._tally.names -= len(self)
        self._tally = Tally()

    def find(self, name: str, now: float) -> Found | None:
        """The entry or absence of a name, if known and young enough."""
        ttl_s = self.mount.ttl_s
        if self.looked_up:
            known = self.looked_up.get(name)
            if known is not None:
                age_s = now - known.since.at
                return None if known.is_doubted or age_s > ttl_s or ttl_s <= 0 else Found(known.entry, ttl_s - age_s)
        age_s = now - self.listed_at
        if self.listing is None or age_s > ttl_s or ttl_s <= 0:
            return None
        return Found(self.listing.find(name), ttl_s - age_s)

    def is_listed(self, now: float) -> bool:
        """Is the whole folder known, young enough, and beyond doubt?"""
        if self.listing is None or not now - self.listed_at <= self.mount.ttl_s > 0:
            return False
        return not any(known.is_doubted for known in self.looked_up.values())

    def learn(self, name: str, known: Known) -> None:
        """Note what a lookup, a write or a doubt says, unless something later is known already."""
        before = self.looked_up.get(name)
        if known.since.turn < (self.listed_turn if before is None else before.since.turn):
            return
        if before is None:
            self._tally.names += 1
        self.looked_up[name] = known

    def learn_listing(self, listing: Listing, began: Moment) -> None:
        """Note a whole listing, as of the moment it began."""
        if began.turn < self.listed_turn:
            return
        before = len(self)
        self.listing, self.listed_at, self.listed_turn = listing, began.at, began.turn
        for name in [name for name, known in self.looked_up.items() if known.since.turn < began.turn]:
            del self.looked_up[name]
        self._tally.names += len(self) - before

    def as_listing(self) -> Listing:
        """The known entries in order, with newer lookups put in; `is_listed` must hold."""
        assert self.listing is not None
        newer = {name: known.entry for name, known in self.looked_up.items()}
        if not newer:
            return self.listing
        before = len(self)
        listing = Listing(self.path, self.mount)
        for name, entry in self.listing.entries:
            current = newer.pop(name, entry)
            if current is not None:
                listing.add(name, current)
        for name, added in newer.items():
            if added is not None:
                listing.add(name, added)
        listing.hidden = self.listing.hidden
        listing.finish()
        self.listing = listing  # as old as before: what was newer is believed a little shorter
        self.looked_up = {}
        self._tally.names += len(self) - before
        return listing


class FolderCache:
    """Known folders by path, bounded by the number of names in them."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._folders: OrderedDict[str, Folder] = OrderedDict()
        self._tally = Tally()

    def __len__(self) -> int:
        return self._tally.names

    def get(self, path: str) -> Folder | None:
        """What is known of the folder at `path`, now the most recently used."""
        folder = self._folders.get(path)
        if folder is not None:
            self._folders.move_to_end(path)
        return folder

    def touch(self, path: str, mount: Mount) -> Folder:
        """The folder at `path`, made if need be, now the most recently used."""
        folder = self._folders.get(path)
        if folder is None or folder.mount is not mount:
            if folder is not None:
                folder.retire()
            folder = self._folders[path] = Folder(path, mount, self._tally)
        self._folders.move_to_end(path)
        return folder

    def trim(self) -> None:
        """Forget the least recently used folders until the bound is kept; the newest one always stays."""
        while self._tally.names > self._entries_max and len(self._folders) > 1:
            self._folders.popitem(last=False)[1].retire()

    def forget(self, covers: str) -> list[str]:
        """Forget every folder at or below a path; return their paths."""
        gone = [path for path in self._folders if is_within(path, covers)]
        for path in gone:
            self._folders.pop(path).retire()
        return gone
