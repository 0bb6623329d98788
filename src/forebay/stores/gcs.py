"""Google Cloud Storage, and servers that speak its language.

Bytes of objects come through obstore (Rust): a read costs a quarter of the CPU that it costs in Python.  All else,
and keys that obstore would change (`a//b`, `a/`, `..`, control characters), goes through `gcs_http`.

An object's version is its generation, a number that every overwrite makes anew.  Reads name it, so the store itself
sends these bytes or none; a bucket that keeps older versions still sends those of a version that was overwritten.

*Callers*: the daemon, on the loop.  *Locks*: `_connecting`.  *Awaits*: the network, each call within the deadline,
retries included.  *Invariants*: bytes are returned only if the answer's generation, range and length are what was
asked for.
"""

import asyncio
import base64
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import obstore.store

from forebay.config.settings import Settings
from forebay.errors import AlreadyExists, Corrupt, FsError, Invalid, NotFound, StaleVersion
from forebay.stores import gcs_errors, gcs_options
from forebay.stores.base import Capabilities, ListPage, Opened
from forebay.stores.gcs_http import GcsHttp
from forebay.stores.gcs_options import GcsOptions
from forebay.stores.gcs_upload import Upload
from forebay.stores.http_calls import Request, Response
from forebay.stores.http_reads import HttpReads, size_in
from forebay.stores.lost_writes import Write
from forebay.stores.object_reads import ObjectReads
from forebay.stores.obstore_reads import Meta, client_options, retry_config
from forebay.stores.times import header_time_ns, nanoseconds
from forebay.stores.urls import folder_prefix, refuse_credentials
from forebay.stores.wire_errors import answer_in, from_obstore
from forebay.types import Attributes, Buffer, ByteRange, ObjectMeta
from forebay.units import GIB, KIB

