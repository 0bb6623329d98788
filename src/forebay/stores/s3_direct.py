"""Small objects of S3 by `direct_gets`: what is asked, and where.

*Callers*: the S3 store, on the loop.  *Locks*: one, around the first connection.  *Awaits*: keys, the network.
*Invariants*: those of `direct_gets`.
"""

import asyncio
import ssl
from datetime import UTC, datetime
from urllib.parse import urlsplit

from forebay.stores.direct_gets import BYTES_MAX, DirectGets, Origin, Wanted
from forebay.stores.http_calls import tls_context
from forebay.stores.s3_credentials import Keys
from forebay.stores.s3_http import S3Http, path_of
from forebay.stores.s3_listing import is_etag
from forebay.stores.s3_signing import PAYER, Signer
from forebay.types import Buffer, ByteRange


class S3Direct:
    """See the module."""

    def __init__(self, http: S3Http, *, requester_pays: bool) -> None:
        self._http = http
        self._requester_pays = requester_pays
        self._gets: DirectGets | None = None
        self._tls: ssl.SSLContext | None = None
        self._base_url = ""  # what the following is made for
        self._keys: Keys | None = None
        self._region = ""
        self._signer: Signer | None = None  # None: anonymous
        self._before_key = ""  # of each path
        self._headers = ""  # of each request
        self._connecting = asyncio.Lock()

    def takes(self, span: ByteRange | None, version: str | None) -> bool:
        """See `object_reads.Direct`."""
        if version is None or not is_etag(version) or not (version.isascii() and version.isprintable()):
            return False
        if span is not None and not 0 < span.size <= BYTES_MAX:
            return False
        return self._gets.is_ready if self._gets is not None else not self._http.calls.has_proxy(self._http.base_url)

    async def get(self, key: str, span: ByteRange | None, version: str) -> Buffer | None:
        """See `object_reads.Direct`."""
        http = self._http
        keys = await http.credentials.keys()
        if keys is not self._keys or http.region != self._region or self._gets is None:
            await self._prepare(keys)
            if self._gets is None or not self._gets.is_ready:  # more at the same time than there may be
                return None
        path = self._before_key + path_of(key)
        ranged = "" if span is None else f"Range: bytes={span.start}-{span.stop - 1}\r\n"
        signed = "" if self._signer is None else self._signer.headers(path, datetime.now(UTC))
        etag = f'"{version}"'
        request = f"GET {path} HTTP/1.1\r\n{self._headers}If-Match: {etag}\r\n{ranged}{signed}\r\n"
        return await self._gets.get(request.encode(), Wanted(etag.encode(), span))

    async def _prepare(self, keys: Keys | None) -> None:
        """Make ready for these keys, and for the region as it is known by now."""
        async with self._connecting:
            http = self._http
            await http.prepare()
            if self._gets is None or http.base_url != self._base_url:
                await self._connect(http.base_url)
            host = urlsplit(self._base_url).netloc
            payer = f"{PAYER}: requester\r\n" if self._requester_pays and keys is None else ""
            self._headers = f"Host: {host}\r\nUser-Agent: forebay\r\nAccept-Encoding: identity\r\n{payer}"
            self._signer = keys and Signer(keys, http.region, host, requester_pays=self._requester_pays)
            self._keys, self._region = keys, http.region

    async def _connect(self, base_url: str) -> None:
        self.close()
        parts, calls = urlsplit(base_url), self._http.calls
        tls = None
        if parts.scheme == "https":  # in a thread: it reads all of the system's certificates
            tls = self._tls = self._tls or await asyncio.to_thread(tls_context, self._http.tls, self._http.names)
        origin = Origin(parts.hostname or "", parts.port or (80 if tls is None else 443), tls)
        self._gets = DirectGets(origin, silence_s=calls.silence_s)
        self._base_url, self._before_key = base_url, parts.path

    def close(self) -> None:
        """Close the connections."""
        gets, self._gets = self._gets, None
        if gets is not None:
            gets.close()
