"""HDFS as a store, by hdfs-native (Rust, no JVM): one file is one object, its path below the URL's is the key.

An empty folder is the empty object `folder/`, as S3's tools make it; other folders are not objects.

*Callers*: the daemon, on the loop.  *Locks*: none; blocking work runs in the threads of `hdfs_calls`.  *Awaits*: each
step within the deadline.  *Invariants*: no path outside the URL's folder is named; a file appears whole or not at
all; bytes belong to one version.  *On crash*: a temporary file may stay, under a name that is never listed.

HDFS has no ETag: a version is size and time of modification, in milliseconds.  Blocks are never rewritten, so what
was opened between two looks at one version is that version; a look after each chunk tells of files that were
truncated meanwhile.
"""

import asyncio
import grp
import itertools
import os
import pwd
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from typing import NamedTuple

import hdfs_native

from forebay.config.settings import Settings
from forebay.errors import (
    Corrupt,
    FsError,
    Invalid,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    StaleVersion,
    Unavailable,
    Unsupported,
)
from forebay.stores import hdfs_environment, hdfs_errors, hdfs_options
from forebay.stores.base import Capabilities, ListPage, Opened, check_span
from forebay.stores.hdfs_calls import Calls, connect, reach
from forebay.stores.hdfs_listing import Folder, in_key_order, is_after, statuses
from forebay.stores.hdfs_options import HdfsOptions, Place
from forebay.stores.posix import WholeFiles, permissions_in
from forebay.stores.rename_errors import why_not_renamed
from forebay.stores.urls import refuse_credentials
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta, Posix
from forebay.units import MIB

PAGE_KEYS = 1_000  # a batch of HDFS, dfs.ls.limit
NOBODY = 65_534  # the number of owners and groups that this machine does not know
PIECE_BYTES = MIB  # of a write, so that each is within the deadline
_CHUNK_BYTES_MAX = 4 * MIB  # of a stream
_DISCARD_WITHIN_S = 2.0  # what a failed write left; with a NameNode that hangs, it may stay
_HIDDEN = ".forebay-part-"  # files being written
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_MODE_BITS = 0o1777  # above them HDFS 2 marks ACLs and encryption