REWRITE_BYTES_MAX = GIB  # of one call of a copy, so that it ends before its silence is taken for a failure

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")  # Google's rule
_OBJECT = "name,size,timeCreated,generation"
_FIELDS = ("fields", _OBJECT)
_MARK = "forebay-write"  # by which a write is known again
_MARKED_FIELDS = ("fields", f"{_OBJECT},metadata")
_PAGE_FIELDS = ("fields", f"kind,nextPageToken,prefixes,items({_OBJECT})")
_PAGE_KEYS = "1000"
_HASH_IN_THREAD_BYTES = 256 * KIB
# obstore's own lookup of credentials, which would read the environment, ends at a key that asks for none.
_NO_KEY = json.dumps({"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": True})
# Objects that are stored compressed come as they are stored, in their stored size; else Google would decompress them.
_AS_STORED = ("Accept-Encoding", "gzip")


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`gs://bucket/prefix`; see `forebay.stores.registry`."""
    bucket, _, prefix = rest.partition("/")
    refuse_credentials(bucket, instead="--option gs.keyFile=/path/key.json")
    if not bucket:
        raise Invalid("the URL names no bucket; write gs://bucket or gs://bucket/prefix")
    if _BUCKET.fullmatch(bucket) is None:
        raise Invalid(f"{bucket!r} is not a bucket name; write {scheme}://bucket/prefix, and a server as gs.endpoint")
    store = GcsStore(bucket, gcs_options.parse(options), deadline_s=settings.store_deadline_s)
    return Opened(store, folder_prefix(prefix))


class GcsStore:
    """One bucket.  See the module."""

    def __init__(self, bucket: str, options: GcsOptions, *, deadline_s: float) -> None:
        self.location = f"gs://{bucket}" + (f"@{options.endpoint}" if options.endpoint else "")
        self.capabilities = Capabilities(conditional_put=True, any_prefix=True)
        self._http = GcsHttp(bucket, options, self.location, deadline_s=deadline_s)
        self._client: obstore.store.GCSStore | None = None
        self._connecting = asyncio.Lock()
        self._reads = ObjectReads(self, HttpReads(self, self._http.calls), self._http.calls)

    def __repr__(self) -> str:
        return f"<GcsStore {self.location}>"

    # ------------------------------------------------------------------ reading

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        query = (("prefix", prefix), ("maxResults", "1"), _PAGE_FIELDS)
        try:
            said = await self._http.resource(Request("GET", query=query))
        except Corrupt as error:
            raise Invalid(error.message) from error
        if said.get("kind") != "storage#objects":
            raise Invalid(f"{self.location}: what answers there is not Google Cloud Storage; check gs.endpoint")

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        return self._meta(await self._http.resource(Request("GET", key, (_FIELDS,))))

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        try:
            return await self._reads.get(key, span, version)
        except NotFound as error:
            raise await self._why_missing(error, key, version) from None

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        try:
            async for chunk in self._reads.stream(key, span, version, chunk_bytes):
                yield chunk
        except NotFound as error:
            raise await self._why_missing(error, key, version) from None

    async def _why_missing(self, error: NotFound, key: str, version: str | None) -> FsError:
        """A version that has gone is a 404, as is an object that has; another question tells them apart."""
        if version is None:
            return error
        try:
            await self.head(key)
        except FsError as failed:
            return failed
        return StaleVersion(f"{self.location}: {key!r}: has another version by now", path=key)

    # ------------------------------------------------------------------ keys that obstore does not take

    def read_request(self, key: str, version: str | None) -> Request:
        """See `http_reads.Service`."""
        query = (("alt", "media"),) if version is None else (("alt", "media"), ("generation", version))
        return Request("GET", key, query, (_AS_STORED,))

    def meta_in(self, key: str, headers: Mapping[str, str]) -> ObjectMeta:
        """See `http_reads.Service`."""
        mtime_ns = header_time_ns(headers.get("Last-Modified"))
        return ObjectMeta(key, size_in(key, headers), mtime_ns, headers.get("x-goog-generation", ""))

    # ------------------------------------------------------------------ listing

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`.  The order is that of the keys' UTF-8 bytes."""
        query = [("prefix", prefix), ("maxResults", _PAGE_KEYS), _PAGE_FIELDS]
        if not recursive:
            query.append(("delimiter", "/"))
        if start_after:
            query.append(("startOffset", start_after))  # which is itself still in the answer
        token = None
        while True:
            more = (("pageToken", token),) if token else ()
            try:
                said = await self._http.resource(Request("GET", query=(*query, *more)))
            except Invalid:
                if gcs_errors.is_impossible(prefix):
                    return  # nothing can be there
                raise
            page = self._page(said, prefix, start_after)
            if page.objects or page.folders:
                yield page
            if said.get("nextPageToken") == token and token is not None:
                raise Corrupt(f"{self.location}: the listing of {prefix!r} does not advance")
            token = said.get("nextPageToken")
            if not token:
                return

    def _page(self, said: dict[str, Any], prefix: str, start_after: str) -> ListPage:
        try:
            objects = [self._meta(one) for one in said.get("items", ())]
            folders = [str(one) for one in said.get("prefixes", ())]
        except TypeError as error:
            raise Corrupt(f"{self.location}: the answer is not a listing; check gs.endpoint") from error
        if not all(key.startswith(prefix) for key in (*(meta.key for meta in objects), *folders)):
            raise Corrupt(f"{self.location}: the store listed keys outside {prefix!r}")
        return ListPage([meta for meta in objects if meta.key != start_after or not start_after], folders)

    def _meta(self, said: Mapping[str, Any]) -> ObjectMeta:
        """What the store says of an object; its time is that of its bytes, which no change of metadata moves."""
        try:
            made_ns = nanoseconds(datetime.fromisoformat(said["timeCreated"]))
            return ObjectMeta(said["name"], int(said["size"]), made_ns, str(said["generation"]))
        except (KeyError, TypeError, ValueError) as error:
            message = f"{self.location}: the store did not say an object's name, size, time and generation"
            raise Corrupt(f"{message}; check gs.endpoint") from error

    # ------------------------------------------------------------------ writing

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put`."""
        query = (("uploadType", "multipart"), _FIELDS, *_conditions(if_version, if_absent))
        write = Write(self._http.calls, self.location, Request("GET", key, (_MARKED_FIELDS,)), self._mark_in)
        parts = (key, data, write.mark)
        is_large = len(data) > _HASH_IN_THREAD_BYTES
        content_type, body = await asyncio.to_thread(_multipart, *parts) if is_large else _multipart(*parts)
        headers = (("Content-Type", content_type),)
        request = Request("POST", key, query, headers, body, url=self._http.upload_url())
        with self._conditional(key, if_absent):
            return self._meta(self._http.parse(await write.send(request), key))

    def _mark_in(self, answer: Response) -> str | None:
        metadata = self._http.parse(answer, None).get("metadata")
        return metadata.get(_MARK) if isinstance(metadata, dict) else None

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put_stream`."""
        with self._conditional(key, if_absent):
            return self._meta(await Upload(self._http, key, _conditions(if_version, if_absent)).run(chunks))

    @contextmanager
    def _conditional(self, key: str, if_absent: bool) -> Iterator[None]:
        try:
            yield
        except StaleVersion:
            if if_absent:
                raise AlreadyExists(f"{self.location}: {key!r} exists already", path=key) from None
            raise

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._http.calls.call(Request("DELETE", key), expect=(200, 204, 404))

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`."""
        place = self._http.object_url(target).removeprefix(f"{self._http.endpoint}/storage/v1")
        url = f"{self._http.object_url(source)}/rewriteTo{place}"
        query = [("maxBytesRewrittenPerCall", str(REWRITE_BYTES_MAX))]
        while True:
            said = await self._http.resource(Request("POST", source, tuple(query), url=url))
            if said.get("done"):
                return self._meta(said.get("resource", {}))
            query[1:] = [("rewriteToken", str(said.get("rewriteToken", "")))]

    async def close(self) -> None:
        """See `Store.close`."""
        await self._reads.obstore.drain()
        had_client, self._client = self._client is not None, None
        await self._http.calls.close()
        if had_client:
            await self._reads.obstore.rest()

    # ------------------------------------------------------------------ obstore

    def ready(self) -> obstore.store.GCSStore | None:
        """See `Service.ready`."""
        return self._client

    async def connect(self) -> obstore.store.GCSStore:
        """See `Service.connect`."""
        async with self._connecting:
            if self._client is None:  # one is enough: it reads all of the system's certificates
                self._client = await self._make_client()
            return self._client

    def version_of(self, meta: Meta) -> str:
        """See `Service.version_of`."""
        return str(meta["version"])

    def conditions(self, version: str) -> dict[str, Any]:
        """See `Service.conditions`."""
        return {"version": version}

    def translate(self, error: Exception, key: str) -> FsError:
        """See `Service.translate`."""
        http = self._http
        failure = http.tokens.failure
        if failure is not None and answer_in(str(error)) is None:  # obstore wraps it in words of its own
            return type(failure)(failure.message, path=key)
        if "service account path or service account key" in str(error):
            message = f"{self.location}: GOOGLE_SERVICE_ACCOUNT in the daemon's environment confuses obstore; unset it"
            return Invalid(message, path=key)
        return from_obstore(
            error,
            http.names,
            key,
            lambda said: gcs_errors.refused(said, self.location, http.tokens, key, is_read=True),
        )

    async def mend(self, error: Exception) -> bool:
        """See `Service.mend`: a token may have been taken back before its time."""
        answer = answer_in(str(error))
        if answer is None or answer.status != 401 or not self._http.tokens.forget():
            return False
        self._client = None  # it would go on with the token that it knows
        return True

    async def _make_client(self) -> obstore.store.GCSStore:
        http = self._http
        options = await client_options(http.names, http.tls, http.calls)
        options["default_headers"] = dict([_AS_STORED])
        if http.user_project is not None:
            options["default_headers"]["x-goog-user-project"] = http.user_project
        is_anonymous = http.tokens.is_anonymous
        return obstore.store.GCSStore(
            http.bucket,
            config={"base_url": http.endpoint, "skip_signature": is_anonymous, "service_account_key": _NO_KEY},
            client_options=options,  # type: ignore[arg-type]  # a TypedDict, made piece by piece
            retry_config=retry_config(http.calls.deadline_s),
            credential_provider=None if is_anonymous else http.tokens.for_obstore,  # type: ignore[arg-type]
        )


def _conditions(if_version: str | None, if_absent: bool) -> tuple[tuple[str, str], ...]:
    if not if_absent and if_version is None:
        return ()
    return (("ifGenerationMatch", "0" if if_absent else str(if_version)),)


def _multipart(key: str, data: Buffer, mark: str) -> tuple[str, bytes]:
    """Content type and body of an upload in one request: the name, the sum for the store to check, the bytes."""
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    named: dict[str, Any] = {"name": key, "md5Hash": base64.b64encode(digest).decode()}
    named |= {"contentType": "application/octet-stream", "metadata": {_MARK: mark}}
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps(named)}\r\n"
    head += f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
    body = b"".join((head.encode(), memoryview(data), f"\r\n--{boundary}--\r\n".encode()))
    return f"multipart/related; boundary={boundary}", body
