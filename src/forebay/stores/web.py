"""Plain web servers, read-only: single files, and folders whose index pages list them.

Bytes of files come through obstore (Rust): a third of the CPU that they cost in Python, of small files four fifths.
All else goes through `web_http`, and so do the bytes of servers that ignore ranges, of keys that obstore refuses, and
with headers of the mount's own, which obstore would send wherever a redirect leads.  A folder is what the server
calls one: it leads on from `name` to `name/`.

*Callers*: the daemon, on the loop.  *Locks*: none.  *Awaits*: the network, each call within the deadline, retries
included.  *Invariants*: bytes are returned only if the answer's version (see `web_versions`), range and length are
what was asked for.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore.store

from forebay.config.settings import Settings
from forebay.errors import (
    Corrupt,
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NotFound,
    ReadOnly,
    StaleVersion,
    Unsupported,
)
from forebay.stores import web_options, web_versions
from forebay.stores.base import Capabilities, ListPage, Opened, check_span
from forebay.stores.http_calls import Request
from forebay.stores.object_reads import ObjectReads
from forebay.stores.obstore_reads import Meta, client_options, is_odd, retry_config
from forebay.stores.times import nanoseconds
from forebay.stores.urls import folder_prefix, refuse_credentials
from forebay.stores.web_http import WebHttp, headers_only
from forebay.stores.web_index import raw
from forebay.stores.web_listing import FOLDER, UNREADABLE, WebListing, marker
from forebay.stores.web_options import WebOptions
from forebay.stores.web_reads import WebReads
from forebay.stores.wire_errors import from_obstore
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta

_CREDENTIALS = "--option http.user=... --option http.password=..., or --option http.token=..."


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`https://host[:port]/folder/`, or the URL of one file; see `forebay.stores.registry`."""
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    refuse_credentials(place, instead=_CREDENTIALS)
    if "?" in rest or "#" in rest:
        message = "the URL of a web server takes no query and no fragment (?... or #...): it is shown in listings"
        raise Invalid(f"{message}, and signed URLs run out; what the server wants to know goes into {_CREDENTIALS}")
    key = unquote(rest[len(place) + 1 :], errors="surrogateescape")
    if "\0" in key or any(part in (".", "..") for part in key.split("/")):
        raise Invalid("the URL's path holds a part that is no name, such as '..'; write the URL without it")
    store = WebStore(origin_of(scheme, place), web_options.parse(options), deadline_s=settings.store_deadline_s)
    if key and not key.endswith("/"):
        store.may_be_file = key
    return Opened(store, folder_prefix(key))


def origin_of(scheme: str, place: str) -> str:
    """A server's canonical name.

    >>> origin_of("https", "Data.Example.org:443"), origin_of("http", "[::1]:8080")
    ('https://data.example.org', 'http://[::1]:8080')
    """
    try:
        parts = urlsplit(f"{scheme}://{place}")
        host, port = parts.hostname or "", parts.port
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        host, port = "", None
    if re.fullmatch(r"[a-z0-9._~-]+|[0-9a-f:.]+", host) is None:
        raise Invalid(f"{place[:80]!r} names no server; write {scheme}://host/folder/")
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" + ("" if port in (None, {"http": 80, "https": 443}[scheme]) else f":{port}")


