"""What stores that are POSIX file systems have in common: owners, kinds of errors, files that are written whole."""

import errno
import grp
import os
import pwd
import stat
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from typing import ClassVar

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
from forebay.types import Attributes, Buffer, ObjectMeta, Posix

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


class WholeFiles(ABC):
    """`put` and `put_stream` of a file system, where a file is written under another name and takes its place whole."""

    location: str
    replacer: ClassVar[str]  # who cannot replace a file under a condition, in words

    @abstractmethod
    async def put_file(
        self, key: str, chunks: AsyncIterator[Buffer], attributes: Attributes, *, if_absent: bool
    ) -> ObjectMeta:
        """Store the concatenation of `chunks` as a file, all or nothing."""

    @abstractmethod
    async def make_folder(self, key: str, attributes: Attributes) -> ObjectMeta:
        """Make the folder of a key that ends in "/"; one that is there gets the attributes."""

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put`; `if_absent` is atomic, `if_version` cannot be."""

        async def once() -> AsyncIterator[Buffer]:
            yield data

        return await self.put_stream(key, once(), if_version=if_version, if_absent=if_absent, attributes=attributes)

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put_stream`; conditions as for `put`."""
        if if_version is not None:
            message = f"{self.location}: {self.replacer} cannot replace a file only if it is unchanged"
            raise Unsupported(message, path=key)
        attributes = attributes or Attributes()
        if not key.endswith("/"):
            return await self.put_file(key, chunks, attributes, if_absent=if_absent)
        async for chunk in chunks:
            if len(chunk):
                raise Invalid(f"{self.location}: {key!r} is a folder and cannot hold bytes", path=key)
        return await self.make_folder(key, attributes)
