"""Forebay: one folder over many stores, cached on local disk for training.

As a library: `forebay.open(path)`, `forebay.read(path)`, `forebay.read_many(paths)`, `forebay.FileSystem`, and
`forebay.AsyncFileSystem` for asyncio.  Importing it costs nothing: what is named is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forebay.client.aio import AsyncFileSystem
    from forebay.client.default import open, read, read_many
    from forebay.client.filesystem import FileSystem

__version__ = "0.1.0"
__all__ = ["AsyncFileSystem", "FileSystem", "open", "read", "read_many"]

_HOMES = {
    "AsyncFileSystem": "forebay.client.aio",
    "FileSystem": "forebay.client.filesystem",
    "open": "forebay.client.default",
    "read": "forebay.client.default",
    "read_many": "forebay.client.default",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module has under that name
    if name not in _HOMES:
        raise AttributeError(f"module 'forebay' has no attribute {name!r}")
    import importlib

    found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return found
