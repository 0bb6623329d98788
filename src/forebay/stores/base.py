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
from forebay.types import Buffer, ByteRange, FolderMeta, ObjectMeta


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond the contract's core."""

    writable: bool = True  # put, delete and copy work at all
    conditional_get: bool = True  # `get(version=...)` is checked by the store itself, not by a look before
    conditional_put: bool = False  # `put(if_version=..., if_absent=True)` is atomic
    undecodable_keys: bool = False  # keys may hold bytes that are not UTF-8, as surrogate escapes
    multipart: bool = True  # `put_stream` uploads parts of unknown total size
    any_prefix: bool = False  # listings take a prefix that ends within a name
    folders: bool = False  # folders exist by themselves: the store has `stat`, and its listings say `folder_metas`


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
        self, key: str, data: Buffer, *, if_version: str | None = None, if_absent: bool = False
    ) -> ObjectMeta:
        """Store `data` under `key`, all or nothing; return the new version.

        Raises:
            AlreadyExists: `if_absent`, and the key is taken.
            StaleVersion: `if_version`, and the object has another version by now.
        """
        ...

    async def put_stream(self, key: str, chunks: AsyncIterator[Buffer]) -> ObjectMeta:
        """Store the concatenation of `chunks`, of unknown total size, all or nothing; bounded memory.

        If `chunks` raises, nothing becomes visible and no part stays behind.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove one object; a key that does not exist is no error (as on S3)."""
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
