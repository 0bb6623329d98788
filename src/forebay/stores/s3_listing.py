"""Pages of ListObjectsV2, from XML to what the contract says.  Pure."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from urllib.parse import unquote_plus

from forebay.errors import Corrupt
from forebay.stores.base import ListPage
from forebay.stores.times import nanoseconds
from forebay.types import ObjectMeta

_SECOND_NS = 1_000_000_000


class ParsedPage(NamedTuple):
    """One answer of the store."""

    page: ListPage
    token: str | None  # continues the listing; None: this was the last page


def parse(body: bytes | bytearray, location: str, prefix: str) -> ParsedPage:
    """Read one page.

    Raises:
        Corrupt: this is not a listing, or not of `prefix`.
    """
    try:
        root = ET.fromstring(body)
        space, found, _ = root.tag.rpartition("ListBucketResult")  # "{http://...}", or nothing, before every tag
        if not found:
            raise Corrupt(f"{location}: the answer is not an S3 listing; check s3.endpoint")
        fields = {child.tag[len(space) :]: child.text or "" for child in root}
        decode = _unquote if fields.get("EncodingType") == "url" else str
        objects = [_object(child, space, decode) for child in root.iterfind(f"{space}Contents")]
        folders = [decode(each.text or "") for each in root.iterfind(f"{space}CommonPrefixes/{space}Prefix")]
    except (ET.ParseError, KeyError, ValueError) as error:
        raise Corrupt(f"{location}: the answer is not an S3 listing; check s3.endpoint") from error
    if not all(meta.key.startswith(prefix) for meta in objects) or not all(one.startswith(prefix) for one in folders):
        raise Corrupt(f"{location}: the store listed keys outside {prefix!r}")
    token = fields.get("NextContinuationToken") if fields.get("IsTruncated") == "true" else None
    if fields.get("IsTruncated") == "true" and not token:
        raise Corrupt(f"{location}: the listing is cut and does not say how to go on; is ListObjectsV2 supported?")
    return ParsedPage(ListPage(objects, folders), token)


def version_of(etag: str | None, size: int, mtime_ns: int) -> str:
    """The version for an ETag as listings (bare) and headers (quoted, perhaps weak) have it.

    >>> version_of('W/"abc"', 3, 0), version_of("abc", 3, 0), version_of(None, 3, 1_700_000_000_123_000_000)
    ('abc', 'abc', '3-1700000000')
    """
    if etag:
        return etag.removeprefix("W/").strip('"')
    return f"{size}-{mtime_ns // _SECOND_NS}"  # headers have seconds, listings milliseconds


def _object(element: ET.Element, space: str, decode: Callable[[str], str]) -> ObjectMeta:
    fields = {child.tag: child.text or "" for child in element}
    size, written = int(fields[f"{space}Size"]), fields.get(f"{space}LastModified")
    mtime_ns = nanoseconds(datetime.fromisoformat(written)) if written else 0
    version = version_of(fields.get(f"{space}ETag"), size, mtime_ns)
    return ObjectMeta(decode(fields[f"{space}Key"]), size, mtime_ns, version)


def _unquote(text: str) -> str:
    return unquote_plus(text, errors="surrogateescape")
