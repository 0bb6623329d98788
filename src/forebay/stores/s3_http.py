"""S3's REST API, signed by botocore.

*Callers*: the S3 store, on the loop.  *Locks*: none.  *Awaits*: the network.  *Invariants*: a key goes out exactly as
it is, percent-encoded once.
"""

import asyncio
import hashlib
from dataclasses import replace
from urllib.parse import quote, urlencode

import aiohttp
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from forebay.errors import AlreadyExists, StaleVersion, Unsupported
from forebay.stores import s3_errors
from forebay.stores.http_calls import HttpCalls, Refusal, Request, Response, Tls
from forebay.stores.lost_writes import Write
from forebay.stores.s3_credentials import CredentialSource, Keys, configured_region
from forebay.stores.s3_listing import is_etag
from forebay.stores.s3_options import S3Options
from forebay.stores.s3_signing import EMPTY_SHA256, PAYER
from forebay.stores.wire_errors import Names
from forebay.types import Buffer
from forebay.units import KIB

_HASH_IN_THREAD_BYTES = 256 * KIB
_HOME_REGION = "us-east-1"  # what unconfigured clients sign for; other servers ask for nothing else


_MARK = "x-amz-meta-forebay-write"


def marked(write: Write) -> tuple[tuple[str, str], ...]:
    """The headers by which a write is known again."""
    return ((_MARK, write.mark),)


class S3Http:
    """A bucket's REST interface."""

    def __init__(self, bucket: str, options: S3Options, location: str, *, deadline_s: float) -> None:
        self.bucket = bucket
        self.location = location
        self.region = options.region or ""
        self.credentials = CredentialSource(options, location)
        self.tls = Tls(options.verify, options.ca_file)
        self.calls = HttpCalls(self, self.tls, deadline_s=deadline_s)
        self._options = options

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

    async def find_region(self) -> str:
        """The bucket's region as the store tells it (a header of HEAD Bucket), or ""."""
        return (await self.calls.headers_of(self.base_url)).get("x-amz-bucket-region", "")

    def write(self, key: str) -> Write:
        """A write of an object; `marked` gives the headers that it needs."""
        return Write(self.calls, self.location, Request("HEAD", key), lambda answer: answer.headers.get(_MARK))

    @property
    def conditional_put(self) -> bool:
        """Does the server honour conditions of writes?"""
        said = self._options.conditional_put
        return self._options.endpoint is None if said is None else said

    async def send_if(self, write: Write, request: Request, if_version: str | None, if_absent: bool) -> Response:
        """Send a write under a condition; see `Store.put` and `Write.send` for what it raises."""
        key = request.key
        headers = list(request.headers)
        if if_absent:
            headers.append(("If-None-Match", "*"))
        if if_version is not None:
            headers.append(("If-Match", f'"{if_version}"'))
        if (if_absent or if_version is not None) and not self.conditional_put:
            raise Unsupported(
                f"{self.location}: conditional writes are not known to work there; "
                "if they do, mount with --option s3.conditionalPut=true",
                path=key,
            )
        try:
            return await write.send(replace(request, headers=tuple(headers)))
        except StaleVersion:
            if if_absent:
                raise AlreadyExists(f"{self.location}: {key!r} exists already", path=key) from None
            raise

    def copy_source(self, key: str, version: str) -> tuple[tuple[str, str], ...]:
        """The headers of a request that has the server copy from an object of that version."""
        place = quote(f"/{self.bucket}/{key}", safe="/~", errors="surrogateescape")
        pinned = (("x-amz-copy-source-if-match", f'"{version}"'),) if is_etag(version) else ()
        return (("x-amz-copy-source", place), *pinned)

    # ------------------------------------------------------------------ the dialect

    @property
    def names(self) -> Names:
        """See `Dialect.names`."""
        return Names(self.location, self.endpoint, "s3.endpoint", "s3.tls.caFile")

    async def address(self, request: Request) -> tuple[str, dict[str, str]]:
        """See `Dialect.address`."""
        await self.prepare()
        url = self.base_url + path_of(request.key) + (f"?{_query(request.query)}" if request.query else "")
        return url, await self._sign(request, url)

    async def refusal(self, request: Request, response: aiohttp.ClientResponse, said: bytes) -> Refusal:
        """See `Dialect.refusal`; a region that the answer names is signed for from then on."""
        answer = s3_errors.read_answer(response.status, said, response.headers.get("x-amz-bucket-region", ""))
        if answer.code == "NoSuchKey" and request.method != "GET" and "If-Match" in dict(request.headers):
            answer = answer._replace(status=412)  # it has gone, whose version was the condition of a write
        is_elsewhere = s3_errors.is_wrong_region(answer)
        if is_elsewhere and not answer.region:
            answer = answer._replace(region=await self.find_region())
        return Refusal(
            s3_errors.refused(answer, self.location, request.key),
            answer.status,
            is_passing=s3_errors.is_passing(answer),
            at_once=is_elsewhere and self.adopt_region(answer.region),
        )

    async def _sign(self, request: Request, url: str) -> dict[str, str]:
        headers = dict(request.headers)
        headers.setdefault("Accept-Encoding", "identity")  # bytes come as they are stored
        if self._options.requester_pays:
            headers[PAYER] = "requester"
        keys = await self.credentials.keys()
        if keys is None:
            return headers
        return _signed(request.method, url, headers, await _sha256(request.body), keys, self.region)


def path_of(key: str | None) -> str:
    """The path of an object in its bucket, or of the bucket itself, as it goes out."""
    if key is None:
        return "/"
    return "/" + quote(key, safe="/~", errors="surrogateescape")


def _query(query: tuple[tuple[str, str], ...]) -> str:
    return urlencode(sorted(query), quote_via=quote, safe="~", errors="surrogateescape")


class _Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
    """Signs a body by the sum that is given, where botocore would read the body itself, and on the loop."""

    def __init__(self, keys: Keys, region: str, sha256: str) -> None:
        super().__init__(Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token), "s3", region)
        self._sha256 = sha256

    def payload(self, request: AWSRequest) -> str:
        """What goes out as X-Amz-Content-SHA256: Amazon and Ceph compare it with the bytes that come."""
        return self._sha256


def _signed(method: str, url: str, headers: dict[str, str], sha256: str, keys: Keys, region: str) -> dict[str, str]:
    request = AWSRequest(method=method, url=url, headers=headers)
    _Signer(keys, region, sha256).add_auth(request)
    return dict(request.headers.items())


async def _sha256(body: Buffer) -> str:
    if len(body) == 0:
        return EMPTY_SHA256
    view = memoryview(body)
    if len(view) < _HASH_IN_THREAD_BYTES:
        return hashlib.sha256(view).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(view).hexdigest())
