"""CephFS as a store: one file is one object, its path below the mounted folder is the key.

An empty folder is the empty object `folder/`.  A version is a file's inode, its time of change and the cluster's own
count of changes: it tells a change that keeps size and time from none, and takes one of mode or owner for one.

It goes through libcephfs, in the daemon's own process.  Measured on one cluster in one run, 1 GiB cold, 8 MiB at a
time, four in flight: this adapter 920 to 1,000 MB/s at 0.55 s of CPU and 90 MB of memory; a folder mounted by
ceph-fuse 370 to 460 MB/s (310 to 500 read in a row), in a process of its own.  Such a folder also needs fusermount and
a place to be mounted, stays behind after a kill, and tells most failures as EIO or not at all; the kernel's client
needs root, and a kernel that has it.  Ceph's own binding for Python fits the distribution's Python only.

*Callers*: the daemon, on the loop.  *Locks*: one, while a client connects; blocking work runs in the store's own
threads.  *Awaits*: the cluster, each call within the deadline; a call that the cluster does not answer keeps its
thread until it does.  *Invariants*: see `forebay.stores.cephfs_files`.  *On crash*: a temporary file may stay, under
a name that is never listed; the cluster forgets the client by itself, within minutes.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from forebay.config.settings import Settings
from forebay.errors import FsError, Invalid, NotFound, TimedOut, Unavailable
from forebay.stores import cephfs_options
from forebay.stores.base import Capabilities, ListPage, Opened, check_span
from forebay.stores.cephfs_connect import connect
from forebay.stores.cephfs_files import CephFiles, Folder, SessionEnded
from forebay.stores.cephfs_options import CephFsOptions
from forebay.stores.posix import WholeFiles
from forebay.types import Attributes, Buffer, ByteRange, FolderMeta, ObjectMeta
from forebay.units import MIB

PAGE_KEYS = 1_000
THREADS = 8
COPY_BYTES = 8 * MIB
_DRAIN_S = 5.0

Result = TypeVar("Result")
Entries = list["ObjectMeta | Folder"]  # `list` means the method inside the class


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`cephfs://MONITOR:PORT/path`; see `forebay.stores.registry`."""
    return Opened(CephFsStore(cephfs_options.parse(rest, options), deadline_s=settings.store_deadline_s), "")


