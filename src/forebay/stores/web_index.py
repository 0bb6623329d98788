"""Index pages of web servers, from HTML or JSON to the names in a folder.  Pure.

A page is scanned for its links with expressions that pass over it once: `html.parser` takes time with the square of
a page that means harm (84 s for 180 KB), and is ten times slower on one that does not.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from forebay.stores.times import header_time_ns

_LINK = re.compile(r"<a\s([^<>]*)>", re.IGNORECASE)
_HREF = re.compile(r"""(?:^|\s)href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'<>]+))""", re.IGNORECASE)
_HEADING = re.compile(r"<(?:title|h1|h2)\b[^<>]*>([^<]*)<", re.IGNORECASE)
_ANCHOR = re.compile(r"<a\s[^<>]*>[^<]*</a>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
# How servers head a listing: nginx, Apache, lighttpd and many more; Python, rclone, Tomcat; Jetty; IIS.
_INDEX_OF = re.compile(
    r"\s*(?:index of\s+\S*/|directory listing (?:for|of)\b|directory:\s+/|[^\s/]+ - /)", re.IGNORECASE
)
_CADDY = ('class="breadcrumbs">Folder Path<', '<table aria-describedby="summary">')


_JSON, _HTML = "application/json", ("text/html", "application/xhtml+xml")


class Named(NamedTuple):
    """An entry of a folder."""

    name: str  # a folder's ends in "/"
    size: int | None = None  # bytes, and
    mtime_ns: int = 0  # whole seconds, if the page tells both exactly: nginx's JSON does


def parse(body: bytes | bytearray, content_type: str, url: str, *, any_page: bool = False) -> list[Named] | None:
    """The entries of the folder at `url`, in the order of their bytes; None if this is no index page.

    With `any_page`, the links of every HTML page are taken for an index.
    """
    text = bytes(body).decode("utf-8", "surrogateescape")
    found: Iterable[Named] | None = None
    if _kind(content_type) == _JSON:
        found = _json_entries(text)
    elif _kind(content_type) in _HTML:
        text = _without(_without(text, "<!--", "-->"), "<script", "</script>")
        found = _linked(text, urlsplit(url)) if any_page or _is_index(text) else None
    if found is None:
        return None
    entries = {entry.name: entry for entry in found if _is_name(entry.name.removesuffix("/"))}
    return sorted(entries.values(), key=lambda entry: raw(entry.name))


def is_page(content_type: str) -> bool:
    """May an answer of that type be an index page?"""
    return _kind(content_type) in (_JSON, *_HTML)


def raw(key: str) -> bytes:
    """A key as bytes, by which keys are ordered."""
    return key.encode("utf-8", "surrogateescape")


def segments(path: str) -> list[str]:
    """The decoded parts of a URL's path.

    >>> segments("/a%20b/c%2Fd/")
    ['', 'a b', 'c/d', '']
    """
    return [unquote(part, errors="surrogateescape") for part in path.split("/")]


def nginx_etag(size: int, mtime_ns: int) -> str:
    """The ETag that nginx makes for a file (ngx_http_set_etag), without quotes.

    >>> nginx_etag(26, 1_700_000_000_000_000_000)
    '6553f100-1a'
    """
    return f"{mtime_ns // 1_000_000_000:x}-{size:x}"


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _is_index(text: str) -> bool:
    if any(_INDEX_OF.match(html.unescape(said)) for said in _HEADING.findall(text)):
        return True
    if any(mark in text for mark in _CADDY):
        return True
    # Go's file server writes links in a <pre>, and nothing else.
    is_bare = "<pre" in text and not _HEADING.search(text)
    return is_bare and not _TAG.sub("", _ANCHOR.sub("", text)).strip()


def _linked(text: str, base: SplitResult) -> Iterator[Named]:
    """What links of a page lead directly below it; a query is a way to sort, or something that is no file."""
    above = _steps(base.path)[:-1]
    for attributes in _LINK.findall(text):
        href = _HREF.search(attributes)
        if href is None:
            continue
        try:
            to = urlsplit(urljoin(base.geturl(), html.unescape(href[1] or href[2] or href[3] or "").strip()))
        except ValueError:  # such as "http://["
            continue
        if (to.scheme, to.netloc.lower()) != (base.scheme, base.netloc.lower()) or to.query or to.fragment:
            continue
        path = _steps(to.path)
        below = path[len(above) :] if path[: len(above)] == above else []
        if len(below) == 1:
            yield Named(below[0])
        elif len(below) == 2 and below[1] == "" and _is_name(below[0]):
            yield Named(below[0] + "/")


def _steps(path: str) -> list[str]:
    """The parts of a path, the last one empty if it ends in a slash; doubled slashes are one, as to `urljoin`."""
    *folders, last = segments(path)
    return [*filter(None, folders), last]


def _json_entries(text: str) -> list[Named] | None:
    """nginx's `autoindex_format json`."""
    try:
        said = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, list):
        return None
    entries = []
    for one in said:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str) or "type" not in one:
            return None
        name, size = one["name"], one.get("size")
        if one["type"] == "directory":
            entries.append(Named(name + "/"))
        elif one["type"] == "file" and "/" not in name:
            mtime_ns = header_time_ns(one.get("mtime") if isinstance(one.get("mtime"), str) else None)
            is_exact = isinstance(size, int) and mtime_ns > 0
            entries.append(Named(name, size, mtime_ns) if is_exact else Named(name))
    return entries


def _without(text: str, begin: str, end: str) -> str:
    """The text without what stands between two marks."""
    first, *others = text.split(begin)
    return first + "".join(other.partition(end)[2] for other in others)
