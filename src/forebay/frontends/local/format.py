"""The frames between Python programs and the daemon, as bytes and back: both ends use this module.  Pure.

A frame is a header (the bytes that follow it, its kind, how many descriptors come with it, the request that it belongs
to) and a body.  Bodies are JSON with bytes behind it, save where files are read by the batch: there they are packed.
Descriptors come beside the bytes (SCM_RIGHTS), never later than the first byte of their frame, and in its order.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from forebay.errors import FsError, kinds
from forebay.types import Buffer

VERSION = 1
FILES_MAX = 128  # of one request; the kernel passes 253 descriptors at a time (SCM_MAX_FD, net/scm.h)
FDS_MAX = 64  # of one frame: a reader takes and closes so many at a time, and may have a limit of 256
BODY_BYTES_MAX = 16 << 20  # above what any frame needs: what is longer is no frame of ours
PIECE_BYTES = 1 << 20  # of a file that is read or written through the socket, in one frame

Json = dict[str, Any]

_HEADER = struct.Struct("<IBBI")
_HEAD = struct.Struct("<I")
_RECORD = struct.Struct("<IQ")
_PIECE = struct.Struct("<IQ")


class BadFrame(Exception):
    """The other end does not speak this protocol, or another version of it."""


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1  # to the daemon: the first of a connection
    CALL = 2  # to the daemon: one request with an answer
    FILES = 3  # to the daemon: read these files whole
    DONE = 4  # to the daemon: what a request for files opened has been read; no answer
    CLOSE = 5  # to the daemon: a file that is open for reading is so no more; no answer
    ANSWER = 16  # the last of a call
    PART = 17  # of a long answer
    FAILED = 18  # the last of a call or of a request for files: an error
    OPENED = 19  # files, as descriptors
    PIECE = 20  # bytes of a file
    MISSED = 21  # a file that cannot be read


_KINDS = frozenset(Kind)


class Frame(NamedTuple):
    """See the module."""

    kind: int
    request: int
    body: bytes
    fds: Sequence[int] = ()


class Opened(NamedTuple):
    """One file of a request that comes as a descriptor."""

    number: int  # of the file in its request
    size: int  # bytes


class Piece(NamedTuple):
    """Bytes of one file of a request; its pieces come in order."""

    number: int  # of the file in its request
    size: int  # of the whole file
    data: bytes


def pack(kind: Kind, request: int, body: Buffer = b"", *, fds: int = 0) -> bytes:
    """A frame as bytes.

    >>> pack(Kind.DONE, 7).hex()
    '00000000040007000000'
    """
    return _HEADER.pack(len(body), kind, fds, request) + body


class Frames:
    """Makes frames of what arrives, in whatever pieces it does.

    >>> frames = Frames(); sent = pack(Kind.CALL, 1, b"abc")
    >>> list(frames.feed(sent[:11])), list(frames.feed(sent[11:]))
    ([], [Frame(kind=2, request=1, body=b'abc', fds=())])
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self.fds: list[int] = []  # arrived, and of no whole frame yet; whoever ends the connection closes them

    def feed(self, data: bytes, fds: Iterable[int] = ()) -> Iterator[Frame]:
        """The frames that are whole now.

        Raises:
            BadFrame: this is no frame, or its descriptors are missing.
        """
        self.fds += fds
        self._rest += data
        at, rest = 0, self._rest
        try:
            while len(rest) - at >= _HEADER.size:
                length, kind, count, request = _HEADER.unpack_from(rest, at)
                if length > BODY_BYTES_MAX or kind not in _KINDS:
                    raise BadFrame("what arrives is no frame of this protocol")
                start = at + _HEADER.size
                if len(rest) - start < length:
                    break
                if count > len(self.fds):
                    raise BadFrame("a frame has come without its descriptors: too many open files?")
                at = start + length
                with memoryview(rest) as view:
                    body = bytes(view[start:at])
                yield Frame(kind, request, body, self._take(count))
        finally:
            del rest[:at]

    def _take(self, count: int) -> Sequence[int]:
        if not count:
            return ()
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken


# ---------------------------------------------------------------- bodies


def pack_json(head: Json, data: Buffer = b"") -> bytes:
    """JSON and bytes behind it.  Names with undecodable bytes travel as surrogate escapes."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return b"".join((_HEAD.pack(len(text)), text, memoryview(data)))


def parse_json(body: bytes) -> tuple[Json, bytes]:
    """See `pack_json`.

    Raises:
        BadFrame: it is not that.

    >>> parse_json(pack_json({"op": "stat"}, b"xyz"))
    ({'op': 'stat'}, b'xyz')
    """
    try:
        (length,) = _HEAD.unpack_from(body)
        stop = _HEAD.size + length
        if stop > len(body):
            raise BadFrame("a head ends after its frame")
        head = json.loads(body[_HEAD.size : stop])
    except (struct.error, ValueError) as error:
        raise BadFrame("a body is not JSON") from error
    if not isinstance(head, dict):
        raise BadFrame("a body is not a JSON object")
    return head, body[stop:]


def pack_paths(paths: Sequence[str]) -> bytes:
    """Paths of a request for files; none holds a NUL."""
    return "\0".join(paths).encode("utf-8", "surrogateescape")


def parse_paths(body: bytes) -> list[str]:
    """See `pack_paths`.

    Raises:
        BadFrame: they are none, or too many.
    """
    try:
        paths = body.decode("utf-8", "surrogateescape").split("\0")
    except UnicodeDecodeError as error:  # pragma: no cover - surrogateescape takes every byte
        raise BadFrame("paths are not text") from error
    if len(paths) > FILES_MAX:
        raise BadFrame(f"{len(paths)} paths in one request")
    return paths


def pack_opened(files: Iterable[tuple[int, int]]) -> bytes:
    """Number and size of each file that comes as a descriptor, in the order of these."""
    return b"".join([_RECORD.pack(number, size) for number, size in files])


def parse_opened(frame: Frame) -> list[Opened]:
    """See `pack_opened`.

    Raises:
        BadFrame: there are not as many as descriptors.
    """
    if len(frame.body) != _RECORD.size * len(frame.fds):
        raise BadFrame("files and descriptors do not fit")
    return [Opened(*record) for record in _RECORD.iter_unpack(frame.body)]


def pack_piece(number: int, size: int, data: Buffer) -> bytes:
    """Bytes of one file; `size` is of the whole."""
    return b"".join((_PIECE.pack(number, size), memoryview(data)))


def parse_piece(body: bytes) -> Piece:
    """See `pack_piece`.

    Raises:
        BadFrame: it is not that.
    """
    if len(body) < _PIECE.size:
        raise BadFrame("a piece without its head")
    number, size = _PIECE.unpack_from(body)
    return Piece(number, size, body[_PIECE.size :])


def pack_error(error: FsError, message: str, number: int = 0) -> bytes:
    """An error, its message free of secrets; `number` is that of a file in its request."""
    path = error.filename if isinstance(error.filename, str) else None
    return pack_json({"kind": type(error).__name__, "message": message, "path": path, "number": number})


def parse_error(body: bytes) -> tuple[int, FsError]:
    """Number and error; see `pack_error`.

    Raises:
        BadFrame: it is not that.
    """
    head, _ = parse_json(body)
    number, path = head.get("number"), head.get("path")
    if not isinstance(number, int) or not isinstance(path, str | None):
        raise BadFrame("an error of another form")
    kind = kinds().get(str(head.get("kind")), FsError)
    return number, kind(str(head.get("message")), path=path)
