"""The contract of a store: what Forebay asks of S3, of a directory, of anything that keeps bytes under keys.

An adapter translates calls and errors, and nothing else: it keeps no cache and no policy.  Every adapter passes
`forebay.testing.store_contract.StoreContract`.  All methods are called on the daemon's event loop; an adapter
that must block moves the work to threads of its own.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from forebay.errors import Invalid
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta
from forebay.units import MIB

PART_BYTES_MIN = 5 * MIB  # of a part of an upload, but the last: Amazon's rule, which most servers have taken over
PARTS_MAX = 10_000  # of an upload, numbered from 1: Amazon's limit; Azure's is higher


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond the contract's core."""

    writable: bool = True  # put, delete and copy work at all
    conditional_get: bool = True  # `get(version=...)` is checked by the store itself, not by a look before
    conditional_put: bool = False  # writes with `if_version` or `if_absent` are atomic, `Upload.complete` too
    undecodable_keys: bool = False  # keys may hold bytes that are not UTF-8, as surrogate escapes
    multipart: bool = True  # `put_stream` uploads parts of unknown total size
    any_prefix: bool = False  # listings take a prefix that ends within a name
    folders: bool = False  # folders exist by themselves: the store has `stat`, and its listings say `folder_metas`
    parts: bool = False  # the store has `upload`
    copy_parts: bool = False  # and `Upload.copy`: parts of other objects need not travel
    copy_versions: bool = False  # the store has `copy_version`
    renames: bool = False  # the store has `rename`
    attributes: bool = False  # the store has `set_attributes`, keeps those of a put, and `head` tells them
    listed_attributes: bool = False  # listings tell them too
    links: bool = False  # a mode may say that a file is a symbolic link


class ListPage(NamedTuple):
    """One answer of a listing, in key order."""

    objects: list[ObjectMeta]
    folders: list[str]  # common prefixes, each ending in "/"; empty in a recursive listing
    folder_metas: Mapping[str, FolderMeta] = MappingProxyType({})
    """By folder, where folders exist by themselves; of a recursive listing, before the first object below it."""


class OutsideObject(Invalid):
    """A range starts at or past the end of the object: to who knows its size, another version."""


def check_span(key: str, span: ByteRange) -> None:
    """Raise Invalid for a range that is empty or negative."""
    if span.start < 0 or span.stop <= span.start:
        raise Invalid(f"bytes {span.start} to {span.stop} of {key!r} are no range", path=key)


def check_number(key: str, number: int) -> None:
    """Raise Invalid for a number that no part of an upload can have."""
    if not 1 <= number <= PARTS_MAX:
        raise Invalid(f"a part of {key!r} cannot have the number {number}, but 1 to {PARTS_MAX:,}", path=key)


class Opened(NamedTuple):
    """What a URL and its options mean."""

    store: "Store"
    prefix: str  # of keys; "" or ends in "/"


class Store(Protocol):
    """A bucket-like place: bytes under string keys, without folders of its own."""

    location: str
    """Where the bytes are, canonical and free of secrets, such as `s3://bucket` or `s3://bucket@http://host:port`.

    It is part of every cache key: two mounts of one place share cached bytes, and a remount finds them again.
    """
    capabilities: Capabilities

    async def probe(self, prefix: str) -> None:
        """Try the store with one cheap request on `prefix`; return if it can be read.

        Raises:
            NotFound, Denied, Unavailable, TimedOut, Invalid: with a message that names the cause (no such bucket,
                denied, wrong key id, wrong secret, unreachable host, wrong region, TLS) and what to do.
        """
        ...

    async def head(self, key: str) -> ObjectMeta:
        """Size, time and version of one object.

        Raises:
            NotFound: no object has that key.
        """
        ...

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """The bytes of `span` (the whole object if None), of exactly `version` if one is given.

        The caller limits the time: an answer may come drop by drop.

        Raises:
            NotFound: no object has that key.
            StaleVersion: the object has another version by now.
            Invalid: `span` is empty, negative, or starts at or past the end (`OutsideObject`, if the store said so).
            Corrupt: the answer is not `span` of `version`: too short, too long, or of another range.
        """
        ...

    def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """The bytes of `span` in order, in chunks of any size (about `chunk_bytes`), from one request.

        Raises what `get` raises; an answer that ends early raises Unavailable after the bytes that came.
        """
        ...

    def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """Objects and folders whose key starts with `prefix`, in pages of at most about 1,000, one request each.

        Keys come whole, as the store has them: odd ones (`a//b`, `a/`, newlines) too.  Not recursive: keys with a
        "/" after the prefix come once, as the folder `prefix + name + "/"`.  A prefix without any key gives no
        entry and no error.  A caller that stops early costs no further requests.

        Args:
            prefix: "" or ends in "/" (save with `Capabilities.any_prefix`); a listing of "a/" never walks "aa/".
            recursive: every object below, no folders.
            start_after: only keys after this one.
        """
        ...

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """Store `data` under `key`, all or nothing; return the new version.

        A store that cannot keep `attributes` ignores them, but may tell their time rather than ask for its own.

        Raises:
            AlreadyExists: `if_absent`, and the key is taken.
            StaleVersion: `if_version`, and the object has another version by now, or has gone.
            Unsupported: the store cannot do it under that condition.
        """
        ...

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """Store the concatenation of `chunks`, of unknown total size, all or nothing; bounded memory.

        If `chunks` raises, or a condition does not hold, nothing becomes visible and no part stays behind.
        Conditions are looked at when all chunks are there.  Raises what `put` raises.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove one object; a key that does not exist is no error (as on S3).

        Where folders exist by themselves, those that it was in stay, but on some servers that fsspec speaks to.
        """
        ...

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """Copy one object within the store without moving its bytes through here."""
        ...

    async def close(self) -> None:
        """Drain and release connections; no call may follow."""
        ...


