"""A local folder as a store: one file is one object, its path below the folder is the key.

An empty folder is the empty object `folder/`, as S3's tools make it; other folders are not objects.  Links to files
within the folder are followed; links that lead out, and links to folders, are refused and not listed.

*Callers*: the daemon, on the loop.  *Locks*: none; blocking work runs in the store's own threads.  *Invariants*: no
path outside the folder is read or written; a file appears whole or not at all; bytes belong to one version.
*On crash*: a temporary file may stay, under a name that is never listed.
"""

import asyncio
import errno
import itertools
import os
import secrets
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from forebay.config.settings import Settings
from forebay.errors import (
    Corrupt,
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NotADirectory,
    NotFound,
    StaleVersion,
    Unavailable,
)
from forebay.opened import sync_folder
from forebay.stores import posix
from forebay.stores.base import Capabilities, ListPage, Opened, check_span
from forebay.stores.posix import HIDDEN, WholeFiles, kind_of, posix_of
from forebay.stores.urls import refuse_options
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta

PAGE_KEYS = 1_000
THREADS = 8
_PUT_TRIES = 5  # a folder may be removed as empty just before a file goes into it

Args = ParamSpec("Args")
Result = TypeVar("Result")
Names = list[str]  # `list` means the method inside the class
Entries = list["ObjectMeta | _Folder"]


