"""One write of an object over HTTP, and what came of it when its answer was lost.

A write that may have been carried out is not repeated blindly: another may have written since, and a conditional one
would meet itself.  So each carries a mark of its own as metadata, and before it is repeated the object is asked for
its mark.

*Callers*: adapters, on the loop.  *Awaits*: the network, all of it within one deadline.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from forebay.errors import AlreadyExists, FsError, NotFound, StaleVersion, Unavailable
from forebay.stores.http_calls import HttpCalls, Request, Response


class Write:
    """See the module; `send` once, with `mark` in the metadata of what the request makes."""

    def __init__(
        self, calls: HttpCalls, location: str, look: Request, mark_in: Callable[[Response], str | None]
    ) -> None:
        """`look` asks for the object without its bytes; `mark_in` finds the mark in the answer."""
        self._calls = calls
        self._location = location
        self._look = look
        self._mark_in = mark_in
        self._is_lost = False  # was an answer?
        self._until = 0.0  # by the loop's clock
        self.mark = secrets.token_hex(8)

    async def send(self, request: Request, *, expect: tuple[int, ...] = (200,)) -> Response:
        """Send what makes the object, again if it must be; the answer, or that of the look if the answer was lost.

        Raises:
            StaleVersion, AlreadyExists: the condition does not hold, and nothing was written.
            Unavailable: the outcome is not known: an answer was lost, and what is there is not ours.
            FsError: as the store says.
        """
        self._until = asyncio.get_running_loop().time() + self._calls.deadline_s
        try:
            return await self._calls.call(replace(request, check=self._find_lost), expect=expect, until=self._until)
        except FsError as error:
            if not self._is_lost:
                raise
            with suppress(FsError):  # what failed first says more
                if (found := await self._find_lost()) is not None:
                    return found  # it was under way still when it was looked for
            if isinstance(error, StaleVersion | AlreadyExists):
                message = (
                    f"{self._location}: {request.key!r}: the answer to a write was lost, and what is there now is "
                    "not ours: it is not known whether ours was there before; look at it"
                )
                raise Unavailable(message, path=request.key) from None
            raise

    async def _find_lost(self) -> Response | None:
        self._is_lost = True
        return await self.find()

    async def find(self) -> Response | None:
        """Look for what was made; None if it is not there, or not any more."""
        try:
            found = await self._calls.call(self._look, until=self._until)
        except NotFound:
            return None
        return found if self._mark_in(found) == self.mark else None
