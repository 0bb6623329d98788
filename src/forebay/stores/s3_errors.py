"""What S3's answers, and failures on the way to it, mean in Forebay's kinds, with what to do about them.

Messages are made here from the status and the error code; raw text of servers and libraries is not passed on,
for it may quote the request.
"""

import re
import ssl
import xml.etree.ElementTree as ET
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
import obstore.exceptions

from forebay.errors import (
    AlreadyExists,
    Corrupt,
    Denied,
    FsError,
    Invalid,
    NotFound,
    StaleVersion,
    Throttled,
    TimedOut,
    Unavailable,
)

OBSTORE_ERRORS = (obstore.exceptions.BaseError, FileNotFoundError, ValueError, OSError)
WIRE_ERRORS = (aiohttp.ClientError, OSError)  # TimeoutError is an OSError
WRONG_REGION = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint"}
)

_THROTTLED = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
    }
)
_DENIED = {
    "InvalidAccessKeyId": "the store does not know this key id; check s3a.accessKeyId",
    "SignatureDoesNotMatch": "the secret does not fit the key id; check s3a.secretKey",
    "AuthorizationHeaderMalformed": "the store could not read the signature; check keys and region",
    "ExpiredToken": "the session token has expired; mount again with new credentials",
    "TokenRefreshRequired": "the session token has expired; mount again with new credentials",
    "InvalidToken": "the session token is wrong, or is missing for temporary keys; check s3.sessionToken",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than the store allows; set it right",
    "AllAccessDisabled": "the store has disabled all access to this bucket",
    "AccountProblem": "the store reports a problem with the account of these keys",
}
_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_REGION = re.compile(r"<Region>\s*([\w-]+)\s*</Region>")


class Answer(NamedTuple):
    """An answer that is not a success."""

    status: int
    code: str = ""  # S3's own word, "" if there was none
    region: str = ""  # where the bucket is, if the answer says so


def read_answer(status: int, body: bytes | bytearray, region: str = "") -> Answer:
    """What an error answer says."""
    code = ""
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        return Answer(status, "", region)
    for element in root.iter():
        tag, text = element.tag.rpartition("}")[2], (element.text or "").strip()
        if tag == "Code" and not code:
            code = text[:64]
        elif tag == "Region" and not region:
            region = text[:32]
    return Answer(status, code, region)


def is_wrong_region(answer: Answer) -> bool:
    """Does the answer say that the bucket is elsewhere?"""
    if answer.code == "AuthorizationHeaderMalformed":
        return bool(answer.region)
    return answer.code in WRONG_REGION or answer.status in (301, 307, 308)


