"""A store in memory: the verified fake that tests and simulations use, and `mem://` for trying things out.

It passes `forebay.testing.store_contract.StoreContract` like every adapter.  Each request gives way to other tasks
once, as a network would, so that code which forgets that an await lets others in is found out.
"""

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import xxhash

from forebay.clock import Clock, SystemClock
from forebay.config.settings import Settings
from forebay.errors import AlreadyExists, Corrupt, Invalid, NotFound, StaleVersion
from forebay.stores.base import PART_BYTES_MIN, Capabilities, ListPage, Opened, check_number, check_span
from forebay.stores.urls import folder_prefix, refuse_options
from forebay.types import Attributes, Buffer, ByteRange, ObjectMeta

PAGE_KEYS = 1_000  # entries in one answer of a listing, as on S3


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`mem://name/prefix`; see `forebay.stores.registry`."""
    refuse_options(scheme, options)
    name, _, prefix = rest.partition("/")
    if not name or "@" in name:
        raise Invalid("a store in memory needs a plain name; write mem://name")
    return Opened(MemoryStore(name), folder_prefix(prefix))


class _Object(NamedTuple):
    meta: ObjectMeta
    data: bytes


class MemoryStore:
    """See the module and `forebay.stores.base.Store`."""

    def __init__(
        self,
        name: str,
        *,
        page_keys: int = PAGE_KEYS,
        part_bytes_min: int = PART_BYTES_MIN,
        clock: Clock | None = None,
    ) -> None:
        self.location = f"mem://{name}"
        self.capabilities = Capabilities(
            conditional_put=True,
            undecodable_keys=True,
            any_prefix=True,
            parts=True,
            copy_parts=True,
            copy_versions=True,
        )
        self.requests: Counter[str] = Counter()  # by method; one for each page of a listing
        self.closed = False
        self.part_bytes_min = part_bytes_min
        self._page_keys = page_keys
        self._clock = clock or SystemClock()
        self._objects: dict[str, _Object] = {}
        self._order: list[bytes] = []  # every key as bytes, sorted
        self._puts = 0

    def __repr__(self) -> str:
        return f"<MemoryStore {self.location} {len(self._objects)} objects>"

    async def _request(self, method: str) -> None:
        self.requests[method] += 1
        await asyncio.sleep(0)

    def _find(self, key: str, version: str | None = None) -> _Object:
        found = self._objects.get(key)
        if found is None:
            raise NotFound(f"{self.location} has no object {key!r}", path=key)
        if version is not None and found.meta.version != version:
            raise StaleVersion(f"{key!r} has changed in {self.location}", path=key)
        return found

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`: there is nothing that could be wrong."""
        await self._request("probe")

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        await self._request("head")
        return self._find(key).meta

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        await self._request("get")
        found = self._find(key, version)
        return found.data if span is None else _cut(found, span)

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        await self._request("stream")
        part = _cut(self._find(key, version), span)
        for start in range(0, len(part), chunk_bytes):
            yield part[start : start + chunk_bytes]
            await asyncio.sleep(0)

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`."""
        start, after = _raw(prefix), _raw(start_after)
        resume: bytes | None = max(start, after)
        while resume is not None:
            await self._request("list")
            page, resume = self._page(start, resume, after, recursive=recursive)
            if page.objects or page.folders:
                yield page

    def _page(self, prefix: bytes, resume: bytes, after: bytes, *, recursive: bool) -> tuple[ListPage, bytes | None]:
        """The entries from the key `resume` on, and the key to go on from; None at the end."""
        page = ListPage([], [])
        index = bisect_right(self._order, after) if resume == after and after else bisect_left(self._order, resume)
        while index < len(self._order) and self._order[index].startswith(prefix):
            raw = self._order[index]
            if len(page.objects) + len(page.folders) == self._page_keys:
                return page, raw
            slash = -1 if recursive else raw.find(b"/", len(prefix))
            if slash < 0:
                page.objects.append(self._objects[_text(raw)].meta)
                index += 1
                continue
            folder = raw[: slash + 1]
            if folder != after:
                page.folders.append(_text(folder))
            index = bisect_left(self._order, folder[:-1] + b"0", index)  # "0" comes right after "/"
        return page, None

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put`."""
        await self._request("put")
        return self.keep(key, bytes(memoryview(data)), if_version, if_absent)

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put_stream`."""
        await self._request("put_stream")
        whole = bytearray()
        async for chunk in chunks:
            whole += memoryview(chunk)
        return self.keep(key, bytes(whole), if_version, if_absent)

    async def upload(self, key: str, *, attributes: Attributes | None = None) -> "MemoryUpload":
        """See `PartsStore.upload`."""
        await self._request("upload")
        return MemoryUpload(self, key)

    def keep(self, key: str, data: bytes, if_version: str | None = None, if_absent: bool = False) -> ObjectMeta:
        """Make an object at once; raises what `Store.put` raises."""
        known = self._objects.get(key)
        if if_absent and known is not None:
            raise AlreadyExists(f"{self.location} has an object {key!r} already", path=key)
        if if_version is not None and (known is None or known.meta.version != if_version):
            raise StaleVersion(f"{key!r} has changed in {self.location}", path=key)
        if known is None:
            insort(self._order, _raw(key))
        self._puts += 1
        # The count makes versions unique here, the hash makes them so across processes: cached bytes outlive this one.
        version = f"{self._puts:x}-{xxhash.xxh3_64_hexdigest(data)}"
        meta = ObjectMeta(key, len(data), self._clock.time_ns(), version)
        self._objects[key] = _Object(meta, data)
        return meta

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._request("delete")
        if self._objects.pop(key, None) is not None:
            del self._order[bisect_left(self._order, _raw(key))]

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`."""
        await self._request("copy")
        return self.keep(target, self._find(source).data)

    async def copy_version(self, known: ObjectMeta, target: str) -> ObjectMeta:
        """See `VersionCopyingStore.copy_version`."""
        await self._request("copy")
        return self.keep(target, self._find(known.key, known.version).data)

    async def close(self) -> None:
        """See `Store.close`; the objects stay."""
        self.closed = True


class MemoryUpload:
    """See `forebay.stores.base.Upload`."""

    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store = store
        self._key = key
        self._parts: dict[int, bytes] | None = {}  # None: it has ended

    def __repr__(self) -> str:
        return f"<MemoryUpload of {self._key!r} to {self._store.location}>"

    async def send(self, number: int, data: Buffer) -> None:
        """See `Upload.send`."""
        check_number(self._key, number)
        self._store.requests["upload.send"] += 1
        await asyncio.sleep(0)
        self._open()[number] = bytes(memoryview(data))

    async def copy(self, number: int, source: str, span: ByteRange, version: str) -> None:
        """See `Upload.copy`."""
        check_number(self._key, number)
        check_span(source, span)
        part = await self._store.get(source, span, version=version)
        self._open()[number] = bytes(memoryview(part))

    async def complete(self, *, if_version: str | None = None, if_absent: bool = False) -> ObjectMeta:
        """See `Upload.complete`."""
        self._store.requests["upload.complete"] += 1
        await asyncio.sleep(0)
        parts = [part for _, part in sorted(self._open().items())]
        if any(len(part) < self._store.part_bytes_min for part in parts[:-1]):
            raise Invalid(f"{self._store.location}: {self._key!r}: a part but the last is too small", path=self._key)
        made = self._store.keep(self._key, b"".join(parts), if_version, if_absent)
        self._parts = None
        return made

    async def abort(self) -> None:
        """See `Upload.abort`."""
        self._store.requests["upload.abort"] += 1
        await asyncio.sleep(0)
        self._parts = None

    def _open(self) -> dict[int, bytes]:
        if self._parts is None:
            raise Invalid(f"{self._store.location}: {self._key!r}: this upload has ended", path=self._key)
        return self._parts


def _cut(found: _Object, span: ByteRange) -> memoryview:
    if not 0 <= span.start < min(span.stop, found.meta.size):
        raise Invalid(f"{found.meta.key!r} of {found.meta.size} bytes has no range [{span.start}, {span.stop})")
    if span.stop > found.meta.size:
        raise Corrupt(f"{found.meta.key!r} ends at {found.meta.size}, before {span.stop}", path=found.meta.key)
    return memoryview(found.data)[span.start : span.stop]


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
