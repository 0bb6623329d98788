"""Multipart uploads: parts of an object of unknown size, ended one way or the other.

*Callers*: the S3 store, on the loop.  *Awaits*: the network.  *Invariants*: after a failure or a cancellation the
upload is aborted, so no part stays behind and nothing is visible.
*On crash*: parts stay, invisible, until the bucket's lifecycle rule removes them.
"""

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from xml.sax.saxutils import escape

import structlog

from forebay.errors import FsError, Invalid
from forebay.stores import s3_errors
from forebay.stores.http_calls import Request, Response
from forebay.stores.s3_http import S3Http, marked
from forebay.stores.uploads import send_parts
from forebay.types import Buffer

log = structlog.get_logger()


class Upload:
    """One multipart upload; `run` it once."""

    def __init__(self, http: S3Http, key: str) -> None:
        self._http = http
        self._key = key
        self._write = http.write(key)
        self._id = ""
        self._etags: dict[int, str] = {}

    async def run(self, chunks: AsyncIterator[Buffer]) -> str:
        """Upload everything; the new object's ETag, or "" from Ceph 16, which does not tell it.

        Raises what `chunks` or the store raises.
        """
        started = await self._http.calls.call(Request("POST", self._key, (("uploads", ""),), marked(self._write)))
        self._id = _text(started, "UploadId")
        if not self._id:
            raise Invalid(f"{self._http.location}: the store does not do multipart uploads", path=self._key)
        try:
            await send_parts(chunks, self._send, name=self._key)
            return await self._complete()
        except BaseException:  # cancellations too: what was sent must go
            await self._abort()
            raise

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
        try:
            await self._http.calls.call(Request("DELETE", self._key, (("uploadId", self._id),)), expect=(200, 204, 404))
        except FsError as error:
            log.warning("s3.upload_not_aborted", location=self._http.location, key=self._key, reason=str(error))


def _is_result(answer: Response) -> bool:
    return _root(answer).tag.rpartition("}")[2] == "CompleteMultipartUploadResult"


def _text(answer: Response, name: str) -> str:
    return next((child.text or "" for child in _root(answer) if child.tag.rpartition("}")[2] == name), "")


def _root(answer: Response) -> ET.Element:
    try:
        return ET.fromstring(answer.body)
    except ET.ParseError:
        return ET.Element("")
