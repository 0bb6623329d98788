"""Amazon S3, and every server that speaks its language.

Bytes of objects come through obstore (Rust): a read costs a quarter of the CPU that it costs in Python.  All else,
and keys that obstore would change (`a//b`, `a/`, `..`, control characters), goes through `s3_http`.

*Callers*: the daemon, on the loop.  *Locks*: none.  *Awaits*: the network, each call within the deadline, retries
included.  *Invariants*: bytes are returned only if the answer's ETag, range and length are what was asked for.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import obstore.store

from forebay.config.settings import Settings
from forebay.errors import Corrupt, FsError, Invalid, NotFound, Unsupported
from forebay.stores import s3_attributes, s3_errors, s3_listing, s3_options
from forebay.stores.base import Capabilities, ListPage, Opened
from forebay.stores.http_calls import Request, Response
from forebay.stores.http_reads import HttpReads, size_in
from forebay.stores.object_reads import ObjectReads
from forebay.stores.obstore_reads import Meta, client_options, retry_config
from forebay.stores.s3_direct import S3Direct
from forebay.stores.s3_http import S3Http, marked
from forebay.stores.s3_listing import is_etag, version_of
from forebay.stores.s3_options import S3Options
from forebay.stores.s3_upload import Upload, text_in
from forebay.stores.times import header_time_ns, nanoseconds
from forebay.stores.urls import folder_prefix, refuse_credentials
from forebay.stores.wire_errors import from_obstore
from forebay.types import Attributes, Buffer, ByteRange, ObjectMeta
from forebay.units import GIB

COPY_BYTES_MAX = 5 * GIB  # of one CopyObject

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")  # wider than Amazon's rule: other servers take more


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`s3://bucket/prefix`; see `forebay.stores.registry`."""
    bucket, _, prefix = rest.partition("/")
    refuse_credentials(bucket, instead="--option s3a.accessKeyId=... --option s3a.secretKey=...")
    if not bucket:
        raise Invalid("the URL names no bucket; write s3://bucket or s3://bucket/prefix")
    if _BUCKET.fullmatch(bucket) is None:
        raise Invalid(f"{bucket!r} is not a bucket name; write {scheme}://bucket/prefix, and the server as s3.endpoint")
    store = S3Store(bucket, s3_options.parse(options), deadline_s=settings.store_deadline_s)
    return Opened(store, folder_prefix(prefix))


