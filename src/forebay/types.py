"""The plain values that cross floors."""

from typing import NamedTuple, Protocol


class Buffer(Protocol):
    """Bytes without a copy: anything `memoryview()` takes (PEP 688; typing has it from Python 3.12)."""

    def __buffer__(self, flags: int, /) -> memoryview:
        """See PEP 688."""
        ...

    def __len__(self) -> int:
        """Number of bytes."""
        ...


class ByteRange(NamedTuple):
    """Bytes `[start, stop)` of an object."""

    start: int  # first byte, counted from 0
    stop: int  # one past the last byte

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.stop - self.start


class Posix(NamedTuple):
    """Whose a file or folder is and who may use it, where the store keeps that; equal ones should be one object."""

    mode: int  # permission bits, such as 0o640; with S_IFLNK for a symbolic link, whose bytes are the path it leads to
    uid: int  # the owner's number on this machine
    gid: int
    owner: str  # the name as the store has it
    group: str


class Attributes(NamedTuple):
    """What a store shall keep of a file or folder beside its bytes; None: what it has, or makes by itself."""

    mode: int | None = None  # permission bits; with S_IFLNK for a symbolic link, other file types are ignored
    uid: int | None = None  # of this machine
    gid: int | None = None
    mtime_ns: int | None = None  # nanoseconds since 1970 UTC


class FolderMeta(NamedTuple):
    """What a store whose folders exist by themselves says of one."""

    mtime_ns: int  # nanoseconds since 1970 UTC; 0 if the store does not say
    posix: Posix | None = None


class ObjectMeta(NamedTuple):
    """What a store says of one object.  The version fixes the bytes."""

    key: str  # the store's own key, no leading slash
    size: int  # bytes
    mtime_ns: int  # last modification, nanoseconds since 1970 UTC; 0 if the store does not say
    version: str  # etag without quotes, generation, or "size-mtime_ns" where a store has no better
    posix: Posix | None = None
