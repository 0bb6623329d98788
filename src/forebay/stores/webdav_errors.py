"""What a WebDAV server's answers, and failures on the way to it, mean in Forebay's kinds, with what to do.

Messages are made here from the status; texts of servers are not passed on.
"""

import xml.etree.ElementTree as ET
from typing import NamedTuple

import httpx
import webdav4.client as dav

from forebay.errors import (
    Busy,
    Denied,
    FsError,
    Invalid,
    NoSpace,
    NotADirectory,
    NotFound,
    StaleVersion,
    Throttled,
    TimedOut,
    Unavailable,
)

# ValueError: the answer to PROPFIND is no multistatus; UnicodeError is one.
ERRORS = (dav.ClientError, httpx.HTTPError, httpx.InvalidURL, ET.ParseError, ValueError, FsError)


class Place(NamedTuple):
    """Which server a message is about."""

    location: str
    server: str  # host and port
    secure: bool


def refused(status: int, place: Place, key: str) -> FsError:
    """The error for an answer that is not a success."""
    what = f"{place.location}: {key!r}" if key else place.location
    path = key or None
    if status == 401:
        return Denied(
            f"{what}: login refused (401); check --option webdav.user=... and webdav.password=..., or webdav.token=...",
            path=path,
        )
    if status == 403:
        return Denied(f"{what}: denied (403): this user may not do that", path=path)
    if status in (404, 410):
        return NotFound(f"{what}: no such file", path=path)
    if status in (405, 501) or 300 <= status < 400:
        message = f"{what}: what answers there does not speak WebDAV ({status}); check the URL, its folder too"
        return Invalid(message, path=path)
    if status == 409:
        return NotADirectory(f"{what}: its folder is none, or is not there (409)", path=path)
    if status == 412:
        return StaleVersion(f"{what}: has another version by now", path=path)
    if status == 413:
        return Invalid(f"{what}: the server takes no file so large (413); see its limit of a request's body", path=path)
    if status == 416:
        return Invalid(f"{what}: the range lies outside the file", path=path)
    if status == 423:
        return Busy(f"{what}: somebody has locked it (423)", path=path)
    if status == 429:
        return Throttled(f"{what}: the server asks for fewer requests (429)", path=path)
    if status == 507:
        return NoSpace(f"{what}: the server's disk, or this user's share of it, is full (507)", path=path)
    if status >= 500:
        return Unavailable(f"{what}: the server failed ({status})", path=path)
    return Invalid(f"{what}: the server refused the request ({status})", path=path)


def translate(error: Exception, place: Place, key: str) -> FsError:
    """The error for what the library raised."""
    if isinstance(error, FsError):
        return error
    if isinstance(error, dav.HTTPError):
        return refused(error.status_code, place, key)
    if isinstance(error, dav.ClientError):
        for kind, status in _STATUS.items():
            if isinstance(error, kind):
                return refused(status, place, key)
        return FsError(f"{place.location}: {key!r}: the server could not do all of it", path=key)
    if isinstance(error, UnicodeError | httpx.InvalidURL):
        return NotFound(f"{place.location}: no file can have the key {key!r}", path=key)
    if isinstance(error, ET.ParseError | ValueError):
        return Invalid(f"{place.location}: what answers there does not speak WebDAV; check the URL, its folder too")
    return _of_connection(error, place)


_STATUS: dict[type[dav.ClientError], int] = {
    dav.ResourceNotFound: 404,
    dav.ForbiddenOperation: 403,
    dav.ResourceConflict: 409,
    dav.ResourceAlreadyExists: 409,
    dav.ResourceLocked: 423,
    dav.InsufficientStorage: 507,
    dav.BadGatewayError: 502,
}


def _of_connection(error: Exception, place: Place) -> FsError:
    location, server = place.location, place.server
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{location}: no answer from {server} in time; check the URL, network and firewall")
    if isinstance(error, httpx.ConnectError):
        said = str(error)  # by the system or OpenSSL; it holds no header
        if "CERTIFICATE_VERIFY_FAILED" in said:
            hint = "add --option webdav.tls.caFile=/path/ca.pem"
            return Unavailable(f"{location}: TLS: the certificate of {server} is not trusted; {hint}")
        if "SSL" in said or "EOF" in said:
            return Unavailable(f"{location}: TLS: {server} does not answer in TLS; is it webdav:// and not webdavs://?")
        if "Name or service not known" in said or "nodename" in said or "Temporary failure in name" in said:
            return Unavailable(f"{location}: cannot be reached: no such host: {server}; check the URL and DNS")
        return Unavailable(f"{location}: cannot be reached: {server}: connection failed; does the server run?")
    if isinstance(error, httpx.TooManyRedirects | httpx.UnsupportedProtocol):
        return Invalid(f"{location}: the server sends requests in a circle, or elsewhere; check the URL")
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        return Unavailable(
            f"{location}: {server} cut its answer short, or does not speak HTTP; is TLS on or off there?"
        )
    return Unavailable(f"{location}: the connection to {server} broke ({type(error).__name__})")
