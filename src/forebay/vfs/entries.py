"""What a path in the tree is: a file at one version, or a folder.

A `FileEntry` is one *version* of a file and never changes: a changed object is another entry.  Frontends build on
that: whoever holds an entry reads exactly those bytes, or gets ESTALE.
"""

import stat
from dataclasses import dataclass, field
from typing import NamedTuple

from forebay.observe.traffic import Traffic
from forebay.stores.base import Store
from forebay.types import FolderMeta, ObjectMeta, Posix


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """What a user says of a mount beside its two ends."""

    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # in the user's words; may hold secrets
    readonly: bool = False
    freshness: str = "ttl"  # "immutable", "ttl" or "always"
    ttl_s: float | None = None  # None: the setting `ttl_s`
    policy: str | None = None  # None: the setting `cache_policy`
    quota_bytes: int | None = None  # what it may hold in the cache; None: all of it
    cache_ttl_s: float | None = None  # how long it keeps in the cache what nobody reads; None: for ever
    write_mode: str = "through"  # what close(2) and fsync(2) wait for; see `forebay.vfs.uploader`
    shared_prefix: bool = False  # every key that begins with the URL's path, not only those in that folder


@dataclass(eq=False, slots=True, kw_only=True)
class Mount:
    """A store's prefix shown at a virtual path."""

    path: str  # normal virtual path
    url: str  # as the user wrote it; without secrets
    store: Store
    prefix: str  # "" or ends in "/", unless it is a shared prefix
    settings: MountOptions
    mounted_ns: int = 0  # when it was mounted, nanoseconds since 1970: the time its folders show
    ttl_s: float  # how long names and versions are believed, seconds; 0 for "always", inf for "immutable"
    open_files: int = 0  # how many of its files somebody has open
    traffic: Traffic = field(default_factory=Traffic)

    @property
    def place(self) -> str:
        """What the mount shows, as the cache's data sets name it; other mounts may show the same."""
        return f"{self.store.location}/{self.prefix}"

    def left_s(self, since: float, now: float) -> float:
        """How long what was asked at `since` may still be believed at `now`, seconds; below 0 if not any more."""
        left_s = self.ttl_s - (now - since)
        return left_s if left_s >= 0 and self.ttl_s > 0 else -1.0


class FileEntry(NamedTuple):
    """One version of one file."""

    path: str
    mount: Mount
    key: str
    size: int
    mtime_ns: int
    version: str
    posix: Posix | None = None  # None: the mount's own owner and modes


def object_url(entry: FileEntry) -> str:
    """Where a file's bytes are, as its mount's URL begins."""
    return url_of(entry.mount, entry.key)


def url_of(mount: Mount, key: str) -> str:
    """Where a key is, as its mount's URL begins."""
    rest = key[len(mount.prefix) :]
    if not rest:
        return mount.url
    return mount.url + rest if mount.settings.shared_prefix else f"{mount.url.rstrip('/')}/{rest}"


class FolderEntry(NamedTuple):
    """A folder: virtual, a mount's root, or a common prefix of keys."""

    path: str
    mount: Mount | None  # the mount that shows this folder's content; None for a purely virtual folder
    mtime_ns: int
    posix: Posix | None = None


Entry = FileEntry | FolderEntry


def type_of_file(posix: Posix | None) -> int:
    """S_IFLNK or S_IFREG."""
    return stat.S_IFLNK if posix is not None and stat.S_ISLNK(posix.mode) else stat.S_IFREG


def file_type(entry: Entry) -> int:
    """S_IFDIR, S_IFLNK or S_IFREG."""
    return stat.S_IFDIR if isinstance(entry, FolderEntry) else type_of_file(entry.posix)


def is_link(entry: Entry) -> bool:
    """Is it a symbolic link?"""
    return file_type(entry) == stat.S_IFLNK


def file_entry(path: str, mount: Mount, meta: ObjectMeta) -> FileEntry:
    """An object as the file it shows as."""
    return FileEntry(path, mount, *meta)


def folder_entry(path: str, mount: Mount, meta: FolderMeta | None = None) -> FolderEntry:
    """A folder of a store; one of which no time is known has that of its mount."""
    mtime_ns, posix = (0, None) if meta is None else meta
    return FolderEntry(path, mount, mtime_ns or mount.mounted_ns, posix)


class Found(NamedTuple):
    """The answer to a lookup, and how long it may be believed."""

    entry: Entry | None  # None: there is nothing of that name
    ttl_s: float
