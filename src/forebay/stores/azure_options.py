"""The place and the options of an Azure mount, under all the names that people know them by.

Hadoop's (`fs.azure.account.key.ACCOUNT.dfs.core.windows.net`), Alluxio's, adlfs' (`account_key`), obstore's
(`azure_storage_account_key`) and Microsoft's own (`AZURE_STORAGE_KEY`, connection strings) mean the same thing here;
case, dots, dashes and underscores do not matter.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from forebay.errors import Invalid
from forebay.stores.named_options import OptionNames, absolute_path, flag
from forebay.stores.urls import endpoint as endpoint_url

PUBLIC_CLOUD = "core.windows.net"
# Of Azurite, and public: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
EMULATOR_ACCOUNT = "devstoreaccount1"
EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
EMULATOR_ENDPOINT = f"http://127.0.0.1:10000/{EMULATOR_ACCOUNT}"

_NAMES = OptionNames(
    "Azure",
    prefixes=("spark", "hadoop", "fs", "azure", "abfss", "abfs", "wasbs", "wasb", "az", "adlfs", "storage"),
    names={
        "azure.accountName": ("account", "storageaccount", "storageaccountname"),
        "azure.accountKey": ("key", "accesskey", "storageaccountkey", "masterkey"),
        "azure.sasToken": ("sas", "saskey", "sasfixedtoken", "sharedaccesssignature"),
        "azure.connectionString": (),
        "azure.tenantId": ("tenant", "accountoauth2msitenant", "accountoauth2tenantid", "authorityid"),
        "azure.clientId": ("accountoauth2clientid",),
        "azure.clientSecret": ("accountoauth2clientsecret",),
        "azure.tokenEndpoint": ("accountoauth2clientendpoint", "clientendpoint", "authorityhost", "authority"),
        "azure.anonymous": ("anon", "skipsignature", "nosignrequest", "public"),
        "azure.endpoint": ("endpointurl", "blobendpoint", "accounthost"),
        "azure.endpointSuffix": (),
        "azure.tls.verify": ("verify", "sslverify", "verifyssl"),
        "azure.tls.caFile": ("cafile", "cabundle", "tlsca", "sslcafile"),
        # Hadoop's words for which of the credentials to use; here that follows from which are given.
        "azure.authType": ("accountauthtype",),
        "azure.tokenProvider": ("accountoauthprovidertype",),
    },
)
_CONTAINER = re.compile(r"\$(?:root|web|logs)|(?=.{3,63}$)[a-z0-9]+(?:-[a-z0-9]+)*")
_HOST = re.compile(r"(?P<account>[a-z0-9-]+)(?P<zone>\.z\d+)?\.(?:blob|dfs)\.(?P<suffix>[a-z0-9.-]+)", re.IGNORECASE)
_FOR_ACCOUNT = re.compile(r"(?P<name>.+?)\.(?P<account>[^.]+)\.(?:blob|dfs)\.[a-z0-9.-]+", re.IGNORECASE)
_FOR_CONTAINER = re.compile(r"(?P<name>(?:.*\.)?fs\.azure\.sas)\.(?!fixed\.)(?P<container>[^.]+)", re.IGNORECASE)


class Place(NamedTuple):
    """What stands before the path of an Azure URL."""

    container: str
    account: str = ""  # "" if the URL does not say
    host: str = ""  # of its blobs, such as `account.blob.core.windows.net`; "" if the URL does not say


@dataclass(frozen=True, slots=True)
class AzureOptions:
    """What a mount says about its Azure store.  Secrets do not show in the repr."""

    account: str
    endpoint: str  # of the account, `https://account.blob.core.windows.net` or `http://host:port/account`
    given_endpoint: bool = False  # an option names it
    account_key: str | None = field(default=None, repr=False)  # base64
    sas: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # the token's fields, decoded
    tenant_id: str | None = None
    client_id: str | None = None  # alone: of the managed identity
    client_secret: str | None = field(default=None, repr=False)
    authority: str | None = None  # `https://login.microsoftonline.com`; None: of the public cloud
    anonymous: bool = False  # requests carry no credentials
    verify: bool = True  # the server's certificate is checked
    ca_file: Path | None = None  # more roots to trust, PEM


def parse_place(scheme: str, text: str) -> Place:
    """Read `container`, `container@account` or `container@account.dfs.core.windows.net`.

    Raises:
        Invalid: it is none of these.
    """
    container, at, host = text.partition("@")
    write = f"write {scheme}://container@ACCOUNT.{'dfs' if scheme.startswith('ab') else 'blob'}.{PUBLIC_CLOUD}/prefix"
    if ":" in container or "@" in host:
        raise Invalid(
            "credentials do not belong in the URL: it is shown in listings; use --option azure.accountKey=..."
        )
    if not container:
        raise Invalid(f"the URL names no container; {write}, or {scheme}://container/prefix with azure.accountName")
    if _CONTAINER.fullmatch(container) is None:
        rule = "3 to 63 lower-case letters, digits and single dashes"
        raise Invalid(f"{container!r} is not the name of a container ({rule}); {write}")
    if not at:
        return Place(container)
    found = _HOST.fullmatch(host)
    if found is not None:
        account = found["account"].lower()
        return Place(container, account, f"{account}{found['zone'] or ''}.blob.{found['suffix']}".lower())
    if re.fullmatch(r"[a-z0-9-]+", host) is None:
        raise Invalid(f"{host!r} is not the host of an account; {write}, and another server as azure.endpoint")
    return Place(container, host)


def parse(place: Place, options: Mapping[str, str]) -> AzureOptions:
    """The options of one mount.

    Raises:
        Invalid: a name that is not known, two names of one thing with different values, values that contradict each
            other or the URL, or no account anywhere.
    """
    general, account = _without_places(place, options)
    values = _NAMES.read(general)
    for name, value in _connection(values.pop("azure.connectionString", "")).items():
        if values.setdefault(name, value) != value:
            raise Invalid(f"azure.connectionString and {name} contradict each other; leave one of them out")
    anonymous = flag("azure.anonymous", values.get("azure.anonymous"), default=False)
    _check_credentials(values, anonymous=anonymous)
    endpoint = endpoint_url("azure.endpoint", values.get("azure.endpoint"), instead="azure.accountKey")
    account = _account(account, values.get("azure.accountName", ""), endpoint)
    host = place.host or f"{account}.blob.{values.get('azure.endpointSuffix', PUBLIC_CLOUD)}"
    authority, tenant = _authority(values.get("azure.tokenEndpoint"))
    return AzureOptions(
        account=account,
        endpoint=_with_account(endpoint, account) or f"https://{host}",
        given_endpoint=endpoint is not None,
        account_key=_key(values.get("azure.accountKey")),
        sas=_sas(values.get("azure.sasToken")),
        tenant_id=values.get("azure.tenantId") or tenant,
        client_id=values.get("azure.clientId"),
        client_secret=values.get("azure.clientSecret"),
        authority=authority,
        anonymous=anonymous,
        verify=flag("azure.tls.verify", values.get("azure.tls.verify"), default=True),
        ca_file=absolute_path("azure.tls.caFile", values.get("azure.tls.caFile")),
    )


def _without_places(place: Place, options: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """The options without the account and container that some names end with; the account that URL and names say."""
    general: dict[str, str] = {}
    account = place.account
    for name, value in options.items():
        found = _FOR_ACCOUNT.fullmatch(name)
        if found is not None:
            account = account or found["account"].lower()
            if found["account"].lower() != account:
                raise Invalid(f"option {name} is for another account than {account}; leave it out")
        bare = found["name"] if found else name
        found = _FOR_CONTAINER.fullmatch(bare)
        if found is not None and found["container"] != place.container:
            raise Invalid(f"option {name} is for another container than {place.container}; leave it out")
        bare = found["name"] if found else bare
        if general.setdefault(bare, value) != value:
            raise Invalid(f"option {name} was given twice under different names, with different values")
    return general, account


def _connection(text: str) -> dict[str, str]:
    """The options in a connection string as the portal shows it."""
    parts = [part.partition("=") for part in text.split(";") if part.strip()]
    said = {name.strip().lower(): value.strip() for name, _, value in parts}
    if any(not equals for _, equals, _ in parts):
        raise Invalid("azure.connectionString is not one; copy it whole: AccountName=...;AccountKey=...")
    if said.get("usedevelopmentstorage", "").lower() == "true":
        said |= {"accountname": EMULATOR_ACCOUNT, "accountkey": EMULATOR_KEY, "blobendpoint": EMULATOR_ENDPOINT}
    if "accountname" in said and said.get("defaultendpointsprotocol") == "http" and "blobendpoint" not in said:
        said["blobendpoint"] = f"http://{said['accountname']}.blob.{said.get('endpointsuffix', PUBLIC_CLOUD)}"
    names = {
        "accountname": "azure.accountName",
        "accountkey": "azure.accountKey",
        "sharedaccesssignature": "azure.sasToken",
        "blobendpoint": "azure.endpoint",
        "endpointsuffix": "azure.endpointSuffix",
    }
    return {option: said[name] for name, option in names.items() if said.get(name)}


def _check_credentials(values: Mapping[str, str], *, anonymous: bool) -> None:
    kinds = {
        "azure.accountKey": "azure.accountKey" in values,
        "azure.sasToken": "azure.sasToken" in values,
        "azure.clientId": bool({"azure.clientId", "azure.clientSecret"} & values.keys()),
        "azure.anonymous=true": anonymous,
    }
    given = [name for name, is_given in kinds.items() if is_given]
    if len(given) > 1:
        raise Invalid(f"{' and '.join(given)} exclude each other; leave all but one of them out")
    if "azure.clientSecret" in values:
        if "azure.clientId" not in values:
            raise Invalid("a client secret was given without its client; add --option azure.clientId=...")
        if "azure.tenantId" not in values and _authority(values.get("azure.tokenEndpoint"))[1] is None:
            raise Invalid("a client secret was given without its tenant; add --option azure.tenantId=...")


def _account(placed: str, named: str, endpoint: str | None) -> str:
    """The account, from the URL or an option's name, from azure.accountName, or from the endpoint."""
    if placed and named and placed != named:
        raise Invalid(f"the URL is of the account {placed}, and azure.accountName says {named}; leave one of them out")
    account = placed or named
    if not account and endpoint is not None:
        parts = urlsplit(endpoint)
        found = _HOST.fullmatch(parts.hostname or "")
        account = found["account"] if found else parts.path.strip("/")
    if not account:
        raise Invalid(
            "neither the URL nor an option names the account; write container@ACCOUNT.blob.core.windows.net, "
            "or add --option azure.accountName=..."
        )
    if re.fullmatch(r"[a-z0-9-]{3,64}", account) is None:
        raise Invalid(f"{account!r} is not the name of an account (lower-case letters and digits)")
    return account


