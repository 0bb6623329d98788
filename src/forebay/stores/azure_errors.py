"""What Azure's answers mean in Forebay's kinds, with what to do about them.

The codes are those of https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes and
common-rest-api-error-codes.  Messages are made here from status and code; raw text of servers is not passed on, for
it quotes what was signed.
"""

import xml.etree.ElementTree as ET
from enum import Enum
from typing import NamedTuple

from forebay.errors import (
    AlreadyExists,
    Busy,
    Denied,
    FsError,
    Invalid,
    NotEmpty,
    NotFound,
    StaleVersion,
    Throttled,
    Unavailable,
    Unsupported,
)
from forebay.stores.base import OutsideObject
from forebay.stores.wire_errors import Answer

_CLOCK_OFF_S = 900.0  # Azure refuses requests that are dated 15 minutes ago or earlier


class Kind(Enum):
    """What requests prove their rights with."""

    KEY = "the account key"
    SAS = "the SAS token"
    TOKEN = "the identity"
    ANONYMOUS = "anonymous access"


class Access(NamedTuple):
    """What is known of a mount's credentials, none of it secret."""

    kind: Kind
    expired: str = ""  # the moment at which the SAS token ended, if it has
    permissions: str = ""  # of the SAS token, such as `rl`
    clock_off_s: float = 0.0  # how far this machine's clock is from the server's


_DENIED = {
    "AccountIsDisabled": "the account is disabled; see its state in the portal",
    "AuthorizationFailure": "the account's network rules refuse this machine, or the credentials do not reach this "
    "far; allow its address or network in the account's firewall (Networking in the portal)",
    "AuthorizationProtocolMismatch": "the SAS token allows HTTPS only; use an https:// endpoint",
    "AuthorizationResourceTypeMismatch": "the SAS token is not for containers and their blobs; make one with srt=co",
    "AuthorizationServiceMismatch": "the SAS token is not for blobs; make one with ss=b",
    "AuthorizationSourceIPMismatch": "the SAS token is not for this machine's address (its field sip)",
    "BlobImmutableDueToPolicy": "an immutability policy or a legal hold protects the blob",
    "InsufficientAccountPermissions": "the account's state allows this no longer; see the portal",
    "InvalidAuthenticationInfo": "the token or signature was not accepted; check tenant, client and this machine's "
    "clock, or log in again (az login)",
    "KeyBasedAuthenticationNotPermitted": "the account takes neither keys nor their SAS tokens; leave the key out and "
    "use an identity (azure.clientId, a managed identity, az login)",
    "NoAuthenticationInformation": "the container is not public; give credentials",
    "PublicAccessNotPermitted": "the account allows no anonymous access; give credentials",
}
_THROTTLED = frozenset({"ServerBusy", "TooManyRequests", "IngressIsLimited", "EgressIsOverAccountLimit"})
_PASSING = frozenset({"InternalError", "OperationTimedOut"})
_REFUSED: dict[str, tuple[type[FsError], str]] = {
    "BlobAlreadyExists": (AlreadyExists, "exists already"),
    "BlobArchived": (Unsupported, "is in the archive tier; bring it back first: az storage blob set-tier --tier Hot"),
    "BlobBeingRehydrated": (Unsupported, "is on its way out of the archive tier; try again when it is there"),
    "BlobNotFound": (NotFound, "no such blob"),
    "ContainerBeingDeleted": (Unavailable, "the container is being deleted"),
    "DirectoryIsNotEmpty": (NotEmpty, "the folder is not empty"),
    "InvalidBlobOrBlock": (Busy, "others have begun to upload this blob in another way; write it in one piece first"),
    "InvalidBlobType": (Unsupported, "is not a block blob; delete it before it is written"),
    "InvalidRange": (OutsideObject, "the range lies outside the blob"),
    "LeaseIdMissing": (Busy, "is leased by somebody else, and cannot be changed until the lease ends"),
    "SnapshotsPresent": (Busy, "has snapshots; delete these first: az storage blob delete --delete-snapshots include"),
}


def read_answer(status: int, body: bytes | bytearray, code: str = "") -> Answer:
    """What an error answer says; `code` is its header x-ms-error-code."""
    if not code:
        try:
            root = ET.fromstring(body)
        except ET.ParseError:
            return Answer(status)
        code = next(((each.text or "").strip() for each in root.iter() if each.tag.rpartition("}")[2] == "Code"), "")
    return Answer(status, code[:64])


def is_passing(answer: Answer) -> bool:
    """May the same request succeed a little later?"""
    return answer.status >= 500 or answer.status in (408, 429) or answer.code in _THROTTLED | _PASSING


def refused(answer: Answer, location: str, access: Access, key: str | None = None) -> FsError:
    """The error for an answer of the store."""
    what = location if key is None else f"{location}: {key!r}"
    status, code = answer.status, answer.code
    said = f"{status} {code}".strip()
    if code == "ContainerNotFound" or (status == 404 and key is None):
        return NotFound(f"{location}: no such container; check its name and the account ({said})", path=key)
    if code in _REFUSED:
        kind, words = _REFUSED[code]
        return kind(f"{what}: {words} ({said})", path=key)
    if code in ("InvalidResourceName", "InvalidUri", "OutOfRangeInput"):
        return Invalid(f"{what}: Azure does not take this name ({said})", path=key)
    if status == 429 or code in _THROTTLED:
        return Throttled(f"{what}: the store asks for fewer requests ({said})", path=key)
    if status in (401, 403) or code in _DENIED:
        return Denied(f"{what}: denied: {_why_denied(code, access)} ({said})", path=key)
    if status in (404, 410):
        return NotFound(f"{what}: no such blob", path=key)
    if status == 412:
        return StaleVersion(f"{what}: has another version by now", path=key)
    if status == 416:
        return OutsideObject(f"{what}: the range lies outside the blob", path=key)
    if status >= 500 or status == 408:
        return Unavailable(f"{what}: the store failed ({said})", path=key)
    return Invalid(f"{what}: the store refused the request ({said})", path=key)


def _why_denied(code: str, access: Access) -> str:
    if access.expired:
        return f"the SAS token expired at {access.expired}; mount again with a new one"
    if abs(access.clock_off_s) > _CLOCK_OFF_S and access.kind is Kind.KEY:
        return "this machine's clock is wrong by more than the store allows; set it right"
    if code == "AuthenticationFailed":
        return {
            Kind.KEY: "the account key does not fit the account; check azure.accountKey and azure.accountName",
            Kind.SAS: "the SAS token's signature or time is wrong; copy it whole, or make a new one",
        }.get(access.kind, "the token was not accepted; check tenant and client, or log in again (az login)")
    if code in _DENIED:
        return _DENIED[code]
    if access.kind is Kind.SAS:
        has = f"it has sp={access.permissions}" if access.permissions else "check its field sp"
        return f"the SAS token may not do this: {has}, reading takes r and l, writing takes c, w and d as well"
    if access.kind is Kind.TOKEN:
        role = "the role Storage Blob Data Reader to read, Storage Blob Data Contributor to write"
        return f"the identity may not do this; give it {role} (roles take minutes to reach the store)"
    if access.kind is Kind.ANONYMOUS:
        return "the container is not public; give credentials"
    return "the account key may not do this; see the account's settings in the portal"
