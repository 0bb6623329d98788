"""The options of a mount of a web server, under all the names that people know them by.

Case, dots, dashes and underscores do not matter, but in the names of headers.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from forebay.errors import Invalid
from forebay.stores.named_options import OptionNames, absolute_path, flag

INDEXES = ("auto", "links", "none")
_NAMES = OptionNames(
    "web server",
    prefixes=("fs", "http", "https", "web"),
    names={
        "http.user": ("username", "login", "basicuser"),
        "http.password": ("pass", "passwd", "basicpassword"),
        "http.token": ("bearertoken", "bearer", "accesstoken"),
        "http.index": ("listing",),
        "http.tls.verify": ("verify", "sslverify", "verifyssl"),
        "http.tls.caFile": ("cafile", "cabundle", "tlsca", "sslcafile"),
        "http.header.NAME": (),
    },
)
_HEADER = re.compile(r"(?:(?:fs|https?|web)\.)*headers?\.(.*)", re.IGNORECASE | re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # what a header may be called (RFC 9110, 5.6.2)
_VALUE = re.compile(r"[\x20-\x7e\t]*")
_OURS = ("range", "host", "content-length", "accept-encoding", "connection", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class WebOptions:
    """What a mount says about its web server.  Secrets do not show in the repr."""

    authorization: str | None = field(default=None, repr=False)  # the header's value
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # of every request, beside that
    index: str = "auto"  # one of `INDEXES`: which pages are listings of folders
    verify: bool = True  # the server's certificate is checked
    ca_file: Path | None = None  # more roots to trust, PEM


def parse(options: Mapping[str, str]) -> WebOptions:
    """The options of one mount.

    Raises:
        Invalid: a name that is not known, two names of one thing with different values, or values that
            contradict each other.
    """
    headers = {}
    others = {}
    for name, value in options.items():
        header = _HEADER.fullmatch(name)
        if header is None:
            others[name] = value
        else:
            headers[_header_name(header[1])] = _header_value(name, value)
    values = _NAMES.read(others)
    authorization = _authorization(values)
    if authorization and any(name.lower() == "authorization" for name in headers):
        raise Invalid("http.header.Authorization excludes http.user and http.token; leave one of them out")
    index = values.get("http.index", "auto")
    if index not in INDEXES:
        raise Invalid(f"option http.index must be {', '.join(INDEXES[:-1])} or {INDEXES[-1]}, not {index[:20]!r}")
    return WebOptions(
        authorization=authorization,
        headers=tuple(headers.items()),
        index=index,
        verify=flag("http.tls.verify", values.get("http.tls.verify"), default=True),
        ca_file=absolute_path("http.tls.caFile", values.get("http.tls.caFile")),
    )


def _header_name(name: str) -> str:
    if _TOKEN.fullmatch(name) is None:
        raise Invalid(f"{name!r} is not the name of a header; write --option http.header.NAME=VALUE")
    if name.lower() in _OURS or name.lower().startswith("if-"):
        raise Invalid(f"the header {name} is set by Forebay itself; leave the option out")
    return name


def _header_value(name: str, value: str) -> str:
    if _VALUE.fullmatch(value) is None:
        raise Invalid(f"the value of {name} holds characters that no header can hold")
    return value.strip()


def _authorization(values: Mapping[str, str]) -> str | None:
    """The value of the header Authorization, if credentials were given; a password may be empty."""
    user, password, token = (values.get(f"http.{name}", "") for name in ("user", "password", "token"))
    if password and not user:
        raise Invalid("a password was given without its user; add --option http.user=...")
    if token and user:
        raise Invalid("http.user and http.token exclude each other; leave one of them out")
    if token:
        return f"Bearer {_header_value('http.token', token)}"
    if not user:
        return None
    if ":" in user:
        raise Invalid("http.user cannot hold a colon, which ends it in what is sent")
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()