Entries = list["ObjectMeta | Folder"]  # `list` means the method inside the class


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`hdfs://host:port/folder`, `hdfs://nameservice/folder`, `hdfs:///folder`; see `forebay.stores.registry`."""
    authority, _, path = rest.partition("/")
    refuse_credentials(authority, instead="--option hdfs.user=...")
    names = [name for name in path.split("/") if name]
    if any(name in (".", "..") for name in names) or "\0" in path:
        raise Invalid(f"{scheme}://{rest} names no folder that HDFS can have")
    parsed = hdfs_options.parse(options)
    place = hdfs_options.find_place(authority, parsed.config)
    return Opened(HdfsStore(place, "/".join(names), parsed, deadline_s=settings.store_deadline_s), "")


class _Reading(NamedTuple):
    """Bytes of one version on their way."""

    key: str
    version: str
    size: int
    packets: Iterator[bytes]


class HdfsStore(WholeFiles):
    """A folder of a file system.  See the module."""

    replacer = "HDFS"

    def __init__(
        self, place: Place, folder: str, options: HdfsOptions, *, deadline_s: float, page_keys: int = PAGE_KEYS
    ) -> None:
        self._place = place
        self._root = f"/{folder}" if folder else ""
        self.location = f"hdfs://{place.authority}{self._root}"
        self.capabilities = Capabilities(
            conditional_get=False, folders=True, renames=True, attributes=True, listed_attributes=True
        )
        self._page_keys = page_keys
        self._claimed = None if options.is_kerberos else hdfs_environment.claim_user(options.user)
        self._user = self._claimed or (options.principal or "").partition("@")[0].partition("/")[0]
        self._calls = Calls(partial(connect, place, options, deadline_s), where=self.location, deadline_s=deadline_s)

    def __repr__(self) -> str:
        return f"<HdfsStore {self.location}>"

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        await self._calls.run(self._probe)

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        return await self._calls.run(self._head, key)

    async def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `FolderStore.stat`."""
        return await self._calls.run(self._stat, key)

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        if span is not None:
            check_span(key, span)
        return await self._calls.run(self._read, key, span, version)

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        check_span(key, span)
        reading = await self._calls.run(self._open, key, span, version)
        left, size = reading.size, chunk_bytes  # the first chunk soon; then fewer looks at the version
        while left > 0:
            chunk = await self._calls.run(self._next, reading, min(left, size))
            left, size = left - len(chunk), min(2 * size, _CHUNK_BYTES_MAX)
            yield chunk

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`."""
        after = start_after.encode("utf-8", "surrogateescape")
        entries = await self._calls.run(self._entries, prefix, after, recursive)
        while page := await self._calls.run(_take, entries, self._page_keys):
            objects = [entry for entry in page if isinstance(entry, ObjectMeta)]
            folders = dict(entry for entry in page if isinstance(entry, Folder))
            yield ListPage(objects, [] if recursive else list(folders), folders)

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._calls.run(self._delete, key)

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`; HDFS cannot copy, so the bytes do move through here."""
        if source.endswith("/") or target.endswith("/"):
            raise Invalid(f"{self.location}: folders are not copied", path=source)
        meta = await self.head(source)
        return await self.put_file(target, self._whole(meta), Attributes(), if_absent=False)

    async def rename(self, source: str, target: str) -> None:
        """See `RenamingStore.rename`."""
        await self._calls.run(self._rename, source, target)

    async def set_attributes(self, key: str, attributes: Attributes) -> None:
        """See `AttributesStore.set_attributes`; HDFS keeps owners by name, and times in milliseconds."""
        await self._calls.run(self._set_attributes, key, attributes)

    async def _whole(self, meta: ObjectMeta) -> AsyncIterator[Buffer]:
        if meta.size:
            span = ByteRange(0, meta.size)
            async for chunk in self.stream(meta.key, span, version=meta.version, chunk_bytes=PIECE_BYTES):
                yield chunk

    async def close(self) -> None:
        """See `Store.close`."""
        await self._calls.close()
        claimed, self._claimed = self._claimed, None
        if claimed is not None:
            hdfs_environment.release_user(claimed)

    # ------------------------------------------------------------------ in threads: names

    def _path(self, key: str) -> str:
        """The path of a file's key."""
        names = key.split("/")
        if not key or "\0" in key or any(name in ("", ".", "..") or name.startswith(_HIDDEN) for name in names):
            raise NotFound(f"{self.location}: no file can have the key {key!r}", path=key)
        return f"{self._root}/{key}"

    def _writable_path(self, key: str) -> str:
        try:
            return self._path(key)
        except NotFound as error:
            raise Invalid(f"{self.location}: HDFS cannot hold a file of the key {key!r}", path=key) from error

    def _probe(self, client: hdfs_native.Client) -> None:
        with self._translated(""):
            root = self._root or "/"
            try:
                first = next(iter(client.list_status(root)), None)
            except FileNotFoundError:
                raise NotFound(f"{self.location} does not exist; check the path") from None
            if first is not None and first.path == root:
                raise NotADirectory(f"{self.location} is a file, not a folder")

    def _stat(self, client: hdfs_native.Client, key: str) -> ObjectMeta | FolderMeta:
        with self._translated(key):
            status = client.get_file_info(self._path(key) if key else self._root or "/")
            return self._folder_meta(status) if status.isdir else self._meta(key, status)

    def _head(self, client: hdfs_native.Client, key: str) -> ObjectMeta:
        if not key.endswith("/"):
            return self._file(client, key)
        with self._translated(key):
            path = self._path(key[:-1])
            status = client.get_file_info(path)
            if not status.isdir or next(self._named(client, key), None) is not None:
                raise NotFound(f"{self.location}: no object {key!r}", path=key)
            return self._meta(key, status)

    def _file(self, client: hdfs_native.Client, key: str) -> ObjectMeta:
        found = self._stat(client, key)
        if isinstance(found, FolderMeta):
            raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
        return found

    def _meta(self, key: str, status: hdfs_native.FileStatus) -> ObjectMeta:
        size = 0 if status.isdir else status.length
        version = f"{size}-{status.modification_time}"
        return ObjectMeta(key, size, status.modification_time * 1_000_000, version, self._posix(status))

    def _folder_meta(self, status: hdfs_native.FileStatus) -> FolderMeta:
        return FolderMeta(status.modification_time * 1_000_000, self._posix(status))

    def _posix(self, status: hdfs_native.FileStatus) -> Posix:
        return _posix(status.permission & _MODE_BITS, status.owner, status.group, self._user)

    # ------------------------------------------------------------------ in threads: reading

    def _read(self, client: hdfs_native.Client, key: str, span: ByteRange | None, version: str | None) -> bytes:
        reading = self._open(client, key, span, version)
        return self._next(client, reading, reading.size) if reading.size else b""

    def _open(self, client: hdfs_native.Client, key: str, span: ByteRange | None, version: str | None) -> _Reading:
        before = self._head(client, key)
        if version is not None and before.version != version:
            raise StaleVersion(f"{self.location}: {key!r} has another version by now", path=key)
        start, stop = (0, before.size) if span is None else span
        if span is not None and start >= before.size:
            raise Invalid(f"{self.location}: {key!r} of {before.size} bytes has no byte {start}", path=key)
        if stop > before.size:
            raise Corrupt(f"{self.location}: {key!r} ends at {before.size}, before {stop}", path=key)
        if start == stop:
            return _Reading(key, before.version, 0, iter(()))
        with self._translated(key):
            reader = client.read(self._path(key))
        if len(reader) < stop:
            raise StaleVersion(f"{self.location}: {key!r} was changed while it was read", path=key)
        return _Reading(key, before.version, stop - start, reader.read_range_stream(start, stop - start))

    def _next(self, client: hdfs_native.Client, reading: _Reading, size: int) -> bytes:
        """About the next `size` bytes; the version is looked at after they were read."""
        try:
            with self._translated(reading.key):
                data = b"".join(_at_least(size, reading.packets))
        except Unavailable:
            self._check_unchanged(client, reading)  # the blocks of what was replaced go away
            raise
        self._check_unchanged(client, reading)
        if len(data) < size:
            raise Unavailable(f"{self.location}: {reading.key!r}: HDFS sent fewer bytes than it has", path=reading.key)
        return data

    def _check_unchanged(self, client: hdfs_native.Client, reading: _Reading) -> None:
        if self._head(client, reading.key).version != reading.version:
            raise StaleVersion(f"{self.location}: {reading.key!r} was changed while it was read", path=reading.key)

    # ------------------------------------------------------------------ in threads: listing

    def _entries(
        self, client: hdfs_native.Client, prefix: str, after: bytes, recursive: bool
    ) -> Iterator[ObjectMeta | Folder]:
        """Objects and folders in key order; nothing is asked before the first is taken."""
        count = 0
        try:
            for entry in in_key_order(self._named(client, prefix)):
                count += 1
                if is_after(entry, after, recursive=recursive):
                    yield entry
                    if recursive and isinstance(entry, Folder):
                        yield from self._entries(client, entry.key, after, recursive)
            if count == 0 and prefix and prefix.encode() > after:
                yield self._head(client, prefix)  # empty: an object itself
        except NotFound:
            if count:
                raise Unavailable(f"{self.location}: {prefix!r} went away while it was listed", path=prefix) from None

    def _named(self, client: hdfs_native.Client, prefix: str) -> Iterator[tuple[bytes, bytes, ObjectMeta | Folder]]:
        with self._translated(prefix):
            path = self._path(prefix.removesuffix("/")) if prefix else self._root or "/"
            for name, status in statuses(client, path):
                raw = name.encode()
                if status.isdir:
                    yield raw, raw + b"/", Folder(f"{prefix}{name}/", self._folder_meta(status))
                elif not name.startswith(_HIDDEN):
                    yield raw, raw, self._meta(prefix + name, status)

    # ------------------------------------------------------------------ writing

    async def make_folder(self, key: str, attributes: Attributes) -> ObjectMeta:
        """See `WholeFiles.make_folder`."""
        return await self._calls.run(self._make_folder, key, attributes)

    async def put_file(
        self, key: str, chunks: AsyncIterator[Buffer], attributes: Attributes, *, if_absent: bool
    ) -> ObjectMeta:
        """See `WholeFiles.put_file`."""
        part, writer = await self._calls.run(self._begin, key)
        try:
            async for chunk in chunks:
                for piece in _pieces(chunk):
                    await self._calls.run(self._write, key, writer, piece)
            return await self._calls.run(self._publish, key, (part, writer), attributes, if_absent)
        except BaseException:  # cancellations too
            await asyncio.wait({asyncio.ensure_future(self._discard(key, part))}, timeout=_DISCARD_WITHIN_S)
            raise

    async def _discard(self, key: str, part: str) -> None:
        with suppress(FsError):
            await self._calls.run(self._remove, key, part)

    def _begin(self, client: hdfs_native.Client, key: str) -> tuple[str, hdfs_native.FileWriter]:
        target = self._writable_path(key)
        with self._translated(key, writing=True):
            with suppress(FileNotFoundError):
                if client.get_file_info(target).isdir:
                    raise IsADirectory(f"{self.location}: {key!r} is a folder", path=key)
            part = f"{target.rpartition('/')[0]}/{_HIDDEN}{secrets.token_hex(8)}"
            return part, client.create(part, hdfs_native.WriteOptions(permission=_FILE_MODE, create_parent=True))

    def _write(self, client: hdfs_native.Client, key: str, writer: hdfs_native.FileWriter, piece: bytes) -> None:
        with self._translated(key, writing=True):
            writer.write(piece)

    def _publish(
        self,
        client: hdfs_native.Client,
        key: str,
        written: tuple[str, hdfs_native.FileWriter],
        attributes: Attributes,
        if_absent: bool,
    ) -> ObjectMeta:
        part, writer = written
        with self._translated(key, writing=True):
            writer.close()
            self._apply(client, key, part, attributes)
            status = client.get_file_info(part)  # as it will be: a file that is renamed keeps its times
            client.rename(part, self._path(key), overwrite=not if_absent)
            return self._meta(key, status)

    def _remove(self, client: hdfs_native.Client, key: str, part: str) -> None:
        with self._translated(key, writing=True):
            client.delete(part)

    def _make_folder(self, client: hdfs_native.Client, key: str, attributes: Attributes) -> ObjectMeta:
        path = self._writable_path(key[:-1])
        with self._translated(key, writing=True):
            client.mkdirs(path, _FOLDER_MODE, create_parent=True)
            self._apply(client, key, path, attributes)
            return self._meta(key, client.get_file_info(path))

    def _set_attributes(self, client: hdfs_native.Client, key: str, attributes: Attributes) -> None:
        with self._translated(key, writing=True):
            self._apply(client, key, self._path(key.removesuffix("/")) if key else self._root or "/", attributes)

    def _apply(self, client: hdfs_native.Client, key: str, path: str, attributes: Attributes) -> None:
        mode, uid, gid, mtime_ns = attributes
        what = f"{self.location}: {key!r}"
        if mode is not None:
            client.set_permission(path, permissions_in(mode, what) & _MODE_BITS)
        if uid is not None or gid is not None:
            client.set_owner(path, *_names(uid, gid, self._user, what))
        if mtime_ns is not None and mtime_ns < 0:
            raise Unsupported(f"{what}: HDFS keeps no times before 1970")
        if mtime_ns is not None:
            accessed = client.get_file_info(path).access_time
            client.set_times(path, mtime_ns // 1_000_000, accessed)

    def _rename(self, client: hdfs_native.Client, source: str, target: str) -> None:
        new = self._writable_path(target)
        found = self._stat(client, source)
        if source == target:
            return  # as rename(2); HDFS would refuse it
        try:
            with self._translated(target, writing=True):
                client.rename(self._path(source), new, overwrite=True)
        except FsError as error:
            raise self._why_not_renamed(client, source, found, target) or error from None

    def _why_not_renamed(
        self, client: hdfs_native.Client, source: str, moved: ObjectMeta | FolderMeta, target: str
    ) -> FsError | None:
        try:
            there = self._stat(client, target)
            has_entries = isinstance(there, FolderMeta) and any(self._named(client, target + "/"))
        except FsError:
            there, has_entries = None, False
        return why_not_renamed(self.location, (source, moved), (target, there), has_entries=has_entries)

    def _delete(self, client: hdfs_native.Client, key: str) -> None:
        try:
            path = self._path(key.removesuffix("/"))
            is_folder = isinstance(self._stat(client, key.removesuffix("/")), FolderMeta)
        except NotFound:
            return
        if is_folder != key.endswith("/"):
            return
        with suppress(NotEmpty), self._translated(key, writing=True):
            client.delete(path)

    # ------------------------------------------------------------------ errors

    @contextmanager
    def _translated(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turn what hdfs-native raises into our errors."""
        try:
            yield
        except FsError:
            raise
        except hdfs_errors.NATIVE as error:
            what = f"{self.location}: {key!r}" if key else self.location
            if hdfs_errors.is_connection(error):
                raise Unavailable(f"{what}: {self._why_unreachable()}", path=key or None) from None
            raise hdfs_errors.translate(error, what, key, writing=writing) from None

    def _why_unreachable(self) -> str:
        reasons = [reason for one in self._place.namenodes if (reason := reach(one)) is not None]
        if len(reasons) == len(self._place.namenodes):
            return f"cannot be reached: {'; '.join(reasons)}"
        where = ", ".join(map(str, self._place.namenodes))
        return (
            f"the connection was ended by {where}; is that the RPC port of a NameNode (often 8020), "
            "and does the cluster want Kerberos (hdfs.kerberos.principal)?"
        )


@lru_cache(maxsize=1_000)
def _posix(mode: int, owner: str, group: str, user: str) -> Posix:
    """Numbers of this machine for the names of HDFS; what `user` owns, this process owns."""
    uid = os.geteuid() if owner == user else _number(lambda: pwd.getpwnam(owner).pw_uid)
    return Posix(mode, uid, _number(lambda: grp.getgrnam(group).gr_gid), owner, group)


def _names(uid: int | None, gid: int | None, user: str, what: str) -> tuple[str | None, str | None]:
    """The names in HDFS of an owner and a group, the other way round than `_posix`."""
    try:
        owner = None if uid is None else user if uid == os.geteuid() else pwd.getpwuid(uid).pw_name
        return owner, None if gid is None else grp.getgrgid(gid).gr_name
    except KeyError:
        message = f"{what}: HDFS keeps owners by name, and this machine has none for user {uid} or group {gid}"
        raise Unsupported(message) from None


def _number(find: Callable[[], int]) -> int:
    try:
        return find()
    except KeyError:
        return NOBODY


def _at_least(size: int, packets: Iterator[bytes]) -> Iterator[bytes]:
    while size > 0 and (packet := next(packets, b"")):
        size -= len(packet)
        yield packet


def _pieces(data: Buffer) -> Iterator[bytes]:
    view = memoryview(data)
    return (bytes(view[start : start + PIECE_BYTES]) for start in range(0, len(view), PIECE_BYTES))


def _take(client: hdfs_native.Client, entries: Iterator[ObjectMeta | Folder], count: int) -> Entries:
    return list(itertools.islice(entries, count))
