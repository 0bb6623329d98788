"""One open version of a file: what a frontend reads from.

*Callers*: frontends, on the loop.  *Awaits*: the cached file.  *Invariant*: every byte comes from the version in
`entry`; if the store has moved on and the byte is not cached, the read fails with ESTALE.
"""

from typing import Protocol

from forebay.cache.cachedfile import CachedFile
from forebay.cache.readahead import Streams
from forebay.errors import StaleVersion
from forebay.types import Buffer, ByteRange
from forebay.vfs.entries import FileEntry


class Host(Protocol):
    """What an open file asks of the file system."""

    scratch: memoryview
    deadline_s: float

    def read_missed(self, entry: FileEntry) -> None:
        """A reader had to wait for the store."""
        ...

    def went_stale(self, entry: FileEntry) -> None:
        """The store no longer has this version."""
        ...

    def closed(self, entry: FileEntry) -> None:
        """An open file of that entry was closed."""
        ...

    def bytes_from_cache(self, size: int) -> None:
        """Count bytes that were answered from the cache."""
        ...


class OpenFile:
    """See the module.  Close it exactly once."""

    __slots__ = ("_file", "_host", "_streams", "entry")

    def __init__(self, host: Host, entry: FileEntry, file: CachedFile) -> None:
        self._host = host
        self._file = file
        self._streams: Streams | None = None
        self.entry = entry

    @property
    def local_id(self) -> int:
        """Names the cache file while it exists; told to `FileSystem.on_drop` when it is deleted."""
        return self._file.id

    def local_fd(self) -> int | None:
        """The descriptor of the complete local file, or None; owned by this object, so use it before `close`."""
        return self._file.local_fd()

    def read_now(self, offset: int, size: int) -> Buffer | None:
        """Bytes that can be had without waiting, short only at the end of the file; None: use `read`.

        The buffer is valid until the next `read_now` of any file.
        """
        count = self._file.read_now(offset, self._host.scratch[:size])
        if count < 0:
            return None
        if not self._file.complete and (ahead := self._advance(offset, count)) is not None:
            self._file.fetch_ahead(ahead)
        self._host.bytes_from_cache(count)
        return self._host.scratch[:count]

    async def read(self, offset: int, size: int) -> Buffer:
        """Bytes from cache or store, short only at the end of the file.

        Raises:
            StaleVersion: the store has another version by now.
            FsError: as the store says, within the deadline.
        """
        self._host.read_missed(self.entry)
        try:
            return await self._file.read(
                offset, size, ahead=self._advance(offset, size), deadline_s=self._host.deadline_s
            )
        except StaleVersion:
            self._host.went_stale(self.entry)
            raise

    def _advance(self, offset: int, size: int) -> ByteRange | None:
        if self._streams is None:
            self._streams = Streams(self.entry.size)
        return self._streams.advance(offset, size, self._file.window_max)

    def close(self) -> None:
        """Give the file back."""
        self._file.release()
        self._host.closed(self.entry)
