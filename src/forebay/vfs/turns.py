"""Whose turn it is where a folder is renamed: who removes a file of it, begins to write one that the store has, changes
attributes or makes a folder comes before that or after it, and never in between.

Else a file could be copied by the rename and then be removed at its old place only, or be opened at its old place and
found there by nobody; and a new folder would bring the old place back.

*Callers*: what changes names, on the loop.  *Locks*: this is one; a change that waits for its turn holds up no rename.
*Awaits*: others' turns.  *On crash*: nothing is kept.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import NamedTuple

from forebay.paths import is_within


class _Turn(NamedTuple):
    places: tuple[str, ...]
    ended: asyncio.Event


class Look:
    """Whether what a path showed may show elsewhere by now."""

    __slots__ = ("is_stale", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_stale = False  # a folder above was renamed


class Turns:
    """See the module."""

    def __init__(self) -> None:
        self._renames: list[_Turn] = []
        self._changes: list[_Turn] = []
        self._looks: list[Look] = []

    @contextlib.contextmanager
    def rename(self, source: str, target: str) -> Iterator[None]:
        """A rename of a file or a folder; who renames waits for `changes_below`, too."""
        with _taken(self._renames, source, target):
            try:
                yield
            finally:
                for look in self._looks:
                    look.is_stale |= any(map(partial(_is_below, look.path), (source, target)))

    @contextlib.contextmanager
    def look(self, path: str) -> Iterator["Look"]:
        """Somebody looks up what a path shows, and holds up no rename by that."""
        self._looks.append(look := Look(path))
        try:
            yield look
        finally:
            self._looks.remove(look)

    @contextlib.asynccontextmanager
    async def change(self, path: str, *, itself: bool = False) -> AsyncIterator[bool]:
        """No folder that a path lies in is renamed meanwhile, nor it `itself`.  Given: was one, until now?"""
        has_waited = await _until_none(self._renames, partial(is_within if itself else _is_below, path))
        with _taken(self._changes, path):
            yield has_waited

    async def changes_below(self, path: str) -> None:
        """Return when nobody changes anything at or below a path any more who had begun before this rename of it."""
        await _until_none(self._changes, lambda place: is_within(place, path))

    async def renames_at(self, path: str) -> None:
        """Return when nothing is renamed any more at, above or below a path."""
        await _until_none(self._renames, lambda place: is_within(path, place) or is_within(place, path))


def _is_below(path: str, folder: str) -> bool:
    return path != folder and is_within(path, folder)


@contextlib.contextmanager
def _taken(turns: list[_Turn], *places: str) -> Iterator[None]:
    turns.append(turn := _Turn(places, asyncio.Event()))
    try:
        yield
    finally:
        turns.remove(turn)
        turn.ended.set()


async def _until_none(turns: list[_Turn], is_meant: Callable[[str], bool]) -> bool:
    """Return when no turn at such a place is left; False if there was none."""
    has_waited = False
    while live := [turn for turn in turns if any(map(is_meant, turn.places))]:
        has_waited = True
        await live[0].ended.wait()
    return has_waited
