"""A folder's entries in the order the store gives them: growing while its pages come, or read from disk in pieces.

*Callers*: metadata and frontends, on the loop.  *Awaits*: pages of the store, or blocks of the names database.
*Invariants*: a name is in it once, and stays at its place: an object and a folder of one name show as the folder.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from forebay.errors import FsError
from forebay.paths import NAME_BYTES_MAX
from forebay.stores.base import ListPage
from forebay.types import ObjectMeta
from forebay.vfs.blocks import (
    BLOCK_ENTRIES,
    FOLDER,
    NO_TIME,
    Block,
    Row,
    block_of_objects,
    file_row,
    folder_row,
    make_block,
)
from forebay.vfs.entries import Entry, FileEntry, FolderEntry, Mount, file_type

_DOTS = frozenset(("", ".", ".."))
Wait = Callable[[int], Awaitable[None]]


class Moment(NamedTuple):
    """When a request or a write began: facts are as old as that."""

    at: float  # on the clock of all ages
    turn: int  # of two facts the one of the later turn is right; times may be equal


NEVER = Moment(float("-inf"), 0)


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
    if name in _DOTS or "/" in name or "\0" in name:
        return None
    if len(name) * 4 > NAME_BYTES_MAX and len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
        return None
    return name


def _plain_names(objects: Sequence[ObjectMeta], prefix: str) -> list[str] | None:
    """The names of a page's objects if every one is a plain name, as nearly always; at a tenth of `name_of`'s price."""
    cut = len(prefix)
    names = [meta[0][cut:] for meta in objects]
    text = "\0".join(names)
    if "/" in text or text.count("\0") != len(names) - 1 or not _DOTS.isdisjoint(names):
        return None
    return names if max(map(len, names)) * 4 <= NAME_BYTES_MAX else None


class Part(NamedTuple):
    """A part of a listing, in sum."""

    entries: int
    bytes: int  # of the files in it
    folders: list[str]  # their names


class Listing:
    """See the module.  `prefix` is what the keys of its entries begin with."""

    def __init__(
        self,
        path: str,
        mount: Mount | None,
        prefix: str = "",
        *,
        began: Moment = NEVER,
        fixed: Sequence[tuple[str, Entry]] = (),
    ) -> None:
        """`fixed`: entries of other mounts, which come first and hide the store's."""
        self.path = path
        self.mount = mount
        self.prefix = prefix
        self.began = began  # when the store was asked; tells one listing of a folder from another
        self.fixed = fixed
        self.hidden = 0  # keys that no file name can show
        self.done = False
        self.error: FsError | None = None
        self.blocks: list[Block] = []
        self._hiding = frozenset(name for name, _ in fixed)
        self._base = path.rstrip("/") + "/"
        self._starts: list[int] = []  # the index of each block's first entry
        self._firsts: list[str] = []
        self._lasts: list[str] = []  # the highest name up to and with each block
        self._is_ordered = True  # no block has names before the highest of those before it
        self._folders: set[str] = set()
        self._count = len(fixed)
        self._waiters: list[asyncio.Future[None]] = []

    # ------------------------------------------------------------------ growing

    def add_page(self, page: ListPage) -> None:
        """Put in one page of the store's listing of `prefix`."""
        names = None if page.folders or not page.objects else _plain_names(page.objects, self.prefix)
        if names is not None and self._hiding.isdisjoint(names):
            self.add(block_of_objects(names, page.objects))
        else:
            self.add_rows(self._rows(page))

    def _rows(self, page: ListPage) -> list[Row]:
        found: list[Row] = []
        for meta in page.objects:
            name = name_of(meta.key, self.prefix)
            if name is None or (name and meta.key.endswith("/")):
                self.hidden += 1
            elif name:
                found.append(file_row(name, meta))
        for folder in page.folders:
            name = name_of(folder, self.prefix)
            if name:
                found.append(folder_row(name, page.folder_metas.get(folder)))
            else:
                self.hidden += 1
        found.sort(key=_by_name)
        return found

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Put in entries; those that `fixed` hides are left out, of two of one name the folder stays."""
        merged: dict[str, Row] = {}
        for row in rows:
            if row.name in self._hiding:
                continue
            self.hidden += row.name in merged
            if row.name not in merged or row.size == FOLDER:
                merged[row.name] = row
        left = list(merged.values())
        for start in range(0, len(left), BLOCK_ENTRIES):
            block = make_block(left[start : start + BLOCK_ENTRIES])
            if block is not None:
                self.add(block)
        self._wake()

    def add(self, block: Block) -> None:
        """Put in a block, of whose names none is among `fixed`."""
        left = self._settle_names(block)
        if left is not None:
            highest = self._lasts[-1] if self._lasts else ""
            self._is_ordered &= not self._lasts or left.first > highest
            self._starts.append(self._count)
            self._firsts.append(left.first)
            self._lasts.append(max(left.last, highest))
            self._folders.update(left.folders())
            self._count += len(left)
            self.blocks.append(left)
        self._wake()

    def _settle_names(self, block: Block) -> Block | None:
        """What of a block is new: an earlier folder hides its object, its folder takes an earlier object's place."""
        known = self._folders.intersection(block.names)
        for name in block.folders() if any(earlier.has_files for earlier in self.blocks) else ():
            for number in self._places(name):
                if (found := self.blocks[number].find(name)) and found.size != FOLDER:
                    amended = self.blocks[number].amended({name: block.find(name)})
                    assert amended is not None
                    self.blocks[number] = amended
                    self._folders.add(name)
                    known.add(name)
        self.hidden += len(known)
        return block.amended(dict.fromkeys(known)) if known else block

    def finish(self, error: FsError | None = None) -> None:
        """No further page will come."""
        self.done, self.error = True, error
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    # ------------------------------------------------------------------ reading

    def __len__(self) -> int:
        return self._count

    def ready(self, index: int) -> bool:
        """Is entry `index`, or the end before it, known?"""
        return index < self._count or self.done

    async def wait(self, index: int) -> None:
        """Return when `ready(index)`.

        Raises:
            FsError: the store failed before that entry.
        """
        while not self.ready(index):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self.error is not None and index >= self._count:
            raise self.error

    def counted(self, monotonic: Callable[[], float]) -> Wait:
        """`wait` for one who reads the folder: how long it waits for the store is counted."""

        async def wait(index: int) -> None:
            if self.mount is None or self.done or self.ready(index):
                await self.wait(index)  # for the disk at most
                return
            with self.mount.traffic.waits_for_listing(monotonic):
                await self.wait(index)

        return wait

    def __getitem__(self, index: int) -> tuple[str, Entry]:
        (found,) = self.some(index, index + 1)
        return found

    def some(self, start: int, stop: int) -> list[tuple[str, Entry]]:
        """Names and entries from `start` up to `stop`, as far as they are ready."""
        found = list(self.fixed[start:stop])
        start = max(start, len(self.fixed))
        while start < min(stop, self._count):
            number = bisect_right(self._starts, start) - 1
            block = self._block(number)
            if block is None:
                break
            first = start - self._starts[number]
            last = min(stop - self._starts[number], len(block))
            found += [(block.names[index], self._entry(block.row(index))) for index in range(first, last)]
            start = self._starts[number] + last
        return found

    async def batches(
        self, most: int = BLOCK_ENTRIES, wait: Wait | None = None
    ) -> AsyncGenerator[list[tuple[str, Entry]], None]:
        """All of them in order, up to `most` at a time, as they come.

        Args:
            most: entries.
            wait: in place of `wait`, by whom the waiting is counted.

        Raises:
            FsError: the store failed midway.
        """
        index = 0
        while True:
            await (wait or self.wait)(index)
            some = self.some(index, index + most)
            if not some:
                return
            index += len(some)
            yield some

    def names(self, start: int) -> list[tuple[str, int]]:
        """The names of one block from `start` on, each with its file type; empty at the end of what is ready."""
        if start < len(self.fixed):
            return [(name, file_type(entry)) for name, entry in self.fixed[start:]]
        number = bisect_right(self._starts, start) - 1
        block = self._block(number) if start < self._count else None
        if block is None:
            return []
        first = start - self._starts[number]
        return [(block.names[index], block.file_type(index)) for index in range(first, len(block))]

    def part(self, start: int) -> "Part":
        """What lies in one block from `start` on; nothing at the end of what is ready."""
        if start < len(self.fixed):
            rest = self.fixed[start:]
            return Part(len(rest), 0, [name for name, entry in rest if isinstance(entry, FolderEntry)])
        number = bisect_right(self._starts, start) - 1
        block = self._block(number) if start < self._count else None
        if block is None:
            return Part(0, 0, [])
        first = start - self._starts[number]
        return Part(len(block) - first, block.file_bytes(first), block.folders(first))

    def _block(self, number: int) -> Block | None:
        return self.blocks[number]

    def _entry(self, row: Row) -> Entry:
        """A row as the entry that it is in this folder."""
        mount = self.mount
        assert mount is not None
        name, size, mtime_ns, version, posix = row
        if size == FOLDER:
            shown_ns = mount.mounted_ns if mtime_ns == NO_TIME else mtime_ns
            return FolderEntry(self._base + name, mount, shown_ns, posix)
        return FileEntry(self._base + name, mount, self.prefix + name, size, mtime_ns, version, posix)

    def _places(self, name: str) -> Iterator[int]:
        """The blocks that may hold a name."""
        for number in range(bisect_left(self._lasts, name), len(self._lasts)):
            if self._firsts[number] <= name:
                yield number
            elif self._is_ordered:
                return

    def place_of(self, name: str) -> int | None:
        """The index of a name of the store, if it is in and ready."""
        for number in self._places(name):
            block = self._block(number)
            if block is not None and (position := block.position(name)) is not None:
                return self._starts[number] + position
        return None

    def folder_at(self, index: int) -> str:
        """The name at an index, if a folder of the store's is there and ready; else ""."""
        number = bisect_right(self._starts, index) - 1
        block = self._block(number) if number >= 0 and index < self._count else None
        position = index - self._starts[number]
        return block.names[position] if block is not None and block.is_folder(position) else ""

    def knows(self, name: str) -> bool:
        """Can `find` answer for that name now?"""
        return True

    def find(self, name: str) -> Entry | None:
        """The entry of that name, if it is in."""
        for number in self._places(name):
            block = self._block(number)
            if block is not None and (row := block.find(name)) is not None:
                return self._entry(row)
        return None


