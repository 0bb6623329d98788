"""What stores that are POSIX file systems have in common: names of owners, kinds of the system's errors."""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from functools import lru_cache

from forebay.errors import (
    AlreadyExists,
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotEmpty,
    NotFound,
    ReadOnly,
    Unavailable,
    Unsupported,
)
from forebay.types import Attributes, Posix

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
    errno.ENOTEMPTY: NotEmpty,
    errno.EINVAL: Invalid,  # as rename(2) of a folder to a place below itself
    errno.EXDEV: Unsupported,  # rename(2) to another disk that is mounted below the same folder
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


def permissions_in(mode: int, what: str) -> int:
    """The permission bits of a mode; `what` begins the message of a refusal, and names the place.

    Raises:
        Unsupported: the mode is that of a symbolic link, which this store would follow.
    """
    if stat.S_ISLNK(mode):
        raise Unsupported(f"{what}: the store keeps no symbolic links as objects")
    return stat.S_IMODE(mode)


def set_attributes(place: str | int, attributes: Attributes, what: str) -> None:
    """Change what is not None of a file or folder, by its path or file descriptor.

    Raises:
        OSError: as the system says.
        Unsupported: as `permissions_in`.
    """
    mode, uid, gid, mtime_ns = attributes
    permissions = None if mode is None else permissions_in(mode, what)
    if uid is not None or gid is not None:
        os.chown(place, -1 if uid is None else uid, -1 if gid is None else gid)
    if permissions is not None:  # after chown(2), which takes set-user-ID bits away
        os.chmod(place, permissions)
    if mtime_ns is not None:
        os.utime(place, ns=(os.stat(place).st_atime_ns, mtime_ns))


@lru_cache(maxsize=1_000)
def posix_of(mode: int, uid: int, gid: int) -> Posix:
    """Permission bits and owners, with the names that this machine has for them."""
    return Posix(mode, uid, gid, _name(pwd.getpwuid, uid), _name(grp.getgrgid, gid))


def _name(find: Callable[[int], Sequence[object]], number: int) -> str:
    try:
        return str(find(number)[0])
    except KeyError:
        return str(number)
