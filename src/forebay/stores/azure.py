"""Azure Blob Storage, and ADLS Gen2, which is the same store with folders.

Bytes of blobs come through obstore (Rust): a read costs a quarter of the CPU that it costs in Python.  All else, and
keys that obstore would change (`a//b`, `a/`, control characters), goes through `azure_http`.

*Callers*: the daemon, on the loop.  *Locks*: none.  *Awaits*: the network, each call within the deadline, retries
included.  *Invariants*: bytes are returned only if the answer's ETag, range and length are what was asked for; a blob
that stands for a folder is no object but the folder.
"""

import asyncio
import base64
import re
import secrets
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import obstore.store

from forebay.config.settings import Settings
from forebay.errors import AlreadyExists, Corrupt, FsError, Invalid, NotFound, StaleVersion, Unavailable
from forebay.stores import azure_errors, azure_listing, azure_options
from forebay.stores.azure_http import AzureHttp
from forebay.stores.azure_listing import FOLDER_MARK, is_folder, version_of
from forebay.stores.azure_options import PUBLIC_CLOUD, AzureOptions
from forebay.stores.base import Capabilities, ListPage, Opened
from forebay.stores.http_calls import Request, Response
from forebay.stores.http_reads import HttpReads, size_in
from forebay.stores.lost_writes import Write
from forebay.stores.object_reads import ObjectReads
from forebay.stores.obstore_reads import Meta, client_options, is_odd, retry_config
from forebay.stores.times import header_time_ns, nanoseconds
from forebay.stores.uploads import send_parts
from forebay.stores.urls import folder_prefix
from forebay.stores.wire_errors import from_obstore
from forebay.types import Attributes, Buffer, ByteRange, ObjectMeta

