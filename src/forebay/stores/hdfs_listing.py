"""Listings of HDFS as keys in the order of the contract, without holding a whole folder in memory where that can be.

HDFS sends the names of a folder in batches, ordered by their bytes as signed numbers and folders without the slash
that their keys end in: names with letters beyond ASCII come first, and `a` before `a-`, while the key `a/` comes
after the key `a-`.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple, TypeVar

import hdfs_native

from forebay.errors import NotFound
from forebay.types import FolderMeta, ObjectMeta

Item = TypeVar("Item")


class Folder(NamedTuple):
    """A folder in a listing."""

    key: str  # ends in "/"
    meta: FolderMeta


def in_key_order(named: Iterable[tuple[bytes, bytes, Item]]) -> Iterator[Item]:
    """Items in the order of their keys, from `(name, key, item)` in the order of HDFS; a folder's key ends in "/".

    An item waits until no later one can come before it.  All names after one of ASCII alone are greater than it, and
    so are their keys; names with other bytes tell nothing.

    >>> list(in_key_order((name, key, key) for name, key in [(b"a", b"a/"), (b"a-", b"a-"), (b"b", b"b")]))
    [b'a-', b'a/', b'b']
    """
    held: list[tuple[bytes, int, Item]] = []  # a heap; the numbers keep items from being compared
    for number, (name, key, item) in enumerate(named):
        while held and held[0][0] < name and name.isascii():
            yield heappop(held)[2]
        heappush(held, (key, number, item))
    while held:
        yield heappop(held)[2]


def is_after(entry: ObjectMeta | Folder, start_after: bytes, *, recursive: bool) -> bool:
    """Does an entry, or something below it, belong to a listing of the keys after `start_after`?"""
    raw = entry.key.encode()
    if isinstance(entry, ObjectMeta) or raw > start_after:
        return raw > start_after
    return start_after.startswith(raw) and (recursive or start_after != raw)


def statuses(client: hdfs_native.Client, path: str) -> Iterator[tuple[str, hdfs_native.FileStatus]]:
    """Each name in a folder, with what HDFS says of it, as the batches come.

    Raises:
        NotFound: no folder is there (any more).
    """
    for status in client.list_status(path):
        if status.path == path:  # how HDFS lists a file
            raise NotFound(f"{path} is a file")
        yield status.path.rpartition("/")[2], status
