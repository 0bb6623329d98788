"""What the file systems of fsspec raise, in Forebay's kinds.

Each has errors of its own.  The builtins among them are told by their class, those of HTTP clients by the status that
they carry; their texts are not passed on, since they may quote a credential.
"""

from forebay.errors import (
    AlreadyExists,
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NoSpace,
    NotADirectory,
    NotFound,
    Throttled,
    TimedOut,
    Unavailable,
    Unsupported,
)

_KINDS: tuple[tuple[type[Exception], type[FsError], str], ...] = (
    (FileNotFoundError, NotFound, "no such file"),
    (FileExistsError, AlreadyExists, "exists already"),
    (IsADirectoryError, IsADirectory, "is a folder"),
    (NotADirectoryError, NotADirectory, "a file stands where a folder is needed"),
    (PermissionError, Denied, "denied; check the mount's credentials and what they may do there"),
    (TimeoutError, TimedOut, "no answer in time; check the URL, network and firewall"),
    (ConnectionError, Unavailable, "cannot be reached, or the connection broke; check the URL, network and firewall"),
    (NotImplementedError, Unsupported, "fsspec's file system cannot do that"),
    (ImportError, Invalid, "fsspec's file system needs a package that is not installed"),
    (UnicodeError, NotFound, "no file can have that name"),
)
_STATUS: dict[int, tuple[type[FsError], str]] = {
    401: (Denied, "login refused (401); give the credentials that fsspec's file system takes, as --option NAME=VALUE"),
    403: (Denied, "denied (403); check the mount's credentials and what they may do there"),
    404: (NotFound, "no such file"),
    429: (Throttled, "the store asks for fewer requests (429)"),
    507: (NoSpace, "the store is full (507)"),
}


def translate(error: Exception, location: str, key: str) -> FsError:
    """The error for what a file system of fsspec raised."""
    what = f"{location}: {key!r}" if key else location
    path = key or None
    for kind, ours, said in _KINDS:
        if isinstance(error, kind):
            return ours(f"{what}: {said}", path=path)
    status = _status_of(error)
    if status in _STATUS:
        ours, said = _STATUS[status]
        return ours(f"{what}: {said}", path=path)
    if status >= 500 or isinstance(error, OSError):
        return Unavailable(f"{what}: the store failed ({type(error).__name__})", path=path)
    name = f"{type(error).__module__.partition('.')[0]}'s {type(error).__name__}"
    return FsError(f"{what}: fsspec's file system failed with {name}; its documentation may say more", path=path)


def _status_of(error: Exception) -> int:
    """The HTTP status that an error carries: aiohttp, google and azure, requests and httpx name it in these ways."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return 0
