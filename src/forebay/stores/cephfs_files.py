"""What a mounted CephFS holds, as objects and folders: the part of the store that runs in its threads.

Links to files within the mounted folder are followed; links that lead out of it, absolute links and links to folders
are refused and not listed.

*Callers*: `forebay.stores.cephfs`, in its threads.  *Locks*: one of each open file, while a call uses it.
*Invariants*: no path outside the mounted folder is asked of the library, which would go there; a file appears whole
or not at all; bytes belong to one version.
"""

import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import NamedTuple

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
from forebay.stores.libcephfs import CephMount, Found
from forebay.stores.posix import HIDDEN, kind_of, permissions_in, posix_of
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta

LINKS_MAX = 10  # on the way to one file
FILE_MODE, FOLDER_MODE = 0o600, 0o700  # of new ones: what the daemon's umask leaves to those of a local folder
_GONE = (errno.ESHUTDOWN, errno.ENOTCONN)
_PUT_TRIES = 5  # a folder may be removed as empty just before a file goes into it

Names = list[bytes]


class SessionEnded(Unavailable):
    """The cluster has ended the session of this client, for instance after a long silence; a new mount is needed."""


class Folder(NamedTuple):
    """A folder in a listing."""

    key: str  # ends in "/"
    meta: FolderMeta


class Reading(NamedTuple):
    """A file that is being read, open."""

    meta: ObjectMeta
    fd: int
    in_use: Lock  # who was told to stop leaves a call behind, and the library does not bear a close meanwhile


class Part(NamedTuple):
    """A file that is being written, open under a hidden name."""

    key: str
    fd: int
    path: bytes
    target: bytes
    in_use: Lock


