"""What the stores that are trees of files and folders have in common: SFTP, WebDAV, hubs, file systems of fsspec.

A `Tree` says in blocking calls what its protocol can do; `TreeStore` makes a store of it: threads, deadlines, keys in
order, pages, files that appear whole.  An empty folder is the empty object `folder/`, as in `forebay.stores.local`.

*Callers*: the daemon, on the loop.  *Locks*: none; every call of a tree is in a thread of the store's own.  *Awaits*:
the tree, each call within the deadline.  *Invariants*: no path outside the tree is asked for; a file appears whole or
not at all; a write never leaves the version that the key had before.  *On crash*: where files are moved into place, a
temporary one may stay, under a name that is never listed.
"""

import asyncio
import secrets
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple, TypeVar, cast

from forebay.errors import (
    Corrupt,
    FsError,
    Invalid,
    IsADirectory,
    NotADirectory,
    NotFound,
    ReadOnly,
    TimedOut,
    Unavailable,
    Unsupported,
)
from forebay.stores.base import Capabilities, ListPage
from forebay.stores.rename_errors import why_not_renamed
from forebay.stores.threads import Threads
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta
from forebay.units import MIB

PAGE_KEYS = 1_000  # entries in one page of a listing, as on S3
TRIES = 3  # of a read that fails in a way that may pass
PAUSE_S = 0.2  # between them
CLOSE_WITHIN_S = 2.0  # a server that hangs holds up no stop
THREADS = 32  # calls in flight at a time: at 20 ms a round trip, 1,600 small files a second
SECOND_S = 1.1  # the coarsest clock of a server that tells times
_HIDDEN = ".forebay-part-"  # files being written

Result = TypeVar("Result")


class Entry(NamedTuple):
    """A name in a folder."""

    name: str
    meta: ObjectMeta | FolderMeta


