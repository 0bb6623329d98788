"""`forebay.open`, `forebay.read`, `forebay.read_many`: one file system for the whole process, made when first used."""

from collections.abc import Iterable
from functools import cache
from typing import Any

from forebay.client.filesystem import FileSystem
from forebay.client.names import Name
from forebay.errors import FsError


@cache
def default_filesystem() -> FileSystem:
    """That of FOREBAY_HOME, or ~/.forebay, as it is when this is first called."""
    return FileSystem()


def open(
    path: Name,
    mode: str = "rb",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> Any:  # noqa: ANN401 - as of the built-in `open`
    """Open a file of the tree; see `FileSystem.open`."""
    return default_filesystem().open(path, mode, buffering, encoding, errors, newline)


def read(path: Name) -> bytes:
    """The whole of a file of the tree; see `FileSystem.read`."""
    return default_filesystem().read(path)


def read_many(paths: Iterable[Name]) -> list[bytes | FsError]:
    """The whole of many files of the tree, in order; see `FileSystem.read_many`."""
    return default_filesystem().read_many(paths)