class S3Store:
    """One bucket.  See the module."""

    def __init__(self, bucket: str, options: S3Options, *, deadline_s: float) -> None:
        self.location = f"s3://{bucket}" + (f"@{options.endpoint}" if options.endpoint else "")
        self._options = options
        self._http = S3Http(bucket, options, self.location, deadline_s=deadline_s)
        self.capabilities = Capabilities(
            conditional_put=self._http.conditional_put,
            any_prefix=True,
            parts=True,
            copy_parts=True,
            copy_versions=True,
            attributes=options.attributes,
            links=options.attributes,
        )
        self._client: obstore.store.S3Store | None = None
        self._client_region = ""
        self._connecting = asyncio.Lock()
        self._direct = S3Direct(self._http, requester_pays=options.requester_pays)
        self._reads = ObjectReads(self, HttpReads(self, self._http.calls), self._http.calls, direct=self._direct)

    def __repr__(self) -> str:
        return f"<S3Store {self.location}>"

    # ------------------------------------------------------------------ reading

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        query = (("list-type", "2"), ("max-keys", "1"), ("prefix", prefix), ("encoding-type", "url"))
        try:
            answer = await self._http.calls.call(Request("GET", query=query))
        except FsError as error:
            raise type(error)(error.message) from None  # the path in it would be a key, of no use here
        try:
            s3_listing.parse(answer.body, self.location, prefix)
        except Corrupt as error:
            raise Invalid(f"{self.location}: what answers there is not S3; check s3.endpoint") from error

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        if self.capabilities.attributes:  # obstore does not tell metadata
            return await self._head_ourselves(key, None)
        return await self._reads.either(key, lambda: self._head(key), lambda until: self._head_ourselves(key, until))

    async def _head(self, key: str) -> ObjectMeta:
        found = await self._reads.obstore.head(key)
        return ObjectMeta(key, found["size"], nanoseconds(found["last_modified"]), self.version_of(found))

    async def _head_ourselves(self, key: str, until: float | None) -> ObjectMeta:
        return self.meta_in(key, (await self._http.calls.call(Request("HEAD", key), until=until)).headers)

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        return await self._reads.get(key, span, version)

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        async for chunk in self._reads.stream(key, span, version, chunk_bytes):
            yield chunk

    # ------------------------------------------------------------------ keys that obstore does not take

    def read_request(self, key: str, version: str | None) -> Request:
        """See `http_reads.Service`."""
        pinned = version is not None and is_etag(version)
        return Request("GET", key, headers=(("If-Match", f'"{version}"'),) if pinned else ())

    def meta_in(self, key: str, headers: Mapping[str, str]) -> ObjectMeta:
        """See `http_reads.Service`."""
        size, mtime_ns = size_in(key, headers), header_time_ns(headers.get("Last-Modified"))
        meta = ObjectMeta(key, size, mtime_ns, version_of(headers.get("ETag"), size, mtime_ns))
        return s3_attributes.told(meta, headers) if self.capabilities.attributes else meta

    # ------------------------------------------------------------------ listing

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`.  The order is the server's; S3's is that of the keys' UTF-8 bytes."""
        query = [("list-type", "2"), ("encoding-type", "url"), ("prefix", prefix)]
        if not recursive:
            query.append(("delimiter", "/"))
        token = None
        while True:
            more = ("continuation-token", token) if token else ("start-after", start_after)
            answer = await self._http.calls.call(Request("GET", query=(*query, more) if more[1] else tuple(query)))
            parsed = s3_listing.parse(answer.body, self.location, prefix)
            if parsed.token is not None and parsed.token == token:
                raise Corrupt(f"{self.location}: the listing of {prefix!r} does not advance")
            if parsed.page.objects or parsed.page.folders:
                yield parsed.page
            token = parsed.token
            if token is None:
                return

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
        write = self._http.write(key)
        request = Request("PUT", key, headers=(*marked(write), *self._headers_of(key, attributes)), body=data)
        answer = await self._http.send_if(write, request, if_version, if_absent)
        etag = answer.headers.get("ETag", "")
        if etag and not len(data) and key.endswith("/") and attributes is None:  # a folder: its time need not be exact
            return ObjectMeta(key, 0, header_time_ns(answer.headers.get("Date")), version_of(etag, 0, 0))
        return self._as_put(key, len(data), etag, attributes) or await self.written(key, len(data), etag)

    def _as_put(self, key: str, size: int, etag: str, attributes: Attributes | None) -> ObjectMeta | None:
        """What is to be said of an object that was put with these attributes; None: the store must be asked."""
        if not etag or attributes is None or attributes.mtime_ns is None:
            return None
        meta = ObjectMeta(key, size, attributes.mtime_ns, version_of(etag, size, 0))
        return s3_attributes.told(meta, dict(self._headers_of(key, attributes)))

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
        return await (await self.upload(key, attributes=attributes)).run(chunks, if_version, if_absent)

    async def upload(self, key: str, *, attributes: Attributes | None = None) -> Upload:
        """See `PartsStore.upload`."""
        upload = Upload(self, self._http, key)
        await upload.begin(self._headers_of(key, attributes))
        return upload

    def _headers_of(self, key: str, attributes: Attributes | None) -> tuple[tuple[str, str], ...]:
        if attributes is None or not self.capabilities.attributes:
            return ()
        return s3_attributes.headers_of(key, attributes)

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._http.calls.call(Request("DELETE", key), expect=(200, 204, 404))

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`."""
        return await self.copy_version(await self.head(source), target)

    async def copy_version(self, known: ObjectMeta, target: str) -> ObjectMeta:
        """See `VersionCopyingStore.copy_version`."""
        source = known.key
        if known.size > COPY_BYTES_MAX:
            raise Unsupported(f"{source!r} is larger than S3 copies at once (5 GiB); read and write it", path=source)
        request = Request("PUT", target, headers=self._http.copy_source(source, known.version))
        answer = await self._http.calls.call(request)
        self._check_copied(answer, target)
        return self._as_copied(answer, known, target) or await self.head(target)

    def _as_copied(self, answer: Response, known: ObjectMeta, target: str) -> ObjectMeta | None:
        """What is to be said of a copy of what is known; None: the store must be asked."""
        etag, written = text_in(answer, "ETag"), text_in(answer, "LastModified")
        if self.capabilities.attributes or version_of(etag, 0, 0) != known.version:
            return None  # else it has the same bytes, whether the store compared versions or not
        try:
            mtime_ns = nanoseconds(datetime.fromisoformat(written).replace(microsecond=0))  # as headers have it
        except (ValueError, TypeError):  # no date, or one without a zone
            return None
        return ObjectMeta(target, known.size, mtime_ns, known.version)

    async def set_attributes(self, key: str, attributes: Attributes) -> None:
        """See `AttributesStore.set_attributes`: the object is copied onto itself, for metadata cannot be changed.

        That of an empty folder is put anew, for it may be none yet, but only the beginning of keys.

        Tags stay, an access list (ACL) of its own does not.  The version of an object that was uploaded in parts is
        another one afterwards.  Where writes have no conditions, a change by others in that moment is lost.

        Raises:
            StaleVersion: others have changed the object meanwhile.
        """
        if not self.capabilities.attributes:
            raise Unsupported(f"{self.location}: attributes are kept with --option s3.attributes=true", path=key)
        headers = await self._headers_for(key)
        replaced = s3_attributes.replacing(key, headers, attributes)
        if key.endswith("/") and headers.get("Content-Length", "0") == "0":
            await self._http.calls.call(Request("PUT", key, headers=replaced, body=b""))
            return
        meta = self.meta_in(key, headers)
        if meta.size > COPY_BYTES_MAX:
            raise Unsupported(f"{key!r} is larger than S3 copies at once (5 GiB)", path=key)
        write = self._http.write(key)
        replacing = dict(replaced) | dict(marked(write))
        copying = (("x-amz-metadata-directive", "REPLACE"), *self._http.copy_source(key, meta.version))
        request = Request("PUT", key, headers=(*copying, *replacing.items()))
        condition = meta.version if self.capabilities.conditional_put and is_etag(meta.version) else None
        self._check_copied(await self._http.send_if(write, request, condition, if_absent=False), key)

    async def _headers_for(self, key: str) -> Mapping[str, str]:
        """What the store tells of an object; of a folder that is none, nothing."""
        try:
            return (await self._http.calls.call(Request("HEAD", key))).headers
        except NotFound:
            if key.endswith("/"):
                return {}
            raise

    def _check_copied(self, answer: Response, key: str) -> None:
        said = s3_errors.read_answer(500, answer.body)
        if said.code:  # as with uploads, a failure may come as a 200
            raise s3_errors.refused(said, self.location, key)

    async def written(self, key: str, size: int, etag: str) -> ObjectMeta:
        """See `s3_upload.Service`."""
        meta = await self.head(key)  # size, time and version as every later question will be answered
        if etag and meta.version != version_of(etag, size, meta.mtime_ns):
            return ObjectMeta(key, size, meta.mtime_ns, version_of(etag, size, meta.mtime_ns))  # overwritten since
        return meta

    async def close(self) -> None:
        """See `Store.close`."""
        self._direct.close()
        await self._reads.obstore.drain()
        had_client, self._client = self._client is not None, None
        await self._http.calls.close()
        if had_client:
            await self._reads.obstore.rest()

    # ------------------------------------------------------------------ obstore

    def ready(self) -> obstore.store.S3Store | None:
        """See `Service.ready`."""
        return self._client if self._client_region == self._http.region else None

    async def connect(self) -> obstore.store.S3Store:
        """See `Service.connect`."""
        async with asyncio.timeout(self._http.calls.deadline_s), self._connecting:
            await self._http.prepare()
            # One is enough: it reads all of the system's certificates.
            return self.ready() or await self._make_client()

    def version_of(self, meta: Meta) -> str:
        """See `Service.version_of`."""
        etag = meta["e_tag"]
        return version_of(etag, meta["size"], 0 if etag else nanoseconds(meta["last_modified"]))

    def conditions(self, version: str) -> dict[str, Any]:
        """See `Service.conditions`."""
        return {"if_match": f'"{version}"'} if is_etag(version) else {}

    def translate(self, error: Exception, key: str) -> FsError:
        """See `Service.translate`."""
        return from_obstore(error, self._http.names, key, lambda said: s3_errors.refused(said, self.location, key))

    async def mend(self, error: Exception) -> bool:
        """See `Service.mend`: the bucket may turn out to be in another region."""
        return s3_errors.names_region(error) and self._http.adopt_region(await self._http.find_region())

    async def _make_client(self) -> obstore.store.S3Store:
        options, http = self._options, self._http
        config: dict[str, Any] = {
            "endpoint": http.endpoint if http.path_style else http.base_url,
            "region": http.region,
            "virtual_hosted_style_request": not http.path_style,
            "skip_signature": options.anonymous,
            "request_payer": options.requester_pays,
        }
        config["aws_endpoint_url_s3"] = config["endpoint"]  # else an environment variable would win
        self._client = obstore.store.S3Store(
            http.bucket,
            config=config,  # type: ignore[arg-type]  # a TypedDict, made piece by piece
            client_options=await client_options(http.names, http.tls, http.calls),  # type: ignore[arg-type]
            retry_config=retry_config(http.calls.deadline_s),
            credential_provider=None if options.anonymous else http.credentials.for_obstore,  # type: ignore[arg-type]
        )
        self._client_region = http.region
        return self._client