class CephFsStore(WholeFiles):
    """See the module and `forebay.stores.base.FolderStore`."""

    replacer = "CephFS"

    def __init__(self, options: CephFsOptions, *, deadline_s: float) -> None:
        self.location = options.location
        self.capabilities = Capabilities(
            undecodable_keys=True, folders=True, renames=True, attributes=True, listed_attributes=True
        )
        self._options = options
        self._deadline_s = deadline_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cephfs-store")
        self._connecting = threading.Lock()
        self._files: CephFiles | None = None  # None: not connected, or not any more

    def __repr__(self) -> str:
        return f"<CephFsStore {self.location}>"

    # ------------------------------------------------------------------ reading

    async def probe(self, prefix: str) -> None:
        """See `Store.probe`."""
        await self._in_thread(self._connected)  # here a folder that does not exist is told as just that
        await self._run(CephFiles.probe)

    async def head(self, key: str) -> ObjectMeta:
        """See `Store.head`."""
        return await self._find(lambda files: files.head(key))

    async def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `FolderStore.stat`."""
        return await self._find(lambda files: files.stat(key))

    async def get(self, key: str, span: ByteRange | None = None, *, version: str | None = None) -> Buffer:
        """See `Store.get`."""
        if span is not None:
            check_span(key, span)
        return await self._find(lambda files: files.read(key, span, version))

    async def stream(self, key: str, span: ByteRange, *, version: str, chunk_bytes: int) -> AsyncIterator[Buffer]:
        """See `Store.stream`."""
        check_span(key, span)
        files, reading = await self._find(lambda files: (files, files.open(key, span, version)))
        try:
            for start in range(span.start, span.stop, chunk_bytes):
                piece = ByteRange(start, min(start + chunk_bytes, span.stop))
                yield await self._in_thread(files.read_open, reading, piece)
        finally:
            await self._in_thread(files.close_open, reading)

    async def list(self, prefix: str, *, recursive: bool = False, start_after: str = "") -> AsyncIterator[ListPage]:
        """See `Store.list`."""
        files = await self._run(self._with_root)
        entries = files.entries(prefix, start_after, recursive=recursive)
        while page := await self._in_thread(lambda: _take(entries, PAGE_KEYS)):
            objects = [entry for entry in page if isinstance(entry, ObjectMeta)]
            folders = dict(entry for entry in page if isinstance(entry, Folder))
            yield ListPage(objects, [] if recursive else [*folders], folders)

    # ------------------------------------------------------------------ writing

    async def delete(self, key: str) -> None:
        """See `Store.delete`."""
        await self._run(lambda files: files.delete(key))

    async def copy(self, source: str, target: str) -> ObjectMeta:
        """See `Store.copy`; the bytes do move through here, since CephFS copies nothing by itself."""
        if source.endswith("/") or target.endswith("/"):
            raise Invalid(f"{self.location}: folders are not copied", path=source)
        meta = await self.head(source)

        async def chunks() -> AsyncIterator[Buffer]:
            if meta.size:
                whole = ByteRange(0, meta.size)
                async for chunk in self.stream(source, whole, version=meta.version, chunk_bytes=COPY_BYTES):
                    yield chunk

        return await self.put_file(target, chunks(), Attributes(), if_absent=False)

    async def rename(self, source: str, target: str) -> None:
        """See `RenamingStore.rename`."""
        await self._run(lambda files: files.rename(source, target))

    async def set_attributes(self, key: str, attributes: Attributes) -> None:
        """See `AttributesStore.set_attributes`; any change of a file is another version of it."""
        await self._run(lambda files: files.set_attributes(key, attributes))

    async def make_folder(self, key: str, attributes: Attributes) -> ObjectMeta:
        """See `WholeFiles.make_folder`."""
        return await self._run(lambda files: files.make_folder(key, attributes))

    async def put_file(
        self, key: str, chunks: AsyncIterator[Buffer], attributes: Attributes, *, if_absent: bool
    ) -> ObjectMeta:
        """See `WholeFiles.put_file`."""
        files, part = await self._run(lambda files: (files, files.begin(key)))
        try:
            at = 0
            async for chunk in chunks:
                await self._in_thread(files.write, part, chunk, at)
                at += len(chunk)
            return await self._in_thread(lambda: files.publish(part, attributes, if_absent=if_absent))
        except BaseException:  # cancellations too
            with suppress(TimedOut):
                await asyncio.shield(self._in_thread(files.discard, part))
            raise

    # ------------------------------------------------------------------ threads and the connection

    async def _find(self, ask: Callable[[CephFiles], Result]) -> Result:
        """Run a call that looks for something; once more if the mounted folder itself has been replaced."""
        before = self._files
        try:
            return await self._run(ask)
        except NotFound:
            if await self._run(self._with_root) is before:
                raise
        return await self._run(ask)

    async def _run(self, ask: Callable[[CephFiles], Result]) -> Result:
        """Run a call in a thread; once more if the cluster has ended the session meanwhile."""
        return await self._in_thread(self._run_here, ask)

    def _run_here(self, ask: Callable[[CephFiles], Result]) -> Result:
        for last in (False, True):
            files = self._reached()
            try:
                return ask(files)
            except SessionEnded:
                self._forget(files)
                if last:
                    raise
        raise AssertionError("unreachable: the last try returns or raises")

    async def _in_thread(self, call: Callable[..., Result], *args: object) -> Result:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)
        except TimeoutError as error:
            if isinstance(error, FsError):
                raise
            message = f"{self.location}: no answer within {self._deadline_s:g} s; `ceph -s` tells what is wrong there"
            raise TimedOut(message) from None

    def _connected(self) -> CephFiles:
        with self._connecting:
            if self._files is None:
                self._files = CephFiles(connect(self._options, deadline_s=self._deadline_s), self.location)
            return self._files

    def _reached(self) -> CephFiles:
        try:
            return self._connected()
        except NotFound as error:  # the store is away; that no key exists must not follow
            raise Unavailable(error.message) from error

    def _forget(self, files: CephFiles) -> None:
        with self._connecting:
            if self._files is files:
                self._files = None  # it ends with the last call that still uses it

    def _with_root(self, files: CephFiles) -> CephFiles:
        if files.has_root():
            return files
        self._forget(files)
        return self._reached()

    async def close(self) -> None:
        """See `Store.close`."""
        with suppress(TimeoutError):  # a cluster that is away holds up threads; the process need not wait for them
            async with asyncio.timeout(_DRAIN_S):
                await asyncio.to_thread(self._end)

    def _end(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        files, self._files = self._files, None
        if files is not None:
            files.close()


def _take(entries: Iterator[ObjectMeta | Folder], count: int) -> Entries:
    return list(itertools.islice(entries, count))
