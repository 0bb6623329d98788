"""What a program may ask of the tree: each operation as the exchange that carries it out, for blocking programs and
for asyncio alike.  Pure: no socket, and nothing is asked before it is driven.

Making an operation checks its paths.

Raises:
    Invalid: a path is none.
"""

import os
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from forebay import paths
from forebay.client import exchanges
from forebay.client.exchanges import Entry, Exchange, Reply, call, entry_of
from forebay.client.names import Name, virtual_path
from forebay.errors import FsError, Invalid, LinkLoop

Result = TypeVar("Result")


class Operation(NamedTuple, Generic[Result]):
    """See the module."""

    exchange: Callable[[], Exchange[Result]]
    repeats: bool  # False: it changes something, and whether it did is not known if no answer comes


def stat(path: Name, *, follow_symlinks: bool) -> Operation[Entry]:
    """What is at a path."""
    return _asks("stat", lambda reply: entry_of(reply.head), path=virtual_path(path), follows=follow_symlinks)


def exists(path: Name) -> Operation[bool]:
    """Is anything at a path, links followed?"""
    name = virtual_path(path)

    def ask() -> Exchange[bool]:
        try:
            yield from call("stat", {"path": name})
        except (FileNotFoundError, NotADirectoryError, LinkLoop):
            return False
        return True

    return Operation(ask, repeats=True)


def readlink(path: Name) -> Operation[str]:
    """The target of a link."""
    return _asks("readlink", lambda reply: str(reply.head["target"]), path=virtual_path(path))


def ls(path: Name) -> Operation[list[Entry]]:
    """The entries of a folder."""
    name = virtual_path(path)
    return Operation(lambda: exchanges.entries("list", name), repeats=True)


def walk(path: Name) -> Operation[list[Entry]]:
    """Every file at or below a path."""
    name = virtual_path(path)
    return Operation(lambda: exchanges.entries("walk", name), repeats=True)


def read_many(names: Iterable[Name]) -> Operation[list[bytes | FsError]]:
    """The whole of many files; of each, or its error.

    Raises:
        TypeError: one path, which would be taken for paths of one letter each.
    """
    if isinstance(names, str | bytes | os.PathLike):
        raise TypeError(f"read_many takes a list of paths, not one: read_many([{names!r}]), or read({names!r})")
    wanted = list(names)
    return Operation(lambda: exchanges.read_many(wanted), repeats=True)


def virtual(local_path: Name) -> Operation[str]:
    """The virtual path of a local one."""
    path = os.path.abspath(os.fspath(local_path))

    def find(reply: Reply) -> str:
        found = paths.shown(path, reply.head["folders"])
        if found is None:
            message = f"{path} is in no local folder of Forebay; forebay fuse stat lists them"
            raise Invalid(message, path=path)
        return paths.normalize("".join(found))

    return _asks("local_folders", find)


def refresh(path: Name) -> Operation[None]:
    """Ask the store again."""
    return _asks("refresh", _nothing, path=virtual_path(path))


def mkdir(path: Name, *, parents: bool) -> Operation[None]:
    """Make a folder."""
    return _changes("mkdir", path=virtual_path(path), parents=parents)


def rmdir(path: Name) -> Operation[None]:
    """Remove an empty folder."""
    return _changes("rmdir", path=virtual_path(path))


def remove(path: Name, *, recursive: bool) -> Operation[None]:
    """Remove a file, or a folder and all below it."""
    return _changes("remove", path=virtual_path(path), recursive=recursive)


def rename(source: Name, target: Name, *, replace: bool) -> Operation[None]:
    """Move a file or folder."""
    return _changes("rename", source=virtual_path(source), target=virtual_path(target), replace=replace)


def touch(path: Name) -> Operation[None]:
    """Make an empty file, or date one to now."""
    return _changes("touch", path=virtual_path(path))


def _nothing(_: Reply) -> None:
    """The answer says no more than that it was done."""


def _told(name: str, fields: dict[str, Any], understand: Callable[[Reply], Result]) -> Exchange[Result]:
    return understand((yield from call(name, fields)))


def _asks(name: str, understand: Callable[[Reply], Result], **fields: Any) -> Operation[Result]:  # noqa: ANN401
    return Operation(lambda: _told(name, fields, understand), repeats=True)


def _changes(name: str, **fields: Any) -> Operation[None]:  # noqa: ANN401
    return Operation(lambda: _told(name, fields, _nothing), repeats=False)
