"""Sizes and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import Invalid
from forebay.units import GIB, KIB, MIB, TIB, format_exact_size, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("512", 512), ("512b", 512), ("64MiB", 64 * MIB), ("64 mib", 64 * MIB), ("1.5k", 1536),
        ("2T", 2 * TIB), ("1GB", 10**9), ("10 kb", 10_000), (" 3g ", 3 * GIB),
    ],
)  # fmt: skip
def test_sizes_are_read_in_the_usual_spellings(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1e6", "1.2.3", "12 parsecs", "MiB", "٣", "1,5GB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Invalid, match="200GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60", 60.0), ("500ms", 0.5), ("5m", 300.0), ("2h", 7200.0), ("1d", 86400.0)]
)
def test_durations_are_read_in_the_usual_spellings(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5s", "5 years", "inf"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Invalid, match="30s or 5m"):
        parse_duration(text)


@given(st.integers(0, 1 << 60))
def test_an_exact_size_is_read_back_to_the_byte(size: int) -> None:
    assert parse_size(format_exact_size(size)) == size


def test_sizes_for_people_have_three_or_four_digits() -> None:
    assert [format_size(size) for size in (0, 1023, KIB, 1.5 * MIB, 5 * TIB)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 TiB",
    ]  # fmt: skip