class CephFiles:
    """See the module."""

    def __init__(self, mount: CephMount, location: str) -> None:
        self._mount = mount
        self.location = location

    def close(self) -> None:
        """Unmount; see `CephMount.close`."""
        self._mount.close()

    def probe(self) -> None:
        """Look into the mounted folder."""
        with self._translated(""):
            if not self._mount.stat(b"/").is_folder:
                raise NotADirectory(f"{self.location} is a file, not a folder")
            try:
                next(self._mount.scan(b"/"), None)
            except PermissionError as error:
                raise Denied(f"{self.location} may not be read by this user of this machine") from error

    def has_root(self) -> bool:
        """Does the mounted folder still exist?  One that was removed and made again is another one."""
        with self._translated(""):
            return self._mount.stat(b"/").nlink > 0

    # ------------------------------------------------------------------ names

    def _names(self, key: str) -> Names:
        names = key.split("/")
        if not key or "\0" in key or any(name in ("", ".", "..") or name.startswith(HIDDEN) for name in names):
            raise NotFound(f"{self.location}: no file can have the key {key!r}", path=key)
        return [os.fsencode(name) for name in names]

    def _find(self, key: str) -> tuple[bytes, Found]:
        """The path of what a key names, links followed, and what is there.

        The library would let `..` in a link climb out of the mounted folder; here none gets so far.
        """
        names, linked = self._names(key), False
        for _ in range(LINKS_MAX):
            at = b""
            for name in names[:-1]:
                at += b"/" + name
                if not self._mount.stat(at).is_folder:
                    raise _not_a_folder()
            path = at + b"/" + names[-1]
            found = self._mount.stat(path)
            if not found.is_link:
                if linked and not found.is_file:
                    raise NotFound(f"{self.location}: {key!r} is a link to a folder", path=key)
                return path, found
            linked, target = True, self._mount.read_link(path)
            names = posixpath.normpath(b"/".join([*names[:-1], target])).split(b"/")
            if target.startswith(b"/") or names[0] in (b".", b".."):
                raise Denied(f"{self.location}: {key!r} leads out of the folder by a link", path=key)
        raise NotFound(f"{self.location}: {key!r} is a link to a link to a link", path=key)

    def _find_folder(self, key: str) -> bytes:
        """The path of a folder; no link leads to one."""
        if not key:
            return b"/"
        path, found = self._find(key)
        if not found.is_folder:
            raise _not_a_folder()
        return path

    # ------------------------------------------------------------------ reading

    def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        with self._translated(key):
            if key.endswith("/"):
                path = self._find_folder(key[:-1])
                if any(not name.startswith(HIDDEN.encode()) for name, _ in self._mount.scan(path)):
                    raise NotFound(f"{self.location}: no object {key!r}", path=key)
                return _meta(key, self._mount.stat(path))
            found = self._find(key)[1]
            if not found.is_file:
                raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
            return _meta(key, found)

    def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `FolderStore.stat`."""
        with self._translated(key):
            found = self._find(key)[1] if key else self._mount.stat(b"/")
            if found.is_folder:
                return _folder_meta(found)
            if not found.is_file:
                raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
            return _meta(key, found)

    def read(self, key: str, span: ByteRange | None, version: str | None) -> Buffer:
        """See `Store.get`."""
        if key.endswith("/"):
            self.head(key)
            if span is not None:
                raise Invalid(f"{self.location}: {key!r} is empty", path=key)
            return b""
        reading = self.open(key, span, version)
        try:
            return self.read_open(reading, ByteRange(0, reading.meta.size) if span is None else span)
        finally:
            self.close_open(reading)

    def open(self, key: str, span: ByteRange | None, version: str | None) -> Reading:
        """Open a file to read `span` of it, of that version if one is given.  Raises what `Store.get` raises."""
        with self._translated(key):
            path, found = self._find(key)
            if not found.is_file:
                raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
            fd = self._mount.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                meta = _meta(key, self._mount.stat_file(fd))
                self._check(meta, span, version)
            except BaseException:
                self._mount.close_file(fd)
                raise
            return Reading(meta, fd, Lock())

    def read_open(self, reading: Reading, span: ByteRange) -> Buffer:
        """Bytes of an open file, if it is still what it was when it was opened."""
        meta, fd, in_use = reading
        with in_use, self._translated(meta.key):
            data = self._mount.read(fd, span.size, span.start)
            if _meta(meta.key, self._mount.stat_file(fd)).version != meta.version or len(data) < span.size:
                raise StaleVersion(f"{self.location}: {meta.key!r} was changed while it was read", path=meta.key)
            return data

    def close_open(self, reading: Reading) -> None:
        """Close a file that was read."""
        with reading.in_use, suppress(OSError):  # the session is gone, and the file with it
            self._mount.close_file(reading.fd)

    def _check(self, meta: ObjectMeta, span: ByteRange | None, version: str | None) -> None:
        key = meta.key
        if version is not None and meta.version != version:
            raise StaleVersion(f"{self.location}: {key!r} has another version by now", path=key)
        if span is not None and span.start >= meta.size:
            raise Invalid(f"{self.location}: {key!r} of {meta.size} bytes has no byte {span.start}", path=key)
        if span is not None and span.stop > meta.size:
            raise Corrupt(f"{self.location}: {key!r} ends at {meta.size}, before {span.stop}", path=key)

    # ------------------------------------------------------------------ listing

    def entries(self, prefix: str, start_after: str, *, recursive: bool) -> Iterator[ObjectMeta | Folder]:
        """Objects and folders in key order, each folder read when its turn comes."""
        after = os.fsencode(start_after)
        for name, found in self._sorted(prefix):
            key = prefix + name
            raw = os.fsencode(key)
            if found.is_folder and name:
                if raw <= after and (not after.startswith(raw) or (after == raw and not recursive)):
                    continue
                yield Folder(key, _folder_meta(found))
                if recursive:
                    yield from self.entries(key, start_after, recursive=True)
            elif raw > after and (meta := self._listed(key, found)) is not None:
                yield meta

    def _sorted(self, prefix: str) -> list[tuple[str, Found]]:
        """The names in a folder as parts of keys, in order; "" stands for the folder itself if it is empty."""
        with self._translated(prefix):
            try:
                path = self._find_folder(prefix.removesuffix("/"))
                found = [(name, one) for name, one in self._mount.scan(path) if not name.startswith(HIDDEN.encode())]
                if not found and prefix:
                    return [("", self._mount.stat(path))]
            except (NotFound, FileNotFoundError, NotADirectoryError):
                return []
        found = [(name + b"/" if one.is_folder else name, one) for name, one in found]
        found.sort(key=lambda pair: pair[0])
        return [(os.fsdecode(name), one) for name, one in found]

    def _listed(self, key: str, found: Found) -> ObjectMeta | None:
        if found.is_link:
            try:
                found = self._find(key)[1]
            except OSError:  # it leads nowhere, out, or to itself
                return None
        return _meta(key, found) if found.is_file or key.endswith("/") else None

    # ------------------------------------------------------------------ writing

    def begin(self, key: str) -> Part:
        """Open a new file for the bytes of `key`, under a hidden name beside it; make its folders."""
        names = self._writable(key)
        target = b"/" + b"/".join(names)
        with self._translated(key, writing=True):
            for last in (False,) * (_PUT_TRIES - 1) + (True,):
                folder = self._make_folders(names[:-1], key)
                path = folder + f"/{HIDDEN}{secrets.token_hex(8)}".encode()
                try:
                    fd = self._mount.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
                except FileNotFoundError:
                    if last:
                        raise
                else:
                    return Part(key, fd, path, target, Lock())
        raise AssertionError("unreachable: the last try returns or raises")

    def _writable(self, key: str) -> Names:
        try:
            names = self._names(key)
        except NotFound as error:
            raise Invalid(f"{self.location}: a folder cannot hold a file of the key {key!r}", path=key) from error
        with suppress(FileNotFoundError, NotADirectoryError), self._translated(key, writing=True):
            if self._mount.stat(b"/" + b"/".join(names)).is_folder:
                raise IsADirectory(f"{self.location}: {key!r} is a folder", path=key)
        return names

    def _make_folders(self, names: Names, key: str) -> bytes:
        """Make what is missing of a folder's path; links are not folders here."""
        path = b""
        for name in names:
            path += b"/" + name
            try:
                found = self._mount.stat(path)
            except FileNotFoundError:
                with suppress(FileExistsError):  # someone else made it just now
                    self._mount.make_folder(path, FOLDER_MODE)
                found = self._mount.stat(path)
            if not found.is_folder:
                raise NotADirectory(f"{self.location}: {key!r}: a file stands where a folder is needed", path=key)
        return path

    def write(self, part: Part, chunk: Buffer, at: int) -> None:
        """Write bytes at an offset."""
        with part.in_use, self._translated(part.key, writing=True):
            self._mount.write(part.fd, chunk, at)

    def publish(self, part: Part, attributes: Attributes, *, if_absent: bool) -> ObjectMeta:
        """Give the file its attributes and its name; all of it is then on disk."""
        with part.in_use, self._translated(part.key, writing=True):
            self._mount.sync(part.fd)
            if attributes != Attributes():  # once the bytes are there, for they bring a time of their own
                self._apply(part.key, part.path, attributes)
                self._mount.sync(part.fd)
            if if_absent:
                self._mount.link(part.path, part.target)  # unlike a rename, it refuses a name that is taken
                self._mount.remove(part.path)
            else:
                self._mount.rename(part.path, part.target)
            self._sync_folder(posixpath.dirname(part.target))
            meta = _meta(part.key, self._mount.stat_file(part.fd))
            self._mount.close_file(part.fd)
            return meta

    def discard(self, part: Part) -> None:
        """Remove a file that was begun; nothing is raised."""
        with part.in_use, suppress(OSError):
            self._mount.close_file(part.fd)
        with suppress(OSError):
            self._mount.remove(part.path)

    def _sync_folder(self, path: bytes) -> None:
        folder = self._mount.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._mount.sync(folder)
        finally:
            self._mount.close_file(folder)

    def _apply(self, key: str, path: bytes, attributes: Attributes) -> None:
        if attributes.mode is not None:
            permissions = permissions_in(attributes.mode, f"{self.location}: {key!r}")
            attributes = attributes._replace(mode=permissions)
        if attributes != Attributes():  # else every call would count as a change
            self._mount.set_attributes(path, attributes)

    def set_attributes(self, key: str, attributes: Attributes) -> None:
        """See `AttributesStore.set_attributes`; of a link, those of what it leads to."""
        with self._translated(key, writing=True):
            self._apply(key, self._find(key.removesuffix("/"))[0] if key else b"/", attributes)

    def rename(self, source: str, target: str) -> None:
        """See `RenamingStore.rename`; a link is renamed, not what it leads to."""
        with self._translated(source, writing=True):
            old = self._place(source)
            self._mount.stat(old)  # else it could not be told which of the two is not there
        with self._translated(target, writing=True):
            try:
                self._names(target)
            except NotFound as error:
                raise Invalid(f"{self.location}: nothing can have the key {target!r}", path=target) from error
            new = self._place(target)
            if old == new:
                return  # libcephfs 16.2 would forget the file
            self._mount.rename(old, new)
            for folder in {posixpath.dirname(old), posixpath.dirname(new)}:
                self._sync_folder(folder)

    def _place(self, key: str) -> bytes:
        """The path of a name; if that itself is a link, it is not followed."""
        names = self._names(key)
        return self._find_folder(key.rpartition("/")[0]).rstrip(b"/") + b"/" + names[-1]

    def make_folder(self, key: str, attributes: Attributes) -> ObjectMeta:
        """Make the folder of a key that ends in a slash."""
        try:
            names = self._names(key[:-1])
        except NotFound as error:
            raise Invalid(f"{self.location}: no folder can have the key {key!r}", path=key) from error
        with self._translated(key, writing=True):
            path = self._make_folders(names, key)
            self._apply(key, path, attributes)
            return _meta(key, self._mount.stat(path))

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        with self._translated(key, writing=True):
            try:
                # A link itself goes, not the file that it leads to.
                path = self._place(key.removesuffix("/"))
                if key.endswith("/"):
                    self._mount.remove_folder(path)
                else:
                    self._mount.remove(path)
            except (NotFound, FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    @contextmanager
    def _translated(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turn the system's errors into ours."""
        try:
            yield
        except FsError:
            raise
        except OSError as error:
            if error.errno in _GONE:
                message = f"{self.location}: the cluster ended this client's session; try again"
                raise SessionEnded(message, path=key) from error
            raise kind_of(error.errno, writing=writing)(
                f"{self.location}: {key!r}: {(error.strerror or 'failed').lower()}", path=key
            ) from error


def _not_a_folder() -> OSError:
    """As the system says it: to who reads, a key is not there; to who writes, a file stands in the way."""
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _meta(key: str, found: Found) -> ObjectMeta:
    version = f"{found.ino:x}-{found.ctime_ns:x}-{found.changes:x}"
    size = 0 if key.endswith("/") else found.size
    return ObjectMeta(key, size, found.mtime_ns, version, posix_of(stat.S_IMODE(found.mode), found.uid, found.gid))


def _folder_meta(found: Found) -> FolderMeta:
    return FolderMeta(found.mtime_ns, posix_of(stat.S_IMODE(found.mode), found.uid, found.gid))