def _by_name(row: Row) -> str:
    return row.name


class Stub(NamedTuple):
    """A block on disk."""

    first: str
    last: str
    entries: int


class StoredListing(Listing):
    """A listing too large for memory: its blocks come from the names database when they are needed.

    It stays what it was until nobody holds it, whatever is listed anew.
    """

    def __init__(
        self,
        path: str,
        mount: Mount,
        prefix: str,
        stubs: Sequence[Stub],
        load: Callable[[int], Awaitable[Block]],
        *,
        began: Moment,
        hidden: int,
        loaded_max: int,
    ) -> None:
        """`loaded_max`: names in memory at a time, but for the one block that is read."""
        super().__init__(path, mount, prefix, began=began)
        self._load = load
        self._loaded: OrderedDict[int, Block] = OrderedDict()
        for stub in stubs:
            highest = self._lasts[-1] if self._lasts else ""
            self._is_ordered &= not self._lasts or stub.first > highest
            self._starts.append(self._count)
            self._firsts.append(stub.first)
            self._lasts.append(max(stub.last, highest))
            self._count += stub.entries
        self.hidden = hidden
        self.done = True
        self.loaded_max = loaded_max

    def _block(self, number: int) -> Block | None:
        return self._loaded.get(number)

    def ready(self, index: int) -> bool:
        """See `Listing.ready`."""
        return index >= self._count or bisect_right(self._starts, index) - 1 in self._loaded

    async def wait(self, index: int) -> None:
        """See `Listing.wait`; the block is ready until the caller lets others run."""
        if not self.ready(index):
            await self._fetch(bisect_right(self._starts, index) - 1)

    async def fetch(self, name: str) -> None:
        """Return when `knows(name)`, until the caller lets others run.

        Raises:
            FsError: the names database was lost.
        """
        for number in self._places(name):
            if number not in self._loaded:
                await self._fetch(number)

    async def _fetch(self, number: int) -> None:
        self._loaded[number] = await self._load(number)
        self._loaded.move_to_end(number)
        while len(self._loaded) > 1 and sum(map(len, self._loaded.values())) > self.loaded_max:
            self._loaded.popitem(last=False)

    def knows(self, name: str) -> bool:
        """See `Listing.knows`."""
        return all(number in self._loaded for number in self._places(name))
