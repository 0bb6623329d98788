"""Pages of listings: what the pattern takes out of the text is what the XML parser finds in it, or nothing."""

from urllib.parse import quote_plus
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import Corrupt
from forebay.stores import s3_listing
from forebay.types import ObjectMeta

Fields = list[tuple[str, str]]  # elements of one object, in order
AMAZON: Fields = [
    ("Key", "a/x"), ("LastModified", "2025-06-03T10:00:01.250Z"), ("ETag", "&quot;0123abcd&quot;"),
    ("ChecksumAlgorithm", "CRC32"), ("Size", "12"), ("Owner", "<ID>75aa</ID>"), ("StorageClass", "STANDARD"),
]  # fmt: skip
SEAWEED: Fields = [
    ("Key", "a/x"), ("ETag", "&#34;0123abcd&#34;"), ("Size", "12"), ("StorageClass", "STANDARD"),
    ("LastModified", "2025-06-03T10:00:01.250Z"),
]  # fmt: skip
META = ObjectMeta("a/x", 12, 1_748_944_801_250_000_000, "0123abcd")


def page(*objects: Fields, after: str = "", space: str = "", encoding: str = "url", gap: str = "") -> bytes:
    """A whole answer."""
    found = gap.join(
        f"<Contents>{gap}{gap.join(f'<{name}>{text}</{name}>' for name, text in fields)}{gap}</Contents>"
        for fields in objects
    )
    kind = f"<EncodingType>{encoding}</EncodingType>" if encoding else ""
    more = f"{kind}<IsTruncated>false</IsTruncated>{found}{after}"
    return f'<?xml version="1.0"?><ListBucketResult{space}>{more}</ListBucketResult>'.encode()


def without(name: str) -> Fields:
    return [(each, text) for each, text in AMAZON if each != name]


def changed(name: str, text: str) -> Fields:
    return [(each, text if each == name else old) for each, old in AMAZON]


@pytest.fixture
def parser_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes through the XML parser."""
    monkeypatch.setattr(s3_listing, "_FORMS", ())


def parse(body: bytes) -> list[ObjectMeta]:
    return s3_listing.parse(body, "s3://b", "").page.objects


@pytest.mark.parametrize("gap", ["", "\n  "])
@pytest.mark.parametrize("space", ["", ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
@pytest.mark.parametrize("fields", [AMAZON, SEAWEED])
def test_the_usual_page_is_taken_out_of_the_text(fields: Fields, gap: str, space: str) -> None:
    other = [("Key", "a/y%2Bz"), *fields[1:]]
    body = page(fields, other, gap=gap, space=space)
    objects, rest = s3_listing._take_objects(body)
    assert objects == [META, META._replace(key="a/y+z")]
    assert b"Contents" not in rest
    assert parse(body) == objects


ODD = {
    "another order": page(AMAZON[::-1]),
    "no ETag": page(without("ETag")),
    "an empty ETag": page(changed("ETag", "")),
    "an entity in a key": page(changed("Key", "a&amp;b"), encoding=""),
    "CDATA": page(changed("Key", "<![CDATA[a<b]]>"), encoding=""),
    "a comment": page(changed("Size", "<!-- -->12")),
    "one odd object": page(AMAZON, without("ETag"), changed("Key", "z")),
    "a folder in between": page(AMAZON, AMAZON).replace(
        b"</Contents><Contents>", b"</Contents><CommonPrefixes><Prefix>f/</Prefix></CommonPrefixes><Contents>"
    ),
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_an_unusual_page_goes_through_the_parser_whole(body: bytes) -> None:
    assert s3_listing._take_objects(body) == ([], body)
    assert parse(body)


@pytest.mark.parametrize(
    "body",
    [page(AMAZON)[:-20], page(changed("Size", "x")), page(without("Key")), page(without("Size")), b"<html/>", b""],
)
def test_what_is_no_listing_is_corrupt(body: bytes) -> None:
    with pytest.raises(Corrupt, match="not an S3 listing"):
        parse(body)


keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
objects = st.builds(
    lambda key, size, ms, tag, weak: [
        ("Key", key), ("LastModified", f"2024-02-29T23:59:{ms // 1000:02d}.{ms % 1000:03d}Z"),
        ("ETag", f"{'W/' if weak else ''}&quot;{tag}&quot;"), ("Size", str(size)), ("StorageClass", "STANDARD"),
    ],
    keys, st.integers(0, 1 << 50), st.integers(0, 59_999), st.text("0123456789abcdef-", min_size=1), st.booleans(),
)  # fmt: skip


@given(found=st.lists(objects, max_size=5), is_encoded=st.booleans(), is_seaweed=st.booleans())
def test_both_ways_find_the_same(found: list[Fields], is_encoded: bool, is_seaweed: bool) -> None:
    if is_seaweed:
        found = [[fields[at] for at in (0, 2, 3, 4, 1)] for fields in found]

    def write(key: str) -> str:
        return quote_plus(key, safe="/") if is_encoded else escape(key)

    body = page(
        *([(name, write(text) if name == "Key" else text) for name, text in fields] for fields in found),
        encoding="url" if is_encoded else "",
    )
    fast = parse(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_listing, "_FORMS", ())
        assert parse(body) == fast
    assert [meta.key for meta in fast] == [fields[0][1] for fields in found]
