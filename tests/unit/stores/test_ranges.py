"""Answers to range requests, compared with the question."""

import pytest

from forebay.errors import Corrupt, FsError, Invalid, Unsupported
from forebay.stores.ranges import check_range, range_header, total_bytes
from forebay.types import ByteRange

PART = ByteRange(2, 5)


def test_a_range_is_asked_for_by_its_last_byte_and_without_compression() -> None:
    assert range_header(PART) == {"Accept-Encoding": "identity", "Range": "bytes=2-4"}
    assert range_header(None) == {"Accept-Encoding": "identity"}


@pytest.mark.parametrize(
    ("status", "headers", "total"),
    [
        (200, {"Content-Length": "7"}, 7),
        (206, {"Content-Range": "bytes 2-4/9", "Content-Length": "3"}, 9),
        (206, {"Content-Length": "3"}, None),
        (206, {"Content-Range": "bytes 2-4/*"}, None),
        (200, {}, None),
        (200, {"Content-Length": "-1"}, None),
    ],
)
def test_the_size_of_the_whole_is_read_or_the_answer_is_corrupt(
    status: int, headers: dict[str, str], total: int | None
) -> None:
    if total is None:
        with pytest.raises(Corrupt, match="did not say its size"):
            total_bytes("where", "k", status, headers)
    else:
        assert total_bytes("where", "k", status, headers) == total


@pytest.mark.parametrize(
    ("status", "said", "span", "total", "kind"),
    [
        (206, "bytes 2-4/9", PART, 9, None),
        (206, "bytes 0-8/9", None, 9, None),
        (200, "", None, 9, None),
        (200, "", ByteRange(0, 9), 9, None),
        (206, "bytes 2-5/9", PART, 9, Corrupt),
        (206, "bytes 1-4/9", PART, 9, Corrupt),
        (206, "bytes 2-3/4", PART, 4, Corrupt),
        (206, "", PART, 9, Corrupt),
        (206, "bytes 9-9/9", ByteRange(9, 10), 9, Invalid),
        (200, "", PART, 9, Unsupported),
    ],
)
def test_another_range_than_was_asked_for_is_an_error(
    status: int, said: str, span: ByteRange | None, total: int, kind: type[FsError] | None
) -> None:
    headers = {"Content-Range": said} if said else {}
    if kind is None:
        check_range("where", "k", status, headers, span, total)
    else:
        with pytest.raises(kind) as failed:
            check_range("where", "k", status, headers, span, total)
        assert "where: 'k'" in str(failed.value)
