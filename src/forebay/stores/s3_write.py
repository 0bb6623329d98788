"""One write of an object over S3, and what came of it when its answer was lost.

A write that may have been carried out is not repeated blindly: another may have written since, and a conditional one
would meet itself.  So each carries a mark of its own as metadata, and before it is repeated the object is asked for
its mark.

*Callers*: the S3 store, on the loop.  *Awaits*: the network, all of it within one deadline.
"""

import asyncio
import secrets
from contextlib import suppress
from dataclasses import replace

from forebay.errors import FsError, NotFound, StaleVersion, Unavailable
from forebay.stores.http_calls import Request, Response
from forebay.stores.s3_http import S3Http

MARK = "x-amz-meta-forebay-write"


class Write:
    """See the module; `send` once, with `headers` in the request that makes the object."""

    def __init__(self, http: S3Http, key: str) -> None:
        self._http = http
        self._key = key
        self._mark = secrets.token_hex(8)
        self._is_lost = False  # was an answer?
        self._until = 0.0  # by the loop's clock
        self.headers = ((MARK, self._mark),)

    async def send(self, request: Request) -> Response:
        """Send what makes the object, again if it must be; the answer, or that of a HEAD if the answer was lost.

        Raises:
            StaleVersion: the condition does not hold, and nothing was written.
            Unavailable: the outcome is not known: an answer was lost, and what is there is not ours.
            FsError: as the store says.
        """
        self._until = asyncio.get_running_loop().time() + self._http.calls.deadline_s
        try:
            return await self._http.calls.call(replace(request, check=self._find), until=self._until)
        except FsError as error:
            if not self._is_lost:
                raise
            with suppress(FsError):  # what failed first says more
                if (found := await self._find()) is not None:
                    return found  # it was under way still when it was looked for
            if isinstance(error, StaleVersion):
                message = (
                    f"{self._http.location}: {self._key!r}: the answer to a write was lost, and what is there now is "
                    "not ours: it is not known whether ours was there before; look at it"
                )
                raise Unavailable(message, path=self._key) from None
            raise

    async def _find(self) -> Response | None:
        self._is_lost = True
        try:
            found = await self._http.calls.call(Request("HEAD", self._key), until=self._until)
        except NotFound:
            return None
        return found if found.headers.get(MARK) == self._mark else None
