"""What the URLs of stores have in common."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from forebay.errors import Invalid


def folder_prefix(prefix: str) -> str:
    """The prefix of the keys in a folder.

    >>> folder_prefix(""), folder_prefix("a/b"), folder_prefix("a/b/")
    ('', 'a/b/', 'a/b/')
    """
    return prefix if prefix == "" or prefix.endswith("/") else prefix + "/"


def refuse_options(scheme: str, options: Mapping[str, str]) -> None:
    """Raise Invalid if a store that takes no options was given some."""
    if options:
        raise Invalid(f"{scheme}:// takes no options, and {next(iter(options))!r} was given")


def refuse_credentials(place: str, *, instead: str) -> None:
    """Raise Invalid if the place in a URL (what stands before its path) holds a user or a password."""
    if "@" in place:
        raise Invalid(f"credentials do not belong in the URL: it is shown in listings; use {instead}")


def endpoint(option: str, value: str | None, *, instead: str, scheme: str = "https") -> str | None:
    """The server that an option names, in one form; `scheme` where it says none.

    >>> endpoint("s3.endpoint", "HTTP://Host:80/", instead=""), endpoint("s3.endpoint", "h:1/base", instead="")
    ('http://host', 'https://h:1/base')

    Raises:
        Invalid: it is no URL of a server, or holds credentials; for those the message says what to use `instead`.
    """
    if not value:
        return None
    try:
        parts = urlsplit(value if "://" in value else f"{scheme}://{value}")
        port = parts.port
    except ValueError as error:
        raise Invalid(f"{option} is not a URL; write for example http://127.0.0.1:9000") from error
    if parts.username is not None or parts.password is not None:
        raise Invalid(f"{option} must hold no user or password; use {instead}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        told = "" if parts.query else f", not {value!r}"  # a query may hold a signature
        raise Invalid(f"{option} must be like http://host:port{told}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}[parts.scheme]
    where = host if port in (None, usual) else f"{host}:{port}"
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}"
