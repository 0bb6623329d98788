"""What to fetch ahead of one reader of one file.  Pure.

A reader that goes forward is a stream: its window starts at 1 MiB and doubles each time the reader has used half
of it, up to `window_max`.  One open file may hold several streams (a loader that reads shards of an archive in
turn, a mapped file read by several threads).  A read that fits no stream starts one, and fetches nothing ahead
until a second read follows it; only the start of a file is trusted at once.
"""

from forebay.types import ByteRange
from forebay.units import MIB

WINDOW_FIRST = MIB
STREAMS_MAX = 8  # TensorFlow reads 10 shards at once, but each is a file of its own
JOB_WINDOW_FIRST = 8 * MIB  # what 200 MB/s at 20 ms hold, twice
CALM_WINDOWS = 8
SLACK = 4 * MIB  # the kernel sends the reads of one readahead (4 MiB) in any order


class _Stream:
    __slots__ = ("ahead", "position", "window")

    def __init__(self, position: int, window: int) -> None:
        self.position = position  # one past the furthest byte read
        self.window = window
        self.ahead = position  # one past the furthest byte asked for ahead


class Streams:
    """The streams of one open file, most recently used last."""

    __slots__ = ("_size", "_streams")

    def __init__(self, size: int) -> None:
        self._size = size
        self._streams: list[_Stream] = []

    def advance(self, offset: int, length: int, window_max: int) -> ByteRange | None:
        """Note a read of `[offset, offset + length)`; return the bytes to fetch ahead now, if any.

        The range never reaches past the end of the file and never covers bytes returned before for this stream.
        """
        stream = self._find(offset)
        if stream is None:
            stream = _Stream(offset + length, WINDOW_FIRST if offset == 0 else 0)
            self._streams.append(stream)
            del self._streams[:-STREAMS_MAX]
            return self._extend(stream) if offset == 0 else None
        self._streams.remove(stream)
        self._streams.append(stream)
        stream.position = max(stream.position, offset + length)
        if stream.ahead - stream.position > stream.window // 2:
            return None
        stream.window = min(max(2 * stream.window, WINDOW_FIRST), window_max)
        return self._extend(stream)

    def _find(self, offset: int) -> _Stream | None:
        for stream in reversed(self._streams):
            if -SLACK <= offset - stream.position <= SLACK:
                return stream
        return None

    def _extend(self, stream: _Stream) -> ByteRange | None:
        start = max(stream.ahead, stream.position)
        stop = min(stream.position + stream.window, self._size)
        if stop <= start:
            return None
        stream.ahead = stop
        return ByteRange(start, stop)


class Window:
    """How many bytes to fetch ahead of a job that announced its order: enough that nobody waits, and no more.

    It doubles when a reader comes before its bytes, once per window, and gives an eighth back when nobody has for a
    while.
    """

    __slots__ = ("_max", "_since", "size")

    def __init__(self, size_max: int) -> None:
        self._max = max(size_max, 1)
        self.size = min(JOB_WINDOW_FIRST, self._max)
        self._since = 0  # bytes read since the size changed

    def bound(self, size_max: int) -> None:
        """It may be so large from now on."""
        self._max = max(size_max, 1)
        self.size = min(self.size, self._max)

    def read(self, size: int, *, late: bool) -> None:
        """A reader came for so many bytes; `late`: they were not here."""
        self._since += size
        if late and self._since >= self.size // 2:
            self.size, self._since = min(2 * self.size, self._max), 0
        elif late:
            self._since = min(self._since, self.size // 2)
        elif self._since >= CALM_WINDOWS * self.size and self.size > JOB_WINDOW_FIRST:
            self.size, self._since = self.size - self.size // 8, 0
