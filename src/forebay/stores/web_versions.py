"""What the headers of a web server say of a file, and of its version.  Pure.

A version is the strong ETag; where there is none, size and time (`Last-Modified`, whole seconds); without that, the
size alone.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from forebay.stores.times import header_time_ns
from forebay.types import ObjectMeta

_SECOND_NS = 1_000_000_000
_SIZED = re.compile(r"(\d+)-(\d+)")


def meta(key: str, headers: Mapping[str, str]) -> ObjectMeta | None:
    """What an answer says of a file; None if it does not say how long the file is."""
    size = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    if not (size.isascii() and size.isdecimal()):
        return None
    mtime_ns = header_time_ns(headers.get("Last-Modified"))
    return ObjectMeta(key, int(size), mtime_ns, version_of(headers.get("ETag"), int(size), mtime_ns))


def version_of(etag: str | None, size: int, mtime_ns: int) -> str:
    """The version for an ETag as a header has it.

    A weak one says only that two versions mean the same; one that looks like a size and a time is not told apart.

    >>> version_of('"a-1"', 3, 0), version_of('W/"a"', 3, 1_700_000_000_000_000_000), version_of('"3-4"', 3, 0)
    ('a-1', '3-1700000000', '3-0')
    """
    tag = etag[1:-1] if etag and len(etag) > 2 and etag[0] == etag[-1] == '"' else ""
    return tag if tag and not _SIZED.fullmatch(tag) else sized(size, mtime_ns)


def sized(size: int, mtime_ns: int) -> str:
    """A version made of size and time; 0 if there is none.

    >>> sized(3, 1_700_000_000_123_000_000), sized(3, 0)
    ('3-1700000000', '3-0')
    """
    return f"{size}-{mtime_ns // _SECOND_NS}"


def is_tag(version: str) -> bool:
    """Was the version an ETag?"""
    return _SIZED.fullmatch(version) is None


def changed_after(version: str) -> datetime | None:
    """The time in a version that was no ETag; None if there is none."""
    parts = _SIZED.fullmatch(version)
    return datetime.fromtimestamp(int(parts[2]), UTC) if parts and int(parts[2]) else None
