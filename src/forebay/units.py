"""Sizes and durations as people write them: `64MiB`, `5s`, and back."""

import re
from fractions import Fraction

from forebay.errors import Invalid

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SIZES = {
    "": 1, "b": 1,
    "k": KIB, "kb": 10**3, "kib": KIB,
    "m": MIB, "mb": 10**6, "mib": MIB,
    "g": GIB, "gb": 10**9, "gib": GIB,
    "t": TIB, "tb": 10**12, "tib": TIB,
}  # fmt: skip
_DURATIONS = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes in a size such as `512`, `64KiB`, `1.5GB` or `2T` (a bare letter means the power of 1024).

    Raises:
        Invalid: not a size.

    >>> parse_size("64MiB"), parse_size("1.5kb"), parse_size("2g")
    (67108864, 1500, 2147483648)
    """
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in _SIZES:
        raise Invalid(f"{text!r} is not a size; write for example 512MiB or 200GB")
    return int(Fraction(match[1]) * _SIZES[match[2].lower()])  # a float would round large sizes


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `500ms`, `60`, `90s`, `5m` or `2h`.

    Raises:
        Invalid: not a duration.

    >>> parse_duration("500ms"), parse_duration("5m")
    (0.5, 300.0)
    """
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in _DURATIONS:
        raise Invalid(f"{text!r} is not a duration; write for example 30s or 5m")
    return float(match[1]) * _DURATIONS[match[2].lower()]


def format_duration(seconds: float) -> str:
    """A duration in the largest unit that shows it whole.

    >>> format_duration(90), format_duration(7200), format_duration(7 * 86_400)
    ('90s', '2h', '7d')
    """
    for unit in ("d", "h", "m"):
        if seconds and seconds % _DURATIONS[unit] == 0:
            return f"{seconds / _DURATIONS[unit]:g}{unit}"
    return f"{seconds:g}s"


def format_size(size: float) -> str:
    """A size for people, in powers of 1024.

    >>> format_size(0), format_size(112_640), format_size(2 * GIB)
    ('0 B', '110.0 KiB', '2.0 GiB')
    """
    if size < KIB:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= KIB
        if size < KIB:
            return f"{size:.1f} {unit}"
    return f"{size / KIB:.1f} TiB"


def format_exact_size(size: int) -> str:
    """A size that `parse_size` reads back to the byte.

    >>> format_exact_size(64 * MIB), format_exact_size(1500), format_exact_size(0)
    ('64MiB', '1500', '0')
    """
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)