class FolderStore(Store, Protocol):
    """A store whose folders exist by themselves (`Capabilities.folders`): HDFS, CephFS, a directory."""

    async def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """What is at `key` (without a slash at its end; "" is the root), in one request.

        Raises:
            NotFound: nothing is there.
        """
        ...


class Upload(Protocol):
    """An object on its way, part by part; it must be completed or aborted.  *On crash*: its parts may stay, unseen."""

    async def send(self, number: int, data: Buffer) -> None:
        """Have a part, by its number from 1 on; in any order, several at a time; the same number replaces.

        Every part but the last one has at least `PART_BYTES_MIN` bytes, and there are at most `PARTS_MAX`.
        """
        ...

    async def copy(self, number: int, source: str, span: ByteRange, version: str) -> None:
        """As `send`, of bytes that another object of the store has, or the object that is to be replaced.

        Only with `Capabilities.copy_parts`.

        Raises:
            NotFound: no object has the key `source`.
            StaleVersion: the source has another version by now.
        """
        ...

    async def complete(self, *, if_version: str | None = None, if_absent: bool = False) -> ObjectMeta:
        """Make an object of the parts, in the order of their numbers; of no part, an empty one.

        After a failure nothing has become visible, and the upload may be completed again, or aborted.

        Raises:
            AlreadyExists, StaleVersion, Unsupported: as `Store.put`.
            Invalid: a part but the last is too small.
            Unavailable: also when it is not known whether the object was made; the message says so.
        """
        ...

    async def abort(self) -> None:
        """Drop the parts; of an upload that is complete, or aborted already, nothing.  No part may be on its way."""
        ...


class PartsStore(Store, Protocol):
    """A store that takes an object in parts (`Capabilities.parts`)."""

    async def upload(self, key: str, *, attributes: Attributes | None = None) -> Upload:
        """Begin an upload; nothing is visible before it is complete.  `attributes` as for `put`."""
        ...


class VersionCopyingStore(Store, Protocol):
    """A store that copies what is known of an object without asking for it (`Capabilities.copy_versions`)."""

    async def copy_version(self, known: ObjectMeta, target: str) -> ObjectMeta:
        """As `copy`, of one version, as it was told; some servers do not compare it, and copy what is there.

        Raises:
            StaleVersion: the source has another version by now.
        """
        ...


class RenamingStore(Store, Protocol):
    """A store that renames by itself (`Capabilities.renames`)."""

    async def rename(self, source: str, target: str) -> None:
        """Give a file or folder another key, at once and with all below it, as rename(2) does.

        Keys of folders have no slash at their end.  A file at `target` is replaced by a file, an empty folder by a
        folder; the folder that `target` is in must exist, and that of `source` stays, even if it is empty now.  Where a
        rename counts as a change (CephFS), the version is another one: look again.

        Raises:
            NotFound: nothing is at `source`, or no folder is there for `target`.
            IsADirectory, NotADirectory: `target` is a folder and `source` is none, or the other way round.
            NotEmpty: `target` is a folder with entries.
            Invalid: `target` is below `source`.
        """
        ...


class AttributesStore(Store, Protocol):
    """A store that keeps modes, owners and times that it is told (`Capabilities.attributes`)."""

    async def set_attributes(self, key: str, attributes: Attributes) -> None:
        """Change what is not None of a file, or of a folder by the key of its empty object, `folder/`.

        Where folders exist by themselves, any folder has them, with or without the slash, and "" is the root.  Where
        versions are made of times (local folders, HDFS), another time is another version: look again.  Of several
        attributes some may be changed when the call fails.

        Raises:
            NotFound: nothing is there.
            StaleVersion: others have changed the object meanwhile, and nothing is changed; try again.
            Denied: the store does not let this user do that, as giving files away.
            Unsupported: the store cannot keep that: a symbolic link (see `Capabilities.links`), an owner it knows not.
        """
        ...
