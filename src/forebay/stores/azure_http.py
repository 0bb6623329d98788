"""Azure's Blob REST API, for what obstore does not do.

*Callers*: the Azure store, on the loop.  *Locks*: none.  *Awaits*: the network.  *Invariants*: a key goes out exactly
as it is, percent-encoded once.
"""

from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote, urlencode, urlsplit

import aiohttp

from forebay.stores import azure_errors
from forebay.stores.azure_credentials import CredentialSource
from forebay.stores.azure_errors import Access
from forebay.stores.azure_options import AzureOptions
from forebay.stores.http_calls import HttpCalls, Refusal, Request, Tls
from forebay.stores.times import header_time_ns, nanoseconds
from forebay.stores.wire_errors import Names

API_VERSION = "2023-11-03"  # obstore's; accounts of every cloud know it


class AzureHttp:
    """A container's REST interface."""

    def __init__(self, container: str, options: AzureOptions, location: str, *, deadline_s: float) -> None:
        self.location = location
        self.endpoint = options.endpoint
        self.container_url = f"{options.endpoint}/{container}"
        self.credentials = CredentialSource(options, location)
        self.tls = Tls(options.verify, options.ca_file)
        self.calls = HttpCalls(self, self.tls, deadline_s=deadline_s)
        self._check = "azure.endpoint" if options.given_endpoint else "the account's name"

    def url_of(self, key: str) -> str:
        """The URL of a blob, without credentials."""
        return f"{self.container_url}/{quote(key, safe='/~', errors='surrogateescape')}"

    @property
    def access(self) -> Access:
        """What is known of the credentials, for messages."""
        return self.credentials.access

    # ------------------------------------------------------------------ the dialect

    @property
    def names(self) -> Names:
        """See `Dialect.names`."""
        return Names(self.location, self.endpoint, self._check, "azure.tls.caFile")

    async def address(self, request: Request) -> tuple[str, dict[str, str]]:
        """See `Dialect.address`."""
        url = self.container_url if request.key is None else self.url_of(request.key)
        headers = {"x-ms-version": API_VERSION, "x-ms-date": format_datetime(datetime.now(UTC), usegmt=True)}
        headers |= dict(request.headers)
        signed = headers | {"Content-Length": str(len(request.body))}
        authorization = await self.credentials.authorization(request.method, urlsplit(url).path, request.query, signed)
        if authorization is not None:
            headers["Authorization"] = authorization
        query = urlencode(request.query, quote_via=quote, safe="~", errors="surrogateescape")
        return "?".join(filter(None, (url, "&".join(filter(None, (query, self.credentials.sas_query)))))), headers

    async def refusal(self, request: Request, response: aiohttp.ClientResponse, said: bytes) -> Refusal:
        """See `Dialect.refusal`."""
        answer = azure_errors.read_answer(response.status, said, response.headers.get("x-ms-error-code", ""))
        if answer.code == "AuthorizationFailure" and response.headers.get("Server", "").startswith("Azurite"):
            answer = answer._replace(code="AuthenticationFailed")  # which is Azure's own word for a wrong key
        server_ns = header_time_ns(response.headers.get("Date"))
        off_s = (nanoseconds(datetime.now(UTC)) - server_ns) / 1e9 if server_ns else 0.0
        error = azure_errors.refused(answer, self.location, self.access._replace(clock_off_s=off_s), request.key)
        return Refusal(error, answer.status, is_passing=azure_errors.is_passing(answer))
