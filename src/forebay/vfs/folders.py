"""What is known of the folders of mounts: names, absences, and since when.  No I/O.

A folder is known whole (listed), or name by name (looked up).  Everything known has an age; a mount's `ttl_s` says
how old it may be.  The whole is bounded by a number of names; the folder touched least recently goes first.
"""

import asyncio
from collections import OrderedDict

from forebay.errors import FsError
from forebay.paths import NAME_BYTES_MAX
from forebay.stores.base import ListPage
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Found, Mount


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
        elif isinstance(entry, FolderEntry):
            self.entries[position] = (name, entry)

    def knows(self, name: str) -> bool:
        """Is an entry of that name in?"""
        return name in self._index

    def add_page(self, page: ListPage, prefix: str, base: str) -> None:
        """Put in one page of the store's listing of `prefix`; `base` is this folder's path with a final slash."""
        mount = self.mount
        assert mount is not None
        found: list[tuple[str, Entry]] = []
        for key, size, mtime_ns, version in page.objects:
            name = name_of(key, prefix)
            if name is None or (name and key.endswith("/")):
                self.hidden += 1
            elif name:
                found.append((name, FileEntry(base + name, mount, key, size, mtime_ns, version)))
        for folder in page.folders:
            name = name_of(folder, prefix)
            if name:
                found.append((name, FolderEntry(base + name, mount, mount.mounted_ns)))
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


FolderReader = Listing


def _first(pair: tuple[str, Entry]) -> str:
    return pair[0]


class Folder:
    """What is known of one folder."""

    __slots__ = ("hidden", "listed_at", "looked_up", "misses", "mount", "names", "path")

    def __init__(self, path: str, mount: Mount) -> None:
        self.path = path
        self.mount = mount
        self.names: dict[str, Entry] = {}  # as listed
        self.listed_at: float | None = None
        # Name by name; newer than the listing where both know a name.  None: known to be out of date.
        self.looked_up: dict[str, tuple[Entry | None, float] | None] = {}
        self.hidden = 0
        self.misses = 0  # lookups that had to ask the store; after a few the folder is listed

    def __len__(self) -> int:
        return 1 + len(self.names) + len(self.looked_up)

    def find(self, name: str, now: float) -> Found | None:
        """The entry or absence of a name, if known and young enough."""
        ttl_s = self.mount.ttl_s
        if name in self.looked_up:
            known = self.looked_up[name]
            if known is None or now - known[1] > ttl_s:
                return None
            return Found(known[0], ttl_s - (now - known[1]))
        if self.listed_at is None or now - self.listed_at > ttl_s:
            return None
        return Found(self.names.get(name), ttl_s - (now - self.listed_at))

    def is_listed(self, now: float) -> bool:
        """Is the whole folder known, and young enough?"""
        return self.listed_at is not None and now - self.listed_at <= self.mount.ttl_s

    def learn(self, name: str, entry: Entry | None, now: float) -> None:
        """Note what a lookup said."""
        self.looked_up[name] = (entry, now)

    def doubt(self, name: str) -> None:
        """What is known of a name is out of date: ask again at the next lookup."""
        self.looked_up[name] = None

    def learn_listing(self, listing: Listing, began_at: float) -> None:
        """Note a whole listing, as of the time it began."""
        self.names = dict(listing.entries)
        self.hidden = listing.hidden
        self.listed_at = began_at
        for name, known in list(self.looked_up.items()):
            if known is None or known[1] <= began_at:
                del self.looked_up[name]

    def as_listing(self) -> Listing:
        """The known entries in order, with newer lookups put in."""
        listing = Listing(self.path, self.mount)
        for name, entry in self.names.items():
            known = self.looked_up.get(name)
            current = known[0] if known is not None else entry
            if current is not None:
                listing.add(name, current)
        for name, known in self.looked_up.items():
            if known is not None and known[0] is not None:
                listing.add(name, known[0])
        listing.hidden = self.hidden
        listing.finish()
        return listing


class FolderCache:
    """Known folders by path, bounded by the number of names in them."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._folders: OrderedDict[str, Folder] = OrderedDict()

    def get(self, path: str) -> Folder | None:
        """What is known of the folder at `path`."""
        return self._folders.get(path)

    def touch(self, path: str, mount: Mount) -> Folder:
        """The folder at `path`, made if need be, now the most recently used."""
        folder = self._folders.get(path)
        if folder is None or folder.mount is not mount:
            folder = self._folders[path] = Folder(path, mount)
        self._folders.move_to_end(path)
        return folder

    def trim(self) -> None:
        """Forget the least recently used folders until the bound is kept; the newest one always stays."""
        total = sum(map(len, self._folders.values()))
        while total > self._entries_max and len(self._folders) > 1:
            _, folder = self._folders.popitem(last=False)
            total -= len(folder)

    def forget(self, covers: str) -> list[str]:
        """Forget every folder at or below a path; return their paths."""
        prefix = covers.rstrip("/") + "/"
        gone = [path for path in self._folders if path == covers or path.startswith(prefix)]
        for path in gone:
            del self._folders[path]
        return gone

    def __len__(self) -> int:
        return sum(map(len, self._folders.values()))