class WebStore:
    """One web server.  See the module."""

    def __init__(self, origin: str, options: WebOptions, *, deadline_s: float) -> None:
        self.location = origin
        self.capabilities = Capabilities(writable=False, multipart=False, undecodable_keys=True, folders=True)
        self.may_be_file: str | None = None  # the key that the mount's URL names, until it turns out to be a folder
        self._is_file = False  # it did not
        self._index = options.index
        self._http = WebHttp(origin, options, deadline_s=deadline_s)
        self._listing = WebListing(self._http, options.index, self._stat)
        self._has_own_headers = bool(options.headers)
        self._ours = WebReads(self._http, self._meta)
        self._client: obstore.store.HTTPStore | None = None
        self._connecting = asyncio.Lock()
        # What obstore finds corrupt may be of a server that ignores ranges: our own request tells them apart.
        self._reads = ObjectReads(self, self._ours, self._http.calls, takes=self._suits_obstore, hands_over=(Corrupt,))

    def __repr__(self) -> str:
        return f"<WebStore {self.location}>"

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`; a folder must be there, and be listed unless `http.index=none` says that it is not."""
        if await self._the_file() is not None:
            return
        if self._index == "none":
            await self._http.ask(Request("HEAD", prefix), headers_only, expect=(200, 403, 404, 405, 410, 501))
            return
        try:
            entries = await self._listing.entries(prefix)
        except NotFound as error:
            raise NotFound(f"{self.location}/{prefix}: there is no such folder; check the URL") from error
        except Denied as error:
            hint = "if the server only hides its index, add --option http.index=none to read files by name"
            raise Denied(f"{error.message}; {hint}") from error
        first = next((entry.name for entry in entries if not entry.name.endswith("/")), None)
        if first is not None:
            with suppress(NotFound, Denied, Unsupported):
                await self._stat(prefix + first)  # for the capabilities: what are versions there?

    # ------------------------------------------------------------------ one file, shown as a folder that holds it

    async def _the_file(self) -> str | None:
        """The key that the mount's URL names, if it names a file."""
        if self.may_be_file is not None and not self._is_file:
            if isinstance(await self._stat(self.may_be_file), ObjectMeta):
                self._is_file = True
            else:
                self.may_be_file = None
        return self.may_be_file

    async def _real(self, key: str) -> str:
        """The server's key for one of ours."""
        file = await self._the_file()
        if file is None:
            return key
        if key != _shown(file):
            raise NotFound(f"{self.location}: {key!r}: the mount shows one file, and this is another", path=key)
        return file

    # ------------------------------------------------------------------ looking

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        real = await self._real(key)
        if key.endswith("/"):
            if await self._listing.entries(key):
                raise NotFound(f"{self.location}: {key!r}: a folder that is not empty", path=key)
            return marker(key)
        meta = await self._stat(real)
        if isinstance(meta, FolderMeta):
            raise NotFound(f"{self.location}: {key!r} is a folder", path=key)
        return meta._replace(key=key)

    async def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `FolderStore.stat`; of an absence it is two requests."""
        if not key or key == self.may_be_file:
            return FOLDER
        meta = await self._stat(await self._real(key))
        return meta if isinstance(meta, FolderMeta) else meta._replace(key=key)

    async def _stat(self, key: str) -> ObjectMeta | FolderMeta:
        try:
            said = await self._http.look(key)
        except IsADirectory:
            return FOLDER
        except NotFound:
            if await self._http.is_there(key + "/"):  # not every server leads on from a folder's name
                return FOLDER
            raise
        return self._meta(key, said.headers)

    def _meta(self, key: str, headers: Mapping[str, str]) -> ObjectMeta:
        meta = web_versions.meta(key, headers)
        if meta is None:
            message = f"{self.location}: {key!r}: the server does not say how long it is (no Content-Length)"
            raise Unsupported(f"{message}, so it cannot be read as a file", path=key)
        if meta.version == web_versions.sized(meta.size, 0):  # a change that keeps the size is not seen there
            self.capabilities = replace(self.capabilities, conditional_get=False)
        return meta

    # ------------------------------------------------------------------ reading

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        if span is not None:
            check_span(key, span)
        real = await self._real(key)
        if key.endswith("/"):
            await self.head(key)
            if span is not None:
                raise Invalid(f"{self.location}: {key!r} is empty", path=key)
            return b""
        await self._check_readable(real, version)
        # Without a version nothing would tell a file from a page that a redirect leads to.
        return await (
            self._ours.get(real, span, None, None) if version is None else self._reads.get(real, span, version)
        )

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        check_span(key, span)
        real = await self._real(key)
        await self._check_readable(real, version)
        async for chunk in self._reads.stream(real, span, version, chunk_bytes):
            yield chunk

    async def _check_readable(self, key: str, version: str | None) -> None:
        """Raise why a file that is listed cannot be read, if that is so."""
        if version == UNREADABLE:
            await self._stat(key)
            raise StaleVersion(f"{self.location}: {key!r}: can be read by now", path=key)

    def _suits_obstore(self, key: str) -> bool:
        return not (self._ours.ignores_ranges or self._has_own_headers or is_odd(key))

    # ------------------------------------------------------------------ listing

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`; in the order of the keys' bytes."""
        file = await self._the_file()
        if file is not None:
            if _shown(file).startswith(prefix) and raw(_shown(file)) > raw(start_after):
                yield ListPage([await self.head(_shown(file))], [])
            return
        pages = (self._listing.walk if recursive else self._listing.pages)(prefix, start_after)
        async with aclosing(pages):
            async for page in pages:
                yield page

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
        """Refused: see `_read_only`."""
        raise self._read_only(key)

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """Refused: see `_read_only`."""
        raise self._read_only(key)

    async def delete(self, key: str) -> None:
        """Refused: see `_read_only`."""
        raise self._read_only(key)

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """Refused: see `_read_only`."""
        raise self._read_only(target)

    def _read_only(self, key: str) -> ReadOnly:
        return ReadOnly(
            f"{self.location}: {key!r}: web servers are read-only; write where they take files from", path=key
        )

    async def close(self) -> None:
        """See `Store.close`."""
        await self._reads.obstore.drain()
        had_client, self._client = self._client is not None, None
        await self._http.calls.close()
        if had_client:
            await self._reads.obstore.rest()

    # ------------------------------------------------------------------ obstore

    def ready(self) -> obstore.store.HTTPStore | None:
        """See `Service.ready`."""
        return self._client

    async def connect(self) -> obstore.store.HTTPStore:
        """See `Service.connect`."""
        async with asyncio.timeout(self._http.calls.deadline_s), self._connecting:
            if self._client is None:  # one is enough: it reads all of the system's certificates
                options = await client_options(self._http.names, self._http.tls, self._http.calls)
                options["default_headers"] = {"Accept-Encoding": "identity", **self._http.headers}
                self._client = obstore.store.HTTPStore.from_url(
                    self.location + "/",
                    client_options=options,  # type: ignore[arg-type]  # a TypedDict, made piece by piece
                    retry_config=retry_config(self._http.calls.deadline_s),
                )
            return self._client

    def version_of(self, meta: Meta) -> str:
        """See `Service.version_of`."""
        return web_versions.version_of(meta["e_tag"], meta["size"], nanoseconds(meta["last_modified"]))

    def conditions(self, version: str) -> dict[str, Any]:
        """See `Service.conditions`."""
        if web_versions.is_tag(version):
            return {"if_match": f'"{version}"'}
        when = web_versions.changed_after(version)
        return {} if when is None else {"if_unmodified_since": when}

    def translate(self, error: Exception, key: str) -> FsError:
        """See `Service.translate`."""
        return from_obstore(error, self._http.names, key, lambda said: self._http.refused(said, key))

    async def mend(self, error: Exception) -> bool:
        """See `Service.mend`: nothing can be."""
        return False


def _shown(file: str) -> str:
    """The key under which the only file of a mount is shown: in a folder of its own name.

    >>> _shown("x/train.tar")
    'x/train.tar/train.tar'
    """
    return f"{file}/{file.rpartition('/')[2]}"
