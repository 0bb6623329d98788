"""Whose turn it is where something is renamed: one rename at a time; who changes what is there comes before or after.

Else a file could be copied by the rename of its folder and then be removed at its old place only, be opened at its old
place and found there by nobody, or be known for what it was at a place that shows another one by now.

*Callers*: what changes names, on the loop.  *Locks*: this is one: who waits here holds no other (`Drafting._alone`, a
draft's), and a rename waits only for who came before it, so nobody waits in a circle.  Who asks where nothing is
renamed has its turn at once, before anything else runs.  *Awaits*: others' turns.  *On crash*: nothing is kept.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

from forebay.paths import is_within


class _Turn(NamedTuple):
    places: tuple[str, ...]
    ended: asyncio.Event

    def is_at_or_above(self, path: str) -> bool:
        return any(is_within(path, place) for place in self.places)

    def meets(self, path: str) -> bool:
        """Is one of its places at, above or below a path?"""
        return any(is_within(path, place) or is_within(place, path) for place in self.places)


class Look:
    """Whether what a path showed may show elsewhere by now."""

    __slots__ = ("_turns", "has_moved", "path")

    def __init__(self, turns: "Turns", path: str) -> None:
        self._turns = turns
        self.path = path
        self.has_moved = False  # it, or a folder above, was renamed

    def note(self, renamed: _Turn) -> None:
        """A rename has ended."""
        self.has_moved |= renamed.is_at_or_above(self.path)

    @property
    def is_stale(self) -> bool:
        """Was it, or a folder above, renamed, or is it being renamed now?"""
        return self.has_moved or self._turns.is_renamed(self.path)


class Turns:
    """See the module."""

    def __init__(self) -> None:
        self._renames: list[_Turn] = []
        self._changes: list[_Turn] = []
        self._looks: list[Look] = []

    @contextlib.asynccontextmanager
    async def rename(self, source: str, target: str) -> AsyncIterator[bool]:
        """A rename of a file or a folder, once all has ended that began before it at, above or below its places.

        Given: was anything of that kind under way?
        """
        earlier = [turn for turn in (*self._renames, *self._changes) if turn.meets(source) or turn.meets(target)]
        with _taken(self._renames, source, target) as turn:
            for other in earlier:
                await other.ended.wait()
            try:
                yield bool(earlier)
            finally:
                for look in self._looks:
                    look.note(turn)

    @contextlib.contextmanager
    def look(self, path: str) -> Iterator["Look"]:
        """Somebody looks up what a path shows, and holds up no rename by that."""
        self._looks.append(look := Look(self, path))
        try:
            yield look
        finally:
            self._looks.remove(look)

    @contextlib.asynccontextmanager
    async def change(self, path: str) -> AsyncIterator[bool]:
        """Neither a path nor a folder that it lies in is renamed meanwhile.  Given: was one, until now?"""
        has_waited = await self.renames_above(path)
        with _taken(self._changes, path):
            yield has_waited

    def is_renamed(self, path: str) -> bool:
        """Is a path, or a folder that it lies in, being renamed now?"""
        return any(turn.is_at_or_above(path) for turn in self._renames)

    async def renames_above(self, path: str) -> bool:
        """Return when neither a path nor a folder that it lies in is being renamed; False if none was."""
        return await _until_none(lambda: (turn for turn in self._renames if turn.is_at_or_above(path)))

    async def renames_at(self, path: str) -> bool:
        """Return when nothing is being renamed at, above or below a path; False if nothing was."""
        return await _until_none(lambda: (turn for turn in self._renames if turn.meets(path)))


@contextlib.contextmanager
def _taken(turns: list[_Turn], *places: str) -> Iterator[_Turn]:
    turns.append(turn := _Turn(places, asyncio.Event()))
    try:
        yield turn
    finally:
        turns.remove(turn)
        turn.ended.set()


async def _until_none(find: Callable[[], Iterator[_Turn]]) -> bool:
    """Return when no such turn is left; False if there was none."""
    has_waited = False
    while (turn := next(find(), None)) is not None:
        has_waited = True
        await turn.ended.wait()
    return has_waited