PAGE_KEYS = 1_000
START_FROM_VERSION = "2026-02-06"  # of the API; the first that starts a listing at a key
COPY_LOOK_S = 0.2  # between two looks at a copy that goes on
_DOTTED = re.compile(r"\.(?:/|$)")  # Azure drops the dots at the end of each part: it takes `a./b` for `a/b`
Pairs = tuple[tuple[str, str], ...]  # of headers, of a query
_MARK: Pairs = ((f"x-ms-meta-{FOLDER_MARK}", "true"),)


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`az://container/prefix`, `abfss://container@account.dfs.core.windows.net/prefix`; see `stores.registry`."""
    text, _, prefix = rest.partition("/")
    if re.search(r"[?&]sig=", rest):
        raise Invalid(
            "a SAS token does not belong in the URL: it is shown in listings; use --option azure.sasToken=..."
        )
    place = azure_options.parse_place(scheme, text)
    parsed = azure_options.parse(place, options)
    store = AzureStore(place.container, parsed, deadline_s=settings.store_deadline_s)
    return Opened(store, folder_prefix(prefix))


_WRITE = "x-ms-meta-forebaywrite"  # by which a write is known again


class AzureStore:
    """One container.  See the module."""

    def __init__(self, container: str, options: AzureOptions, *, deadline_s: float) -> None:
        public = f"https://{options.account}.blob.{PUBLIC_CLOUD}"
        where = options.account if options.endpoint == public else options.endpoint
        self.location = f"az://{container}@{where}"
        self.capabilities = Capabilities(conditional_put=True, any_prefix=True)
        self._container = container
        self._options = options
        self._http = AzureHttp(container, options, self.location, deadline_s=deadline_s)
        self._client: obstore.store.AzureStore | None = None
        self._connecting = asyncio.Lock()
        self._reads = ObjectReads(self, HttpReads(self, self._http.calls), self._http.calls)

    def __repr__(self) -> str:
        return f"<AzureStore {self.location}>"

    # ------------------------------------------------------------------ reading

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        try:
            answer = await self._ask_page(prefix, (("maxresults", "1"),))
        except FsError as error:
            raise type(error)(error.message) from None  # the path in it would be a key, of no use here
        try:
            azure_listing.parse(answer.body, self.location, prefix, recursive=True)
        except Corrupt as error:
            raise Invalid(f"{self.location}: what answers there is not Azure; check azure.endpoint") from error

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        self._check_name(key)
        return await self._reads.either(key, lambda: self._head(key), lambda until: self._head_ourselves(key, until))

    async def _head(self, key: str) -> ObjectMeta:
        found = await self._reads.obstore.head(key)
        meta = ObjectMeta(key, found["size"], nanoseconds(found["last_modified"]), self.version_of(found))
        if meta.size == 0:  # is it a folder?  obstore does not tell
            return await self._head_ourselves(key, None)
        return meta

    async def _head_ourselves(self, key: str, until: float | None) -> ObjectMeta:
        try:
            answer = await self._ask_head(key, until)
        except NotFound:
            own = await self._ask_folder(key)
            if own is None:
                raise
            answer = own
        except Invalid:  # Azure's word for a control character
            raise NotFound(f"{self.location}: {key!r}: no blob can have that name", path=key) from None
        if is_folder(answer.headers) and not key.endswith("/"):
            raise NotFound(f"{self.location}: {key!r}: is a folder", path=key)
        return self.meta_in(key, answer.headers)

    async def _ask_head(self, key: str, until: float | None = None) -> Response:
        return await self._http.calls.call(Request("HEAD", key), until=until)

    async def _ask_folder(self, key: str) -> Response | None:
        """HEAD of the blob that stands for the folder of a key with a slash at its end, if there is one."""
        if not key.endswith("/") or is_odd(key[:-1]):
            return None
        try:
            answer = await self._ask_head(key[:-1])
        except NotFound:
            return None
        return answer if is_folder(answer.headers) else None

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        self._check_name(key)
        data = await self._reads.get(key, span, version)
        if len(data) == 0 and version is None:
            await self.head(key)  # is it a folder?
        return data

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        self._check_name(key)
        async for chunk in self._reads.stream(key, span, version, chunk_bytes):
            yield chunk

    def _check_name(self, key: str, refused: type[FsError] = NotFound) -> None:
        if _DOTTED.search(key):
            raise refused(f"{self.location}: {key!r}: no blob can have that name: a part ends with a dot", path=key)

    def read_request(self, key: str, version: str | None) -> Request:
        """See `http_reads.Service`."""
        return Request("GET", key, headers=() if version is None else (("If-Match", f'"{version}"'),))

    def meta_in(self, key: str, headers: Mapping[str, str]) -> ObjectMeta:
        """See `http_reads.Service`."""
        return self._meta(key, size_in(key, headers), headers)

    def _meta(self, key: str, size: int, headers: Mapping[str, str]) -> ObjectMeta:
        etag = headers.get("ETag")
        if not etag:
            raise Corrupt(f"{self.location}: {key!r}: the store did not say its ETag", path=key)
        return ObjectMeta(key, size, header_time_ns(headers.get("Last-Modified")), version_of(etag))

    # ------------------------------------------------------------------ listing

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`.  The order is that of UTF-16, and in ADLS Gen2 that of a walk through the tree."""
        query: Pairs = (("maxresults", str(PAGE_KEYS)), ("include", "metadata"))
        if not recursive:
            query += (("delimiter", "/"),)
        if start_after:
            query += (("startFrom", _start(prefix, start_after, recursive=recursive)),)
        shown: set[str] = set()  # folders: one may come for its own entry, and pages later for the keys below it
        came, marker = False, None
        while True:
            more = (("marker", marker),) if marker else ()
            try:
                answer = await self._ask_page(prefix, query + more)
            except (Invalid, NotFound):
                if prefix and await self._is_below_a_file(prefix):
                    return
                raise
            parsed = azure_listing.parse(answer.body, self.location, prefix, recursive=recursive)
            if parsed.marker is not None and parsed.marker == marker:
                raise Corrupt(f"{self.location}: the listing of {prefix!r} does not advance")
            page = _without(parsed.page, shown, start_after)
            if page.objects or page.folders:
                came = True
                yield page
            marker = parsed.marker
            if marker is None:
                break
        if prefix and not came and not start_after and (own := await self._own_entry(prefix)) is not None:
            yield ListPage([own], [])

    async def _ask_page(self, prefix: str, query: tuple[tuple[str, str], ...]) -> Response:
        query = (("restype", "container"), ("comp", "list"), *query)
        if prefix:
            query += (("prefix", prefix),)
        newer = any(name == "startFrom" for name, _ in query)
        headers: Pairs = (("x-ms-version", START_FROM_VERSION),) if newer else ()
        return await self._http.calls.call(Request("GET", query=query, headers=headers))

    async def _own_entry(self, prefix: str) -> ObjectMeta | None:
        """The entry of an empty folder: nothing starts with its name and a slash, and yet it is there."""
        answer = await self._ask_folder(prefix)
        return None if answer is None else self.meta_in(prefix, answer.headers)

    async def _is_below_a_file(self, prefix: str) -> bool:
        """ADLS Gen2 refuses to list below a file, where other stores have nothing to show."""
        parts = prefix.rstrip("/").split("/")
        for end in range(len(parts), 0, -1):
            try:
                await self.head("/".join(parts[:end]))
            except FsError:
                continue
            return True
        return False

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
        self._check_name(key, Invalid)
        mark = _MARK if key.endswith("/") and len(data) == 0 else ()
        request = Request("PUT", key, headers=(("x-ms-blob-type", "BlockBlob"), *mark), body=data)
        return self._meta(key, len(data), await self._write(request, if_version, if_absent))

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put_stream`.  Blocks of an upload that fails stay unseen, and Azure drops them after a week."""
        self._check_name(key, Invalid)
        upload, sizes = secrets.token_hex(8), dict[int, int]()

        async def send(number: int, part: Buffer) -> None:
            query = (("comp", "block"), ("blockid", _block_id(upload, number)))
            if len(part):
                await self._http.calls.call(Request("PUT", key, query, body=part), expect=(201,))
                sizes[number] = len(part)

        await send_parts(chunks, send, name=key)
        root = ET.Element("BlockList")
        for number in sorted(sizes):
            # The newest, committed or not: so the request may be repeated when its answer is lost.
            ET.SubElement(root, "Latest").text = _block_id(upload, number)
        request = Request("PUT", key, (("comp", "blocklist"),), body=ET.tostring(root, encoding="utf-8"))
        return self._meta(key, sum(sizes.values()), await self._write(request, if_version, if_absent))

    async def _write(self, request: Request, if_version: str | None, if_absent: bool) -> Mapping[str, str]:
        """Make an object, if the condition holds; the headers of the answer."""
        key = request.key or ""
        conditions: Pairs = (("If-None-Match", "*"),) if if_absent else ()
        if if_version is not None:
            conditions += (("If-Match", f'"{if_version}"'),)
        look = Request("HEAD", key)
        write = Write(self._http.calls, self.location, look, lambda answer: answer.headers.get(_WRITE))
        headers = (*request.headers, *conditions, (_WRITE, write.mark))
        try:
            return (await write.send(replace(request, headers=headers), expect=(201,))).headers
        except (StaleVersion, AlreadyExists):
            if if_absent:
                raise AlreadyExists(f"{self.location}: {key!r} exists already", path=key) from None
            raise

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        if _DOTTED.search(key):
            return  # it is not there
        answer = await self._http.calls.call(Request("DELETE", key), expect=(202, 404))
        if answer.status == 404 and await self._ask_folder(key) is not None:
            await self._http.calls.call(Request("DELETE", key[:-1]), expect=(202, 404))

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`."""
        self._check_name(target, Invalid)
        meta = await self.head(source)
        sas = self._http.credentials.sas_query
        place = self._http.url_of(source) + (f"?{sas}" if sas else "")
        headers = (("x-ms-copy-source", place), ("x-ms-source-if-match", f'"{meta.version}"'))
        answer = await self._http.calls.call(Request("PUT", target, headers=headers), expect=(202,))
        while answer.headers.get("x-ms-copy-status") == "pending":
            await asyncio.sleep(COPY_LOOK_S)
            answer = await self._ask_head(target)
        if answer.headers.get("x-ms-copy-status") != "success":
            raise Unavailable(f"{self.location}: {source!r}: the store did not end its copy", path=source)
        return await self.head(target)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._reads.obstore.drain()
        had_client, self._client = self._client is not None, None
        await self._http.calls.close()
        if had_client:
            await self._reads.obstore.rest()

    # ------------------------------------------------------------------ obstore

    def ready(self) -> obstore.store.AzureStore | None:
        """See `Service.ready`."""
        return self._client

    async def connect(self) -> obstore.store.AzureStore:
        """See `Service.connect`."""
        async with asyncio.timeout(self._http.calls.deadline_s), self._connecting:
            # One is enough: it reads all of the system's certificates.
            return self._client or await self._make_client()

    def version_of(self, meta: Meta) -> str:
        """See `Service.version_of`."""
        return version_of(meta["e_tag"] or "")

    def conditions(self, version: str) -> dict[str, Any]:
        """See `Service.conditions`."""
        return {"if_match": f'"{version}"'}

    def translate(self, error: Exception, key: str) -> FsError:
        """See `Service.translate`."""
        http = self._http
        failed = http.credentials.failed
        if failed is not None:
            return type(failed)(failed.message, path=key)
        return from_obstore(
            error, http.names, key, lambda said: azure_errors.refused(said, self.location, http.access, key)
        )

    async def mend(self, error: Exception) -> bool:
        """See `Service.mend`: nothing can be."""
        return False

    async def _make_client(self) -> obstore.store.AzureStore:
        options, http = self._options, self._http
        config: dict[str, Any] = {
            "account_name": options.account,
            "endpoint": options.endpoint,
            "skip_signature": options.anonymous,
            "use_emulator": False,  # else an environment variable would win
            "use_fabric_endpoint": False,
        }
        self._client = obstore.store.AzureStore(
            self._container,
            config=config,  # type: ignore[arg-type]  # a TypedDict, made piece by piece
            client_options=await client_options(http.names, http.tls, http.calls),  # type: ignore[arg-type]
            retry_config=retry_config(http.calls.deadline_s),
            credential_provider=None if options.anonymous else http.credentials.for_obstore,  # type: ignore[arg-type]
        )
        return self._client


def _start(prefix: str, start_after: str, *, recursive: bool) -> str:
    """Where a listing starts that begins after a key; the key itself, and what leads to it, still come.

    A listing of one folder starts at one of its entries: Azure takes no deeper place then.
    """
    if recursive or not start_after.startswith(prefix):
        return start_after
    name, slash, _ = start_after[len(prefix) :].partition("/")
    return prefix + name + slash


def _without(page: ListPage, shown: set[str], start_after: str) -> ListPage:
    """The page without folders that were shown already, and without the key to start after."""
    folders = [each for each in page.folders if each not in shown and each != start_after]
    shown.update(folders)
    return ListPage([meta for meta in page.objects if meta.key != start_after], folders)


def _block_id(upload: str, number: int) -> str:
    """An id of its own for each block of each upload; all of a blob must have one length."""
    return base64.b64encode(f"{upload}-{number:08}".encode()).decode()