def is_passing(answer: Answer) -> bool:
    """May the same request succeed a little later?"""
    codes = ("RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "InternalError")
    return answer.status >= 500 or answer.status == 429 or answer.code in _THROTTLED or answer.code in codes


def refused(answer: Answer, location: str, key: str | None = None) -> FsError:
    """The error for an answer of the store."""
    what = location if key is None else f"{location}: {key!r}"
    path = key
    status, code = answer.status, answer.code
    said = f"{status} {code}".strip()
    if is_wrong_region(answer):
        where = (
            f"it is in {answer.region}; add --option s3.region={answer.region}"
            if answer.region
            else ("set --option s3.region=... to the bucket's region, or check s3.endpoint")
        )
        return Invalid(f"{location}: wrong region for this bucket: {where}", path=path)
    if code == "NoSuchBucket":
        return NotFound(f"{location}: no such bucket; check its name and s3.endpoint", path=path)
    if code == "InvalidBucketName":
        return Invalid(f"{location}: the store does not take this bucket name", path=path)
    if code in _DENIED:
        return Denied(f"{what}: denied: {_DENIED[code]} ({said})", path=path)
    if status in (401, 403):
        return Denied(
            f"{what}: denied: these credentials may not do this; check the bucket's policy ({said})", path=path
        )
    if code == "NoSuchUpload":
        return Unavailable(f"{what}: the upload was ended by the store; try again", path=path)
    if status in (404, 410):
        return NotFound(f"{what}: no such object", path=path)
    if status == 409:
        return Unavailable(f"{what}: another change was under way at the same time ({said}); try again", path=path)
    if status == 412:
        return StaleVersion(f"{what}: has another version by now", path=path)
    if status == 416:
        return Invalid(f"{what}: the range lies outside the object", path=path)
    if status == 429 or code in _THROTTLED:
        return Throttled(f"{what}: the store asks for fewer requests ({said})", path=path)
    if status >= 500:
        return Unavailable(f"{what}: the store failed ({said})", path=path)
    return Invalid(f"{what}: the store refused the request ({said})", path=path)


def from_wire(error: Exception, location: str, endpoint: str, key: str | None = None) -> FsError:
    """The error for a failure between us and the store, as aiohttp tells it."""
    host = endpoint.partition("://")[2]
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        inner = getattr(error, "certificate_error", error)
        why = getattr(inner, "verify_message", "") or "not trusted"
        return Unavailable(f"{location}: TLS: {_untrusted(host, why)}", path=key)
    hung_up = endpoint.startswith("https:") and isinstance(getattr(error, "os_error", None), ConnectionResetError)
    if hung_up or isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return Unavailable(f"{location}: TLS: {_no_tls(host)}", path=key)
    if isinstance(error, TimeoutError):
        return TimedOut(f"{location}: no answer from {host} in time; check s3.endpoint, network and firewall", path=key)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unavailable(f"{location}: cannot be reached: no such host: {host}; check s3.endpoint and DNS", path=key)
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        why = error.strerror or "connection failed"
        return Unavailable(
            f"{location}: cannot be reached: {host}: {why}; check s3.endpoint and that it runs", path=key
        )
    if isinstance(error, aiohttp.ClientPayloadError):
        return Unavailable(f"{location}: {host} cut its answer short", path=key)
    if isinstance(error, aiohttp.ClientResponseError):
        return Unavailable(
            f"{location}: {host} does not speak HTTP as expected; check s3.endpoint and http/https", path=key
        )
    return Unavailable(f"{location}: the connection to {host} broke ({type(error).__name__})", path=key)


def _untrusted(host: str, why: str) -> str:
    return f"the certificate of {host} is not trusted ({why}); add --option s3.tls.caFile=/path/ca.pem"


def _no_tls(host: str) -> str:
    return f"{host} does not answer in TLS; is it http:// in s3.endpoint?"


def from_obstore(error: Exception, location: str, endpoint: str, key: str) -> FsError:
    """The error for what obstore raised; its text is read for status and code, and not passed on."""
    if isinstance(error, FsError):
        return error
    text = str(error)
    answer = _answer_in(text)
    if answer is not None:
        return refused(answer, location, key)
    what = f"{location}: {key!r}"
    host = endpoint.partition("://")[2]
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: no answer from {host} in time", path=key)
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{what}: no such object", path=key)
    if isinstance(error, obstore.exceptions.PreconditionError | obstore.exceptions.NotModifiedError):
        return StaleVersion(f"{what}: has another version by now", path=key)
    if isinstance(error, obstore.exceptions.AlreadyExistsError):
        return AlreadyExists(f"{what}: exists already", path=key)
    if isinstance(error, obstore.exceptions.PermissionDeniedError | obstore.exceptions.UnauthenticatedError):
        return Denied(f"{what}: denied; check the mount's keys and the bucket's policy", path=key)
    if isinstance(error, ValueError):
        return NotFound(f"{what}: no object can have that key", path=key)
    text = text.replace(key, "").replace(quote(key), "")  # a key may hold any of the words
    for words, kind, said in _FAILURES:
        if any(word in text for word in words):
            return kind(f"{what}: {said.format(host=host)}", path=key)
    return Unavailable(f"{what}: the request to {host} failed", path=key)


_FAILURES: tuple[tuple[tuple[str, ...], type[FsError], str], ...] = (
    (("Received redirect without LOCATION",), Invalid, "wrong region for this bucket; set s3.region"),
    (
        (
            "non-partial response",
            "CONTENT_RANGE",
            "NotPartial",
            "UnexpectedRange",
            "content range",
            "Content-Range",
            "content-range",
        ),
        Corrupt,
        "{host} sent another range than was asked for",
    ),
    (
        ("Content-Length Header", "MissingContentLength", "InvalidLastModified", "ETag Header"),
        Corrupt,
        "{host} sent an answer without size, time or ETag",
    ),
    (
        ("invalid peer certificate", "InvalidCertificate", "UnknownIssuer"),
        Unavailable,
        "TLS: the certificate of {host} is not trusted",
    ),
    (
        ("InvalidContentType", "received corrupt message", "tls handshake"),
        Unavailable,
        "TLS: {host} does not answer in TLS",
    ),
    (("dns error",), Unavailable, "cannot be reached: no such host: {host}"),
    (("ConnectionRefused", "tcp connect error"), Unavailable, "cannot be reached: {host} refuses connections"),
    (("TimedOut", "timed out", "kind: Timeout"), TimedOut, "no answer from {host} in time"),
    (("IncompleteMessage", "UnexpectedEof", "end of file", "body error"), Unavailable, "{host} cut its answer short"),
)


def _answer_in(text: str) -> Answer | None:
    statuses = _STATUS.findall(text)
    if not statuses:
        return None
    code, region = _CODE.search(text), _REGION.search(text)
    return Answer(int(statuses[-1]), code[1] if code else "", region[1] if region else "")


def names_region(error: Exception) -> bool:
    """Does obstore's failure mean that the bucket is in another region?"""
    text = str(error)
    answer = _answer_in(text)
    if answer is None:
        return "Received redirect without LOCATION" in text
    return is_wrong_region(answer) or (answer.status == 400 and not answer.code)  # HEAD has no body that says more
