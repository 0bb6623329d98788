"""Pages of List Blobs as Microsoft documents them, of accounts with a hierarchical namespace (ADLS Gen2) too."""

import pytest

from forebay.errors import Corrupt
from forebay.stores.azure_listing import is_folder, parse

_PROPERTIES = (
    "<Last-Modified>Sat, 23 Sep 2023 21:04:18 GMT</Last-Modified><Etag>0x8DBBC78A6E95AF7</Etag>"
    "<Content-Length>{size}</Content-Length><Content-MD5 /><BlobType>BlockBlob</BlobType>"
)


def blob(name: str, size: int = 0, *, kind: str = "", metadata: str = "", name_is: str = "") -> str:
    resource = f"<ResourceType>{kind}</ResourceType>" if kind else ""
    properties = f"<Properties>{_PROPERTIES.format(size=size)}{resource}</Properties>"
    return f"<Blob><Name{name_is}>{name}</Name>{properties}<Metadata>{metadata}</Metadata><OrMetadata /></Blob>"


def prefix_of(name: str, *, kind: str = "") -> str:
    """In an account with a hierarchical namespace a BlobPrefix has properties too."""
    inner = f"<Properties>{_PROPERTIES.format(size=0)}<ResourceType>{kind}</ResourceType></Properties>" if kind else ""
    return f"<BlobPrefix><Name>{name}</Name>{inner}</BlobPrefix>"


def page(*entries: str, marker: str = "") -> bytes:
    return (
        '<?xml version="1.0" encoding="utf-8"?><EnumerationResults '
        'ServiceEndpoint="https://myaccount.blob.core.windows.net/" ContainerName="c"><MaxResults>4</MaxResults>'
        f"<Blobs>{''.join(entries)}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>"
    ).encode()


def names(body: bytes, prefix: str = "", *, recursive: bool = False) -> tuple[list[str], list[str]]:
    parsed = parse(body, "az://c@a", prefix, recursive=recursive)
    return [meta.key for meta in parsed.page.objects], parsed.page.folders


def test_an_object_is_what_its_properties_say() -> None:
    parsed = parse(page(blob("a", 5, kind="file"), marker="2!76!M"), "az://c@a", "", recursive=False)
    [meta] = parsed.page.objects
    assert (meta.key, meta.size, meta.version) == ("a", 5, "0x8DBBC78A6E95AF7")
    assert meta.mtime_ns == 1_695_503_058_000_000_000
    assert parsed.marker == "2!76!M"
    assert parse(page(), "az://c@a", "", recursive=False).marker is None


def test_a_directory_of_adls_shows_as_a_folder() -> None:
    body = page(blob("f", 1, kind="file"), prefix_of("rootdir/", kind="directory"))
    assert names(body) == (["f"], ["rootdir/"])


def test_a_directory_of_adls_is_the_empty_object_of_its_folder_in_a_recursive_listing() -> None:
    body = page(blob("rootdir", kind="directory"), blob("rootdir/empty", kind="file"))
    assert names(body, recursive=True) == (["rootdir/", "rootdir/empty"], [])


def test_a_marked_blob_and_its_prefix_are_one_folder() -> None:
    mark = "<hdi_isfolder>true</hdi_isfolder>"
    assert names(page(prefix_of("d/"), blob("d", metadata=mark), blob("e", metadata=mark))) == ([], ["d/", "e/"])
    assert names(page(blob("d", 7, metadata=mark))) == (["d"], [])  # what holds bytes is no folder
    assert names(page(blob("d", metadata="<hdi_isfolder>false</hdi_isfolder>"))) == (["d"], [])


def test_the_own_entry_of_the_folder_that_is_listed_stays_an_object() -> None:
    assert names(page(blob("d/", metadata="<hdi_isfolder>true</hdi_isfolder>")), "d/") == (["d/"], [])


def test_a_name_that_xml_cannot_say_is_decoded_and_no_other() -> None:
    body = page(blob("a%01%EF%BF%BF", 1, name_is=' Encoded="true"'), blob("a%01", 1), blob("x&amp;&lt;\ny", 1))
    assert names(body)[0] == ["a\x01\uffff", "a%01", "x&<\ny"]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html></html>", b"{}", page("<Blob><Properties/></Blob>"), page("<Blob><Name>a</Name></Blob>")],
)
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(Corrupt):
        parse(body, "az://c@a", "", recursive=False)


def test_keys_of_another_prefix_are_refused() -> None:
    for entry in (blob("b/x", 1), prefix_of("b/")):
        with pytest.raises(Corrupt, match="outside 'a/'"):
            parse(page(entry), "az://c@a", "a/", recursive=False)


def test_headers_tell_a_folder_in_both_ways() -> None:
    assert is_folder({"x-ms-meta-hdi_isfolder": "true"})
    assert is_folder({"x-ms-resource-type": "directory"})
    assert not is_folder({"x-ms-resource-type": "file", "x-ms-meta-hdi_isfolder": "false"})
    assert not is_folder({})
