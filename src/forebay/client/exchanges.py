"""What is said between a program and the daemon, without a socket: one logic for blocking and asyncio programs.

An exchange is a generator.  It yields what is to be done next (`Send`, `RECEIVE`, `ReadFiles`), is sent what came of
it, and returns the result.  Whoever drives it has the connection for itself until it ends, and an exchange that raises
an `FsError` leaves the connection fit for the next one: all that was asked has been answered.
"""

import itertools
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from forebay.client.names import Name, virtual_path
from forebay.errors import FsError, Unavailable
from forebay.frontends.local.format import (
    FILES_MAX,
    VERSION,
    BadFrame,
    Frame,
    Json,
    Kind,
    pack,
    pack_json,
    pack_paths,
    parse_error,
    parse_json,
    parse_opened,
    parse_piece,
)
from forebay.types import Buffer

AHEAD = 2  # requests for files under way: the daemon opens the next ones while these are read
Result = TypeVar("Result")


class Send(NamedTuple):
    """Send these bytes."""

    data: bytes


class Receive(NamedTuple):
    """Give the next frame."""


class ReadFiles(NamedTuple):
    """Read each of these descriptors whole, and close it; give the bytes or an OSError for each."""

    fds: Sequence[int]
    sizes: Sequence[int]


RECEIVE = Receive()
Step = Send | Receive | ReadFiles
Exchange = Generator[Step, Any, Result]
_numbers = itertools.count(1)  # of requests, over all connections: an answer that comes too late fits nobody


class Reply(NamedTuple):
    """The answer to a call."""

    head: Json
    data: bytes
    fds: Sequence[int]  # the receiver's to close


class Entry(NamedTuple):
    """A file, folder or symbolic link."""

    path: str  # virtual
    type: str  # "file", "directory" or "link"
    size: int  # bytes; 0 of a folder
    mtime_ns: int  # last modification, nanoseconds since 1970 UTC
    version: str | None  # fixes the bytes of a file
    mode: int | None  # permission bits, where the store keeps them

    @property
    def is_file(self) -> bool:
        """Is it a file, and no folder or link?"""
        return self.type == "file"

    @property
    def is_link(self) -> bool:
        """Is it a symbolic link, which a listing shows as such?"""
        return self.type == "link"


def entry_of(row: Mapping[str, Any]) -> Entry:
    """An entry as the daemon tells it."""
    return Entry(*(row[name] for name in Entry._fields))


def lost(*, repeats: bool) -> Unavailable:
    """What to raise when the daemon ended during an exchange, once it was repeated if it may be."""
    if repeats:
        return Unavailable("the daemon ended again and again; its log may say why")
    return Unavailable("the daemon ended before it had answered: see whether the change was made, then go on")


def hello(session: str) -> Exchange[Reply]:
    """The first exchange of a connection; `session` is the same for all connections of a process."""
    return _ask(Kind.HELLO, pack_json({"version": VERSION, "session": session}))


def call(name: str, fields: Mapping[str, object], data: Buffer = b"") -> Exchange[Reply]:
    """One call and its answer.

    Raises:
        FsError: as the daemon says.
    """
    return _ask(Kind.CALL, pack_json({"call": name, **fields}, data))


def _ask(kind: Kind, body: bytes) -> Exchange[Reply]:
    number = _next_number()
    yield Send(pack(kind, number, body))
    frame = yield from _receive({number})
    if frame.kind == Kind.FAILED:
        raise parse_error(frame.body)[1]
    if frame.kind != Kind.ANSWER:
        raise BadFrame(f"an answer of kind {frame.kind}")
    head, data = parse_json(frame.body)
    return Reply(head, data, frame.fds)


def entries(name: str, path: str) -> Exchange[list[Entry]]:
    """All entries of a long answer; `name` is "list" or "walk"."""
    number, found = _next_number(), list[Entry]()
    yield Send(pack(Kind.CALL, number, pack_json({"call": name, "path": path})))
    while True:
        frame = yield from _receive({number})
        if frame.kind == Kind.FAILED:
            raise parse_error(frame.body)[1]
        if frame.kind == Kind.ANSWER:
            return found
        if frame.kind != Kind.PART:
            raise BadFrame(f"a part of kind {frame.kind}")
        found += map(entry_of, parse_json(frame.body)[0].get("rows", ()))


