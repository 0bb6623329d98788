"""Pages of ListObjectsV2, from XML to what the contract says.  Pure.

A page holds a thousand objects in six elements each: building a tree of these costs ten times what is wanted of it.
So where every object is written as the usual servers write it, and a pattern finds exactly as many as there are, the
objects are taken out of the text; the rest of the page, and any other page, goes through the XML parser.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import NamedTuple
from urllib.parse import unquote_plus

from forebay.errors import Corrupt
from forebay.stores.base import ListPage
from forebay.stores.times import nanoseconds
from forebay.types import ObjectMeta

_SECOND_NS = 1_000_000_000
_URL_ENCODED = b"<EncodingType>url</EncodingType>"
# No "<" within a value: comments and CDATA are for the XML parser.
_BEFORE = r"<Contents>\s*<Key>(?P<key>[^<]+)</Key>\s*"
_AFTER = r"\s*(?:<(?!/?Contents>)[^<]*)*</Contents>\s*(?=<Contents>|\Z)"
_WRITTEN = r"<LastModified>(?P<written>[^<]+)</LastModified>"
_ETAG, _SIZE = r"<ETag>(?P<etag>[^<]+)</ETag>", r"<Size>(?P<size>\d+)</Size>"
_FORMS = tuple(
    re.compile(_BEFORE + r"\s*".join(fields) + _AFTER)
    for fields in (
        (_WRITTEN, _ETAG, r"(?:<Checksum[^<]*</Checksum[^<]*>\s*)*", _SIZE),  # Amazon, MinIO, Ceph
        (_ETAG, _SIZE, r"(?:<StorageClass>[^<]*</StorageClass>)?", _WRITTEN),  # SeaweedFS
    )
)
_UNTAGGED = re.compile(r"\d+-\d{10,}")  # a version made of size and time, by `version_of`
_make_meta = partial(tuple.__new__, ObjectMeta)  # `ObjectMeta(...)` is Python, and costs every key 0.3 us more


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
        objects, rest = _take_objects(body)
        root = ET.fromstring(rest)
        space, found, _ = root.tag.rpartition("ListBucketResult")  # "{http://...}", or nothing, before every tag
        if not found:
            raise Corrupt(f"{location}: the answer is not an S3 listing; check s3.endpoint")
        fields = {child.tag[len(space) :]: child.text or "" for child in root}
        decode = _unquote if fields.get("EncodingType") == "url" else str
        objects += [_object(child, space, decode) for child in root.iterfind(f"{space}Contents")]
        folders = [decode(each.text or "") for each in root.iterfind(f"{space}CommonPrefixes/{space}Prefix")]
    except (ET.ParseError, KeyError, ValueError) as error:
        raise Corrupt(f"{location}: the answer is not an S3 listing; check s3.endpoint") from error
    if not all(meta.key.startswith(prefix) for meta in objects) or not all(one.startswith(prefix) for one in folders):
        raise Corrupt(f"{location}: the store listed keys outside {prefix!r}")
    token = fields.get("NextContinuationToken") if fields.get("IsTruncated") == "true" else None
    if fields.get("IsTruncated") == "true" and not token:
        raise Corrupt(f"{location}: the listing is cut and does not say how to go on; is ListObjectsV2 supported?")
    return ParsedPage(ListPage(objects, folders), token)


def _take_objects(body: bytes | bytearray) -> tuple[list[ObjectMeta], bytes | bytearray]:
    """The objects of a page as the usual servers write it, and the page without them; none, and the page, if not."""
    start, stop = body.find(b"<Contents>"), body.rfind(b"</Contents>") + len(b"</Contents>")
    if not 0 <= start < stop:
        return [], body
    rest = body[:start] + body[stop:]
    text = body[start:stop].decode()
    form = next((form for form in _FORMS if form.match(text)), None)
    found = [] if form is None else form.findall(text)
    if form is None or not len(found) == text.count("<Contents>") == text.count("<Key>"):
        return [], body
    columns = list(zip(*found, strict=True))
    keys, written, etags, sizes = (columns[form.groupindex[name] - 1] for name in ("key", "written", "etag", "size"))
    if "&" in "".join(keys):
        return [], body
    if _URL_ENCODED in rest and (b"%" in body or b"+" in body):
        keys = tuple(map(_unquote, keys))
    times = [nanoseconds(moment) for moment in map(datetime.fromisoformat, written)]
    versions = [etag.replace("&quot;", "").replace("&#34;", "").removeprefix("W/").strip('"') for etag in etags]
    return list(map(_make_meta, zip(keys, map(int, sizes), times, versions, repeat(None)))), rest


def is_etag(version: str) -> bool:
    """Is a version one that the store knows, or was it made of size and time because there was no ETag?

    >>> is_etag("d41d8cd98f00b204e9800998ecf8427e-2"), is_etag("3-1700000000")
    (True, False)
    """
    return _UNTAGGED.fullmatch(version) is None


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
