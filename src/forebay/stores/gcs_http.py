"""Google Cloud Storage's JSON API, with OAuth tokens.

*Callers*: the GCS store, on the loop.  *Locks*: none.  *Awaits*: the network.  *Invariants*: a key goes out exactly as
it is, percent-encoded once; a token goes to the mount's endpoint only.
"""

import json
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp

from forebay.errors import Corrupt
from forebay.stores import gcs_errors
from forebay.stores.gcs_credentials import TokenSource
from forebay.stores.gcs_options import GcsOptions
from forebay.stores.http_calls import HttpCalls, Refusal, Request, Response, Tls
from forebay.stores.wire_errors import Names

GOOGLE = "https://storage.googleapis.com"


class GcsHttp:
    """A bucket in the JSON API."""

    def __init__(self, bucket: str, options: GcsOptions, location: str, *, deadline_s: float) -> None:
        self.bucket = bucket
        self.location = location
        self.endpoint = options.endpoint or GOOGLE
        self.user_project = options.user_project
        self.tokens = TokenSource(options, location, deadline_s=deadline_s)
        self.tls = Tls(options.verify, options.ca_file)
        self.calls = HttpCalls(self, self.tls, deadline_s=deadline_s)

    def object_url(self, key: str | None) -> str:
        """Where an object's metadata are; None: where the bucket's objects are listed."""
        return f"{self.endpoint}/storage/v1/b/{self.bucket}/o" + ("" if key is None else f"/{_quote(key)}")

    def upload_url(self) -> str:
        """Where new objects are sent to."""
        return f"{self.endpoint}/upload/storage/v1/b/{self.bucket}/o"

    def session_url(self, location: str) -> str:
        """Where the parts of an upload are sent to, by what the store said; "" if that makes no sense.

        The host stays the mount's: what stands between, such as a port that is mapped, is not known to the server.
        """
        parts = urlsplit(location)
        return f"{self.endpoint}{parts.path}?{parts.query}" if parts.path.startswith("/") and parts.query else ""

    async def resource(self, request: Request) -> dict[str, Any]:
        """Send a request whose answer is a JSON object.

        Raises:
            Corrupt: it is something else.
        """
        return self.parse(await self.calls.call(request), request.key)

    def parse(self, answer: Response, key: str | None) -> dict[str, Any]:
        """The JSON object in an answer; raises Corrupt."""
        try:
            said = json.loads(answer.body)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            message = f"{self.location}: the answer is not of Google Cloud Storage; check gs.endpoint"
            raise Corrupt(message, path=key)
        return said

    # ------------------------------------------------------------------ the dialect

    @property
    def names(self) -> Names:
        """See `Dialect.names`."""
        return Names(self.location, self.endpoint, "gs.endpoint", "gs.tls.caFile")

    async def address(self, request: Request) -> tuple[str, dict[str, str]]:
        """See `Dialect.address`."""
        url = request.url or self.object_url(request.key)
        if request.query:
            url += "?" + urlencode(request.query, quote_via=quote, safe="~", errors="surrogateescape")
        headers = dict(request.headers)
        if self.user_project is not None:
            headers["x-goog-user-project"] = self.user_project
        token = await self.tokens.token()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return url, headers

    async def refusal(self, request: Request, response: aiohttp.ClientResponse, said: bytes) -> Refusal:
        """See `Dialect.refusal`; a token that is refused is renewed, once."""
        answer = gcs_errors.read_answer(response.status, said)
        is_read = request.method == "GET"
        return Refusal(
            gcs_errors.refused(answer, self.location, self.tokens, request.key, is_read=is_read),
            answer.status,
            is_passing=gcs_errors.is_passing(answer),
            at_once=answer.status == 401 and self.tokens.forget(),
        )


def _quote(key: str) -> str:
    return quote(key, safe="~", errors="surrogateescape")