def close_handle(handle: int) -> Exchange[None]:
    """A file that was open for reading is so no more; nothing is answered."""
    yield Send(pack(Kind.CLOSE, 0, pack_json({"handle": handle})))


def read_many(names: Sequence[Name]) -> Exchange[list[bytes | FsError]]:
    """The bytes of each file, or its error in its place.  Each is of one version."""
    return _FileReads(names).run()


def _next_number() -> int:
    return next(_numbers) & 0xFFFF_FFFF


def _receive(wanted: "set[int] | dict[int, _Request]") -> Generator[Step, Any, Frame]:
    frame: Frame = yield RECEIVE
    if frame.request not in wanted:
        raise BadFrame("an answer to what was not asked")
    return frame


def sent_path(name: Name) -> str:
    """A path as it is sent where there are many: most are in their normal form, and of others the daemon makes it.

    Raises:
        Invalid: it is none.
    """
    return name if type(name) is str and name[:1] == "/" and "\0" not in name else virtual_path(name)


class _Request:
    """Some of the files, asked for at once."""

    def __init__(self, places: Sequence[int]) -> None:
        self.places = places  # of its files among all
        self.left = len(places)
        self.pieces: dict[int, bytearray] = {}


class _FileReads:
    """One `read_many`."""

    def __init__(self, names: Sequence[Name]) -> None:
        self._results: list[bytes | FsError | None] = [None] * len(names)
        self._paths = [self._path(place, name) for place, name in enumerate(names)]
        is_good = all(result is None for result in self._results)
        self._places = range(len(names)) if is_good else [p for p, r in enumerate(self._results) if r is None]
        self._requests: dict[int, _Request] = {}
        self._asked = 0

    def _path(self, place: int, name: Name) -> str:
        try:
            return sent_path(name)
        except FsError as error:
            self._results[place] = error
            return ""

    def run(self) -> Exchange[list[bytes | FsError]]:
        yield Send(b"".join(self._next_request() for _ in range(AHEAD)))
        while self._requests:
            frame = yield from _receive(self._requests)
            request = self._requests[frame.request]
            if frame.kind == Kind.OPENED:
                yield from self._take_opened(request, frame)
            elif frame.kind == Kind.PIECE:
                self._take_piece(request, frame.body)
            elif frame.kind == Kind.MISSED:
                self._put(request, *parse_error(frame.body))
            elif frame.kind == Kind.FAILED:
                self._fail(request, parse_error(frame.body)[1])
            else:
                raise BadFrame(f"files of kind {frame.kind}")
            if not request.left:
                del self._requests[frame.request]
                yield Send(pack(Kind.DONE, frame.request) + self._next_request())
        return self._results  # type: ignore[return-value]  # each has been put

    def _next_request(self) -> bytes:
        places = self._places[self._asked : self._asked + FILES_MAX]
        if not places:
            return b""
        self._asked += len(places)
        number = _next_number()
        self._requests[number] = _Request(places)
        return pack(Kind.FILES, number, pack_paths([self._paths[place] for place in places]))

    def _take_opened(self, request: _Request, frame: Frame) -> Generator[Step, Any, None]:
        files = parse_opened(frame)
        datas = yield ReadFiles(frame.fds, [file.size for file in files])
        for file, data in zip(files, datas, strict=True):
            self._put(request, file.number, data)

    def _take_piece(self, request: _Request, body: bytes) -> None:
        number, size, data = parse_piece(body)
        if len(data) < size:
            whole = request.pieces.setdefault(number, bytearray())
            whole += data
            if len(whole) < size:
                return
            data = bytes(request.pieces.pop(number))
        self._put(request, number, data)

    def _put(self, request: _Request, number: int, result: bytes | FsError) -> None:
        if not 0 <= number < len(request.places) or self._results[request.places[number]] is not None:
            raise BadFrame("an answer for no file, or a second one")
        self._results[request.places[number]] = result
        request.left -= 1

    def _fail(self, request: _Request, error: FsError) -> None:
        """What of a request was not answered fails."""
        for place in request.places:
            if self._results[place] is None:
                self._results[place] = error
        request.left = 0