class Tree(ABC):
    """A tree of files and folders over a network, in blocking calls that may come from several threads at once.

    Keys are paths below the tree's root, without slashes at the ends; "" is the root.  Every failure is raised as one
    of Forebay's kinds, and names the place.
    """

    location: str  # see `Store.location`
    capabilities = Capabilities(multipart=True, folders=True)
    renames = True  # `move` replaces a file in one step
    absences_are_sure = False  # `stat` tells NotFound of a file only while the root is there

    @abstractmethod
    def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """What is at `key`; raises NotFound."""

    @abstractmethod
    def entries(self, key: str) -> Iterable[Entry]:
        """All entries of a folder, in any order; raises NotFound."""

    @abstractmethod
    def chunks(self, key: str, span: ByteRange | None, version: str | None, chunk_bytes: int) -> Iterator[Buffer]:
        """The bytes of `span` (all if None) in chunks of about `chunk_bytes`; raises what `Store.get` raises.

        No chunk is given before it is certain that it belongs to `version`.
        """

    def write(self, key: str, chunks: Iterator[Buffer]) -> int:
        """Make or replace a file, whose folder exists, and say its size; if `chunks` raises, so does this."""
        raise self.no_writes()

    def move(self, source: str, target: str) -> None:
        """Rename a file; one that is at `target` is replaced."""
        raise self.no_writes()

    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder as rename(2) does, with `Capabilities.renames`."""
        raise self.no_writes()

    def remove(self, key: str) -> None:
        """Remove a file; raises NotFound."""
        raise self.no_writes()

    def make_folder(self, key: str) -> None:
        """Make a folder and those above it; one that exists is no error."""
        raise self.no_writes()

    def remove_folder(self, key: str) -> None:
        """Remove a folder that is empty; raises what is not NotFound if it has entries."""
        raise self.no_writes()

    def copy(self, source: str, target: str) -> None:
        """Copy a file, at the server if it can; the folder of `target` exists."""
        self.write(target, self.chunks(source, None, None, MIB))

    def no_writes(self) -> FsError:
        """The refusal of a write."""
        return ReadOnly(f"{self.location}: Forebay only reads there; write with the tools of the store itself")

    def close(self) -> None:
        """Release connections."""
        return


class TreeStore:
    """See the module and `forebay.stores.base.FolderStore`."""

    def __init__(self, tree: Tree, *, deadline_s: float) -> None:
        self.location = tree.location
        self.capabilities = tree.capabilities
        self._tree = tree
        self._deadline_s = deadline_s
        self._threads = Threads(THREADS, name="tree-store")

    def __repr__(self) -> str:
        return f"<TreeStore {self.location}>"

    # ------------------------------------------------------------------ reading

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        if isinstance(await self._in_thread(self._tree.stat, ""), ObjectMeta):
            raise NotADirectory(f"{self.location} is a file; name the folder that it is in")

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        return await self._ask(self._head, key)

    async def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `FolderStore.stat`."""
        return await self._ask(self._stat, key)

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        return await self._ask(self._get, key, span, version)

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        chunks = self._chunks(key, span, version, chunk_bytes)
        try:
            while (chunk := await self._ask(next, chunks, None)) is not None:
                yield chunk
        finally:
            with suppress(Unavailable):  # closed
                self._threads.submit(_close, chunks)

    def _get(self, key: str, span: ByteRange | None, version: str | None) -> Buffer:
        parts = list(self._chunks(key, span, version, sys.maxsize))
        return parts[0] if len(parts) == 1 else b"".join(memoryview(part) for part in parts)

    def _chunks(self, key: str, span: ByteRange | None, version: str | None, chunk_bytes: int) -> Iterator[Buffer]:
        if span is not None and (span.start < 0 or span.stop <= span.start):
            raise Invalid(f"bytes {span.start} to {span.stop} of {key!r} are no range", path=key)
        if key.endswith("/"):
            self._head(key)
            if span is not None:
                raise Invalid(f"{self.location}: {key!r} is empty", path=key)
            return
        at = 0 if span is None else span.start
        tries = TRIES
        while span is None or at < span.stop:
            rest = None if span is None else ByteRange(at, span.stop)
            try:
                for chunk in self._tree.chunks(self._checked(key), rest, version, chunk_bytes):
                    at += len(chunk)
                    if span is not None and at > span.stop:
                        raise Corrupt(f"{self.location}: {key!r}: more bytes came than were asked for", path=key)
                    yield chunk
                if span is None:
                    return
                if at < span.stop:
                    raise Corrupt(f"{self.location}: {key!r}: {span.stop - at} bytes are missing", path=key)
            except FsError as error:
                tries -= 1
                if tries == 0 or not _may_pass(error) or (span is None and at > 0):
                    raise
                time.sleep(PAUSE_S)

    def _stat(self, key: str) -> ObjectMeta | FolderMeta:
        return _tried(self._tree.stat, self._checked(key) if key else "")

    def _head(self, key: str) -> ObjectMeta:
        if not key.endswith("/"):
            return self._file(self._checked(key))
        meta = self._stat(key[:-1])
        if isinstance(meta, FolderMeta) and next(iter(self._tree.entries(key[:-1])), None) is None:
            return _marker(key, meta)
        raise NotFound(f"{self.location}: no object {key!r}", path=key)

    def _file(self, key: str) -> ObjectMeta:
        meta = _tried(self._tree.stat, key)
        if isinstance(meta, FolderMeta):
            raise NotFound(f"{self.location}: no object {key!r}", path=key)
        return meta

    def _checked(self, key: str) -> str:
        """The key, if a path can say it."""
        if not _is_path(key):
            raise NotFound(f"{self.location}: no file can have the key {key!r}", path=key)
        return key

    # ------------------------------------------------------------------ listing

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`; each folder is asked for whole."""
        entries = self._entries(prefix, start_after, recursive=recursive)
        while page := await self._ask(_take, entries, PAGE_KEYS):
            objects = [meta for _, meta in page if isinstance(meta, ObjectMeta)]
            folders = {key: meta for key, meta in page if isinstance(meta, FolderMeta)}
            yield ListPage(objects, [] if recursive else [*folders], folders)

    def _entries(self, prefix: str, start_after: str, *, recursive: bool) -> Iterator[Entry]:
        """Objects and folders, by their keys and in key order.  Runs in threads, one step of a page at a time."""
        after = _raw(start_after)
        for name, meta in self._sorted(prefix):
            key = prefix + name
            raw = _raw(key)
            if not name or isinstance(meta, ObjectMeta):
                if raw > after:
                    yield Entry(key, _marker(key, meta) if isinstance(meta, FolderMeta) else meta)
                continue
            if raw <= after and (not after.startswith(raw) or (after == raw and not recursive)):
                continue
            yield Entry(key, meta)
            if recursive:
                yield from self._entries(key, start_after, recursive=True)

    def _sorted(self, prefix: str) -> Iterable[Entry]:
        """A folder's names as parts of keys, in order; "" stands for the folder itself if it is empty."""
        folder = prefix.removesuffix("/")
        if folder and not _is_path(folder):
            return []
        try:
            entries = [one for one in _tried(self._tree.entries, folder) if _is_path(one.name) and "/" not in one.name]
        except (NotFound, NotADirectory):
            if not folder:  # the root
                raise
            return []
        if not entries and prefix:
            with suppress(NotFound):
                meta = self._tree.stat(folder)
                return [Entry("", meta)] if isinstance(meta, FolderMeta) else []
            return []
        slashed = [Entry(name + "/" * isinstance(meta, FolderMeta), meta) for name, meta in entries]
        return sorted(slashed, key=lambda entry: _raw(entry.name))

    # ------------------------------------------------------------------ writing

    async def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put`; without conditions."""
        self._refuse_conditions(key, if_version, if_absent)
        if key.endswith("/"):
            if len(data):
                raise Invalid(f"{self.location}: {key!r} is a folder and cannot hold bytes", path=key)
            return await self._in_thread(self._make_folder, key)
        return await self._in_thread(self._put, key, iter([data] if len(data) else []))

    async def put_stream(
        self,
        key: str,
        chunks: AsyncIterator[Buffer],
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        attributes: Attributes | None = None,
    ) -> ObjectMeta:
        """See `Store.put_stream`; without conditions.  The deadline is that of each piece."""
        self._refuse_conditions(key, if_version, if_absent)
        try:
            async with asyncio.timeout(self._deadline_s) as limit:
                source = _Source(chunks, limit, self._deadline_s)
                try:
                    return await self._threads.run(self._put, key, source)
                finally:
                    source.end()
        except TimeoutError as error:
            raise self._late(error) from error

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._in_thread(self._delete, key)

    async def rename(self, source: str, target: str) -> None:
        """See `RenamingStore.rename`; only with `Capabilities.renames`."""
        await self._in_thread(self._rename, source, target)

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`; where the server cannot copy, the bytes do pass through here."""
        if source.endswith("/") or target.endswith("/"):
            raise Invalid(f"{self.location}: folders are not copied", path=source)
        return await self._in_thread(self._copy, source, target)

    def _refuse_conditions(self, key: str, if_version: str | None, if_absent: bool) -> None:
        if if_version is not None or if_absent:
            raise Unsupported(f"{self.location}: conditional writes are not possible there", path=key)

    def _make_folder(self, key: str) -> ObjectMeta:
        self._tree.make_folder(self._writable(key[:-1]))
        return self._head_of_folder(key)

    def _head_of_folder(self, key: str) -> ObjectMeta:
        meta = self._tree.stat(key[:-1])
        if isinstance(meta, FolderMeta):
            return _marker(key, meta)
        raise NotADirectory(f"{self.location}: {key!r}: a file stands where a folder is needed", path=key)

    def _put(self, key: str, chunks: Iterator[Buffer]) -> ObjectMeta:
        return self._make(key, lambda place: self._tree.write(place, chunks))

    def _copy(self, source: str, target: str) -> ObjectMeta:
        size = self._head(source).size

        def fill(place: str) -> int:
            self._tree.copy(source, place)
            return size

        return self._make(target, fill)

    def _rename(self, source: str, target: str) -> None:
        if not self.capabilities.renames:
            raise Unsupported(f"{self.location}: the server cannot rename at once", path=source)
        moved = self._tree.stat(self._checked(source))
        if self._writable(target) == source:
            return
        try:
            self._tree.rename(source, target)
        except FsError as error:
            raise self._why_not_renamed(source, moved, target) or error from None

    def _why_not_renamed(self, source: str, moved: ObjectMeta | FolderMeta, target: str) -> FsError | None:
        folder = target.rpartition("/")[0]
        try:
            if folder and isinstance(self._found(folder), ObjectMeta):
                return NotADirectory(
                    f"{self.location}: {target!r}: a file stands where a folder is needed", path=target
                )
            there = self._found(target)
            has_entries = isinstance(there, FolderMeta) and any(self._tree.entries(target))
        except FsError:
            there, has_entries = None, False
        return why_not_renamed(self.location, (source, moved), (target, there), has_entries=has_entries)

    def _make(self, key: str, fill: Callable[[str], int]) -> ObjectMeta:
        """Have a file filled, and put it in its place."""
        folder = self._writable(key).rpartition("/")[0]
        before = self._found(key)
        if isinstance(before, FolderMeta):
            raise IsADirectory(f"{self.location}: {key!r} is a folder", path=key)
        if before is None and folder and not isinstance(self._found(folder), FolderMeta):
            self._tree.make_folder(folder)
        if not self._tree.renames:
            fill(key)
            return self._file(key)
        part = self._part(folder)
        try:
            size = fill(part)
            made = self._file(part)
            if made.size != size:  # as servers do that take no upload of unknown length
                raise Corrupt(f"{self.location}: {key!r}: the server kept {made.size} of {size} bytes", path=key)
            if before is not None and made[1:4] == before[1:4]:
                part = self._age(part, folder)
            self._tree.move(part, key)
        except BaseException:
            self._discard(part)
            raise
        return self._file(key)

    def _discard(self, part: str) -> None:
        """Remove what a failed write has left; the server may make a file of it only now."""
        for _ in range(TRIES):
            try:
                self._tree.remove(part)
            except FsError:
                time.sleep(PAUSE_S)
            else:
                return

    def _age(self, part: str, folder: str) -> str:
        """Write a file again when the server's clock has gone on.

        Where size and time in seconds are the version, a change within the second would not be seen.
        """
        time.sleep(SECOND_S)
        renewed = self._part(folder)
        try:
            self._tree.write(renewed, self._tree.chunks(part, None, None, MIB))
            self._tree.remove(part)
        except BaseException:
            self._discard(renewed)
            raise
        return renewed

    def _part(self, folder: str) -> str:
        return f"{folder}/{_HIDDEN}{secrets.token_hex(8)}".removeprefix("/")

    def _found(self, key: str) -> ObjectMeta | FolderMeta | None:
        try:
            return self._tree.stat(key)
        except NotFound:
            return None

    def _writable(self, key: str) -> str:
        if not self.capabilities.writable:
            raise self._tree.no_writes()
        if not _is_path(key):
            raise Invalid(f"{self.location}: no file can have the key {key!r}", path=key)
        return key

    def _delete(self, key: str) -> None:
        if not self.capabilities.writable:
            raise self._tree.no_writes()
        with suppress(NotFound, NotADirectory):
            if key.endswith("/"):
                self._head(key)
                self._tree.remove_folder(self._checked(key[:-1]))
            elif isinstance(self._tree.stat(self._checked(key)), ObjectMeta):
                self._tree.remove(key)

    # ------------------------------------------------------------------ threads

    async def close(self) -> None:
        """See `Store.close`."""
        with suppress(FsError, TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self._in_thread(self._tree.close)
        self._threads.close()

    async def _ask(self, call: Callable[..., Result], *args: Any) -> Result:  # noqa: ANN401 - as `call` takes them
        """As `_in_thread`; but an absence counts only while the root is there: it would be believed."""
        try:
            return await self._in_thread(call, *args)
        except NotFound:
            if self._tree.absences_are_sure:
                raise
            try:
                await self._in_thread(self._tree.stat, "")
            except NotFound as gone:
                message = f"{self.location} has gone; is its server complete, and are its disks mounted?"
                raise Unavailable(message) from gone
            raise

    async def _in_thread(self, call: Callable[..., Result], *args: Any) -> Result:  # noqa: ANN401
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._threads.run(call, *args)
        except TimeoutError as error:
            raise self._late(error) from error

    def _late(self, error: TimeoutError) -> FsError:
        if isinstance(error, FsError):
            return error
        return TimedOut(f"{self.location}: no answer within {self._deadline_s:g} s; check network and firewall")


class _Source:
    """The chunks of an upload: pulled by the thread that sends them, from the loop where they are made."""

    def __init__(self, chunks: AsyncIterator[Buffer], limit: asyncio.Timeout, deadline_s: float) -> None:
        self._chunks = chunks
        self._limit = limit
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._pulling: Future[Buffer | None] | None = None
        self._ended = False

    def __iter__(self) -> "_Source":
        return self

    def __next__(self) -> Buffer:
        self._pulling = asyncio.run_coroutine_threadsafe(self._pull(), self._loop)
        if self._ended:
            self._pulling.cancel()
        chunk = self._pulling.result()
        if chunk is None:
            raise StopIteration
        return chunk

    async def _pull(self) -> Buffer | None:
        self._limit.reschedule(None)  # who makes the chunks may take their time
        try:
            return await anext(self._chunks, None)
        finally:
            self._limit.reschedule(self._loop.time() + self._deadline_s)

    def end(self) -> None:
        """Give no more; the thread that waits for more is told."""
        self._ended = True
        if self._pulling is not None:
            self._pulling.cancel()


def _tried(call: Callable[[str], Result], key: str) -> Result:
    """What a call that reads answers; it is made again if its failure may pass."""
    for _ in range(TRIES - 1):
        try:
            return call(key)
        except FsError as error:
            if not _may_pass(error):
                raise
            time.sleep(PAUSE_S)
    return call(key)


def _may_pass(error: FsError) -> bool:
    return error.retryable and not isinstance(error, TimedOut)


def _take(entries: Iterator[Entry], count: int) -> "list[Entry]":
    return list(islice(entries, count))


def _close(chunks: Iterator[Buffer]) -> None:
    with suppress(ValueError):  # it runs in another thread, which drops the last reference to it
        cast("Generator[Buffer, None, None]", chunks).close()


def _marker(key: str, meta: FolderMeta) -> ObjectMeta:
    """The empty object that stands for an empty folder."""
    return ObjectMeta(key, 0, meta.mtime_ns, f"0-{meta.mtime_ns}", meta.posix)


def _is_path(key: str) -> bool:
    return "\0" not in key and all(name not in ("", ".", "..") and not _is_hidden(name) for name in key.split("/"))


def _is_hidden(name: str) -> bool:
    return name.startswith(_HIDDEN)


def _raw(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
