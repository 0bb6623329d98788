"""Virtual paths in one normal form: `/`, `/a`, `/a/b`; never a trailing slash, `.`, `..` or NUL.

Names hold any other character, newlines and undecodable bytes (as surrogate escapes) included.
"""

from collections.abc import Callable, Iterable, Sequence

from forebay.errors import FsError, Invalid, NameTooLong, NotFound, ReadOnly

NAME_BYTES_MAX = 255  # NAME_MAX of Linux, limits.h


def normalize(path: str) -> str:
    """The one form of an absolute virtual path.

    Raises:
        Invalid: relative, or climbs with `..`, or holds a NUL byte.
        NameTooLong: a name of more than 255 bytes.

    >>> normalize("/training-data/imagenet/"), normalize("//a/./b"), normalize("/")
    ('/training-data/imagenet', '/a/b', '/')
    """
    if not path.startswith("/"):
        raise Invalid(f"{path!r} is not an absolute path; paths in Forebay start with /", path=path)
    if "\0" in path:
        raise Invalid("a path cannot hold a NUL byte", path=path)
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise Invalid(f"{path!r} leaves its folder: '..' is not taken here", path=path)
    for name in names:
        if len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
            raise NameTooLong(f"a name in {path[:80]!r}... is longer than {NAME_BYTES_MAX} bytes", path=path)
    return "/" + "/".join(names)


def normalize_all(names: Sequence[str]) -> Sequence[str]:
    """`normalize` of each; where all of them are ASCII and normal already, at a tenth of its cost.

    Raises what `normalize` raises.

    >>> normalize_all(["/a/b", "/c"]), normalize_all(["/a", "/b/./c"]), normalize_all(["/", "/a"])
    (['/a/b', '/c'], ['/a', '/b/c'], ['/', '/a'])
    """
    text = "\0".join(names)
    is_normal = (
        text.isascii()
        and text.startswith("/")
        and not text.endswith("/")
        and not any(odd in text for odd in ("//", "/.", "/\0"))
        and text.count("\0") == text.count("\0/") == len(names) - 1
        and max(map(len, names)) <= NAME_BYTES_MAX
    )
    return names if is_normal else [normalize(name) for name in names]


def check_name(name: str) -> None:
    """Check a name that somebody wants to make.

    Raises:
        NameTooLong, Invalid: it cannot be.
    """
    if len(name.encode("utf-8", "surrogateescape")) > NAME_BYTES_MAX:
        raise NameTooLong(f"a name in {name[:80]!r}... is longer than {NAME_BYTES_MAX} bytes", path=name)
    if name in ("", ".", "..") or "/" in name:
        raise Invalid(f"{name!r} is no name of a file", path=name)


def is_utf8(name: str) -> bool:
    """Is it text, and no bytes that are none?

    >>> is_utf8("é"), is_utf8("\\udcff")
    (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def join(folder: str, name: str) -> str:
    """The path of `name` in `folder`; both already in normal form."""
    return f"/{name}" if folder == "/" else f"{folder}/{name}"


def split(path: str) -> tuple[str, str]:
    """Folder and name of a normal path; the root is `("/", "")`.

    >>> split("/a/b"), split("/a"), split("/")
    (('/a', 'b'), ('/', 'a'), ('/', ''))
    """
    folder, _, name = path.rpartition("/")
    return folder or "/", name


def is_within(path: str, folder: str) -> bool:
    """Is `path` the folder itself or below it?

    >>> is_within("/a/b", "/a"), is_within("/ab", "/a"), is_within("/a", "/")
    (True, False, True)
    """
    return folder == "/" or path == folder or path.startswith(folder + "/")


def relative(path: str, folder: str) -> str:
    """The part of `path` below `folder`, without a leading slash; `path` must be within it.

    >>> relative("/a/b/c", "/a"), relative("/a", "/a"), relative("/a", "/")
    ('b/c', '', 'a')
    """
    return path[len(folder) :].lstrip("/") if folder != "/" else path[1:]


def shown(local_path: str, folders: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Where the tree has a local path: a folder of the tree, and the rest of the path below it.  None: nowhere.

    Args:
        local_path: absolute.
        folders: local folders, and the folders of the tree that they show.

    >>> shown("/mnt/a/b", [("/mnt", "/data"), ("/mnt/a/", "/in")]), shown("/mn", [("/mnt", "/data")])
    (('/in', '/b'), None)
    """
    fitting = [(local.rstrip("/"), tree) for local, tree in folders if is_within(local_path, local.rstrip("/") or "/")]
    if not fitting:
        return None
    local, tree = max(fitting, key=lambda pair: len(pair[0]))
    return tree, local_path[len(local) :]


def message_of(error: FsError, folders: Callable[[], Iterable[tuple[str, str]]]) -> str:
    """An error's message; of a path that is not in the tree, but below a local folder, with the one that is.

    Args:
        error: as it is told to who gave a path.
        folders: as of `shown`.

    >>> message_of(NotFound("no such file: /mnt/a/b", path="/mnt/a/b"), lambda: [("/mnt", "/data")])
    'no such file: /mnt/a/b; in the tree, what the local folder shows there is /data/a/b'
    >>> message_of(NotFound("no such file: /a", path="/a"), lambda: [("/mnt", "/data")])
    'no such file: /a'
    """
    if not isinstance(error, NotFound | ReadOnly) or not isinstance(error.filename, str):
        return error.message
    found = shown(error.filename, folders())
    if found is None:
        return error.message
    return f"{error.message}; in the tree, what the local folder shows there is {normalize(''.join(found))}"
