"""From a local file to an object: one request for a small one, parts for a large one, a stream where there are none.

Parts may be sent while the file still grows: when it ends, every part is compared with the file once more, and those
that have changed are sent again.  Parts of the version before that did not change are copied by the store itself.

*Callers*: the uploader, on the loop.  *Awaits*: the store; the disk pool.  *Invariants*: nothing is visible until all
is there; at most `PARTS_IN_FLIGHT` parts of a file are in memory; a store that has moved on is never overwritten; the
last step, which makes all visible, is not broken off, and `on_offer` is told before it of what the store will show.
*On crash*: parts stay, invisible, until the bucket's lifecycle rule removes them.
"""

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar, cast

import xxhash

from forebay.cache.pages import PAGE_BYTES, page_count
from forebay.errors import AlreadyExists, FsError, NotFound, StaleVersion
from forebay.stores.base import PartsStore, Store, Upload
from forebay.stores.uploads import part_bytes
from forebay.types import Attributes, Buffer, ByteRange, ObjectMeta
from forebay.units import MIB
from forebay.vfs.content import Content, sums_of, unequal_pages

SINGLE_PUT_BYTES = 8 * MIB  # up to this size one PUT
PARTS_IN_FLIGHT = 4
CHUNK_BYTES = 4 * MIB  # of a stream
Result = TypeVar("Result")


class Pool(Protocol):
    """Runs what blocks elsewhere."""

    def __call__(self, work: Callable[..., Result], /, *args: object) -> Awaitable[Result]:
        """What `work` returns or raises."""
        ...


class Conditions(TypedDict, total=False):
    """Of a write."""

    if_version: str
    if_absent: bool


class Target(NamedTuple):
    """Where a file goes, and what it replaces there."""

    store: Store
    key: str
    base: str | None  # the version that it replaces; None: nothing may be there
    base_sums: "array[int] | None"  # of the pages of that version, if they are known
    attributes: Attributes | None
    replaces_any: bool = False  # whatever is there is to be replaced


class Sent(NamedTuple):
    """What the store has now."""

    meta: ObjectMeta
    sums: "array[int]"  # of what was sent, by page


class Offer(NamedTuple):
    """Bytes that the store was given, and may show, although nobody has said so."""

    size: int
    digest: str  # of the checksums of the pages, xxh3-128


OnOffer = Callable[[Offer], Awaitable[None]]


async def _no_offer(_: Offer) -> None:
    """Nobody wants to know."""


