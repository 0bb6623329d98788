"""The blocking way to a running daemon: HTTP over its unix socket.

Light on purpose: the command line starts with it, and a training process may hold it, so it imports neither a store
client nor an event loop.  One connection per request; any thread may call, several at once.
"""

import http.client
import json
import socket
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

from forebay.errors import Denied, FsError, Invalid, TimedOut, Unavailable, kinds

HOST = "forebay"  # HTTP wants a name of the server; the socket needs none
READ_BYTES = 1 << 20  # given out by `read` at a time, at most

Query = Mapping[str, str | int]


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__(HOST)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """See `http.client.HTTPConnection.connect`."""
        self.sock = connect(self._path)
        self.sock.settimeout(self._timeout_s)


def connect(path: Path) -> socket.socket:
    """A connection to the daemon that listens at `path`.

    Raises:
        Unavailable: nobody listens there.
        Denied: it belongs to another user.
        Invalid: the path is too long for a socket.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.connect(str(path))
    except OSError as error:
        made.close()
        if isinstance(error, PermissionError):
            raise Denied(f"the daemon at {path} belongs to another user", path=str(path)) from error
        if error.errno is None:
            raise Invalid(f"{path} is too long a path for a socket; choose a shorter FOREBAY_HOME") from error
        raise Unavailable(f"no daemon listens at {path}; start it: forebay start", path=str(path)) from error
    return made


class Client:
    """See the module.  Failures come as the kinds of `forebay.errors`, as the daemon raised them."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Query | None = None,
        timeout_s: float | None = None,
    ) -> Any:  # noqa: ANN401 - JSON of the endpoint's own shape
        """One request and its JSON answer; `timeout_s` of None waits as long as the daemon works."""
        with self._open(method, path, query, body=body, timeout_s=timeout_s) as answer:
            return _decode(self._body(answer))

    def stream(
        self, method: str, path: str, body: object = None, *, query: Query | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """One request whose answer is a line of JSON each for many things; a failure midway is raised there.

        To close it ends the request.
        """
        with self._open(method, path, query, body=body) as answer:
            for line in self._lines(answer):
                found = _decode(line)
                if "error" in found and isinstance(found["error"], dict):
                    _raise(found["error"])
                yield found

    def read(
        self, path: str, *, offset: int = 0, length: int | None = None, past_cache: bool = False
    ) -> Iterator[bytes]:
        """The bytes of a file of the tree, from `offset` (from the end if negative), `length` of them at most.

        With `past_cache` they come from the store, whatever is cached, and are not kept.

        Raises:
            FsError: as the daemon says; after the bytes that came, if it fails midway.
        """
        query: dict[str, str | int] = {"path": path, "offset": offset}
        if length is not None:
            query["length"] = length
        if past_cache:
            query["past_cache"] = 1
        done = 0
        with self._open("GET", "/v1/fs/read", query) as answer:
            while True:
                try:
                    chunk = answer.read1(READ_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    self._explain_cut(path, max(offset, 0) + done, error)
                if not chunk:
                    if answer.length:  # the answer said how long it is
                        self._explain_cut(path, max(offset, 0) + done, None)
                    return
                done += len(chunk)
                yield chunk

    def _explain_cut(self, path: str, offset: int, error: Exception | None) -> NoReturn:
        """An answer that has begun cannot tell why it ends; asked again for the next byte, the daemon can."""
        with self._open("GET", "/v1/fs/read", {"path": path, "offset": offset, "length": 1}):
            pass
        message = f"reading {path} broke off after {offset} bytes: it may have changed in its store; read it again"
        raise Unavailable(message, path=path) from error

    def write(self, path: str, chunks: Iterable[bytes]) -> dict[str, Any]:
        """Make or replace a file of the tree, all or nothing; what `chunks` raises is raised, and nothing is kept."""
        with self._open("PUT", "/v1/fs/write", {"path": path}, chunks=chunks) as answer:
            found: dict[str, Any] = _decode(self._body(answer))
            return found

    def _open(
        self,
        method: str,
        path: str,
        query: Query | None,
        *,
        body: object = None,
        chunks: Iterable[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> "_Answer":
        url = f"{path}?{urlencode(query, errors='surrogateescape')}" if query else path
        connection = _Connection(self._path, timeout_s)
        try:
            _send(connection, method, url, body, chunks)
            answer = _Answer(connection, connection.getresponse())
            if answer.status >= 400:
                _raise(_error_of(answer))
        except BaseException as error:
            connection.close()
            self._translate(error)
            raise
        return answer

    def _translate(self, error: BaseException) -> None:
        """Raise what the loss of the connection means; do nothing if it is something else."""
        if isinstance(error, FsError):
            return
        if isinstance(error, TimeoutError):
            raise TimedOut(f"the daemon at {self._path} does not answer; its log may say why") from error
        if isinstance(error, ConnectionError | http.client.HTTPException):
            message = f"the daemon at {self._path} broke off: it ended, or is stopping; see its log, then try again"
            raise Unavailable(message) from error

    def _body(self, answer: "_Answer") -> bytes:
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._translate(error)
            raise

    def _lines(self, answer: "_Answer") -> Iterator[bytes]:
        # Not HTTPResponse.readline: it takes an answer that is cut off for one that has ended.
        rest = b""
        try:
            while piece := answer.read1(READ_BYTES):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
        except (OSError, http.client.HTTPException) as error:
            self._translate(error)
            raise
        if rest:
            self._translate(http.client.IncompleteRead(rest))


class _Answer:
    """An answer that closes its connection when left."""

    def __init__(self, connection: _Connection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.read = response.read
        self.read1 = response.read1

    @property
    def length(self) -> int | None:
        """Bytes of the answer that are still to come, if it said how many there are."""
        return self._response.length

    def __enter__(self) -> "_Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()


def _send(connection: _Connection, method: str, url: str, body: object, chunks: Iterable[bytes] | None) -> None:
    """Send a request; one that the daemon refuses while it is still being sent has its answer waiting."""
    headers = {"Connection": "close"}
    if chunks is None:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, url, body=data, headers=headers | {"Content-Type": "application/json"})
        return
    connection.putrequest(method, url)
    for name, value in (headers | {"Transfer-Encoding": "chunked"}).items():
        connection.putheader(name, value)
    connection.endheaders()
    for chunk in chunks:
        if chunk and not _try_send(connection, b"%x\r\n%b\r\n" % (len(chunk), chunk)):
            return
    _try_send(connection, b"0\r\n\r\n")


def _try_send(connection: _Connection, data: bytes) -> bool:
    try:
        connection.send(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _decode(line: bytes) -> Any:  # noqa: ANN401 - see Client.call
    try:
        return json.loads(line)
    except ValueError as error:
        raise FsError("the daemon's answer is not JSON; is it another version? forebay stop, then try again") from error


def _error_of(answer: _Answer) -> dict[str, Any]:
    text = answer.read()
    try:
        found = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        found = None
    if isinstance(found, dict):
        return found
    message = f"the daemon answers {answer.status}; is it another version? forebay stop, then try again"
    return {"kind": "FsError", "message": message}


def _raise(error: Mapping[str, Any]) -> NoReturn:
    kind = kinds().get(str(error.get("kind")), FsError)
    raise kind(str(error.get("message")), path=error.get("path"))
