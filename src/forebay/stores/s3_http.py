"""S3's REST API over aiohttp, signed by botocore: for what obstore cannot do (pages, odd keys, precise errors).

*Callers*: the S3 store, on the loop.  *Locks*: none.  *Awaits*: the network, each call within the store's deadline,
retries included.  *Invariants*: a key goes out exactly as it is, percent-encoded once; a request that may not be
repeated is sent once.
"""

import asyncio
import hashlib
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import yarl
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from forebay.errors import FsError, Invalid, TimedOut
from forebay.stores import s3_errors
from forebay.stores.s3_credentials import CredentialSource, Keys, configured_region
from forebay.stores.s3_options import S3Options
from forebay.types import Buffer
from forebay.units import KIB, MIB

RETRIES_MAX = 4
BACKOFF_S, BACKOFF_MAX_S = 0.1, 5.0  # doubled each time, with full jitter
CONNECT_WITHIN_S = 5.0
SILENCE_MAX_S = 15.0  # without a byte; then the attempt is given up and repeated
CONNECTIONS_MAX = 64
IDLE_S = 20.0  # servers close connections that idle for longer
_ANSWER_BYTES_MAX = 64 * MIB  # listings are below 2 MiB; more is not an answer of S3
_PIECE_BYTES = 256 * KIB
_HASH_IN_THREAD_BYTES = 256 * KIB
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_HOME_REGION = "us-east-1"  # what unconfigured clients sign for; other servers ask for nothing else

Result = TypeVar("Result")


class Response(NamedTuple):
    """A success."""

    headers: Mapping[str, str]
    body: bytearray


@dataclass(slots=True)
class Request:
    """One call, without its signature."""

    method: str
    key: str | None = None  # None: the bucket itself
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: Buffer = b""
    repeat: bool = True  # may be sent again when its outcome is unknown


class S3Http:
    """A bucket's REST interface."""

    def __init__(self, bucket: str, options: S3Options, location: str, *, deadline_s: float) -> None:
        self.bucket = bucket
        self.location = location
        self.region = options.region or ""
        self.credentials = CredentialSource(options, location)
        self.deadline_s = deadline_s
        self._options = options
        self._session: aiohttp.ClientSession | None = None

    @property
    def silence_s(self) -> float:
        """How long an attempt waits without receiving a byte."""
        return min(SILENCE_MAX_S, self.deadline_s / 3)

    @property
    def path_style(self) -> bool:
        """Is the bucket named in the path, or in the host?"""
        if self._options.path_style is not None:
            return self._options.path_style
        return self._options.endpoint is not None or "." in self.bucket  # a dot breaks the wildcard certificate

    @property
    def endpoint(self) -> str:
        """The server, without the bucket."""
        if self._options.endpoint is not None:
            return self._options.endpoint
        tail = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return f"https://s3.{self.region or _HOME_REGION}.{tail}"

    @property
    def base_url(self) -> str:
        """The bucket's URL, without a slash at its end."""
        if self.path_style:
            return f"{self.endpoint}/{self.bucket}"
        scheme, _, host = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{host}"

    async def prepare(self) -> None:
        """Find the region to sign for, once."""
        if not self.region:
            self.region = await configured_region(self._options.profile) or _HOME_REGION

    def adopt_region(self, region: str) -> bool:
        """Sign for the region that the store named; False if the mount fixed another, or it is not new."""
        if self._options.region is not None or not region or region == self.region:
            return False
        self.region = region
        return True

    async def call(
        self, request: Request, *, expect: tuple[int, ...] = (200,), size_max: int = _ANSWER_BYTES_MAX
    ) -> Response:
        """Send a request and read its whole answer; of one longer than `size_max`, a little more than that.

        Raises:
            FsError: the store refused, or could not be reached within the deadline.
        """

        async def once() -> Response:
            async with self._send(request, expect) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > size_max:
                        break
                return Response(response.headers, body)

        return await self._repeat(once, request)

    @asynccontextmanager
    async def open(self, request: Request, *, expect: tuple[int, ...]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request; the answer's body is read by the caller with `next_chunk`."""

        async def once() -> aiohttp.ClientResponse:
            return await held.enter_async_context(self._send(request, expect))

        async with AsyncExitStack() as held:
            yield await self._repeat(once, request)

    async def next_chunk(self, response: aiohttp.ClientResponse, size: int) -> bytes:
        """The next bytes of an open answer, about `size` of them; none at its end.

        Raises:
            Unavailable, TimedOut: the answer broke off.
        """
        chunk = bytearray()
        try:
            async with asyncio.timeout(self.deadline_s):
                while len(chunk) < size and (more := await response.content.read(size - len(chunk))):
                    chunk += more
        except s3_errors.WIRE_ERRORS as error:
            raise s3_errors.from_wire(error, self.location, self.endpoint) from None
        return bytes(chunk)

    async def find_region(self) -> str:
        """The bucket's region as the store tells it (a header of HEAD Bucket), or ""."""
        try:
            session = self._ensure_session()
            async with session.head(yarl.URL(self.base_url, encoded=True), allow_redirects=False) as response:
                return response.headers.get("x-amz-bucket-region", "")
        except s3_errors.WIRE_ERRORS:
            return ""

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _repeat(self, once: Callable[[], Awaitable[Result]], request: Request) -> Result:
        failed: FsError | None = None
        try:
            async with asyncio.timeout(self.deadline_s):
                for tried in range(RETRIES_MAX + 1):
                    try:
                        return await once()
                    except FsError:
                        raise
                    except _RefusedError as refused:
                        failed = s3_errors.refused(refused.answer, self.location, request.key)
                        if s3_errors.is_wrong_region(refused.answer) and self.adopt_region(refused.answer.region):
                            continue
                        may_repeat, pause_s = refused.may_repeat(request), refused.retry_after_s
                    except s3_errors.WIRE_ERRORS as error:
                        failed = s3_errors.from_wire(error, self.location, self.endpoint, request.key)
                        may_repeat, pause_s = request.repeat and not _is_hopeless(error), 0.0
                    if not may_repeat or tried == RETRIES_MAX or pause_s >= self.deadline_s:
                        break
                    await asyncio.sleep(max(pause_s, random.random() * min(BACKOFF_MAX_S, BACKOFF_S * 2**tried)))
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
        if failed is not None:  # what went wrong says more than that the time is over
            raise failed
        host = self.endpoint.partition("://")[2]
        raise TimedOut(f"{self.location}: no answer from {host} within {self.deadline_s:g} s", path=request.key)

    @asynccontextmanager
    async def _send(self, request: Request, expect: tuple[int, ...]) -> AsyncIterator[aiohttp.ClientResponse]:
        await self.prepare()
        url = self.base_url + _path(request.key) + (f"?{_query(request.query)}" if request.query else "")
        headers = await self._sign(request, url)
        session = self._ensure_session()
        body = None
        if len(request.body):
            headers["Content-Length"] = str(len(request.body))
            body = _pieces(request.body)
        async with session.request(
            request.method, yarl.URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
        ) as response:
            if response.status not in expect:
                said = await response.content.read(MIB)
                region = response.headers.get("x-amz-bucket-region", "")
                answer = s3_errors.read_answer(response.status, said, region)
                if s3_errors.is_wrong_region(answer) and not answer.region:
                    answer = answer._replace(region=await self.find_region())
                raise _RefusedError(answer, response.headers.get("Retry-After", ""))
            yield response

    async def _sign(self, request: Request, url: str) -> dict[str, str]:
        headers = dict(request.headers)
        headers.setdefault("Accept-Encoding", "identity")  # bytes come as they are stored
        if self._options.requester_pays:
            headers["x-amz-request-payer"] = "requester"
        keys = await self.credentials.keys()
        if keys is None:
            return headers
        headers["X-Amz-Content-SHA256"] = await _sha256(request.body)
        return _signed(request.method, url, headers, keys, self.region)

    def _ensure_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=CONNECTIONS_MAX, keepalive_timeout=IDLE_S, ssl=_tls(self._options, self.location)
            )
            timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_WITHIN_S, sock_read=self.silence_s)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=timeout,
                trust_env=True,  # proxies
                auto_decompress=False,
                skip_auto_headers=("Content-Type",),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


