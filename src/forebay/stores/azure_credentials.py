"""Credentials for Azure: the mount's own key, SAS token or client, or the identity of this machine or user.

Tokens of Microsoft Entra ID come from azure-identity, which reads files, runs `az` and asks the network: in a thread,
and imported when a mount first needs it (0.2 s, 36 MB of memory).
"""

import asyncio
import base64
import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

from forebay.errors import Denied, FsError, Unavailable
from forebay.stores.azure_errors import Access, Kind
from forebay.stores.azure_options import AzureOptions

SCOPE = "https://storage.azure.com/.default"
RENEW_BEFORE = timedelta(minutes=5)  # azure-identity renews a token that ends in less when it is asked
_LIMITS = {"connection_timeout": 5, "read_timeout": 15, "retry_total": 1}  # seconds; of the service that gives tokens
_CHAIN = "environment, workload identity, managed identity, az login"
_ENTRA_CODE = re.compile(r"AADSTS\d+")
# https://learn.microsoft.com/entra/identity-platform/reference-error-codes
_ENTRA_SAYS = {
    "AADSTS700016": "the tenant does not know this client; check azure.clientId and azure.tenantId",
    "AADSTS7000215": "the secret does not fit the client; check azure.clientSecret (its value, not its id)",
    "AADSTS7000222": "the client's secret has expired; make a new one",
    "AADSTS90002": "there is no such tenant; check azure.tenantId",
    "AADSTS900023": "there is no such tenant; check azure.tenantId",
}
# The headers that a shared key signs by name, in this order, after the method.
_SIGNED = (
    *("content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"),
    *("if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"),
)


class Token(NamedTuple):
    """A bearer token of Entra ID."""

    text: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"<Token until {self.expires_at:%H:%M:%S}>"


def string_to_sign(
    account: str, method: str, path: str, query: tuple[tuple[str, str], ...], headers: Mapping[str, str]
) -> str:
    """What a shared key signs: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key.

    Args:
        account: its name.
        method: of HTTP.
        path: of the URL, percent-encoded as it is sent.
        query: names and values, not encoded.
        headers: all that are sent; a Content-Length of 0 counts as none.
    """
    lower = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    if lower.get("content-length") == "0":
        del lower["content-length"]
    lines = [method, *(lower.get(name, "") for name in _SIGNED)]
    lines += [f"{name}:{lower[name]}" for name in sorted(lower) if name.startswith("x-ms-")]
    lines.append(f"/{account}{path}")
    lines += [f"{name.lower()}:{value}" for name, value in sorted(query)]
    return "\n".join(lines)


