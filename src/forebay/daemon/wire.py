"""The admin API's requests and answers as plain values: fields with a type, entries, errors.  No I/O.

Names of the tree may hold bytes that are no UTF-8: they travel as surrogate escapes, which JSON writes as \\udcXX and
queries as percent-encoded bytes.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from math import isfinite
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from forebay import paths
from forebay.errors import FsError, Invalid
from forebay.observe.redact import hide_options
from forebay.vfs.entries import Entry, FileEntry, Mount, MountOptions, url_of
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.mounter import MountChanges

Json = dict[str, object]
OneOf = TypeVar("OneOf", bound=StrEnum)


class Fields:
    """The fields of one request, each checked as it is taken."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    @classmethod
    def of_query(cls, raw_target: str) -> "Fields":
        """The query of a request line; undecodable bytes become surrogate escapes."""
        query = urlsplit(raw_target).query
        return cls(dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape")))

    @classmethod
    def of_body(cls, body: bytes) -> "Fields":
        """A JSON body, empty or an object."""
        try:
            values = json.loads(body or b"{}")
        except ValueError as error:
            raise Invalid("the request's body is not JSON") from error
        if not isinstance(values, dict):
            raise Invalid("the request's body is not a JSON object")
        return cls(values)

    def path(self, name: str = "path") -> str:
        """A path of the tree, in its normal form."""
        return paths.normalize(self.text(name))

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self._values.get(name)
        if not isinstance(value, str):
            raise Invalid(f"the request needs the text {name!r}")
        return value

    def choice(self, name: str) -> str | None:
        """A text that may be missing."""
        return None if self._values.get(name) is None else self.text(name)

    def one_of(self, name: str, default: OneOf) -> OneOf:
        """A value of an enumeration, `default` if missing."""
        kinds = type(default)
        try:
            return kinds(self.choice(name) or default)
        except ValueError as error:
            raise Invalid(f"the request's {name!r} must be one of: {', '.join(kinds)}") from error

    def flag(self, name: str) -> bool:
        """A truth value, False if missing."""
        value = self._values.get(name, False)
        if value not in (True, False, "0", "1"):
            raise Invalid(f"the request's {name!r} must be true or false")
        return value in (True, "1")

    def has(self, name: str) -> bool:
        """Does the request say anything of it?"""
        return self._values.get(name) is not None

    def whole(self, name: str) -> int | None:
        """A whole number, or None if missing."""
        value = self._values.get(name)
        try:
            return None if value is None else int(str(value))
        except ValueError as error:
            raise Invalid(f"the request's {name!r} must be a whole number") from error

    def seconds(self, name: str) -> float | None:
        """A duration, or None if missing."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise Invalid(f"the request's {name!r} must be a number of seconds")
        return float(value)

    def texts(self, name: str) -> dict[str, str]:
        """An object of texts, empty if missing."""
        value = self._values.get(name) or {}
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise Invalid(f"the request's {name!r} must be an object of texts")
        return value


def mount_options(fields: Fields) -> MountOptions:
    """What a request says of a mount to be made."""
    return MountOptions(
        options=tuple(fields.texts("options").items()),
        readonly=fields.flag("readonly"),
        write_mode=fields.choice("write_mode") or "through",
        freshness=fields.choice("freshness") or "ttl",
        ttl_s=fields.seconds("ttl_s"),
        policy=fields.choice("policy"),
        quota_bytes=fields.whole("quota_bytes") or None,
        cache_ttl_s=fields.seconds("cache_ttl_s") or None,
        shared_prefix=fields.flag("shared_prefix"),
    )


def mount_changes(fields: Fields) -> MountChanges:
    """What a request says is to change of a mount."""
    return MountChanges(
        options=fields.texts("options"),
        readonly=fields.flag("readonly") if fields.has("readonly") else None,
        freshness=fields.choice("freshness"),
        ttl_s=fields.seconds("ttl_s"),
        policy=fields.choice("policy"),
        quota_bytes=fields.whole("quota_bytes"),
        cache_ttl_s=fields.seconds("cache_ttl_s"),
        write_mode=fields.choice("write_mode"),
    )


def mount_info(mount: Mount, *, default_policy: str) -> Json:
    """A mount as listings show it; its secrets are hidden."""
    settings = mount.settings
    return {
        "path": mount.path,
        "url": mount.url,
        "readonly": settings.readonly or not mount.store.capabilities.writable,
        "write_mode": settings.write_mode,
        "freshness": settings.freshness,
        "ttl_s": mount.ttl_s if settings.freshness == "ttl" and isfinite(mount.ttl_s) else None,
        "policy": settings.policy or default_policy,
        "quota_bytes": settings.quota_bytes,
        "cache_ttl_s": settings.cache_ttl_s,
        "shared_prefix": settings.shared_prefix,
        "options": hide_options(dict(settings.options)),
    }


def entry_info(fs: FileSystem, entry: Entry) -> Json:
    """A file or folder as listings show it."""
    mount = entry.mount
    common: Json = {
        "path": entry.path,
        "name": paths.split(entry.path)[1],
        "mtime_ns": entry.mtime_ns,
        "pinned": fs.tree.is_pinned(entry.path),
        "url": None if mount is None else _url(fs, entry, mount),
        "mode": entry.posix and entry.posix.mode,
        "owner": entry.posix and entry.posix.owner,
        "group": entry.posix and entry.posix.group,
    }
    if isinstance(entry, FileEntry):
        cached = fs.residency(entry) if entry.size else 0
        return common | {"kind": "file", "size": entry.size, "version": entry.version, "cached_bytes": cached}
    return common | {"kind": "folder", "size": 0, "version": None, "cached_bytes": None}


def _url(fs: FileSystem, entry: Entry, mount: Mount) -> str:
    """Where an entry lies in its store, in the words of the mount."""
    return url_of(mount, entry.key if isinstance(entry, FileEntry) else fs.tree.folder_place(entry.path).key)


def location_info(fs: FileSystem, entry: FileEntry) -> Json:
    """Where the bytes of a file are."""
    return {
        "path": entry.path,
        "url": _url(fs, entry, entry.mount),
        "version": entry.version,
        "size": entry.size,
        "cached_bytes": fs.residency(entry) if entry.size else 0,
        "cache_file": _local_file(fs, entry),
    }


def _local_file(fs: FileSystem, entry: FileEntry) -> str | None:
    """Where the bytes of a file are on this machine's disks, those that are here."""
    if (draft := fs.draft_of(entry)) is not None:
        return fs.staging.path(draft.staging)
    found = fs.cache.find(fs.source(entry))
    return None if found is None else found.stored.path


def error_info(error: FsError, message: str) -> Json:
    """An error as the client gets it, in an answer of its own or as the last line of a stream."""
    path = error.filename if isinstance(error.filename, str) else None
    return {"error": {"kind": type(error).__name__, "message": message, "path": path}}


def to_bytes(value: object) -> bytes:
    """One line of JSON."""
    return json.dumps(value, allow_nan=False).encode() + b"\n"
