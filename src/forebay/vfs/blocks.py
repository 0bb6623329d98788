"""Entries of a folder in columns: a quarter of the memory that as many objects take, and the form on disk.  Pure.

A block holds what the store said of up to `BLOCK_ENTRIES` names.  It never changes; `amended` gives another one.
"""

import json
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from forebay.types import FolderMeta, ObjectMeta, Posix
from forebay.vfs.entries import Entry, FileEntry, type_of_file

BLOCK_ENTRIES = 1_000  # about a page of a store's listing: 70 KB on disk
FOLDER = -1  # in place of a folder's size
NO_TIME = -(1 << 63)  # of a folder that is only a common prefix of keys: it shows the time of its mount
_NUMBER = "q"  # 8 bytes, signed


class Row(NamedTuple):
    """One entry without the folder it lies in."""

    name: str
    size: int  # bytes, or FOLDER
    mtime_ns: int  # or NO_TIME
    version: str  # "" of a folder
    posix: Posix | None = None


def file_row(name: str, meta: ObjectMeta) -> Row:
    """An object as an entry of that name."""
    return Row(name, *meta[1:])


def folder_row(name: str, meta: FolderMeta | None) -> Row:
    """A folder as an entry of that name."""
    return (
        Row(name, FOLDER, NO_TIME, "") if meta is None else Row(name, FOLDER, meta.mtime_ns or NO_TIME, "", meta.posix)
    )


def row_of(name: str, entry: Entry) -> Row:
    """An entry without its folder."""
    if isinstance(entry, FileEntry):
        return Row(name, entry.size, entry.mtime_ns, entry.version, entry.posix)
    return Row(name, FOLDER, entry.mtime_ns, "", entry.posix)


class _Even:
    """Texts of one length in a single string: 32 bytes for an MD5 instead of 89."""

    __slots__ = ("_each", "_text")

    def __init__(self, text: str, each: int) -> None:
        self._text = text
        self._each = each

    def __getitem__(self, index: int) -> str:
        return self._text[index * self._each : (index + 1) * self._each]


class Packed(NamedTuple):
    """A block as the names database keeps it."""

    first: bytes  # of the names, in order of their characters
    last: bytes
    entries: int
    names: bytes
    sizes: bytes
    times: bytes
    versions: bytes
    posix: bytes | None


class Block:
    """See the module."""

    __slots__ = ("_positions", "_posix", "_sizes", "_times", "_versions", "first", "has_files", "last", "names")

    def __init__(
        self,
        names: list[str],
        sizes: Iterable[int],
        times: Iterable[int],
        versions: Sequence[str],
        posix: Sequence[Posix | None] | None = None,
    ) -> None:
        """Columns of one length, not empty; a name comes once."""
        self.names = names
        self.first, self.last = min(names), max(names)
        self._sizes = array(_NUMBER, sizes)
        self._times = array(_NUMBER, times)
        lengths = set(map(len, versions))
        self._versions = _Even("".join(versions), lengths.pop()) if len(lengths) == 1 else versions
        self._posix = posix if posix is not None and any(posix) else None
        self._positions: dict[str, int] | None = None  # made when a name is first looked up
        self.has_files = any(size != FOLDER for size in self._sizes)

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> Row:
        """One entry."""
        posix = self._posix[index] if self._posix is not None else None
        return Row(self.names[index], self._sizes[index], self._times[index], self._versions[index], posix)

    def rows(self) -> Iterator[Row]:
        """Every entry."""
        return map(self.row, range(len(self)))

    def is_folder(self, index: int) -> bool:
        """Is that entry a folder?"""
        return self._sizes[index] == FOLDER

    def file_type(self, index: int) -> int:
        """S_IFDIR, S_IFLNK or S_IFREG."""
        if self._sizes[index] == FOLDER:
            return stat.S_IFDIR
        return stat.S_IFREG if self._posix is None else type_of_file(self._posix[index])

    def position(self, name: str) -> int | None:
        """The index of a name."""
        if self._positions is None:
            self._positions = dict(zip(self.names, range(len(self.names)), strict=True))
        return self._positions.get(name)

    def find(self, name: str) -> Row | None:
        """The entry of that name."""
        index = self.position(name)
        return None if index is None else self.row(index)

    def folders(self, start: int = 0) -> list[str]:
        """The names of the folders in it, from an index on."""
        pairs = zip(self.names[start:], self._sizes[start:], strict=True)
        return [name for name, size in pairs if size == FOLDER]

    def file_bytes(self, start: int) -> int:
        """The size of all its files from an index on."""
        return sum(size for size in self._sizes[start:] if size != FOLDER)

    def amended(self, newer: Mapping[str, Row | None]) -> "Block | None":
        """This block with some entries replaced (or, by None, left out); None if nothing is left."""
        rows = [newer[name] if name in newer else self.row(index) for index, name in enumerate(self.names)]
        return make_block([row for row in rows if row is not None])

    def pack(self) -> Packed:
        """As bytes; no name and no version holds a NUL."""
        return Packed(
            _raw(self.first),
            _raw(self.last),
            len(self),
            _raw("\0".join(self.names)),
            self._sizes.tobytes(),
            self._times.tobytes(),
            _raw("\0".join(map(self._versions.__getitem__, range(len(self))))),
            None if self._posix is None else _pack_posix(self._posix),
        )


def make_block(rows: Sequence[Row]) -> Block | None:
    """A block of these entries; None if there are none."""
    if not rows:
        return None
    names, sizes, times, versions, posix = zip(*rows, strict=True)
    return Block(list(names), sizes, times, versions, posix)


def block_of_objects(names: list[str], objects: Sequence[ObjectMeta]) -> Block:
    """A block of files, a name for each object."""
    _, sizes, times, versions, posix = zip(*objects, strict=True)
    return Block(names, sizes, times, versions, posix)


def unpack(packed: Packed) -> Block:
    """The block that was packed.

    Raises:
        ValueError, UnicodeError: these bytes are of no block.
    """
    sizes, times = array(_NUMBER, packed.sizes), array(_NUMBER, packed.times)
    names, versions = _text(packed.names).split("\0"), _text(packed.versions).split("\0")
    posix = None if packed.posix is None else _unpack_posix(packed.posix)
    if {len(names), len(versions), len(sizes), len(times)} | ({len(posix)} if posix else set()) != {packed.entries}:
        raise ValueError("the columns of a block differ in length")
    return Block(names, sizes, times, versions, posix)


def _pack_posix(column: Sequence[Posix | None]) -> bytes:
    kinds: dict[Posix | None, int] = {}
    which = [kinds.setdefault(posix, len(kinds)) for posix in column]
    return json.dumps([list(kinds), which]).encode()


def _unpack_posix(raw: bytes) -> list[Posix | None]:
    kinds, which = json.loads(raw)
    made = [None if kind is None else Posix(*kind) for kind in kinds]  # equal ones stay one object
    return [made[index] for index in which]


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
