"""How programs name files: virtual paths, and URLs whose first part is the first name of the path."""

import os

from forebay import paths
from forebay.errors import Invalid

SCHEME = "forebay://"
Name = str | os.PathLike[str]  # a virtual path, or a URL


def virtual_path(name: Name) -> str:
    """The normal virtual path of what a program calls a file.

    Raises:
        Invalid: a relative path, or a URL of another scheme.

    >>> virtual_path("/data/a/"), virtual_path("forebay://data/a"), virtual_path("forebay://")
    ('/data/a', '/data/a', '/')
    """
    text = os.fspath(name)
    if text.startswith(SCHEME):
        text = "/" + text.removeprefix(SCHEME)
    elif "://" in text and not text.startswith("/"):
        raise Invalid(f"{text!r} is no URL of Forebay; mount that store, and write {SCHEME}PATH", path=text)
    return paths.normalize(text)


def url_of(path: str) -> str:
    """The URL of a virtual path.

    >>> url_of("/data/a"), url_of("/")
    ('forebay://data/a', 'forebay://')
    """
    return SCHEME + path.removeprefix("/")