class Sender:
    """One file on its way; `advance` as often as there is more, then `finish` or `abort` once.

    Who cancels `finish` looks at `is_ending`: if it is so, `outcome` tells what became of the last step, else `abort`.
    """

    def __init__(self, target: Target, content: Content, pool: "Pool") -> None:
        self.target = target
        self._content = content
        self._pool = pool
        self._upload: Upload | None = None
        self._sums: dict[int, array[int]] = {}  # by part number, of what was sent
        self._slots = asyncio.Semaphore(PARTS_IN_FLIGHT)
        self._has_failed = False
        self._last_step: asyncio.Task[ObjectMeta] | None = None
        self.is_ending = False  # the store has everything, and may show it at any moment
        self.on_offer: OnOffer = _no_offer  # told of what it may show before it can

    # ------------------------------------------------------------------ ahead of the end

    @property
    def sends_parts(self) -> bool:
        """Can parts be sent before all of the file is there?"""
        return self.target.store.capabilities.parts

    async def advance(self, size: int) -> None:
        """Send the parts that lie wholly below `size`.

        Raises what the store raises; `abort` then.
        """
        await self._send_parts([(n, span) for n, span in parts_of(size) if span.size == part_bytes(n)], redo=set())

    # ------------------------------------------------------------------ the end

    async def finish(self) -> Sent:
        """Send what is missing or has changed, and make it visible.

        Raises:
            StaleVersion: what is in the store is not what this file replaces; nothing was written.
            FsError: as the store says.
        """
        size = self._content.size()
        try:
            if size <= SINGLE_PUT_BYTES and self._upload is None:
                return await self._put(size)
            return await (self._finish_parts(size) if self.sends_parts else self._stream(size))
        except AlreadyExists as error:
            raise StaleVersion(error.message, path=self.target.key) from error

    async def _put(self, size: int) -> Sent:
        target = self.target
        data = await self._content.read(0, size)
        sums = sums_in(data)
        conditions = await self._conditions()
        await self._offer(size, sums)
        put = target.store.put(target.key, data, attributes=target.attributes, **conditions)
        return Sent(await self._end(put), sums)

    async def _finish_parts(self, size: int) -> Sent:
        parts = list(parts_of(size))
        if any(number > len(parts) for number in self._sums):  # it was cut: what was sent past its end would stay in it
            await self.abort()
            self._sums.clear()
            if size <= SINGLE_PUT_BYTES:
                return await self._put(size)
        await self._send_parts(parts, redo=await self._changed_parts(parts))
        assert self._upload is not None
        sums = array("Q", [one for number in sorted(self._sums) for one in self._sums[number]])
        conditions = await self._conditions()
        await self._offer(size, sums)
        meta = await self._end(self._upload.complete(**conditions))
        self._upload = None
        return Sent(meta, sums)

    async def _offer(self, size: int, sums: "array[int]") -> None:
        await self.on_offer(offer_of(size, sums))
        self.is_ending = True

    async def _end(self, step: Coroutine[Any, Any, ObjectMeta]) -> ObjectMeta:
        """Do the last step: it goes on although who waits for it is cancelled, unless the store has not all yet."""
        self._last_step = asyncio.create_task(step, name=f"end of the upload of {self.target.key}")
        try:
            return await asyncio.shield(self._last_step)
        except asyncio.CancelledError:
            if not self.is_ending:
                await self._break_off()
            raise
        finally:
            self.is_ending &= not self._last_step.done()

    async def _break_off(self) -> None:
        if self._last_step is not None:
            self._last_step.cancel()
            await asyncio.wait({self._last_step})

    async def outcome(self) -> None:
        """Return when the last step, which nobody waits for any more, has come to its end; what failed is aborted."""
        assert self._last_step is not None
        try:
            await asyncio.wait({self._last_step})
        except asyncio.CancelledError:
            self._last_step.cancel()
            raise
        if self._last_step.cancelled() or self._last_step.exception() is not None:
            await self.abort()

    async def _changed_parts(self, parts: list[tuple[int, ByteRange]]) -> set[int]:
        """Parts that were sent and are other bytes by now."""
        if not self._content.is_whole or not self._sums:
            return set()
        now = await self._pool(sums_of, self._content.fd)
        return {
            number
            for number, span in parts
            if number in self._sums and self._sums[number] != now[span.start // PAGE_BYTES : page_count(span.stop)]
        }

    async def _send_parts(self, parts: list[tuple[int, ByteRange]], *, redo: set[int]) -> None:
        wanted = [(number, span) for number, span in parts if number in redo or number not in self._sums]
        if not wanted:
            return
        if self._upload is None:
            store = cast(PartsStore, self.target.store)
            self._upload = await store.upload(self.target.key, attributes=self.target.attributes)
        sending: list[asyncio.Task[None]] = []
        try:
            for number, span in wanted:
                await self._slots.acquire()
                if self._has_failed:
                    break
                name = f"part {number} of {self.target.key}"
                sending.append(asyncio.create_task(self._send_part(number, span), name=name))
            await asyncio.gather(*sending)
        finally:  # cancellations too
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)

    async def _send_part(self, number: int, span: ByteRange) -> None:
        try:
            assert self._upload is not None
            target = self.target
            if target.base is not None and target.store.capabilities.copy_parts and await self._is_unchanged(span):
                await self._copy(number, span, target.base)
                self._sums[number] = array("Q", bytes(8 * (page_count(span.stop) - span.start // PAGE_BYTES)))
                if target.base_sums is not None:
                    self._sums[number] = target.base_sums[span.start // PAGE_BYTES : page_count(span.stop)]
                return
            data = await self._read(span)
            self._sums[number] = await self._pool(sums_in, data)
            await self._upload.send(number, data)
        except BaseException:
            self._has_failed = True
            self._sums.pop(number, None)
            raise
        finally:
            self._slots.release()

    async def _copy(self, number: int, span: ByteRange, base: str) -> None:
        assert self._upload is not None
        try:
            await self._upload.copy(number, self.target.key, span, base)
        except NotFound as error:
            raise StaleVersion(
                f"{self.target.key} was removed by somebody else meanwhile", path=error.filename
            ) from error

    async def _is_unchanged(self, span: ByteRange) -> bool:
        base_sums = self.target.base_sums
        if base_sums is None:
            return self._content.is_unchanged(span)
        first, stop = span.start // PAGE_BYTES, page_count(span.stop)
        if stop > len(base_sums) or span.stop % PAGE_BYTES:  # the last page was another one, or is shorter
            return False
        return not unequal_pages(base_sums[first:stop], await self._pool(sums_in, await self._read(span)))

    async def _read(self, span: ByteRange) -> Buffer:
        found = bytearray()
        while len(found) < span.size:
            piece = await self._content.read(span.start + len(found), span.size - len(found))
            if not len(piece):
                raise FsError(f"{self.target.key}: the file was cut while it was sent")
            found += memoryview(piece)
        return found

    async def _stream(self, size: int) -> Sent:
        target, sums = self.target, array("Q")

        async def chunks() -> AsyncIterator[Buffer]:
            for start in range(0, size, CHUNK_BYTES):
                data = await self._read(ByteRange(start, min(start + CHUNK_BYTES, size)))
                sums.extend(await self._pool(sums_in, data))
                yield data
            await self._offer(size, sums)

        conditions = await self._conditions()
        put = target.store.put_stream(target.key, chunks(), attributes=target.attributes, **conditions)
        return Sent(await self._end(put), sums)

    async def _conditions(self) -> "Conditions":
        """What the store shall check; where it cannot, we look, a moment before."""
        target = self.target
        if target.replaces_any:
            return {}
        if target.store.capabilities.conditional_put:
            return {"if_absent": True} if target.base is None else {"if_version": target.base}
        try:
            found = await target.store.head(target.key)
        except NotFound:
            found = None
        if (None if found is None else found.version) != target.base:
            raise StaleVersion(f"{target.key} was changed by somebody else meanwhile", path=target.key)
        return {}

    async def abort(self) -> None:
        """Give up; nothing stays in the store, unless that fails too: then parts may, and whoever waits is told why
        the file was not sent rather than that."""
        await self._break_off()
        if self._upload is not None:
            upload, self._upload = self._upload, None
            with contextlib.suppress(FsError):
                await upload.abort()


def parts_of(size: int) -> Iterator[tuple[int, ByteRange]]:
    """The parts of a file of that size, with their numbers; where one begins does not depend on the size.

    >>> [(number, span.start // MIB, span.stop // MIB) for number, span in parts_of(20 * MIB)]
    [(1, 0, 8), (2, 8, 16), (3, 16, 20)]
    """
    start, number = 0, 1
    while start < size:
        stop = min(start + part_bytes(number), size)
        yield number, ByteRange(start, stop)
        start, number = stop, number + 1


def offer_of(size: int, sums: "array[int]") -> Offer:
    """What a file of that size and those checksums is known by."""
    return Offer(size, xxhash.xxh3_128_hexdigest(sums.tobytes()))


async def look(store: Store, key: str, sizes: Collection[int], pool: Pool) -> Sent | None:
    """What the store has at a key, if it is of one of those sizes; None: it is not, or it changes or goes meanwhile.

    Raises what the store raises.
    """
    sums = array("Q")
    try:
        meta = await store.head(key)
        if meta.size not in sizes:
            return None
        for start in range(0, meta.size, PAGE_BYTES):
            span = ByteRange(start, min(start + PAGE_BYTES, meta.size))
            sums.extend(await pool(sums_in, await store.get(key, span, version=meta.version)))
    except (NotFound, StaleVersion):
        return None
    return Sent(meta, sums)


def sums_in(data: Buffer) -> "array[int]":
    """The checksum of every page of some bytes."""
    view = memoryview(data)
    return array("Q", (xxhash.xxh3_64_intdigest(view[at : at + PAGE_BYTES]) for at in range(0, len(view), PAGE_BYTES)))
