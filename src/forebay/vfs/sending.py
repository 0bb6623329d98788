"""From a local file to an object: one request for a small one, parts for a large one, a stream where there are none.

Parts may be sent while the file still grows: when it ends, they are compared with the file once more, while the rest
is sent, and those that have changed are sent again.  From then on the file must not change until all of it is read.
Parts of the version before that did not change are copied by the store itself.

*Callers*: the uploader, on the loop.  *Awaits*: the store; the disk pool.  *Invariants*: nothing is visible until all
is there, as the file was at one moment; at most `PARTS_IN_FLIGHT` parts of it are in memory; a store that has moved on
is never overwritten; the last step, which makes all visible, is not broken off, and `on_offer` is told before it of
what the store will show.
*On crash*: parts stay, invisible, until the bucket's lifecycle rule removes them.
"""

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar, cast

import xxhash

from forebay.cache.pages import PAGE_BYTES, page_count
from forebay.errors import AlreadyExists, Busy, FsError, NotFound, StaleVersion
from forebay.stores.base import PartsStore, Store, Upload
from forebay.stores.uploads import part_bytes
from forebay.types import Attributes, Buffer, ByteRange, ObjectMeta
from forebay.units import MIB
from forebay.vfs.content import SMALL_BYTES, Content, Stamp, load, sums_in, sums_of

SINGLE_PUT_BYTES = 8 * MIB  # up to this size one PUT
PARTS_IN_FLIGHT = 4
CHUNK_BYTES = 4 * MIB  # of a stream
Result = TypeVar("Result")


class Pool(Protocol):
    """Runs what blocks elsewhere."""

    def __call__(self, work: Callable[..., Result], /, *args: object) -> Awaitable[Result]:
        """What `work` returns or raises."""
        ...


class Changed(Busy):
    """The file was written while it was sent."""


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


