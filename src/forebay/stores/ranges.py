"""Answers to HTTP range requests, compared with the question.  Pure."""

import re
from collections.abc import Mapping

from forebay.errors import Corrupt, Invalid, Unsupported
from forebay.types import ByteRange

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def range_header(span: ByteRange | None) -> dict[str, str]:
    """The headers that ask for `span`, as it is stored and not compressed on the way."""
    plain = {"Accept-Encoding": "identity"}
    return plain if span is None else plain | {"Range": f"bytes={span.start}-{span.stop - 1}"}


def total_bytes(where: str, key: str, status: int, headers: Mapping[str, str]) -> int:
    """How many bytes the whole file has, by an answer of status 200 or 206.

    Raises:
        Corrupt: the answer does not say it.
    """
    said = _RANGE.fullmatch(headers.get("Content-Range", ""))
    text = said[3] if status == 206 and said is not None else headers.get("Content-Length", "") if status == 200 else ""
    if not text.isdecimal():
        raise Corrupt(f"{where}: {key!r}: the server did not say its size", path=key)
    return int(text)


def check_range(
    where: str, key: str, status: int, headers: Mapping[str, str], span: ByteRange | None, total: int
) -> None:
    """Compare an answer with the question for `span` of a file of `total` bytes.

    Raises:
        Invalid: `span` lies behind the end.
        Corrupt: the answer is of another range.
        Unsupported: the server sends whole files only.
    """
    what = f"{where}: {key!r}"
    start, stop = span or ByteRange(0, total)
    if span is not None and start >= total:
        raise Invalid(f"{what} of {total} bytes has no byte {start}", path=key)
    if stop > total:
        raise Corrupt(f"{what} ends at {total}, before {stop}", path=key)
    if status == 200 and (start, stop) != (0, total):
        raise Unsupported(f"{what}: this server sends whole files only, and no ranges of them", path=key)
    if status == 206 and headers.get("Content-Range") != f"bytes {start}-{stop - 1}/{total}":
        raise Corrupt(f"{what}: the server sent another range than was asked for", path=key)
