"""Forebay for fsspec: `forebay://` in pandas, pyarrow, Hugging Face datasets, zarr, DuckDB, and all that speaks it.

The first part of a URL is the first name of the path: `forebay://data/a` is `/data/a`.  Nothing is cached here, neither
names nor bytes: the daemon has them, and knows how long they may be believed.

It is a blocking file system, as `async_impl` says, `asynchronous=True` or not: those of fsspec that are made of
coroutines have a thread with a loop for blocking callers, which does not survive a fork, and costs each call two
switches of threads.  Who wants coroutines has fsspec's `AsyncFileSystemWrapper` (zarr takes it by itself), or
`forebay.AsyncFileSystem`.

*Callers*: any thread; forked and spawned children.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fsspec.spec import AbstractFileSystem

from forebay import paths
from forebay.client.deferred import COPY_BYTES, DeferredFile
from forebay.client.exchanges import Entry
from forebay.client.filesystem import FileSystem
from forebay.client.names import SCHEME, url_of
from forebay.errors import CrossesMounts, FsError, Invalid, IsADirectory

READ_AT_ONCE = 256  # files that `cat` and `cat_ranges` have in memory beside what they give


class ForebayFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """See the module.  `home` is that of the daemon; by default FOREBAY_HOME, or ~/.forebay."""

    protocol = "forebay"
    root_marker = "/"
    async_impl = False
    local_file = False

    def __init__(self, home: str | None = None, **options: Any) -> None:  # noqa: ANN401 - as fsspec has it
        super().__init__(home=home, **options)
        self.forebay = FileSystem(home)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:  # noqa: ANN401 - as fsspec has it
        """The virtual path of a path or URL; fsspec gives several, too."""
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = str(path).removeprefix(SCHEME).rstrip("/")
        return "/" + text.lstrip("/")

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return url_of(self._strip_protocol(name))

    def invalidate_cache(self, path: str | None = None) -> None:
        """Ask the stores again: what the daemon knows at or below `path` is forgotten."""
        if path is not None:
            with suppress(FileNotFoundError):
                self.forebay.refresh(self._strip_protocol(path))

    # ------------------------------------------------------------------ names

    def info(self, path: str, **_: Any) -> dict[str, Any]:  # noqa: ANN401
        """What is at a path."""
        return info_of(self.forebay.stat(self._strip_protocol(path)))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: ANN401 - as fsspec
        """The entries of a folder, or the file at a path."""
        path = self._strip_protocol(path)
        try:
            found = self.forebay.ls(path)
        except NotADirectoryError:
            found = [self.forebay.stat(path)]
        return [info_of(entry) if detail else entry.path for entry in found]

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Every file below a path; asked of the stores a thousand at a time, unless folders are wanted too."""
        path = self._strip_protocol(path)
        if maxdepth is not None or withdirs:
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        try:
            found = sorted(self.forebay.walk(path))
        except FileNotFoundError:
            found = []
        return {entry.path: info_of(entry) for entry in found} if detail else [entry.path for entry in found]

    def exists(self, path: str, **_: Any) -> bool:  # noqa: ANN401
        """Is anything at a path?"""
        return self.forebay.exists(self._strip_protocol(path))

    def created(self, path: str) -> datetime:
        """The time of the last change, since stores keep no other."""
        return self.modified(path)

    def modified(self, path: str) -> datetime:
        """When the bytes of a file were last changed, UTC."""
        return datetime.fromtimestamp(self.forebay.stat(self._strip_protocol(path)).mtime_ns / 1e9, UTC)

    def ukey(self, path: str) -> str:
        """A text that changes whenever the file does."""
        return str(self.forebay.stat(self._strip_protocol(path)).version)

    def checksum(self, path: str) -> int:
        """A number that changes whenever the file does."""
        return hash(self.ukey(path))

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:  # noqa: ANN401
        """Make a folder."""
        path = self._strip_protocol(path)
        if create_parents:
            self.forebay.mkdir(paths.split(path)[0], parents=True)
        self.forebay.mkdir(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder and those above it."""
        path = self._strip_protocol(path)
        if not exist_ok and self.forebay.exists(path):
            raise FileExistsError(path)
        self.forebay.mkdir(path, parents=True)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder."""
        self.forebay.rmdir(self._strip_protocol(path))

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        self.forebay.remove(self._strip_protocol(path))

    def _rm(self, path: str) -> None:
        path = self._strip_protocol(path)
        if self.isdir(path):
            self.forebay.rmdir(path)
        else:
            self.forebay.remove(path)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:  # noqa: ANN401
        """Remove files, and with `recursive` folders with all below them."""
        if maxdepth is not None or any("*" in one or "?" in one or "[" in one for one in _listed(path)):
            super().rm(path, recursive=recursive, maxdepth=maxdepth)
            return
        for one in _listed(path):
            self.forebay.remove(self._strip_protocol(one), recursive=recursive)

    def mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> None:  # noqa: ANN401
        """Rename within a mount; from one mount to another, copy and remove."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if maxdepth is None and not (path2.endswith("/") or self.isdir(target)):
            with suppress(CrossesMounts):
                self.forebay.rename(source, target)
                return
        super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **options)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:  # noqa: ANN401
        """Copy a file, or make a folder like another."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(source):
            self.forebay.mkdir(target, parents=True)
            return
        with self.forebay.open(source, "rb", 0) as reader, self.forebay.open(target, "wb", 0) as writer:
            while piece := reader.read(COPY_BYTES):
                writer.write(piece)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:  # noqa: ANN401
        """Make an empty file; of one that is there, cut it to nothing, or only date it."""
        path = self._strip_protocol(path)
        if truncate or not self.forebay.exists(path):
            self.forebay.write(path, b"")
        else:
            self.forebay.touch(path)

    # ------------------------------------------------------------------ bytes

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Mapping[str, Any] | None = None,
        **_: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """A file of the `io` module; see `FileSystem.open`.  Without `autocommit` it has `commit` and `discard`."""
        if not autocommit and mode != "rb":
            return DeferredFile(self.forebay, path, mode)
        return self.forebay.open(path, mode)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:  # noqa: ANN401
        """The bytes of a file, or those from `start` to `end`, from its end if negative."""
        path = self._strip_protocol(path)
        if start is None and end is None:
            return self.forebay.read(path)
        with self.forebay.open(path, "rb", 0) as file:
            return _range_of(file, start, end)

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:  # noqa: ANN401
        """The bytes of one file, or of many by their paths; many at a time."""
        wanted = self.expand_path(path, recursive=recursive)
        is_one = isinstance(path, str) and wanted == [self._strip_protocol(path)]
        found: dict[str, Any] = {}
        for start in range(0, len(wanted), READ_AT_ONCE):
            some = wanted[start : start + READ_AT_ONCE]
            for name, result in zip(some, self.forebay.read_many(some), strict=True):
                if isinstance(result, IsADirectory) and not is_one:
                    continue
                if not isinstance(result, FsError) or on_error == "return":
                    found[name] = result
                elif on_error == "raise":
                    raise result
        return found[wanted[0]] if is_one and on_error == "raise" else found

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Any,  # noqa: ANN401
        ends: Any,  # noqa: ANN401
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,  # noqa: ANN401
    ) -> list[Any]:
        """Bytes of files, from each start to each end; those of one file by one open."""
        starts = [starts] * len(paths) if not isinstance(starts, Sequence) else starts
        ends = [ends] * len(paths) if not isinstance(ends, Sequence) else ends
        if not len(paths) == len(starts) == len(ends):
            raise Invalid("there must be as many starts and ends as paths")
        by_path: dict[str, list[int]] = {}
        for place, path in enumerate(paths):
            by_path.setdefault(self._strip_protocol(path), []).append(place)
        results: list[Any] = [None] * len(paths)
        for path, places in by_path.items():
            try:
                with self.forebay.open(path, "rb", 0) as file:
                    for place in places:
                        results[place] = _range_of(file, starts[place], ends[place])
            except OSError as error:
                if on_error == "raise":
                    raise
                for place in places:
                    results[place] = error
        return results

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:  # noqa: ANN401
        """Make or replace a file; with mode "create", only make it."""
        with self.open(path, "xb" if mode == "create" else "wb") as file:
            file.write(value)

    def put_file(self, lpath: str, rpath: str, *args: Any, mode: str = "overwrite", **options: Any) -> None:  # noqa: ANN401
        """Copy a local file here."""
        if mode == "create" and self.exists(rpath):
            raise FileExistsError(rpath)
        super().put_file(lpath, rpath, *args, **options)


def info_of(entry: Entry) -> dict[str, Any]:
    """An entry in fsspec's words."""
    info = {"name": entry.path, "type": entry.type, "size": entry.size, "mtime": entry.mtime_ns / 1e9}
    if entry.version is not None:
        info["ETag"] = entry.version
    if entry.mode is not None:
        info["mode"] = entry.mode
    return info


def _range_of(file: Any, start: int | None, end: int | None) -> bytes:  # noqa: ANN401 - a raw file
    size = file.seek(0, 2)
    first = start or 0
    first = max(0, size + first) if first < 0 else first
    stop = size if end is None else size + end if end < 0 else min(end, size)
    file.seek(first)
    return b"".join(_pieces(file, stop - first))


def _pieces(file: Any, left: int) -> Iterator[bytes]:  # noqa: ANN401
    while left > 0 and (piece := file.read(left)):
        left -= len(piece)
        yield piece


def _listed(path: Any) -> list[str]:  # noqa: ANN401
    return [path] if isinstance(path, str) else [str(one) for one in path]