NOTHING = Offer(-1, "")  # no object: the store was asked to remove it


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
        self._beginning = asyncio.Lock()
        self._sending: dict[int, asyncio.Task[None]] = {}  # parts on their way, by number
        self._sums: dict[int, array[int]] = {}  # by part number, of what was sent
        self._rooms: list[bytearray] = []  # for parts, used again: memory that is new costs more than a part's way here
        self._stamp: Stamp | None = None  # what the file must be like while it is read; None: it may change
        self._last_step: asyncio.Task[ObjectMeta] | None = None
        self.failed: BaseException | None = None  # why a part was not sent
        self.is_ending = False  # the store has everything, and may show it at any moment
        self.on_offer: OnOffer = _no_offer  # told of what it may show before it can

    # ------------------------------------------------------------------ ahead of the end

    @property
    def sends_parts(self) -> bool:
        """Can parts be sent before all of the file is there?"""
        return self.target.store.capabilities.parts

    def advance(self, size: int) -> None:
        """Begin to send the parts that lie wholly below `size`, as many as may be on their way; see `failed`."""
        for number, span in parts_of(size):
            if self.is_full or span.size < part_bytes(number):
                return
            if number not in self._sums and number not in self._sending:
                self._begin(number, span)

    @property
    def is_full(self) -> bool:
        """Are as many parts on their way as may be?"""
        return len(self._sending) >= PARTS_IN_FLIGHT

    async def until_one_ends(self) -> None:
        """Return when a part is not on its way any more.  Some are."""
        await asyncio.wait(self._sending.values(), return_when=asyncio.FIRST_COMPLETED)

    # ------------------------------------------------------------------ the end

    async def finish(self, stamp: Stamp | None) -> Sent:
        """Send what is missing or has changed, and make it visible.

        Args:
            stamp: what the file must be like until all of it is read; None: it is sent as it comes.

        Raises:
            Changed: the file is not like that any more; nothing was written.
            StaleVersion: what is in the store is not what this file replaces; nothing was written.
            FsError: as the store says.
        """
        self._stamp = stamp
        size = self._content.size() if stamp is None else stamp.size
        try:
            if size <= SINGLE_PUT_BYTES and self._upload is None and not self._sending:
                return await self._put(size)
            return await (self._finish_parts(size) if self.sends_parts else self._stream(size))
        except AlreadyExists as error:
            raise StaleVersion(error.message, path=self.target.key) from error

    async def _put(self, size: int) -> Sent:
        target = self.target
        if size <= SMALL_BYTES or not self._content.is_whole:
            data = await self._content.read(0, size)
            self._check()
            sums = sums_in(data)
        else:
            data, sums = await self._load(ByteRange(0, size), bytearray(size))
        conditions = await self._conditions()
        await self._offer(len(data), sums)
        put = target.store.put(target.key, data, attributes=target.attributes, **conditions)
        return Sent(await self._end(put), sums)

    async def _finish_parts(self, size: int) -> Sent:
        parts = dict(parts_of(size))
        if self.failed or not parts.keys() >= self._sums.keys() | self._sending.keys():
            await self.abort()  # what was sent past the end of a file that was cut would stay in it
            if size <= SINGLE_PUT_BYTES:
                return await self._put(size)
        ahead = {number: parts[number] for number in (*self._sums, *self._sending)}
        comparing = asyncio.create_task(self._sums_now(ahead), name=f"sums of {self.target.key}")
        try:
            await self._send_parts({number: parts[number] for number in parts.keys() - ahead})
            now = await comparing
            await self._send_parts({number: ahead[number] for number in ahead if self._sums[number] != now[number]})
        finally:  # cancellations too
            comparing.cancel()
            await asyncio.gather(comparing, return_exceptions=True)
            await self._stop()
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

    async def _sums_now(self, parts: dict[int, ByteRange]) -> "dict[int, array[int]]":
        """The checksums of parts as they are by now: what went ahead may have been written again since."""
        found = {}
        for number, span in parts.items():
            found[number] = await self._pool(sums_of, self._content.fd, span, self._content.may_be_mapped)
            self._check()
        return found

    def _check(self, *, is_cut: bool = False) -> None:
        """Raise if the file is not what it was when its end began to be sent: others would see a mixture."""
        if self._stamp is not None and self._content.stamp() != self._stamp:
            raise Changed(f"{self.target.key}: the file was written while it was sent")
        if is_cut:
            raise FsError(f"{self.target.key}: the file was cut while it was sent")

    async def _send_parts(self, parts: dict[int, ByteRange]) -> None:
        """Send these, and return when nothing is on its way any more."""
        for number in sorted(parts):
            while self.is_full and not self.failed:
                await self.until_one_ends()
            if self.failed:
                break
            self._begin(number, parts[number])
        while self._sending and not self.failed:
            await self.until_one_ends()
        if self.failed:
            raise self.failed

    def _begin(self, number: int, span: ByteRange) -> None:
        task = asyncio.create_task(self._send_part(number, span), name=f"part {number} of {self.target.key}")
        self._sending[number] = task

        def ended(_: "asyncio.Task[None]") -> None:
            del self._sending[number]
            error = None if task.cancelled() else task.exception()
            self.failed = self.failed or error

        task.add_done_callback(ended)

    async def _send_part(self, number: int, span: ByteRange) -> None:
        upload, target = await self._begun(), self.target
        may_copy = target.base is not None and target.store.capabilities.copy_parts
        if may_copy and target.base_sums is None and self._content.is_unchanged(span):
            await self._copy(upload, number, span)
            self._sums[number] = array("Q", bytes(8 * (page_count(span.stop) - span.start // PAGE_BYTES)))
            return
        room = self._rooms.pop() if self._rooms else bytearray()
        data, sums = await self._load(span, room if len(room) >= span.size else (room := bytearray(span.size)))
        if may_copy and self._is_of_base(span, sums):
            await self._copy(upload, number, span)
        else:
            await upload.send(number, data)
        self._sums[number] = sums
        self._rooms.append(room)  # only now: of a request that broke off, some may be on its way still

    async def _begun(self) -> Upload:
        async with self._beginning:
            if self._upload is None:
                store = cast(PartsStore, self.target.store)
                self._upload = await store.upload(self.target.key, attributes=self.target.attributes)
            return self._upload

    async def _stop(self) -> None:
        """Return when no part is on its way any more."""
        for task in self._sending.values():
            task.cancel()
        while self._sending:
            await self.until_one_ends()

    async def _copy(self, upload: Upload, number: int, span: ByteRange) -> None:
        assert self.target.base is not None
        try:
            await upload.copy(number, self.target.key, span, self.target.base)
        except NotFound as error:
            raise StaleVersion(
                f"{self.target.key} was removed by somebody else meanwhile", path=error.filename
            ) from error

    def _is_of_base(self, span: ByteRange, sums: "array[int]") -> bool:
        """Are the bytes of a part, of which these are the checksums, those of the version that is replaced?"""
        base_sums, first, stop = self.target.base_sums, span.start // PAGE_BYTES, page_count(span.stop)
        if base_sums is None or stop > len(base_sums) or span.stop % PAGE_BYTES:  # the last page may be shorter there
            return False
        return base_sums[first:stop] == sums

    async def _load(self, span: ByteRange, room: bytearray) -> "tuple[Buffer, array[int]]":
        """Bytes of the file, in `room` or not, and their checksums."""
        data: Buffer = memoryview(room)[: span.size]
        if self._content.is_whole:
            count, sums = await self._pool(load, self._content.fd, span.start, data, self._content.may_be_mapped)
        else:
            data = await self._read(span)
            count, sums = len(data), await self._pool(sums_in, data)
        self._check(is_cut=count < span.size)
        return data, sums

    async def _read(self, span: ByteRange) -> Buffer:
        found = bytearray()
        while len(found) < span.size:
            piece = await self._content.read(span.start + len(found), span.size - len(found))
            if not len(piece):
                break
            found += memoryview(piece)
        return found

    async def _stream(self, size: int) -> Sent:
        target, sums = self.target, array("Q")

        async def chunks() -> AsyncIterator[Buffer]:
            for start in range(0, size, CHUNK_BYTES):
                span = ByteRange(start, min(start + CHUNK_BYTES, size))
                data, found = await self._load(span, bytearray(span.size))
                sums.extend(found)
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
        await self._stop()
        self._sums.clear()
        self.failed = None
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
