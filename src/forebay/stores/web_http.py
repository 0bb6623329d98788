"""Requests to a web server: credentials, redirects, and what its answers mean.

*Callers*: the web store, on the loop.  *Locks*: none.  *Awaits*: the network.  *Invariants*: a key goes out exactly
as it is, percent-encoded once; credentials go to the mount's own server and to no other.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import aiohttp

from forebay.errors import (
    Corrupt,
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NameTooLong,
    NotFound,
    StaleVersion,
    Throttled,
    TimedOut,
    Unavailable,
)
from forebay.stores.base import OutsideObject
from forebay.stores.http_calls import HttpCalls, Refusal, Request, Tls
from forebay.stores.web_index import segments
from forebay.stores.web_options import WebOptions
from forebay.stores.wire_errors import Answer, Names

REDIRECTS = (301, 302, 303, 307, 308)
REDIRECTS_MAX = 10  # as reqwest, which obstore uses, follows; curl follows 50, browsers 20
NO_HEAD = (403, 405, 501)  # of a HEAD where GET may work: not known there, or not in what a signed URL allows
_SPOKEN_HTTP = (b"HTTPS port", b"SSL-enabled server port", b"HTTP request to an HTTPS server")  # nginx, Apache, Go
_URL_SAFE = "!#$%&'()*+,/:;=?@[]~"  # a redirect's target is encoded already, or should be

Result = TypeVar("Result")


class Headers(NamedTuple):
    """An answer without its body."""

    status: int
    headers: Mapping[str, str]


class WebHttp:
    """A web server; a `Dialect` of `HttpCalls`."""

    def __init__(self, origin: str, options: WebOptions, *, deadline_s: float) -> None:
        self.origin = origin  # `scheme://host`, with the port if it is not the usual one
        self.tls = Tls(options.verify, options.ca_file)
        self.calls = HttpCalls(self, self.tls, deadline_s=deadline_s)
        self.headers = dict(options.headers)
        if options.authorization:
            self.headers["Authorization"] = options.authorization
        self._has_head = True

    def url_of(self, key: str) -> str:
        """Where a key is.

        Raises:
            NotFound: no URL can say that key.
        """
        if "\0" in key or any(part in (".", "..") for part in key.split("/")):
            raise NotFound(f"{self.origin}: no file can have the key {key!r}", path=key)
        return f"{self.origin}/{quote(key, safe='/~', errors='surrogateescape')}"

    # ------------------------------------------------------------------ requests

    async def look(self, key: str) -> Headers:
        """The headers of what is at a key: by HEAD, or, where that is refused or brings no length, by GET.

        Raises:
            IsADirectory: the server leads on to the same URL with a slash at its end.
            FsError: the server refused, or could not be reached.
        """
        if self._has_head:
            said = await self.ask(Request("HEAD", key), headers_only, expect=(200, *NO_HEAD))
            if said.status == 200 and "Content-Length" in said.headers:
                return said
            self._has_head = said.status not in (405, 501)
        first_byte = (("Range", "bytes=0-0"),)
        said = await self.ask(Request("GET", key, headers=first_byte), headers_only, expect=(200, 206, 416))
        if said.status == 416:  # an empty file has no first byte
            said = await self.ask(Request("GET", key), headers_only)
        return said

    async def is_there(self, key: str) -> bool:
        """Does the server answer at a key?"""
        try:
            await self.ask(Request("HEAD" if self._has_head else "GET", key), headers_only)
        except (NotFound, Denied, Invalid, IsADirectory):
            return False
        return True

    async def ask(
        self,
        request: Request,
        read: Callable[[aiohttp.ClientResponse], Awaitable[Result]],
        *,
        expect: tuple[int, ...] = (200,),
        until: float | None = None,
    ) -> Result:
        """As `HttpCalls.ask`, wherever redirects lead."""

        async def read_or_go_on(response: aiohttp.ClientResponse) -> Result | Request:
            return self._redirected(request, response) if response.status in REDIRECTS else await read(response)

        for _ in range(REDIRECTS_MAX + 1):
            try:
                answer = await self.calls.ask(request, read_or_go_on, expect=(*expect, *REDIRECTS), until=until)
            except (Unavailable, TimedOut) as error:
                if not request.url:
                    raise
                where = f"the server leads on to {urlsplit(request.url).netloc}, and it is there that it failed"
                raise type(error)(f"{error.message}; {where}", path=request.key) from None
            if not isinstance(answer, Request):
                return answer
            request = answer
        raise self._endless(request)

    @asynccontextmanager
    async def open(
        self, request: Request, *, expect: tuple[int, ...], until: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """As `HttpCalls.open`, wherever redirects lead."""
        for _ in range(REDIRECTS_MAX + 1):
            async with self.calls.open(request, expect=(*expect, *REDIRECTS), until=until) as response:
                if response.status not in REDIRECTS:
                    yield response
                    return
                request = self._redirected(request, response)
        raise self._endless(request)

    def _redirected(self, request: Request, response: aiohttp.ClientResponse) -> Request:
        """The request that a redirect asks for."""
        what, path = self._what(request.key), request.key
        before = request.url or self.url_of(request.key or "")
        try:
            target = urljoin(before, quote(response.headers.get("Location", ""), safe=_URL_SAFE))
            to, came = urlsplit(target)._replace(fragment=""), urlsplit(before)
            is_broken = target == before or not to.hostname or to.port == 0 or "@" in to.netloc
        except ValueError:
            raise Corrupt(f"{what}: the server leads on to a URL that is none", path=path) from None
        if is_broken:
            raise Corrupt(f"{what}: the server leads on to nowhere, or in a circle", path=path)
        if segments(to.path) == [*segments(came.path), ""]:
            raise IsADirectory(f"{what} is a folder", path=path)
        if to.scheme not in ("http", "https") or (came.scheme, to.scheme) == ("https", "http"):
            message = f"{what}: the server leads on from {came.scheme} to {to.scheme}, which is not followed"
            raise Invalid(f"{message}; mount the URL that it leads to, if you trust it", path=path)
        return replace(request, url=to.geturl())

    def _endless(self, request: Request) -> Corrupt:
        message = f"{self._what(request.key)}: the server leads on more than {REDIRECTS_MAX} times"
        return Corrupt(message, path=request.key)

    def _what(self, key: str | None) -> str:
        return f"{self.origin}: {key!r}" if key else f"{self.origin}/"

    # ------------------------------------------------------------------ the dialect

    @property
    def names(self) -> Names:
        """See `Dialect.names`."""
        return Names(self.origin, self.origin, "the URL", "http.tls.caFile")

    async def address(self, request: Request) -> tuple[str, dict[str, str]]:
        """See `Dialect.address`."""
        if not request.url:
            return self.url_of(request.key or ""), dict(request.headers) | self.headers
        to, own = urlsplit(request.url), urlsplit(self.origin)
        is_own = (to.scheme, to.netloc.lower()) == (own.scheme, own.netloc)
        return request.url, dict(request.headers) | (self.headers if is_own else {})

    async def refusal(self, request: Request, response: aiohttp.ClientResponse, said: bytes) -> Refusal:
        """See `Dialect.refusal`."""
        status = response.status
        error = self.refused(Answer(status), request.key)
        if request.url and status in (401, 403):
            host = urlsplit(request.url).netloc
            message = f"{error.message}; it was {host} that refused, where the server leads on to"
            error = Denied(f"{message}, and credentials are not sent to another server", path=request.key)
        if status == 400 and any(words in said for words in _SPOKEN_HTTP):
            error = Invalid(f"{self.origin} wants TLS; write https:// in the URL", path=request.key)
        return Refusal(error, status, is_passing=status in (408, 425, 429) or (status >= 500 and status != 501))

    def refused(self, answer: Answer, key: str | None) -> FsError:
        """The error for an answer of the server."""
        what, status = self._what(key), answer.status
        if status == 401 and "Authorization" not in self.headers:
            options = "--option http.user=... --option http.password=..., or --option http.token=..."
            return Denied(f"{what}: denied: the server asks for credentials; add {options} (401)", path=key)
        if status == 401:
            return Denied(f"{what}: denied: the server does not take these credentials (401)", path=key)
        if status == 407:
            return Denied(f"{what}: denied: the proxy asks for credentials; check https_proxy (407)", path=key)
        kind, said = _REFUSED.get(status, (Unavailable if status >= 500 else Invalid, "the server refused the request"))
        return kind(f"{what}: {said} ({status})", path=key)


_REFUSED: dict[int, tuple[type[FsError], str]] = {
    403: (Denied, "denied: the server forbids it"),
    404: (NotFound, "no such file"),
    410: (NotFound, "no such file any more"),
    412: (StaleVersion, "has another version by now"),
    414: (NameTooLong, "the server takes no URL of that length"),
    416: (OutsideObject, "the range lies outside the file"),
    429: (Throttled, "the server asks for fewer requests"),
}


async def headers_only(response: aiohttp.ClientResponse) -> Headers:
    """An answer's headers; its body is not read."""
    return Headers(response.status, response.headers)
