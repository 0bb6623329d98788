"""Multipart uploads: parts of an object of unknown size, a few at a time, ended one way or the other.

*Callers*: the S3 store, on the loop.  *Awaits*: the network.  *Invariants*: at most `IN_FLIGHT` parts and one more are
in memory; after a failure or a cancellation the upload is aborted, so no part stays behind and nothing is visible.
*On crash*: parts stay, invisible, until the bucket's lifecycle rule removes them.
"""

import asyncio
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from xml.sax.saxutils import escape

import structlog

from forebay.errors import FsError, Invalid
from forebay.stores import s3_errors
from forebay.stores.http_calls import Request, Response
from forebay.stores.s3_http import S3Http
from forebay.stores.s3_write import Write
from forebay.types import Buffer
from forebay.units import MIB

log = structlog.get_logger()

PART_BYTES = 8 * MIB
PARTS_MAX = 10_000  # of S3
GROW_EVERY = 1_000  # parts; then they double, so that 10,000 of them hold S3's largest object
IN_FLIGHT = 3


class Upload:
    """One multipart upload; `run` it once."""

    def __init__(self, http: S3Http, key: str) -> None:
        self._http = http
        self._key = key
        self._write = Write(http, key)
        self._id = ""
        self._etags: dict[int, str] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, chunks: AsyncIterator[Buffer]) -> str:
        """Upload everything; the new object's ETag, or "" from Ceph 16, which does not tell it.

        Raises what `chunks` or the store raises.
        """
        started = await self._http.calls.call(Request("POST", self._key, (("uploads", ""),), self._write.headers))
        self._id = _text(started, "UploadId")
        if not self._id:
            raise Invalid(f"{self._http.location}: the store does not do multipart uploads", path=self._key)
        try:
            number = 0
            async for part in _parts(chunks):
                number += 1
                await self._room()
                task = asyncio.create_task(self._send(number, part), name=f"upload part {number} of {self._key}")
                self._sending.add(task)
            await self._finish_sending()
            return await self._complete()
        except BaseException:  # cancellations too: what was sent must go
            await self._abort()
            raise

    async def _room(self) -> None:
        if len(self._sending) >= IN_FLIGHT:
            done, self._sending = await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _finish_sending(self) -> None:
        tasks, self._sending = self._sending, set()
        try:
            await asyncio.gather(*tasks)
        finally:
            self._sending = {task for task in tasks if not task.done()}

    async def _send(self, number: int, part: Buffer) -> None:
        query = (("partNumber", str(number)), ("uploadId", self._id))
        answer = await self._http.calls.call(Request("PUT", self._key, query, body=part))
        self._etags[number] = answer.headers.get("ETag", "")

    async def _complete(self) -> str:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in sorted(self._etags.items())
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        answer = await self._write.send(Request("POST", self._key, (("uploadId", self._id),), body=body))
        found = answer.headers.get("ETag", "")  # told by the HEAD that looked for an answer that was lost
        if not found and not _is_result(answer):  # the status comes before the work is done: a failure may be a 200
            said = s3_errors.read_answer(500, answer.body)
            raise s3_errors.refused(said, self._http.location, self._key)
        return _text(answer, "ETag") or found

    async def _abort(self) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        try:
            await self._http.calls.call(Request("DELETE", self._key, (("uploadId", self._id),)), expect=(200, 204, 404))
        except FsError as error:
            log.warning("s3.upload_not_aborted", location=self._http.location, key=self._key, reason=str(error))


async def _parts(chunks: AsyncIterator[Buffer]) -> AsyncIterator[Buffer]:
    held, number, size = bytearray(), 0, PART_BYTES
    async for chunk in chunks:
        view = memoryview(chunk)
        while len(view):
            taken = min(len(view), size - len(held))
            held += view[:taken]
            view = view[taken:]
            if len(held) == size:
                yield held
                held, number = bytearray(), number + 1
                if number % GROW_EVERY == 0:
                    size *= 2
    if held or number == 0:
        yield held


def _is_result(answer: Response) -> bool:
    return _root(answer).tag.rpartition("}")[2] == "CompleteMultipartUploadResult"


def _text(answer: Response, name: str) -> str:
    return next((child.text or "" for child in _root(answer) if child.tag.rpartition("}")[2] == name), "")


def _root(answer: Response) -> ET.Element:
    try:
        return ET.fromstring(answer.body)
    except ET.ParseError:
        return ET.Element("")
