"""Multipart uploads: parts of an object, in any order, ended one way or the other.

*Callers*: the S3 store and who uploads through it, on the loop.  *Awaits*: the network.  *Invariants*: nothing is
visible before `complete`; an upload that is aborted leaves no part.
*On crash*: parts stay, invisible, until the bucket's lifecycle rule removes them.
"""

import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from typing import Protocol
from xml.sax.saxutils import escape

import structlog

from forebay.errors import FsError, Invalid, NotFound, StaleVersion
from forebay.stores import s3_errors
from forebay.stores.base import check_number, check_span
from forebay.stores.http_calls import Request, Response
from forebay.stores.s3_http import S3Http, marked
from forebay.stores.uploads import send_parts
from forebay.types import Buffer, ByteRange, ObjectMeta

log = structlog.get_logger()

Headers = tuple[tuple[str, str], ...]


class Service(Protocol):
    """The store whose upload it is."""

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        ...

    async def written(self, key: str, size: int, etag: str) -> ObjectMeta:
        """What is to be said of an object that was made."""
        ...


class Upload:
    """One multipart upload; see `forebay.stores.base.Upload`.  Made by `begin`."""

    def __init__(self, service: Service, http: S3Http, key: str) -> None:
        self._service = service
        self._http = http
        self._key = key
        self._write = http.write(key)
        self._id = ""
        self._etags: dict[int, str] = {}
        self._sizes: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Upload of {self._key!r} to {self._http.location}>"

    async def begin(self, headers: Headers) -> None:
        """Have the store begin an upload of an object that will have these headers."""
        request = Request("POST", self._key, (("uploads", ""),), (*marked(self._write), *headers))
        self._id = text_in(await self._http.calls.call(request), "UploadId")
        if not self._id:
            raise Invalid(f"{self._http.location}: the store does not do multipart uploads", path=self._key)

    async def run(self, chunks: AsyncIterator[Buffer], if_version: str | None, if_absent: bool) -> ObjectMeta:
        """Send everything and complete the upload, or abort it.

        Raises what `chunks` or the store raises.
        """
        try:
            await send_parts(chunks, self.send, name=self._key)
            return await self.complete(if_version=if_version, if_absent=if_absent)
        except BaseException:  # cancellations too: what was sent must go
            await self.abort()
            raise

    async def send(self, number: int, data: Buffer) -> None:
        """See `Upload.send`."""
        answer = await self._http.calls.call(Request("PUT", self._key, self._part(number), body=data))
        self._etags[number], self._sizes[number] = answer.headers.get("ETag", ""), len(data)

    async def copy(self, number: int, source: str, span: ByteRange, version: str) -> None:
        """See `Upload.copy`."""
        check_span(source, span)
        copied = ("x-amz-copy-source-range", f"bytes={span.start}-{span.stop - 1}")
        headers = (*self._http.copy_source(source, version), copied)
        try:
            answer = await self._http.calls.call(Request("PUT", self._key, self._part(number), headers))
        except (NotFound, StaleVersion):
            await self._check_version(source, version)  # it names the source
            raise
        await self._check_version(source, version)  # Ceph 16 heeds no condition of this request
        etag = text_in(answer, "ETag")
        if not etag:  # as with `complete`, a failure may be a 200
            raise s3_errors.refused(s3_errors.read_answer(500, answer.body), self._http.location, source)
        self._etags[number], self._sizes[number] = etag, span.size

    async def complete(self, *, if_version: str | None = None, if_absent: bool = False) -> ObjectMeta:
        """See `Upload.complete`."""
        if not self._etags:
            await self.send(1, b"")  # no object is made of no part
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
            for number, etag in sorted(self._etags.items())
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        request = Request("POST", self._key, (("uploadId", self._id),), body=body)
        answer = await self._http.send_if(self._write, request, if_version, if_absent)
        found = answer.headers.get("ETag", "")  # told by the HEAD that looked for an answer that was lost
        if not found and not _is_result(answer):  # the status comes before the work is done: a failure may be a 200
            raise s3_errors.refused(s3_errors.read_answer(500, answer.body), self._http.location, self._key)
        etag = text_in(answer, "ETag") or found or await self._etag()
        self._id = ""
        return await self._service.written(self._key, sum(self._sizes.values()), etag)

    async def abort(self) -> None:
        """See `Upload.abort`; what the store does not let us remove is logged, for no caller could do better."""
        if not self._id:
            return
        try:
            await self._http.calls.call(Request("DELETE", self._key, (("uploadId", self._id),)), expect=(200, 204, 404))
            self._id = ""
        except FsError as error:
            log.warning("s3.upload_not_aborted", location=self._http.location, key=self._key, reason=str(error))

    async def _check_version(self, source: str, version: str) -> None:
        if (await self._service.head(source)).version != version:
            raise StaleVersion(f"{self._http.location}: {source!r} has another version by now", path=source)

    def _part(self, number: int) -> tuple[tuple[str, str], ...]:
        check_number(self._key, number)
        if not self._id:
            raise Invalid(f"{self._http.location}: {self._key!r}: this upload has ended", path=self._key)
        return (("partNumber", str(number)), ("uploadId", self._id))

    async def _etag(self) -> str:
        """The new object's ETag, which Ceph 16 does not tell; if it was replaced since, one that no object has."""
        found = await self._write.find()
        return found.headers.get("ETag", "") if found is not None else self._write.mark


def _is_result(answer: Response) -> bool:
    return _root(answer).tag.rpartition("}")[2] == "CompleteMultipartUploadResult"


def text_in(answer: Response, name: str) -> str:
    """What stands under a name in the answer to a request; "" if nothing does."""
    return next((child.text or "" for child in _root(answer) if child.tag.rpartition("}")[2] == name), "")


def _root(answer: Response) -> ET.Element:
    try:
        return ET.fromstring(answer.body)
    except ET.ParseError:
        return ET.Element("")
