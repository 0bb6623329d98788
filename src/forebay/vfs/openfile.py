"""One open version of a file: what a frontend reads from.

*Callers*: frontends, on the loop.  *Awaits*: the cached file.  *Invariant*: every byte comes from the version in
`entry`; if the store has moved on and the byte is not cached, the read fails with ESTALE.
"""

from collections.abc import Callable
from typing import Protocol

from forebay.cache.cachedfile import CachedFile
from forebay.cache.pagefile import Descriptor
from forebay.cache.readahead import Streams
from forebay.errors import StaleVersion
from forebay.types import Buffer, ByteRange
from forebay.vfs.entries import FileEntry


class Host(Protocol):
    """What an open file asks of the file system."""

    scratch: memoryview
    deadline_s: float
    monotonic: Callable[[], float]

    def read_missed(self, entry: FileEntry) -> None:
        """An open file of that entry had to wait for the store, for the first time."""
        ...

    def went_stale(self, entry: FileEntry) -> None:
        """The store no longer has this version."""
        ...

    def reopen(self, entry: FileEntry, file: CachedFile, local_id: int) -> bool:
        """Open a file that was closed once more, if all of it is cached still."""
        ...

    def opened_again(self, entry: FileEntry, file: CachedFile) -> None:
        """A file is opened once more while it is open, or after it was closed."""
        ...


class OpenFile:
    """See the module.  It is open when it is made; each open is closed exactly once."""

    __slots__ = ("_file", "_has_missed", "_has_read", "_host", "_streams", "entry", "local_id")

    def __init__(self, host: Host, entry: FileEntry, file: CachedFile) -> None:
        self._host = host
        self._file = file
        self._streams: Streams | None = None
        self._has_missed = False
        self._has_read = False
        self.entry = entry
        self.local_id = file.id
        """Names the cache file while it exists; told to `Cache.on_drop` when it is deleted."""

    def local_fd(self) -> int | None:
        """The descriptor of the complete local file, or None; owned by this object, so use it before `close`."""
        return self._file.local_fd()

    def reader(self) -> Descriptor | None:
        """The complete local file opened once more, by which one can only read: for other processes; or None.

        While this is open the file is neither evicted nor changed by a writer.
        """
        return self._file.reader()

    def read_now(self, offset: int, size: int) -> Buffer | None:
        """Bytes that can be had without waiting, short only at the end of the file; None: use `read`.

        The buffer is valid until the next `read_now` of any file.
        """
        scratch = self._host.scratch
        if size > len(scratch):
            return None
        count = self._file.read_now(offset, scratch[:size])
        if count < 0:
            return None
        if not self._file.complete and (ahead := self._advance(offset, count)) is not None:
            self._file.fetch_ahead(ahead, self.entry.mount.store)
        self._has_read = True
        self._file.count_read(self.entry.mount.traffic, count)
        return scratch[:count]

    async def read(self, offset: int, size: int) -> Buffer:
        """Bytes from cache or store, short only at the end of the file.

        Raises:
            StaleVersion: the store has another version by now.
            FsError: as the store says, within the deadline.
        """
        file, host, ahead = self._file, self._host, None
        is_cached = file.complete
        if not is_cached:
            ahead = self._advance(offset, size)
            if not self._has_missed:
                self._has_missed = True
                host.read_missed(self.entry)
        mount, traffic = self.entry.mount, self.entry.mount.traffic
        is_here = is_cached or file.is_here(offset, size)
        wait = traffic.disk_waits.timed if is_here else traffic.waits_for_bytes
        try:
            with wait(host.monotonic):
                data = await file.read(offset, size, store=mount.store, ahead=ahead, deadline_s=host.deadline_s)
        except StaleVersion:
            host.went_stale(self.entry)
            raise
        self._has_read = True
        file.count_read(traffic, len(data))
        return data

    def _advance(self, offset: int, size: int) -> ByteRange | None:
        if self._streams is None:
            self._streams = Streams(self.entry.size)
        return self._streams.advance(offset, size, self._file.window_max)

    def passed(self) -> None:
        """The kernel reads the file by itself from now on, and tells nobody: it counts as read whole, once more."""
        self._file.count_read(self.entry.mount.traffic, self.entry.size)

    def close(self) -> None:
        """Give the file back."""
        if self._has_read:
            self._file.unread = 0  # what was fetched with what was read; to read that later is a reading of the cache
        self._file.release()
        self.entry.mount.open_files -= 1

    def reopen(self) -> bool:
        """Open a file once more that was complete when it was closed; False if its local file is no more."""
        return self._host.reopen(self.entry, self._file, self.local_id)

    def opened_again(self) -> None:
        """Somebody else opens the file too, by the same handle."""
        self._host.opened_again(self.entry, self._file)