class _Folder(NamedTuple):
    key: str  # ends in "/"
    meta: FolderMeta


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`file:///absolute/folder`; see `forebay.stores.registry`."""
    refuse_options(scheme, options)
    if not rest.startswith("/"):
        raise Invalid(f"file://{rest} is not absolute; write file:///absolute/folder (three slashes)")
    if "\0" in rest:
        raise Invalid("a folder's path cannot hold a NUL byte")
    return Opened(LocalStore(Path(rest)), "")


class LocalStore(WholeFiles):
    """See the module and `forebay.stores.base.Store`."""

    replacer = "a folder"

    def __init__(self, folder: Path, *, page_keys: int = PAGE_KEYS) -> None:
        self._root = os.path.realpath(folder)
        self._shown = str(folder)
        self.location = f"file://{self._root}"
        self.capabilities = Capabilities(
            undecodable_keys=True, folders=True, renames=True, attributes=True, listed_attributes=True
        )
        self._page_keys = page_keys
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="local-store")

    def __repr__(self) -> str:
        return f"<LocalStore {self._root}>"

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        await self._run(self._probe, prefix)

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        return await self._run(self._head, key)

    async def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `FolderStore.stat`."""
        return await self._run(self._stat, key)

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        if span is not None:
            check_span(key, span)
        return await self._run(self._read, key, span, version)

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        check_span(key, span)
        for start in range(span.start, span.stop, chunk_bytes):
            yield await self._run(self._read, key, ByteRange(start, min(start + chunk_bytes, span.stop)), version)

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`."""
        entries = self._entries(prefix, start_after, recursive=recursive)
        await self._run(self._check_root)
        while page := await self._run(_take, entries, self._page_keys):
            objects = [entry for entry in page if isinstance(entry, ObjectMeta)]
            folders = dict(entry for entry in page if isinstance(entry, _Folder))
            yield ListPage(objects, [] if recursive else list(folders), folders)

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._run(self._delete, key)

    async def rename(self, source: str, target: str) -> None:
        """See `RenamingStore.rename`; a link is renamed, not what it leads to."""
        await self._run(self._rename, source, target)

    async def set_attributes(self, key: str, attributes: Attributes) -> None:
        """See `AttributesStore.set_attributes`; of a link, those of what it leads to."""
        await self._run(self._set_attributes, key, attributes)

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`."""
        return await self._run(self._copy, source, target)

    async def close(self) -> None:
        """See `Store.close`."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, call: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        assert not kwargs
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, call, *args)
        except NotFound:
            if call != self._probe:
                await loop.run_in_executor(self._threads, self._check_root)
            raise

    # ------------------------------------------------------------------ in threads: reading

    def _check_root(self) -> None:
        """Without its folder the store is away, which is not the same as empty: an absence would be believed."""
        if not os.path.isdir(self._root):
            raise Unavailable(f"{self._shown} has gone; is its disk, or its network file system, mounted?")

    def _probe(self, prefix: str) -> None:
        with self._translated(prefix):
            try:
                os.scandir(self._root).close()
            except FileNotFoundError as error:
                raise NotFound(f"{self._shown} does not exist on this machine") from error
            except NotADirectoryError as error:
                raise NotADirectory(f"{self._shown} is a file, not a folder") from error
            except PermissionError as error:
                raise Denied(f"{self._shown} may not be read by this user; change its permissions") from error

    def _path(self, key: str) -> str:
        """The real path of a file's key; its folders need not exist."""
        names = key.split("/")
        if not key or "\0" in key or any(name in ("", ".", "..") or name.startswith(HIDDEN) for name in names):
            raise NotFound(f"{self.location}: no file can have the key {key!r}", path=key)
        path = os.path.realpath(f"{self._root}/{key}")
        if not self._is_inside(path):
            raise Denied(f"{self.location}: {key!r} leads out of the folder by a link", path=key)
        return path

    def _place(self, key: str) -> str:
        """As `_path`, but if the name itself is a link, it is not followed."""
        self._path(key)  # which refuses those that lead out
        folder, _, name = key.rpartition("/")
        return f"{self._path(folder) if folder else self._root}/{name}"

    def _is_inside(self, path: str) -> bool:
        return self._root == "/" or path == self._root or path.startswith(self._root + "/")

    def _head(self, key: str) -> ObjectMeta:
        with self._translated(key):
            if key.endswith("/"):
                path = self._path(key[:-1])
                if not os.path.isdir(path) or os.listdir(path):
                    raise NotFound(f"{self.location}: no object {key!r}", path=key)
                return _meta(key, os.stat(path))
            found = os.stat(self._path(key))
            if not stat.S_ISREG(found.st_mode):
                raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
            return _meta(key, found)

    def _stat(self, key: str) -> ObjectMeta | FolderMeta:
        with self._translated(key):
            found = os.stat(self._path(key) if key else self._root)
            if stat.S_ISDIR(found.st_mode):
                return _folder_meta(found)
            if not stat.S_ISREG(found.st_mode):
                raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
            return _meta(key, found)

    def _read(self, key: str, span: ByteRange | None, version: str | None) -> bytes:
        if key.endswith("/"):
            self._head(key)
            if span is not None:
                raise Invalid(f"{self.location}: {key!r} is empty", path=key)
            return b""
        with self._translated(key):
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return self._read_open(fd, key, span, version)
            finally:
                os.close(fd)

    def _read_open(self, fd: int, key: str, span: ByteRange | None, version: str | None) -> bytes:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
        before = _meta(key, found)
        if version is not None and before.version != version:
            raise StaleVersion(f"{self.location}: {key!r} has another version by now", path=key)
        start, stop = (0, before.size) if span is None else span
        if span is not None and start >= before.size:
            raise Invalid(f"{self.location}: {key!r} of {before.size} bytes has no byte {start}", path=key)
        if stop > before.size:
            raise Corrupt(f"{self.location}: {key!r} ends at {before.size}, before {stop}", path=key)
        parts, at = [], start
        while at < stop and (part := os.pread(fd, stop - at, at)):  # the kernel gives at most 2 GiB at a time
            parts.append(part)
            at += len(part)
        if _meta(key, os.fstat(fd)).version != before.version or at < stop:
            raise StaleVersion(f"{self.location}: {key!r} was changed while it was read", path=key)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # ------------------------------------------------------------------ in threads: listing

    def _entries(self, prefix: str, start_after: str, *, recursive: bool) -> Iterator[ObjectMeta | _Folder]:
        """Objects and folders in key order.  Runs in threads, one step of a page at a time."""
        after = os.fsencode(start_after)
        try:
            folder = self._root if prefix == "" else self._path(prefix.removesuffix("/"))
        except NotFound:
            return
        for name in self._sorted_names(folder, prefix):
            key = prefix + name
            raw = os.fsencode(key)
            if name.endswith("/"):
                if raw <= after and (not after.startswith(raw) or (after == raw and not recursive)):
                    continue
                with suppress(OSError):  # removed since the folder was read
                    yield _Folder(key, _folder_meta(os.lstat(folder + "/" + name)))
                if recursive:
                    yield from self._entries(key, start_after, recursive=True)
            elif raw > after and (meta := self._listed(folder, name, key)) is not None:
                yield meta

    def _sorted_names(self, folder: str, prefix: str) -> Names:
        """The names in a folder as parts of keys, in order; "" stands for the folder itself if it is empty."""
        with self._translated(prefix):
            try:
                with os.scandir(folder) as found:
                    entries = [one for one in found if not one.name.startswith(HIDDEN)]
            except (FileNotFoundError, NotADirectoryError):
                return []
            if not entries and prefix:
                return [""]
            names = (_listed_name(one) for one in entries)
            return sorted((name for name in names if name is not None), key=os.fsencode)

    def _listed(self, folder: str, name: str, key: str) -> ObjectMeta | None:
        path = f"{folder}/{name}"
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                if not self._is_inside(os.path.realpath(path)):
                    return None
                found = os.stat(path)
        except OSError:  # removed since the folder was read, or a link that leads nowhere
            return None
        return _meta(key, found)

    # ------------------------------------------------------------------ writing

    async def make_folder(self, key: str, attributes: Attributes) -> ObjectMeta:
        """See `WholeFiles.make_folder`."""
        return await self._run(self._make_folder, key, attributes)

    async def put_file(
        self, key: str, chunks: AsyncIterator[Buffer], attributes: Attributes, *, if_absent: bool
    ) -> ObjectMeta:
        """See `WholeFiles.put_file`."""
        target, part, fd = await self._run(self._begin, key)
        try:
            try:
                async for chunk in chunks:
                    await self._run(self._write, key, fd, chunk)
                return await self._run(self._publish, key, fd, (part, target), attributes, if_absent)
            finally:
                os.close(fd)
        except BaseException:  # cancellations too
            with suppress(OSError):
                os.unlink(part)
            raise

    def _begin(self, key: str) -> tuple[str, str, int]:
        with self._translated(key, writing=True):
            target = self._writable_path(key)
            for last in (False,) * (_PUT_TRIES - 1) + (True,):
                folder = os.path.dirname(target)
                try:
                    os.makedirs(folder, exist_ok=True)
                except FileExistsError as error:
                    message = f"{self.location}: {key!r}: a file stands where a folder is needed"
                    raise NotADirectory(message, path=key) from error
                part = f"{folder}/{HIDDEN}{secrets.token_hex(8)}"
                try:
                    return target, part, os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:
                    if last:
                        raise
        raise AssertionError("unreachable: the last try returns or raises")

    def _writable_path(self, key: str) -> str:
        try:
            path = self._path(key)
        except NotFound as error:
            raise Invalid(f"{self.location}: a folder cannot hold a file of the key {key!r}", path=key) from error
        if os.path.isdir(path):
            raise IsADirectory(f"{self.location}: {key!r} is a folder", path=key)
        return path

    def _write(self, key: str, fd: int, chunk: Buffer) -> None:
        with self._translated(key, writing=True):
            view = memoryview(chunk)
            while len(view):
                view = view[os.write(fd, view) :]

    def _publish(
        self, key: str, fd: int, paths: tuple[str, str], attributes: Attributes, if_absent: bool
    ) -> ObjectMeta:
        part, target = paths
        with self._translated(key, writing=True):
            posix.set_attributes(fd, attributes, f"{self.location}: {key!r}")
            os.fsync(fd)
            if if_absent:
                os.link(part, target)  # unlike rename(2), it refuses a name that is taken
                os.unlink(part)
            else:
                os.rename(part, target)
            sync_folder(os.path.dirname(target))
            return _meta(key, os.fstat(fd))

    def _make_folder(self, key: str, attributes: Attributes) -> ObjectMeta:
        with self._translated(key, writing=True):
            try:
                path = self._path(key[:-1])
            except NotFound as error:
                raise Invalid(f"{self.location}: no folder can have the key {key!r}", path=key) from error
            os.makedirs(path, exist_ok=True)
            posix.set_attributes(path, attributes, f"{self.location}: {key!r}")
            return _meta(key, os.stat(path))

    def _set_attributes(self, key: str, attributes: Attributes) -> None:
        with self._translated(key, writing=True):
            path = self._path(key.removesuffix("/")) if key else self._root
            posix.set_attributes(path, attributes, f"{self.location}: {key!r}")

    def _rename(self, source: str, target: str) -> None:
        with self._translated(source, writing=True):
            old = self._place(source)
            os.lstat(old)  # else it could not be told which of the two is not there
        with self._translated(target, writing=True):
            try:
                new = self._place(target)
            except NotFound as error:
                raise Invalid(f"{self.location}: nothing can have the key {target!r}", path=target) from error
            os.rename(old, new)
            for folder in {os.path.dirname(old), os.path.dirname(new)}:
                sync_folder(folder)

    def _delete(self, key: str) -> None:
        with self._translated(key, writing=True):
            try:
                # The link itself goes, not the file that it leads to.
                place = self._place(key.removesuffix("/"))
                if key.endswith("/"):
                    os.rmdir(place)
                else:
                    os.unlink(place)
            except (NotFound, FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def _copy(self, source: str, target: str) -> ObjectMeta:
        if source.endswith("/") or target.endswith("/"):
            raise Invalid(f"{self.location}: folders are not copied", path=source)
        with self._translated(source):
            fd = os.open(self._path(source), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as reader:
            place, part, out = self._begin(target)
            try:
                with os.fdopen(out, "wb") as writer, self._translated(target, writing=True):
                    shutil.copyfileobj(reader, writer, 1 << 20)
                    writer.flush()
                    return self._publish(target, writer.fileno(), (part, place), Attributes(), if_absent=False)
            except BaseException:
                with suppress(OSError):
                    os.unlink(part)
                raise

    @contextmanager
    def _translated(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turn the system's errors into ours."""
        try:
            yield
        except FsError:
            raise
        except OSError as error:
            raise kind_of(error.errno, writing=writing)(
                f"{self.location}: {key!r}: {(error.strerror or 'failed').lower()}", path=key
            ) from error


def _meta(key: str, found: os.stat_result) -> ObjectMeta:
    size = 0 if key.endswith("/") else found.st_size
    version = f"{size}-{found.st_mtime_ns}-{found.st_ino}"
    return ObjectMeta(
        key, size, found.st_mtime_ns, version, posix_of(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    )


def _folder_meta(found: os.stat_result) -> FolderMeta:
    return FolderMeta(found.st_mtime_ns, posix_of(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid))


def _listed_name(entry: os.DirEntry[str]) -> str | None:
    """A folder's name with a slash, a file's name, or None for what is neither."""
    if entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    try:
        return entry.name if entry.is_file() else None
    except OSError:  # a link to itself
        return None


def _take(entries: Iterator["ObjectMeta | _Folder"], count: int) -> Entries:
    return list(itertools.islice(entries, count))
