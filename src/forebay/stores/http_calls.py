"""HTTP calls to a store's own API over aiohttp: for what obstore cannot do (pages, odd keys, precise errors).

What differs from store to store is its `Dialect`: where a request goes, how it is signed, what a refusal means.

*Callers*: adapters, on the loop.  *Locks*: none.  *Awaits*: the network, each call within the deadline, retries
included.  *Invariants*: a URL goes out exactly as the dialect wrote it; no request is repeated before the time that
the store named; one that has a `check` is not repeated before that has looked.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl

from forebay.errors import FsError, Invalid, Throttled, TimedOut
from forebay.stores import wire_errors
from forebay.stores.times import header_time_ns
from forebay.stores.wire_errors import Names
from forebay.types import Buffer
from forebay.units import KIB, MIB

RETRIES_MAX = 4
BACKOFF_S, BACKOFF_MAX_S = 0.1, 5.0  # doubled each time, with full jitter
HEED_S = 120.0  # the longest time that stores are known to name (older MinIO)
CONNECT_WITHIN_S = 5.0
SILENCE_MAX_S = 15.0  # without a byte; then the attempt is given up and repeated
CONNECTIONS_MAX = 64
IDLE_S = 20.0  # servers close connections that idle for longer
_ANSWER_BYTES_MAX = 64 * MIB  # a page of a listing is below 2 MiB; more is no answer of a store
_PIECE_BYTES = 256 * KIB

Result = TypeVar("Result")


class Response(NamedTuple):
    """A success."""

    headers: Mapping[str, str]
    body: bytearray
    status: int = 200


@dataclass(slots=True)
class Request:
    """One call, without its signature."""

    method: str
    key: str | None = None  # None: the bucket itself
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: Buffer = b""
    url: str = ""  # where it goes, percent-encoded, if that does not follow from the key, such as an upload's session
    check: Callable[[], Awaitable[Response | None]] | None = None
    """Looks whether an earlier try, whose answer was lost, was carried out; the answer to give then."""


class Tls(NamedTuple):
    """How a server proves who it is."""

    verify: bool = True
    ca_file: Path | None = None  # more roots to trust, PEM


class Refusal(Exception):
    """An answer that was not expected."""

    def __init__(self, error: FsError, status: int, *, is_passing: bool, at_once: bool = False) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.is_passing = is_passing  # the same request may succeed a little later
        self.at_once = at_once  # the next try will be another one: signed for another region, with a new token
        self.retry_after_s = 0.0


class Dialect(Protocol):
    """What differs from store to store."""

    @property
    def names(self) -> Names:
        """The place, for messages."""
        ...

    async def address(self, request: Request) -> tuple[str, dict[str, str]]:
        """The URL, percent-encoded, and the headers, signed."""
        ...

    async def refusal(self, request: Request, response: aiohttp.ClientResponse, said: bytes) -> Refusal:
        """What an answer means that was not expected; `said` is the beginning of its body."""
        ...


class HttpCalls:
    """See the module."""

    def __init__(self, dialect: Dialect, tls: Tls, *, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self._dialect = dialect
        self._tls = tls
        self.heed_until = 0.0  # by the loop's clock: until then the store is one that names times to wait
        self._session: aiohttp.ClientSession | None = None
        self._proxies = getproxies()  # not by aiohttp's `trust_env`, which takes passwords from ~/.netrc as well

    @property
    def silence_s(self) -> float:
        """How long an attempt waits without receiving a byte."""
        return min(SILENCE_MAX_S, self.deadline_s / 3)

    async def call(
        self,
        request: Request,
        *,
        expect: tuple[int, ...] = (200,),
        size_max: int = _ANSWER_BYTES_MAX,
        until: float | None = None,
    ) -> Response:
        """Send a request and read its whole answer; of one longer than `size_max`, a little more than that.

        `until` is a time of the loop's clock; None: the deadline from now.

        Raises:
            FsError: the store refused, or could not be reached within the deadline.
        """

        async def once(is_lost: bool) -> Response:
            if is_lost and request.check is not None and (done := await request.check()) is not None:
                return done
            async with self._send(request, expect) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > size_max:
                        break
                return Response(response.headers, body, response.status)

        return await self._repeat(once, request, until)

    async def ask(
        self,
        request: Request,
        read: Callable[[aiohttp.ClientResponse], Awaitable[Result]],
        *,
        expect: tuple[int, ...] = (200,),
        until: float | None = None,
    ) -> Result:
        """Send a request; what `read` makes of the answer.  Both are done again if the connection breaks meanwhile.

        Raises:
            FsError: the store refused, or could not be reached within the deadline; or what `read` raises.
        """

        async def once(is_lost: bool) -> Result:  # what `ask` asks may be repeated
            async with self._send(request, expect) as response:
                return await read(response)

        return await self._repeat(once, request, until)

    @asynccontextmanager
    async def open(
        self, request: Request, *, expect: tuple[int, ...], until: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the answer's body is read by the caller with `next_chunk`."""

        async def once(is_lost: bool) -> aiohttp.ClientResponse:  # what `open` asks may be repeated
            return await held.enter_async_context(self._send(request, expect))

        async with AsyncExitStack() as held:
            yield await self._repeat(once, request, until)

    async def next_chunk(self, response: aiohttp.ClientResponse, size: int) -> bytes:
        """The next bytes of an open answer, about `size` of them; none at its end.

        Raises:
            Unavailable, TimedOut: the answer broke off, and all that came of it has been given.
        """
        chunk = bytearray()
        try:
            async with asyncio.timeout(self.deadline_s):
                while len(chunk) < size and (more := await response.content.read(size - len(chunk))):
                    chunk += more
        except wire_errors.WIRE_ERRORS as error:
            if not chunk:
                raise wire_errors.from_wire(error, self._dialect.names) from None
        return bytes(chunk)

    async def headers_of(self, url: str) -> Mapping[str, str]:
        """The headers that an unsigned HEAD brings, whatever its status; none if nothing answers."""
        try:
            session = self._ensure_session()
            target = yarl.URL(url, encoded=True)
            async with session.head(target, allow_redirects=False, proxy=self._proxy(target)) as response:
                return response.headers
        except wire_errors.WIRE_ERRORS:
            return {}

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _repeat(self, once: Callable[[bool], Awaitable[Result]], request: Request, until: float | None) -> Result:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.deadline_s if until is None else until
        failed: FsError | None = None
        is_lost = False  # may an earlier try have been carried out?
        try:
            async with asyncio.timeout_at(until):
                for tried in range(RETRIES_MAX + 1):
                    try:
                        return await once(is_lost)
                    except FsError:
                        raise
                    except Refusal as refused:
                        failed = refused.error
                        if refused.at_once:
                            continue
                        may_repeat, pause_s = refused.is_passing, refused.retry_after_s
                        if pause_s:
                            self.heed_until = loop.time() + HEED_S
                    except wire_errors.WIRE_ERRORS as error:
                        failed = wire_errors.from_wire(error, self._dialect.names, request.key)
                        may_repeat, pause_s = not wire_errors.is_hopeless(error), 0.0
                    is_lost = is_lost or not isinstance(failed, Throttled)
                    pause_s += backoff_s(tried, random.random())
                    if not may_repeat or tried == RETRIES_MAX or loop.time() + pause_s >= until:
                        break
                    await asyncio.sleep(pause_s)
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
        if failed is not None:  # what went wrong says more than that the time is over
            raise failed
        names = self._dialect.names
        message = f"{names.location}: no answer from {names.host} within {self.deadline_s:g} s"
        raise TimedOut(message, path=request.key)

    @asynccontextmanager
    async def _send(self, request: Request, expect: tuple[int, ...]) -> AsyncIterator[aiohttp.ClientResponse]:
        url, headers = await self._dialect.address(request)
        headers.setdefault("Accept-Encoding", "identity")  # bytes come as they are stored
        body = None
        if len(request.body):
            headers["Content-Length"] = str(len(request.body))
            body = _pieces(request.body)  # never in one piece: aiohttp would send that again by itself
        target = yarl.URL(url, encoded=True)
        async with self._ensure_session().request(
            request.method, target, headers=headers, data=body, allow_redirects=False, proxy=self._proxy(target)
        ) as response:
            if response.status not in expect:
                said = await response.content.read(MIB)
                refusal = await self._dialect.refusal(request, response, said)
                refusal.retry_after_s = retry_after_s(response.headers)
                raise refusal
            yield response

    def has_proxy(self, url: str) -> bool:
        """Does the environment name a proxy for a URL?"""
        return self._proxy(yarl.URL(url, encoded=True)) is not None

    def _proxy(self, url: yarl.URL) -> str | None:
        """The proxy that the environment names for a URL (`https_proxy` and its like)."""
        if not self._proxies or url.host is None or proxy_bypass(url.host, self._proxies):
            return None
        proxy = self._proxies.get(url.scheme)
        return proxy if proxy is None or "://" in proxy else f"http://{proxy}"

    def _ensure_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = self._tls
            has_roots = tls.verify and tls.ca_file is not None  # else aiohttp has what it needs
            context = tls_context(tls, self._dialect.names) if has_roots else tls.verify
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=IDLE_S, ssl=context)
            timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_WITHIN_S, sock_read=self.silence_s)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                auto_decompress=False,
                skip_auto_headers=("Content-Type",),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def backoff_s(tried: int, chance: float) -> float:
    """The pause before a try that follows on `tried` and one others; `chance` is from 0 to 1.

    >>> [backoff_s(tried, 1.0) for tried in (0, 1, 2, 9)], backoff_s(9, 0.5)
    ([0.1, 0.2, 0.4, 5.0], 2.5)
    """
    return chance * min(BACKOFF_MAX_S, BACKOFF_S * 2.0**tried)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """How long the store asks to wait, in seconds, or until a date by its own clock; 0 if it does not say.

    >>> retry_after_s({"Retry-After": "3"})
    3.0
    >>> retry_after_s({"Retry-After": "Tue, 03 Jun 2025 10:00:07 GMT", "Date": "Tue, 03 Jun 2025 10:00:00 GMT"})
    7.0
    """
    said = headers.get("Retry-After", "")
    if said.isdecimal():
        return float(said)
    then_ns, now_ns = header_time_ns(said), header_time_ns(headers.get("Date"))
    return max(0.0, (then_ns - now_ns) / 1e9) if then_ns and now_ns else 0.0


async def _pieces(body: Buffer) -> AsyncIterator[memoryview]:
    view = memoryview(body)  # in pieces, so that a large body does not hold up the loop
    for start in range(0, len(view), _PIECE_BYTES):
        yield view[start : start + _PIECE_BYTES]


def tls_context(tls: Tls, names: Names) -> ssl.SSLContext:
    """How to make a connection safe.  Blocks: it reads all of the system's certificates.

    Raises:
        Invalid: the file of roots cannot be used.
    """
    context = ssl.create_default_context()
    if not tls.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif tls.ca_file is not None:
        try:
            context.load_verify_locations(cafile=str(tls.ca_file))
        except (OSError, ssl.SSLError) as error:
            message = f"{names.location}: {names.ca_option} {tls.ca_file} cannot be used: {error.strerror}"
            raise Invalid(message) from error
    return context
