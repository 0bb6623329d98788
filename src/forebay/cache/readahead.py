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
