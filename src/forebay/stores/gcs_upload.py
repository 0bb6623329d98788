"""Resumable uploads: an object of unknown size, part by part, ended one way or the other.

*Callers*: the GCS store, on the loop.  *Awaits*: the network.  *Invariants*: one part is in memory; after a failure or
a cancellation the session is ended, so nothing is visible.  *On crash*: what was sent stays, invisible, for a week.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

import structlog

from forebay.errors import Corrupt, FsError, NotFound, Unavailable
from forebay.stores.gcs_http import GcsHttp
from forebay.stores.http_calls import Request
from forebay.types import Buffer
from forebay.units import MIB

log = structlog.get_logger()

PART_BYTES = 8 * MIB  # must be a multiple of 256 KiB; Google recommends at least this
STALLS_MAX = 5  # answers in a row by which the store kept nothing of what was sent
_ENDED = (200, 204, 404, 410, 499)  # 499 is Google's answer to a session that was ended by its client
_KEPT = re.compile(r"bytes=0-(\d+)")


class Upload:
    """One resumable upload; `run` it once."""

    def __init__(self, http: GcsHttp, key: str, conditions: tuple[tuple[str, str], ...] = ()) -> None:
        """`conditions` are parameters of the query by which the object is made."""
        self._http = http
        self._key = key
        self._conditions = conditions
        self._session = ""
        self._kept = 0  # bytes that the store has
        self._part = bytearray()  # what follows them
        self._stalls = 0  # answers in a row without progress

    async def run(self, chunks: AsyncIterator[Buffer]) -> dict[str, Any]:
        """Upload everything; what the store says of the new object.  Raises what `chunks` or the store raises."""
        query = (("uploadType", "resumable"), ("name", self._key), *self._conditions)
        begin = Request("POST", self._key, query, (("Content-Type", "application/json"),), url=self._http.upload_url())
        began = await self._http.calls.call(begin)
        self._session = self._http.session_url(began.headers.get("Location", ""))
        if not self._session:
            raise Corrupt(f"{self._http.location}: the store does not say where to upload to", path=self._key)
        try:
            async for chunk in chunks:
                await self._add(memoryview(chunk))
            return await self._finish()
        except BaseException:  # cancellations too: what was sent must go
            await self._abort()
            raise

    async def _add(self, rest: memoryview) -> None:
        while len(rest):
            if len(self._part) == PART_BYTES:  # sent when more follows, for the last one must not be empty
                await self._send(is_last=False)
            taken = PART_BYTES - len(self._part)
            self._part += rest[:taken]
            rest = rest[taken:]

    async def _finish(self) -> dict[str, Any]:
        while (done := await self._send(is_last=True)) is None:
            pass
        return done

    async def _send(self, *, is_last: bool) -> dict[str, Any] | None:
        """Send the part, and drop what the store kept of it; when it has the whole, what it says of the object.

        A request may be repeated as it is: Google ignores bytes at offsets that it has already.
        """
        stop = self._kept + len(self._part)
        span = f"{self._kept}-{stop - 1}" if self._part else "*"
        headers = (("Content-Range", f"bytes {span}/{stop if is_last else '*'}"),)
        request = Request("PUT", self._key, headers=headers, body=self._part, url=self._session)
        try:
            answer = await self._http.calls.call(request, expect=(200, 201, 308))
        except NotFound:
            message = f"{self._http.location}: {self._key!r}: the upload was ended by the store; try again"
            raise Unavailable(message, path=self._key) from None
        if answer.status != 308:
            return self._http.parse(answer, self._key)
        found = _KEPT.fullmatch(answer.headers.get("Range", ""))
        kept = int(found[1]) + 1 if found else 0
        if not self._kept <= kept <= stop:
            message = f"{self._http.location}: {self._key!r}: the store has kept other bytes than were sent"
            raise Corrupt(message, path=self._key)
        self._stalls = 0 if kept > self._kept else self._stalls + 1
        if self._stalls > STALLS_MAX:
            message = f"{self._http.location}: {self._key!r}: the store takes no more of the upload; try again"
            raise Unavailable(message, path=self._key)
        self._part = self._part[kept - self._kept :]  # a new one, for the connection may still look at the old
        self._kept = kept
        return None

    async def _abort(self) -> None:
        try:
            await self._http.calls.call(Request("DELETE", self._key, url=self._session), expect=_ENDED)
        except FsError as error:
            log.warning("gcs.upload_not_aborted", location=self._http.location, key=self._key, reason=str(error))