def _with_account(endpoint: str | None, account: str) -> str | None:
    """An endpoint that holds the account: in its host, or, as emulators have it, as its path."""
    if endpoint is None or urlsplit(endpoint).path:
        return endpoint
    host = urlsplit(endpoint).hostname or ""
    return f"{endpoint}/{account}" if "." not in host or _is_address(host) else endpoint


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _authority(value: str | None) -> tuple[str | None, str | None]:
    """Host and tenant of a token endpoint such as `https://login.microsoftonline.com/TENANT/oauth2/token`."""
    url = endpoint_url("azure.tokenEndpoint", value, instead="azure.clientId and azure.clientSecret")
    if url is None:
        return None, None
    parts = urlsplit(url)
    tenant = parts.path.strip("/").partition("/")[0]
    return f"{parts.scheme}://{parts.netloc}", tenant or None


def _key(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid("azure.accountKey is not base64; copy the key whole, with the == at its end") from None
    return value.strip()


def _sas(value: str | None) -> tuple[tuple[str, str], ...]:
    """The fields of a SAS token; in a URL that holds one, of what follows its `?`."""
    if value is None:
        return ()
    pairs = [pair.partition("=") for pair in value.strip().rpartition("?")[2].split("&") if pair]
    fields = tuple((name, unquote(text)) for name, _, text in pairs)
    if "sig" not in dict(fields):
        raise Invalid("azure.sasToken is no SAS token; copy it whole: sv=...&sp=...&se=...&sig=...")
    return fields
