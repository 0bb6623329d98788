"""What failures on the way to a store mean in Forebay's kinds, as aiohttp and obstore tell them.

Messages are made here from the kind of failure; raw text of servers and libraries is not passed on, for it may quote
the request.
"""

import re
import ssl
from collections.abc import Callable
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
    TimedOut,
    Unavailable,
)
from forebay.stores.base import OutsideObject

OBSTORE_ERRORS = (obstore.exceptions.BaseError, FileNotFoundError, ValueError, OSError)
WIRE_ERRORS = (aiohttp.ClientError, OSError)  # TimeoutError is an OSError

_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_REGION = re.compile(r"<Region>\s*([\w-]+)\s*</Region>")


class Names(NamedTuple):
    """How messages name a store, and the options that reach it."""

    location: str
    endpoint: str  # `scheme://host:port`
    endpoint_option: str = "the URL"  # what to check when nothing answers there
    ca_option: str = "tls.caFile"

    @property
    def host(self) -> str:
        """Host and port."""
        return self.endpoint.partition("://")[2]


class Answer(NamedTuple):
    """An answer that is not a success."""

    status: int
    code: str = ""  # the store's own word, "" if there was none
    region: str = ""  # where the bucket is, if the answer says so


def from_wire(error: Exception, names: Names, key: str | None = None) -> FsError:
    """The error for a failure between us and the store, as aiohttp tells it."""
    location, host, check = names.location, names.host, f"check {names.endpoint_option}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        inner = getattr(error, "certificate_error", error)
        why = getattr(inner, "verify_message", "") or "not trusted"
        trust = f"add --option {names.ca_option}=/path/ca.pem"
        message = f"{location}: TLS: the certificate of {host} is not trusted ({why}); {trust}"
        return Unavailable(message, path=key)
    hung_up = names.endpoint.startswith("https:") and isinstance(getattr(error, "os_error", None), ConnectionResetError)
    if hung_up or isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        message = f"{location}: TLS: {host} does not answer in TLS; is it http:// in {names.endpoint_option}?"
        return Unavailable(message, path=key)
    if isinstance(error, TimeoutError):
        return TimedOut(f"{location}: no answer from {host} in time; {check}, network and firewall", path=key)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return Unavailable(f"{location}: cannot be reached: no such host: {host}; {check} and DNS", path=key)
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        why = error.strerror or "connection failed"
        return Unavailable(f"{location}: cannot be reached: {host}: {why}; {check} and that it runs", path=key)
    if isinstance(error, aiohttp.ClientPayloadError):
        return Unavailable(f"{location}: {host} cut its answer short", path=key)
    if isinstance(error, aiohttp.ClientResponseError):
        message = f"{location}: {host} does not speak HTTP as expected; {check} and http/https"
        return Unavailable(message, path=key)
    return Unavailable(f"{location}: the connection to {host} broke ({type(error).__name__})", path=key)


def is_hopeless(error: Exception) -> bool:
    """Will the same request fail in the same way, however often it is repeated?"""
    return isinstance(error, aiohttp.ClientSSLError | aiohttp.ClientConnectorDNSError | ssl.SSLError)


def from_obstore(error: Exception, names: Names, key: str, refused: Callable[[Answer], FsError]) -> FsError:
    """The error for what obstore raised; its text is read for status and code, and not passed on.

    `refused` says what an answer of the store means.
    """
    if isinstance(error, FsError):
        return error
    text = str(error)
    answer = answer_in(text)
    if answer is not None:
        return refused(answer)
    what = f"{names.location}: {key!r}"
    if isinstance(error, TimeoutError):
        return TimedOut(f"{what}: no answer from {names.host} in time", path=key)
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{what}: no such object", path=key)
    if isinstance(error, obstore.exceptions.PreconditionError | obstore.exceptions.NotModifiedError):
        return StaleVersion(f"{what}: has another version by now", path=key)
    if isinstance(error, obstore.exceptions.AlreadyExistsError):
        return AlreadyExists(f"{what}: exists already", path=key)
    if isinstance(error, obstore.exceptions.PermissionDeniedError | obstore.exceptions.UnauthenticatedError):
        return Denied(f"{what}: denied; check the mount's credentials and what they may do", path=key)
    if isinstance(error, ValueError):
        return NotFound(f"{what}: no object can have that key", path=key)
    text = text.replace(key, "").replace(quote(key), "")  # a key may hold any of the words
    for words, kind, said in _FAILURES:
        if any(word in text for word in words):
            return kind(f"{what}: {said.format(host=names.host)}", path=key)
    return Unavailable(f"{what}: the request to {names.host} failed", path=key)


def answer_in(text: str) -> Answer | None:
    """The answer that obstore quotes in the text of an error."""
    statuses = _STATUS.findall(text)
    if not statuses:
        return None
    code, region = _CODE.search(text), _REGION.search(text)
    return Answer(int(statuses[-1]), code[1] if code else "", region[1] if region else "")


_RANGE_WORDS = (
    *("non-partial response", "CONTENT_RANGE", "NotPartial", "UnexpectedRange", "RangeNotSupported"),
    *("content range", "Content-Range", "content-range"),
)
_FAILURES: tuple[tuple[tuple[str, ...], type[FsError], str], ...] = (
    (("Received redirect without LOCATION",), Invalid, "wrong region for this bucket; set its region"),
    (("StartTooLarge",), OutsideObject, "the range lies outside the object"),
    (_RANGE_WORDS, Corrupt, "{host} sent another range than was asked for"),
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
