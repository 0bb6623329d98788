"""Modes, owners and times as metadata of S3 objects, in the spelling of s3fs, which rclone shares in part.

`x-amz-meta-mode` is st_mode in decimal, `-uid` and `-gid` are decimal, `-mtime` is seconds since 1970 with a fraction.
rclone writes `-mtime` alone, or with its option --metadata also a mode in octal; its times may be dates.
"""

import os
import re
import stat
from collections.abc import Mapping
from datetime import datetime

from forebay.stores.posix import posix_of
from forebay.stores.times import nanoseconds
from forebay.types import Attributes, ObjectMeta

Headers = tuple[tuple[str, str], ...]

_META = "x-amz-meta-"
_KEPT = (  # of an object whose metadata is replaced; tags stay by themselves
    *("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"),
    *("x-amz-storage-class", "x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"),
    "x-amz-website-redirect-location",
)
_SECONDS = re.compile(r"(-?)(\d{1,11})(?:\.(\d+))?")
_SECOND_NS = 1_000_000_000
_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)
_NUMBERS = 2**32 - 1  # of users and groups; the last one means none
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755  # of an object that has an owner only


def headers_of(key: str, attributes: Attributes) -> Headers:
    """The headers by which an object gets what is not None.

    >>> dict(headers_of("k", Attributes(0o640, None, 7, 1_500_000_000_000_000_123)))
    {'x-amz-meta-mode': '33184', 'x-amz-meta-gid': '7', 'x-amz-meta-mtime': '1500000000.000000123'}
    """
    mode, uid, gid, mtime_ns = attributes
    if mode is not None:
        file_type = stat.S_IFDIR if key.endswith("/") else stat.S_IFLNK if stat.S_ISLNK(mode) else stat.S_IFREG
        mode = file_type | stat.S_IMODE(mode)
    seconds = None if mtime_ns is None else _seconds(mtime_ns)
    values = (("mode", mode), ("uid", uid), ("gid", gid), ("mtime", seconds))
    return tuple((_META + name, str(value)) for name, value in values if value is not None)


def replacing(key: str, headers: Mapping[str, str], attributes: Attributes) -> Headers:
    """All headers of an object that shall have other attributes, by those that a HEAD told."""
    kept = {name.lower(): value for name, value in headers.items()}
    kept = {name: value for name, value in kept.items() if name in _KEPT or name.startswith(_META)}
    return tuple((kept | dict(headers_of(key, attributes))).items())


def told(meta: ObjectMeta, headers: Mapping[str, str]) -> ObjectMeta:
    """An object with the attributes that the headers of a HEAD tell; what cannot be read counts as not told."""
    mode = _mode(headers.get(_META + "mode", ""), is_folder=meta.key.endswith("/"))
    uid, gid = (_number(headers.get(_META + name, "")) for name in ("uid", "gid"))
    mtime_ns = _mtime_ns(headers.get(_META + "mtime", ""))
    if mtime_ns is not None:
        meta = meta._replace(mtime_ns=mtime_ns)
    if mode is None and uid is None and gid is None:
        return meta
    if mode is None:
        mode = _FOLDER_MODE if meta.key.endswith("/") else _FILE_MODE
    shown = stat.S_IMODE(mode) | (stat.S_IFLNK if stat.S_ISLNK(mode) else 0)
    # What has no owner belongs to who runs Forebay.
    owner = os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid
    return meta._replace(posix=posix_of(shown, *owner))


def _seconds(nanoseconds: int) -> str:
    whole, fraction = divmod(abs(nanoseconds), _SECOND_NS)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{fraction:09}"


def _mtime_ns(said: str) -> int | None:
    """Nanoseconds since 1970.

    >>> _mtime_ns("1500000000.000000123"), _mtime_ns("-0.5"), _mtime_ns("7"), _mtime_ns("soon")
    (1500000000000000123, -500000000, 7000000000, None)
    >>> _mtime_ns("2017-07-14T04:40:00.5+02:00")
    1500000000500000000
    """
    if found := _SECONDS.fullmatch(said):
        sign, whole, fraction = found.groups("")
        size = int(whole) * _SECOND_NS + int(fraction[:9].ljust(9, "0"))
        return -size if sign else size
    try:
        return nanoseconds(datetime.fromisoformat(said))
    except (ValueError, TypeError):  # no date, or one without a zone
        return None


def _mode(said: str, *, is_folder: bool) -> int | None:
    """A mode in decimal as s3fs writes it, or in octal as rclone does: of the two the one that can be.

    >>> [oct(_mode(said, is_folder=False)) for said in ("33188", "100644", "0100644", "41471", "120777", "420")]
    ['0o100644', '0o100644', '0o100644', '0o120777', '0o120777', '0o644']
    >>> [oct(_mode(said, is_folder=True)) for said in ("16877", "40755", "42755")], _mode("rw", is_folder=False)
    (['0o40755', '0o40755', '0o42755'], None)
    """
    if not said.isdecimal() or len(said) > 8:
        return None
    readings = [int(said)] if re.search("[89]", said) else [int(said), int(said, 8)]
    for mode in readings:
        kind = stat.S_IFMT(mode)
        if mode >> 16 == 0 and (kind == 0 or (kind in _TYPES and (kind == stat.S_IFDIR) == is_folder)):
            return mode
    return None


def _number(said: str) -> int | None:
    return int(said) if said.isdecimal() and len(said) <= 10 and int(said) < _NUMBERS else None