class CredentialSource:
    """Gives the credentials of one store; cheap but where a token must be fetched."""

    def __init__(self, options: AzureOptions, location: str) -> None:
        self._options = options
        self._location = location
        self._entra: Any = None  # azure-identity's credential, once made
        self._token: Token | None = None
        self.failed: FsError | None = None  # why the last token was not given; obstore does not pass it on
        self._asking = asyncio.Lock()
        self._sas = dict(options.sas)

    @property
    def access(self) -> Access:
        """What is known of them, for messages."""
        if self._options.account_key is not None:
            return Access(Kind.KEY)
        if self._options.anonymous:
            return Access(Kind.ANONYMOUS)
        if not self._sas:
            return Access(Kind.TOKEN)
        ends = self._sas.get("se", "")
        return Access(Kind.SAS, ends if _is_past(ends) else "", self._sas.get("sp", ""))

    @property
    def sas_query(self) -> str:
        """The SAS token, percent-encoded, to be added to a URL; "" if there is none."""
        return "&".join(f"{name}={quote(value, safe='')}" for name, value in self._options.sas)

    async def authorization(
        self, method: str, path: str, query: tuple[tuple[str, str], ...], headers: Mapping[str, str]
    ) -> str | None:
        """The Authorization header of a request; None if it has none (SAS tokens, anonymous access).

        Raises:
            Denied: no credentials anywhere, or they were refused.
            Unavailable: who gives tokens cannot be reached.
        """
        kind = self.access.kind
        if kind is Kind.KEY:
            text = string_to_sign(self._options.account, method, path, query, headers)
            key = base64.b64decode(self._options.account_key or "")
            signature = base64.b64encode(hmac.digest(key, text.encode(), hashlib.sha256)).decode()
            return f"SharedKey {self._options.account}:{signature}"
        return f"Bearer {(await self._fetch_token()).text}" if kind is Kind.TOKEN else None

    async def for_obstore(self) -> dict[str, Any]:
        """The credentials in the shape that obstore's `credential_provider` gives."""
        kind = self.access.kind
        if kind is Kind.KEY:
            return {"access_key": self._options.account_key, "expires_at": None}
        if kind is Kind.SAS:
            return {"sas_token": list(self._options.sas), "expires_at": None}
        token = await self._fetch_token()
        return {"token": token.text, "expires_at": token.expires_at - RENEW_BEFORE}

    async def _fetch_token(self) -> Token:
        if self._token is None or self._token.expires_at - RENEW_BEFORE <= datetime.now(UTC):
            async with self._asking:
                if self._token is None or self._token.expires_at - RENEW_BEFORE <= datetime.now(UTC):
                    try:
                        self._token, self.failed = await asyncio.to_thread(self._ask_entra), None
                    except FsError as error:
                        self.failed = error
                        raise
        return self._token

    def _ask_entra(self) -> Token:
        import azure.core.exceptions
        import azure.identity

        for library in ("azure", "msal"):  # they log what servers say, who may repeat a secret
            logging.getLogger(library).setLevel(logging.CRITICAL)
        options, limits = self._options, _LIMITS
        try:
            if self._entra is None and options.tenant_id and options.client_id and options.client_secret:
                self._entra = azure.identity.ClientSecretCredential(
                    options.tenant_id,
                    options.client_id,
                    options.client_secret,
                    authority=options.authority,
                    disable_instance_discovery=options.authority is not None,  # whoever names it trusts it
                    **limits,
                )
            elif self._entra is None:
                self._entra = azure.identity.DefaultAzureCredential(
                    managed_identity_client_id=options.client_id,
                    workload_identity_client_id=options.client_id,
                    **limits,
                )
            found = self._entra.get_token(SCOPE)
        except azure.core.exceptions.AzureError as error:
            away = azure.core.exceptions.ServiceRequestError, azure.core.exceptions.ServiceResponseError
            raise self._refused(str(error), is_away=isinstance(error.__cause__ or error.__context__, away)) from None
        except ValueError:
            raise Denied(f"{self._location}: azure.tenantId or azure.tokenEndpoint is wrong") from None
        return Token(found.token, datetime.fromtimestamp(found.expires_on, UTC))

    def _refused(self, said: str, *, is_away: bool) -> FsError:
        """The error for a token that was not given; of what was said only Entra's code is passed on."""
        if self._options.client_secret is None:
            return Denied(
                f"{self._location}: no credentials were given, and none were found ({_CHAIN}); "
                "add --option azure.accountKey=..., azure.sasToken=..., or azure.tenantId, azure.clientId and "
                "azure.clientSecret, or --option azure.anonymous=true for a public container"
            )
        code = _ENTRA_CODE.search(said)
        if is_away:
            return Unavailable(f"{self._location}: Entra ID does not answer; check network, proxy, azure.tokenEndpoint")
        why = _ENTRA_SAYS.get(code[0] if code else "", "check azure.tenantId, azure.clientId and azure.clientSecret")
        return Denied(f"{self._location}: Entra ID gave no token: {why}" + (f" ({code[0]})" if code else ""))


def _is_past(moment: str) -> bool:
    """Is an ISO 8601 moment over?  One that cannot be read is not."""
    try:
        ends = datetime.fromisoformat(moment)
    except ValueError:
        return False
    return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)) <= datetime.now(UTC)
