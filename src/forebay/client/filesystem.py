"""The tree of mounts for blocking programs: any thread may use one `FileSystem`, forked and spawned children too.

Reads are repeated once if the daemon ends meanwhile, and the next daemon is started; changes are not, since nobody
knows whether they were made.  Errors are the kinds of `forebay.errors`, which are built-in ones of the same meaning.
"""

import os
from collections.abc import Iterable
from typing import Any

from forebay import paths
from forebay.client import exchanges
from forebay.client.exchanges import Entry, entry_of
from forebay.client.files import open_file
from forebay.client.jobs import Job
from forebay.client.links import Links
from forebay.client.names import Name, virtual_path
from forebay.client.place import Place
from forebay.errors import FsError, Invalid


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
        result = self.read_many([path])[0]
        if isinstance(result, FsError):
            raise result
        return result

    def read_many(self, paths: Iterable[Name]) -> list[bytes | FsError]:
        """The whole of many files, in order; for one that cannot be read, its error in its place.

        What is cached whole is read from the local disk here, while the daemon opens the next ones; what is not is
        fetched many at a time, and taken as it comes.
        """
        wanted = list(paths)
        return self._links.run(lambda: exchanges.read_many(wanted), repeats=True)

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

    def stat(self, path: Name) -> Entry:
        """What is at a path.

        Raises:
            NotFound: nothing.
        """
        return entry_of(self._ask("stat", {"path": virtual_path(path)}))

    def exists(self, path: Name) -> bool:
        """Is anything at a path?"""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def ls(self, path: Name) -> list[Entry]:
        """The entries of a folder, in the order of their names.

        Raises:
            NotFound, NotADirectory.
        """
        name = virtual_path(path)
        return self._links.run(lambda: exchanges.entries("list", name), repeats=True)

    def walk(self, path: Name) -> list[Entry]:
        """Every file at or below a path, in no order; asked of the store a thousand at a time."""
        name = virtual_path(path)
        return self._links.run(lambda: exchanges.entries("walk", name), repeats=True)

    def mkdir(self, path: Name, *, parents: bool = False) -> None:
        """Make a folder; with `parents` also those above it, and one that is there is no error.

        Raises:
            AlreadyExists, NotFound, ReadOnly.
        """
        self._change("mkdir", {"path": virtual_path(path), "parents": parents})

    def rmdir(self, path: Name) -> None:
        """Remove an empty folder.

        Raises:
            NotEmpty, NotFound, NotADirectory, Busy, ReadOnly.
        """
        self._change("rmdir", {"path": virtual_path(path)})

    def remove(self, path: Name, *, recursive: bool = False) -> None:
        """Remove a file, or with `recursive` a folder and all below it.

        Raises:
            NotFound, IsADirectory, Busy, ReadOnly.
        """
        self._change("remove", {"path": virtual_path(path), "recursive": recursive})

    def rename(self, source: Name, target: Name, *, replace: bool = True) -> None:
        """Move a file or folder within its mount, over a file or an empty folder if need be.

        Raises:
            CrossesMounts: they are in different mounts; copy and remove instead.
            AlreadyExists: the target is there, and not `replace`.
            NotFound, IsADirectory, NotADirectory, NotEmpty, ReadOnly, Busy.
        """
        self._change("rename", {"source": virtual_path(source), "target": virtual_path(target), "replace": replace})

    def touch(self, path: Name) -> None:
        """Make an empty file, or date one to now.

        Raises:
            ReadOnly, IsADirectory, Unsupported.
        """
        self._change("touch", {"path": virtual_path(path)})

    def refresh(self, path: Name) -> None:
        """Ask the store again for names and versions at or below a path.

        Raises:
            NotFound: nothing is there any more.
        """
        self._ask("refresh", {"path": virtual_path(path)})

    def virtual(self, local_path: Name) -> str:
        """The virtual path of a local one that lies in a folder where this daemon shows its tree.

        Raises:
            Invalid: it lies in none.
        """
        path = os.path.abspath(os.fspath(local_path))
        folders = [(local.rstrip("/"), tree) for local, tree in self._ask("local_folders", {})["folders"]]
        fitting = [(local, tree) for local, tree in folders if paths.is_within(path, local or "/")]
        if not fitting:
            message = f"{path} is in no local folder of Forebay; forebay fuse stat lists them"
            raise Invalid(message, path=path)
        local, tree = max(fitting, key=lambda pair: len(pair[0]))
        return paths.normalize(f"{tree}/{path[len(local) :]}")

    def job(self, name: str) -> Job:
        """Tell the daemon in which order this program will read; see `Job`."""
        return Job(self._links.place, name)

    # ------------------------------------------------------------------

    def _ask(self, name: str, fields: dict[str, object]) -> dict[str, Any]:
        return self._links.run(lambda: exchanges.call(name, fields), repeats=True).head

    def _change(self, name: str, fields: dict[str, object]) -> None:
        self._links.run(lambda: exchanges.call(name, fields), repeats=False)
