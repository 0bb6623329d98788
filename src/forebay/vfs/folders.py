"""What is known in memory of the folders of mounts: names, absences, and since when.  No I/O.

A folder is known whole (listed), or name by name (looked up).  Everything known has an age; a mount's `ttl_s` says
how old it may be.  The whole is bounded by a number of names; the folder touched least recently goes first.
"""

from collections import OrderedDict
from typing import NamedTuple

from forebay.paths import is_within
from forebay.vfs.blocks import row_of
from forebay.vfs.entries import Entry, Found, Mount
from forebay.vfs.listing import NEVER, Listing, Moment, StoredListing


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

    __slots__ = ("_tally", "listing", "looked_up", "misses", "mount", "path", "was_recalled")

    def __init__(self, path: str, mount: Mount, tally: Tally) -> None:
        self.path = path
        self.mount = mount
        self.listing: Listing | None = None  # whole, when it was last listed
        self.looked_up: dict[str, Known] = {}  # newer than the listing where both know a name
        self.misses = 0  # lookups that had to ask the store; after a few the folder is listed
        self.was_recalled = False  # the names database has told what it knew
        self._tally = tally
        tally.names += 1

    def __len__(self) -> int:
        return 1 + _weight(self.listing) + len(self.looked_up)

    @property
    def listed(self) -> Moment:
        """When the store was asked for the listing."""
        return NEVER if self.listing is None else self.listing.began

    def retire(self) -> None:
        """This folder is known no more; requests under way may still tell it something."""
        self._tally.names -= len(self)
        self._tally = Tally()

    def left_s(self, now: float) -> float:
        """How long the listing may still be believed; 0 if not at all."""
        return self.mount.left_s(self.listed.at, now)

    def find(self, name: str, now: float) -> Found | None:
        """The entry or absence of a name, if known and young enough."""
        if self.looked_up:
            known = self.looked_up.get(name)
            if known is not None:
                left_s = self.mount.left_s(known.since.at, now)
                return None if known.is_doubted or left_s < 0 else Found(known.entry, left_s)
        listing = self.listing
        if listing is None:
            return None
        left_s = self.mount.left_s(listing.began.at, now)
        return Found(listing.find(name), left_s) if left_s >= 0 and listing.knows(name) else None

    def is_listed(self, now: float) -> bool:
        """Is the whole folder known, young enough, and beyond doubt?"""
        if self.listing is None or self.left_s(now) < 0:
            return False
        if isinstance(self.listing, StoredListing):
            return not self.looked_up  # it cannot be amended: a large folder that changed is listed again
        return not any(known.is_doubted for known in self.looked_up.values())

    def learn(self, name: str, known: Known) -> None:
        """Note what a lookup, a write or a doubt says, unless something later is known already."""
        before = self.looked_up.get(name)
        if known.since.turn < (self.listed.turn if before is None else before.since.turn):
            return
        if before is None:
            self._tally.names += 1
        self.looked_up[name] = known

    def learn_listing(self, listing: Listing) -> None:
        """Note a whole listing, as of the moment it began."""
        began = listing.began
        if began.turn < self.listed.turn:
            return
        before = len(self)
        self.listing = listing
        for name in [name for name, known in self.looked_up.items() if known.since.turn < began.turn]:
            del self.looked_up[name]
        self._tally.names += len(self) - before

    def shelve(self) -> None:
        """Leave the listing to the names database, which has it: memory has no room for it."""
        before = len(self)
        self.listing, self.was_recalled = None, False
        self._tally.names += len(self) - before

    def as_listing(self) -> Listing:
        """The known entries in order, with newer lookups put in; `is_listed` must hold."""
        assert self.listing is not None
        newer = {name: known.entry for name, known in self.looked_up.items()}
        if not newer:
            return self.listing
        before = len(self)
        # As old as before, so what was newer is believed a little shorter; but no answer that is on its way, of before
        # what we changed, is newer than that.
        turn = max(self.listed.turn, *(known.since.turn for known in self.looked_up.values()))
        began = Moment(self.listed.at, turn)
        listing = Listing(self.path, self.mount, self.listing.prefix, began=began)
        rows = {name: None if entry is None else row_of(name, entry) for name, entry in newer.items()}
        for block in self.listing.blocks:
            amended = block if rows.keys().isdisjoint(block.names) else block.amended(rows)
            if amended is not None:
                listing.add(amended)
        new = sorted((name, row) for name, row in rows.items() if row is not None and listing.find(name) is None)
        listing.add_rows([row for _, row in new])
        listing.hidden = self.listing.hidden
        listing.finish()
        self.listing = listing
        self.looked_up = {}
        self._tally.names += len(self) - before
        return listing


def _weight(listing: Listing | None) -> int:
    """How many names of a listing may be in memory."""
    if listing is None:
        return 0
    return min(len(listing), listing.loaded_max) if isinstance(listing, StoredListing) else len(listing)


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
