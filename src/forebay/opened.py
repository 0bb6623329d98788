"""Files and folders of the local disk, open for a moment."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def opened(path: str | Path, flags: int) -> Iterator[int]:
    """A descriptor, closed at the end; `flags` of open(2).  Raises OSError."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def opened_folder(path: str | Path) -> contextlib.AbstractContextManager[int]:
    """The same of a folder."""
    return opened(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_folder(path: str | Path) -> None:
    """Have the disk hold the names in a folder: they outlast a power cut.  Blocks.  Raises OSError."""
    with opened_folder(path) as fd:
        os.fsync(fd)
