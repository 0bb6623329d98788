"""What stores that are POSIX file systems have in common: names of owners, kinds of the system's errors."""

import errno
import grp
import pwd
from collections.abc import Callable, Sequence
from functools import lru_cache

from forebay.errors import (
    AlreadyExists,
    Denied,
    FsError,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotFound,
    ReadOnly,
    Unavailable,
)
from forebay.types import Posix

HIDDEN = ".forebay-part-"  # how the names of files begin that are being written: they are never listed

_KINDS: dict[int, type[FsError]] = {
    errno.ENOENT: NotFound,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EEXIST: AlreadyExists,
    errno.ENOSPC: NoSpace,
    errno.EDQUOT: NoSpace,
    errno.EROFS: ReadOnly,
    errno.EISDIR: IsADirectory,
    errno.EIO: Unavailable,
    errno.ESTALE: Unavailable,  # a network file system whose server forgot us
    errno.ETIMEDOUT: Unavailable,
}


def kind_of(number: int | None, *, writing: bool) -> type[FsError]:
    """The kind that an errno means."""
    if number == errno.ENOTDIR:
        return NotADirectory if writing else NotFound
    if number in (errno.ENAMETOOLONG, errno.ELOOP):
        return NameTooLong if writing else NotFound
    return _KINDS.get(number or 0, FsError)


@lru_cache(maxsize=1_000)
def posix_of(mode: int, uid: int, gid: int) -> Posix:
    """Permission bits and owners, with the names that this machine has for them."""
    return Posix(mode, uid, gid, _name(pwd.getpwuid, uid), _name(grp.getgrgid, gid))


def _name(find: Callable[[int], Sequence[object]], number: int) -> str:
    try:
        return str(find(number)[0])
    except KeyError:
        return str(number)
