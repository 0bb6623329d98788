"""A store that fails by script: any store, and what shall go wrong with each call to it.

Before each call (a page of a listing is a call) the next item of the script is taken: None lets it pass, an error is
raised, and the classes below describe the rest.  When the script is at its end, all is well again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import cast

from forebay.errors import FsError, Unavailable
from forebay.stores.base import AttributesStore, ListPage, PartsStore, RenamingStore, Store, Upload, VersionCopyingStore
from forebay.types import Attributes, Buffer, ByteRange, ObjectMeta


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer until the event is set; for ever if it never is."""

    until: asyncio.Event


@dataclass(frozen=True, slots=True)
class Truncated:
    """The body stops after `count` bytes, and nothing says so."""

    count: int


@dataclass(frozen=True, slots=True)
class Extended:
    """The body has `count` more bytes than it should."""

    count: int


@dataclass(frozen=True, slots=True)
class Flipped:
    """The lowest bit of the byte at `offset` of the body is another."""

    offset: int


@dataclass(frozen=True, slots=True)
class Broken:
    """The connection breaks after `count` bytes of the body."""

    count: int


Fault = FsError | Hang | Truncated | Extended | Flipped | Broken | None


class FaultyStore:
    """See the module.  `script` may be added to at any time, and so may `pages`, which is for listings alone."""

    def __init__(self, inner: Store, script: Iterable[Fault] = ()) -> None:
        self.inner = inner
        self.location = inner.location
        self.capabilities = inner.capabilities
        self.script = deque(script)
        self.pages: deque[Fault] = deque()

    async def step(self) -> None:
        """Take the next item of the script, for a call that brings no bytes."""
        await self._next()

    async def _next(self, script: deque[Fault] | None = None) -> Fault:
        script = script or self.script
        fault = script.popleft() if script else None
        if isinstance(fault, Hang):
            await fault.until.wait()
        if isinstance(fault, FsError):
            raise type(fault)(fault.message, path=fault.filename)  # a fresh one: tracebacks must not pile up
        return fault

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        await self._next()
        await self.inner.probe(prefix)

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        await self._next()
        return await self.inner.head(key)

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        fault = await self._next()
        data = await self.inner.get(key, span, version=version)
        if isinstance(fault, Broken):
            raise Unavailable(f"the connection broke after {fault.count} bytes", path=key)
        return data if fault is None else _spoiled(bytes(memoryview(data)), fault)

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        fault = await self._next()
        if fault is None or isinstance(fault, Hang):
            async for chunk in self.inner.stream(key, span, version=version, chunk_bytes=chunk_bytes):
                yield chunk
            return
        body = _spoiled(bytes(memoryview(await self.inner.get(key, span, version=version))), fault)
        for start in range(0, len(body), chunk_bytes):
            yield body[start : start + chunk_bytes]
        if isinstance(fault, Broken):
            raise Unavailable(f"the connection broke after {fault.count} bytes", path=key)

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`."""
        await self._next(self.pages)
        async for page in self.inner.list(prefix, recursive=recursive, start_after=start_after):
            yield page
            await self._next(self.pages)

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
        await self._next()
        return await self.inner.put(key, data, if_version=if_version, if_absent=if_absent, attributes=attributes)

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
        await self._next()
        return await self.inner.put_stream(
            key, chunks, if_version=if_version, if_absent=if_absent, attributes=attributes
        )

    async def upload(self, key: str, *, attributes: Attributes | None = None) -> Upload:
        """See `PartsStore.upload`; only of an inner store that has it, as the two below."""
        await self._next()
        return FaultyUpload(self, await cast("PartsStore", self.inner).upload(key, attributes=attributes))

    async def rename(self, source: str, target: str) -> None:
        """See `RenamingStore.rename`."""
        await self._next()
        await cast("RenamingStore", self.inner).rename(source, target)

    async def set_attributes(self, key: str, attributes: Attributes) -> None:
        """See `AttributesStore.set_attributes`."""
        await self._next()
        await cast("AttributesStore", self.inner).set_attributes(key, attributes)

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._next()
        await self.inner.delete(key)

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`."""
        await self._next()
        return await self.inner.copy(source, target)

    async def copy_version(self, known: ObjectMeta, target: str) -> ObjectMeta:
        """See `VersionCopyingStore.copy_version`; only of an inner store that has it."""
        await self._next()
        return await cast("VersionCopyingStore", self.inner).copy_version(known, target)

    async def close(self) -> None:
        """See `Store.close`."""
        await self.inner.close()


class FaultyUpload:
    """An upload each of whose calls is a call to the store."""

    def __init__(self, store: FaultyStore, inner: Upload) -> None:
        self._store = store
        self._inner = inner

    async def send(self, number: int, data: Buffer) -> None:
        """See `Upload.send`."""
        await self._store.step()
        await self._inner.send(number, data)

    async def copy(self, number: int, source: str, span: ByteRange, version: str) -> None:
        """See `Upload.copy`."""
        await self._store.step()
        await self._inner.copy(number, source, span, version)

    async def complete(self, *, if_version: str | None = None, if_absent: bool = False) -> ObjectMeta:
        """See `Upload.complete`."""
        await self._store.step()
        return await self._inner.complete(if_version=if_version, if_absent=if_absent)

    async def abort(self) -> None:
        """See `Upload.abort`."""
        await self._store.step()
        await self._inner.abort()


def _spoiled(body: bytes, fault: Fault) -> bytes:
    match fault:
        case Truncated(count) | Broken(count):
            return body[:count]
        case Extended(count):
            return body + bytes(count)
        case Flipped(offset):
            return body[:offset] + bytes([body[offset] ^ 1]) + body[offset + 1 :]
        case _:
            return body