class _RefusedError(Exception):
    """An answer that was not expected, on its way to `_repeat`."""

    def __init__(self, answer: s3_errors.Answer, retry_after: str) -> None:
        super().__init__(answer)
        self.answer = answer
        self.retry_after_s = float(retry_after) if retry_after.isdecimal() else 0.0

    def may_repeat(self, request: Request) -> bool:
        # A request that must not be repeated blindly was surely not carried out if the store asks to slow down.
        return s3_errors.is_passing(self.answer) and (request.repeat or self.answer.status in (429, 503))


def _is_hopeless(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorDNSError | ssl.SSLError)


async def _pieces(body: Buffer) -> AsyncIterator[memoryview]:
    view = memoryview(body)  # in pieces, so that a large body does not hold up the loop
    for start in range(0, len(view), _PIECE_BYTES):
        yield view[start : start + _PIECE_BYTES]


def _path(key: str | None) -> str:
    if key is None:
        return "/"
    return "/" + quote(key, safe="/~", errors="surrogateescape")


def _query(query: tuple[tuple[str, str], ...]) -> str:
    return urlencode(sorted(query), quote_via=quote, safe="~", errors="surrogateescape")


def _signed(method: str, url: str, headers: dict[str, str], keys: Keys, region: str) -> dict[str, str]:
    request = AWSRequest(method=method, url=url, headers=headers)
    credentials = Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    S3SigV4Auth(credentials, "s3", region).add_auth(request)
    return dict(request.headers.items())


async def _sha256(body: Buffer) -> str:
    if len(body) == 0:
        return _EMPTY_SHA256
    view = memoryview(body)
    if len(view) < _HASH_IN_THREAD_BYTES:
        return hashlib.sha256(view).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(view).hexdigest())


def _tls(options: S3Options, location: str) -> ssl.SSLContext | bool:
    if not options.verify:
        return False
    if options.ca_file is None:
        return True
    try:
        context = ssl.create_default_context()
        context.load_verify_locations(cafile=str(options.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"{location}: s3.tls.caFile {options.ca_file} cannot be used: {error.strerror}") from error
    return context
