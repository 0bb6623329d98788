"""The tree of mounts for blocking programs: any thread may use one `FileSystem`, forked and spawned children too.

Reads are repeated once if the daemon ends meanwhile, and the next daemon is started; changes are not, since nobody
knows whether they were made.  Errors are the kinds of `forebay.errors`, which are built-in ones of the same meaning.
"""

import os
from collections.abc import Iterable
from typing import Any, TypeVar

from forebay.client import operations
from forebay.client.exchanges import Entry
from forebay.client.files import open_file
from forebay.client.jobs import Job
from forebay.client.links import Links
from forebay.client.names import Name, virtual_path
from forebay.client.operations import Operation
from forebay.client.place import Place
from forebay.errors import FsError

Result = TypeVar("Result")


class FileSystem:
    """See the module.

    `home` is that of the daemon; by default as for the command line: FOREBAY_HOME, or ~/.forebay.
    """

    def __init__(self, home: Name | None = None) -> None:
        self._links = Links(Place(home))

    def __reduce__(self) -> tuple[Any, ...]:
        return FileSystem, (str(self.home),)

    def __repr__(self) -> str:
        return f"FileSystem({str(self.home)!r})"

    @property
    def home(self) -> os.PathLike[str]:
        """The home of its daemon."""
        return self._links.place.home

    def close(self) -> None:
        """End connections that are idle; it may be used again."""
        self._links.close()

    # ------------------------------------------------------------------ bytes

    def open(
        self,
        path: Name,
        mode: str = "rb",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:  # noqa: ANN401 - as of the built-in `open`, the mode says what it is
        """Open a file: as the built-in `open`, but binary unless the mode says "t" or only "r", "w", "a" or "x".

        A reader stays on the version that it opened.  What was written is kept when `close` has returned, as the
        mount's write mode says.

        Raises:
            NotFound, AlreadyExists, IsADirectory, ReadOnly, ...: as of the built-in `open`.
            FsError: as the daemon says.
        """
        text = {"encoding": encoding, "errors": errors, "newline": newline}
        return open_file(self._links, virtual_path(path), mode, buffering, text)

    def read(self, path: Name) -> bytes:
        """The whole of a file.

        Raises:
            NotFound, IsADirectory.
            FsError: as the daemon says.
        """
        (result,) = self.read_many([path])
        if isinstance(result, FsError):
            raise result
        return result

    def read_many(self, paths: Iterable[Name]) -> list[bytes | FsError]:
        """The whole of many files, in order; for one that cannot be read, its error in its place.

        What is cached whole is read from the local disk here, while the daemon opens the next ones; what is not is
        fetched many at a time, and taken as it comes.

        Raises:
            TypeError: one path instead of a list.
        """
        return self._do(operations.read_many(paths))

    def write(self, path: Name, data: "bytes | bytearray | memoryview") -> None:
        """Make or replace a file.

        Raises:
            ReadOnly, IsADirectory, NoSpace, ...
        """
        with self.open(path, "wb", 0) as file:
            view = memoryview(data).cast("B")
            while view:
                view = view[file.write(view) :]

    # ------------------------------------------------------------------ names

    def stat(self, path: Name, *, follow_symlinks: bool = True) -> Entry:
        """What is at a path; without `follow_symlinks`, of a link the link itself.

        Raises:
            NotFound: nothing, or a link leads out of the tree.
            LinkLoop: links lead to each other.
        """
        return self._do(operations.stat(path, follow_symlinks=follow_symlinks))

    def exists(self, path: Name) -> bool:
        """Is anything at a path, links followed?"""
        return self._do(operations.exists(path))

    def readlink(self, path: Name) -> str:
        """The target of a symbolic link, as it was made.

        Raises:
            NotFound.
            Invalid: it is no link.
        """
        return self._do(operations.readlink(path))

    def ls(self, path: Name) -> list[Entry]:
        """The entries of a folder, in the order of their names; links as such.

        Raises:
            NotFound, NotADirectory.
        """
        return self._do(operations.ls(path))

    def walk(self, path: Name) -> list[Entry]:
        """Every file and link at or below a path, in no order; asked of the store a thousand at a time."""
        return self._do(operations.walk(path))

    def mkdir(self, path: Name, *, parents: bool = False) -> None:
        """Make a folder; with `parents` also those above it, and one that is there is no error.

        Raises:
            AlreadyExists, NotFound, ReadOnly.
        """
        self._do(operations.mkdir(path, parents=parents))

    def rmdir(self, path: Name) -> None:
        """Remove an empty folder.

        Raises:
            NotEmpty, NotFound, NotADirectory, Busy, ReadOnly.
        """
        self._do(operations.rmdir(path))

    def remove(self, path: Name, *, recursive: bool = False) -> None:
        """Remove a file or link, or with `recursive` a folder and all below it.

        Raises:
            NotFound, IsADirectory, Busy, ReadOnly.
        """
        self._do(operations.remove(path, recursive=recursive))

    def rename(self, source: Name, target: Name, *, replace: bool = True) -> None:
        """Move a file or folder within its mount, over a file or an empty folder if need be.

        Raises:
            CrossesMounts: they are in different mounts; copy and remove instead.
            AlreadyExists: the target is there, and not `replace`.
            NotFound, IsADirectory, NotADirectory, NotEmpty, ReadOnly, Busy.
        """
        self._do(operations.rename(source, target, replace=replace))

    def touch(self, path: Name) -> None:
        """Make an empty file, or date one to now.

        Raises:
            ReadOnly, IsADirectory, Unsupported.
        """
        self._do(operations.touch(path))

    def refresh(self, path: Name) -> None:
        """Ask the store again for names and versions at or below a path.

        Raises:
            NotFound: nothing is there any more.
        """
        self._do(operations.refresh(path))

    def virtual(self, local_path: Name) -> str:
        """The virtual path of a local one that lies in a folder where this daemon shows its tree.

        Raises:
            Invalid: it lies in none.
        """
        return self._do(operations.virtual(local_path))

    def job(self, name: str) -> Job:
        """Tell the daemon in which order this program will read; see `Job`."""
        return Job(self._links, name)

    def _do(self, operation: Operation[Result]) -> Result:
        return self._links.run(operation.exchange, repeats=operation.repeats)
