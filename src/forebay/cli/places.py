"""The three ends that `fs cp` can have: the tree, the local disk, and stdin or stdout.

Which is which is told by the text alone (`parse_end`), never by what happens to exist: a path that starts with `/`
is in the tree.
"""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from forebay import paths
from forebay.daemon.client import Client
from forebay.errors import Invalid, NotFound, ReadOnly

CHUNK_BYTES = 1 << 20  # read from local files at a time

Kind = Literal["file", "folder"]
Failure = tuple[str, str]  # what, and why


class End(NamedTuple):
    """One side of a copy."""

    where: Literal["tree", "local", "stream"]
    path: str


def parse_end(text: str) -> End:
    """Which place a side of `cp` means.

    Raises:
        Invalid: a URL of a store.

    >>> parse_end("/data/a").where, parse_end("a").where, parse_end("file:/tmp/a"), parse_end("-").where
    ('tree', 'local', End(where='local', path='/tmp/a'), 'stream')
    """
    if text == "-":
        return End("stream", text)
    if text.startswith("file:"):
        return End("local", os.path.expanduser(text.removeprefix("file:").replace("///", "/", 1)))
    if "://" in text:
        raise Invalid(f"{text}: cp knows no URLs; mount the store first: forebay fs mount /data {text}")
    if text.startswith("/"):
        return End("tree", text)
    return End("local", os.path.expanduser(text))


class Place(Protocol):
    """What a copy needs of either side.  Methods may be called from several threads at once."""

    makes_folders: bool
    """A file may be written where its folder does not exist (yet)."""

    def find_kind(self, path: str) -> Kind | None:
        """What is there; None for nothing."""
        ...

    def entries(self, path: str, failed: list[Failure]) -> Iterator[tuple[str, int | None]]:
        """Every file and folder below a folder: relative path, and size in bytes or None of a folder.

        What cannot be copied goes to `failed`.
        """
        ...

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it, if they are not there."""
        ...

    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of a file."""
        ...

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """Make or replace a file, all or nothing; missing folders above it are made."""
        ...


class TreePlace:
    """Paths of the tree, by way of the daemon."""

    makes_folders = True  # stores have no folders of their own

    def __init__(self, client: Client) -> None:
        self._client = client

    def find_kind(self, path: str) -> Kind | None:
        """See `Place.find_kind`."""
        try:
            entry = self._client.call("GET", "/v1/fs/stat", query={"path": path})
        except NotFound:
            return None
        return "file" if entry["kind"] == "file" else "folder"

    def entries(self, path: str, failed: list[Failure]) -> Iterator[tuple[str, int | None]]:
        """See `Place.entries`."""
        folder = paths.normalize(path)
        for entry in self._client.stream("GET", "/v1/fs/list", query={"path": path, "recursive": 1}):
            if entry.get("hidden"):
                failed.append((path, f"{entry['hidden']} keys of the store cannot be shown as files"))
            else:
                # Normal paths hold no "..": a listing cannot lead out of the target folder.
                size = entry["size"] if entry["kind"] == "file" else None
                yield paths.relative(paths.normalize(entry["path"]), folder), size

    def make_folder(self, path: str) -> None:
        """See `Place.make_folder`."""
        self._client.call("POST", "/v1/fs/mkdir", {"path": path, "parents": True})

    def read(self, path: str) -> Iterator[bytes]:
        """See `Place.read`."""
        return self._client.read(path)

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """See `Place.write`; who meant a folder of this machine is told how that is written."""
        try:
            self._client.write(path, chunks)
        except ReadOnly as error:
            if not os.path.isdir(os.path.dirname(path)):
                raise
            raise ReadOnly(f"{error.message}; that of this machine is written file:{path}", path=path) from error


class LocalPlace:
    """The local disk."""

    makes_folders = False

    def find_kind(self, path: str) -> Kind | None:
        """See `Place.find_kind`."""
        try:
            return "folder" if stat.S_ISDIR(os.stat(path).st_mode) else "file"
        except (FileNotFoundError, NotADirectoryError):
            return None

    def entries(self, path: str, failed: list[Failure]) -> Iterator[tuple[str, int | None]]:
        """See `Place.entries`: links to files are followed, links to folders are not."""

        def unreadable(error: OSError) -> None:
            failed.append((os.fsdecode(error.filename), error.strerror or str(error)))

        prefix = os.path.join(path, "")
        for folder, folders, names in os.walk(path, onerror=unreadable):
            links = [os.path.join(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
            failed.extend((link, "a link to a folder is not followed") for link in links)
            if folder != path:
                yield folder.removeprefix(prefix), None
            for name in names:
                file = os.path.join(folder, name)
                try:
                    info = os.stat(file)
                except OSError as error:
                    unreadable(error)
                    continue
                if stat.S_ISREG(info.st_mode):
                    yield file.removeprefix(prefix), info.st_size
                else:
                    failed.append((file, "neither a file nor a folder"))

    def read(self, path: str) -> Iterator[bytes]:
        """See `Place.read`."""
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """See `Place.write`: under a temporary name beside the target, then renamed over it.

        Like cp(1), a link is written through, the mode of a file that exists is kept, a write-protected file is
        refused, and devices and pipes are written into.
        """
        target = os.path.realpath(path)
        mode = self._find_mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            with open(target, "wb") as file:
                file.writelines(chunks)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if mode is not None and not os.access(target, os.W_OK):
            raise PermissionError(13, "the file is write-protected", path)
        temporary = os.path.join(os.path.dirname(target), f".forebay-{os.urandom(8).hex()}.part")
        try:
            with open(temporary, "xb") as file:
                if mode is not None:
                    os.fchmod(file.fileno(), stat.S_IMODE(mode))
                file.writelines(chunks)
            os.replace(temporary, target)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def make_folder(self, path: str) -> None:
        """See `Place.make_folder`."""
        os.makedirs(path, exist_ok=True)

    @staticmethod
    def _find_mode(path: str) -> int | None:
        try:
            return os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None


class StreamPlace:
    """stdin and stdout, both called `-`."""

    makes_folders = True

    def find_kind(self, path: str) -> Kind | None:
        """See `Place.find_kind`."""
        return "file"

    def entries(self, path: str, failed: list[Failure]) -> Iterator[tuple[str, int | None]]:
        """See `Place.entries`: there are none below."""
        return iter(())

    def make_folder(self, path: str) -> None:
        """See `Place.make_folder`: there are none."""

    def read(self, path: str) -> Iterator[bytes]:
        """See `Place.read`."""
        while chunk := sys.stdin.buffer.read(CHUNK_BYTES):
            yield chunk

    def write(self, path: str, chunks: Iterable[bytes]) -> None:
        """See `Place.write`."""
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
