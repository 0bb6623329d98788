"""Pages of List Blobs, from XML to what the contract says.  Pure.

Folders exist as blobs in two ways, and both show as folders here.  In an account with a hierarchical namespace (ADLS
Gen2) each folder is an entry of its own whose ResourceType is `directory`.  In others, Hadoop, blobfuse and AzCopy
put an empty blob of the folder's name, without a slash, whose metadata say hdi_isfolder=true.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from forebay.errors import Corrupt
from forebay.stores.base import ListPage
from forebay.stores.times import header_time_ns
from forebay.stores.urls import folder_prefix
from forebay.types import ObjectMeta

FOLDER_MARK = "hdi_isfolder"  # in the metadata of a blob that stands for a folder
_ETAG = re.compile(r"0x[0-9a-f]+", re.IGNORECASE)


class ParsedPage(NamedTuple):
    """One answer of the store."""

    page: ListPage
    marker: str | None  # continues the listing; None: this was the last page


def parse(body: bytes | bytearray, location: str, prefix: str, *, recursive: bool) -> ParsedPage:
    """Read one page.  A folder's own entry shows as the folder, or, in a recursive listing, as its empty `name/`.

    Raises:
        Corrupt: this is not a listing, or not of `prefix`.
    """
    objects: list[ObjectMeta] = []
    folders: dict[str, None] = {}  # without repetition, in order
    try:
        root = ET.fromstring(body)
        if root.tag != "EnumerationResults":
            raise Corrupt(f"{location}: the answer is not an Azure listing; check azure.endpoint")
        for element in root.find("Blobs") or ():
            meta = _blob(element) if element.tag == "Blob" else None
            if meta is None:
                folders[_name(element)] = None
            elif not recursive and meta.key.endswith("/") and meta.key != prefix:
                folders[meta.key] = None
            else:
                objects.append(meta)
    except (ET.ParseError, KeyError, ValueError) as error:
        raise Corrupt(f"{location}: the answer is not an Azure listing; check azure.endpoint") from error
    if not all(meta.key.startswith(prefix) for meta in objects) or not all(one.startswith(prefix) for one in folders):
        raise Corrupt(f"{location}: the store listed keys outside {prefix!r}")
    return ParsedPage(ListPage(objects, list(folders)), root.findtext("NextMarker") or None)


def version_of(etag: str) -> str:
    """The version for an ETag as listings (bare) and headers (quoted) have it.

    >>> version_of('"0x8DB67D8AEDF1AE3"'), version_of("0x8db67d8aedf1ae3"), version_of('W/"Abc"')
    ('0x8DB67D8AEDF1AE3', '0x8DB67D8AEDF1AE3', 'Abc')
    """
    bare = etag.removeprefix("W/").strip('"')
    return "0x" + bare[2:].upper() if _ETAG.fullmatch(bare) else bare


def is_folder(headers: Mapping[str, str]) -> bool:
    """Do the headers of a blob say that it stands for a folder?"""
    said = headers.get(f"x-ms-meta-{FOLDER_MARK}", ""), headers.get("x-ms-resource-type", "")
    return said[0].lower() == "true" or said[1].lower() == "directory"


def _blob(element: ET.Element) -> ObjectMeta:
    said = {child.tag: child.text or "" for child in element.iterfind("Properties/*")}
    key, size = _name(element), int(said.get("Content-Length") or "0")
    if said.get("ResourceType") == "directory" or (size == 0 and _is_marked(element)):
        key = folder_prefix(key)
    return ObjectMeta(key, size, header_time_ns(said.get("Last-Modified")), version_of(said["Etag"]))


def _is_marked(element: ET.Element) -> bool:
    marks = [child.text or "" for child in element.iterfind("Metadata/*") if child.tag.lower() == FOLDER_MARK]
    return bool(marks) and marks[0].lower() == "true"


def _name(element: ET.Element) -> str:
    name = element.find("Name")
    if name is None or not name.text:
        raise ValueError("an entry without a name")
    return unquote(name.text) if name.get("Encoded") == "true" else name.text  # what XML cannot say is encoded
