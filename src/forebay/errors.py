"""Every kind of failure Forebay knows: its errno, its HTTP status, and whether a retry can help.

Kinds inherit the builtin of the same meaning, so that library users catch `FileNotFoundError` as usual.
One string is enough to build any kind (PyTorch's loader rebuilds a worker's exception that way).
"""

import errno
from typing import Any, ClassVar


class FsError(OSError):
    """Base of the taxonomy, and the kind to raise when nothing fits: an I/O error."""

    ERRNO: ClassVar[int] = errno.EIO
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(self.ERRNO, message, path)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError pickles as cls(errno, message, path), which our __init__ would refuse.
        return (_rebuild, (type(self), self.message, self.filename))


def _rebuild(kind: type[FsError], message: str, path: str | None) -> FsError:
    return kind(message, path=path)


class NotFound(FsError, FileNotFoundError):
    """No file, object, bucket or mount has that name."""

    ERRNO, http_status = errno.ENOENT, 404


class AlreadyExists(FsError, FileExistsError):
    """The name is taken."""

    ERRNO, http_status = errno.EEXIST, 409


class NotADirectory(FsError, NotADirectoryError):
    """A file stands where a folder is needed."""

    ERRNO, http_status = errno.ENOTDIR, 400


class IsADirectory(FsError, IsADirectoryError):
    """A folder stands where a file is needed."""

    ERRNO, http_status = errno.EISDIR, 400


class NotEmpty(FsError):
    """The folder still has entries."""

    ERRNO, http_status = errno.ENOTEMPTY, 409


class Denied(FsError, PermissionError):
    """The store refuses these credentials, or the local system refuses this user."""

    ERRNO, http_status = errno.EACCES, 403


class ReadOnly(FsError):
    """The mount takes no writes."""

    ERRNO, http_status = errno.EROFS, 405


class Busy(FsError):
    """In use: open files, or a running operation, stand in the way."""

    ERRNO, http_status = errno.EBUSY, 409


class Invalid(FsError):
    """The call itself is wrong: a bad path, option or value."""

    ERRNO, http_status = errno.EINVAL, 400


class NameTooLong(FsError):
    """A name of more than 255 bytes, or a path that no store takes."""

    ERRNO, http_status = errno.ENAMETOOLONG, 400


class LinkLoop(FsError):
    """Symbolic links lead to each other, or there are too many on one path."""

    ERRNO, http_status = errno.ELOOP, 508


class Unsupported(FsError):
    """This store or mount cannot do that."""

    ERRNO, http_status = errno.EOPNOTSUPP, 501


class CrossesMounts(FsError):
    """A rename from one mount to another: tools then copy and remove."""

    ERRNO, http_status = errno.EXDEV, 501


class StaleVersion(FsError):
    """The object changed in its store after this handle was opened; open it again."""

    ERRNO, http_status = errno.ESTALE, 412


class NoSpace(FsError):
    """The disk, or the cache's share of it, is full."""

    ERRNO, http_status = errno.ENOSPC, 507


class Throttled(FsError):
    """The store asks for fewer requests, and the retries are spent."""

    ERRNO, http_status, retryable = errno.EIO, 503, True


class Unavailable(FsError, ConnectionError):
    """The store cannot be reached, answers 5xx, or cut its answer short."""

    ERRNO, http_status, retryable = errno.EIO, 503, True


class TimedOut(FsError, TimeoutError):
    """No answer within the deadline."""

    ERRNO, http_status, retryable = errno.ETIMEDOUT, 504, True


class Corrupt(FsError):
    """Bytes that are not what was asked for: wrong length, wrong version, wrong checksum."""

    ERRNO, http_status, retryable = errno.EIO, 500, True


def kinds() -> dict[str, type[FsError]]:
    """Every kind by its name, as the admin API names it."""
    found = {FsError.__name__: FsError}
    for kind in FsError.__subclasses__():
        found[kind.__name__] = kind
    return found
