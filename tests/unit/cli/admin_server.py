"""A real HTTP server on a unix socket that answers the admin API from a dict, to test the command line against."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from forebay.errors import FsError, IsADirectory, NotFound

Query = dict[str, str]
MTIME_NS = 1_700_000_000_000_000_000
STATUS = {
    "pid": 4711,
    "version": "0.1.0",
    "uptime_s": 192.0,
    "home": "/home/me/.forebay",
    "rss_bytes": 64 << 20,
    "mounts": 1,
    "fuse_mounts": 0,
    "cache": {"capacity_bytes": 1000, "used_bytes": 250, "disk_free_bytes": 5000, "reserve_bytes": 100, "files": 3},
    "counters": {"reads": 1234, "errors": 0},
}


@dataclass
class AdminServer:
    """The tree is `files`; every request is kept in `calls`; `answers` and `streams` replace single answers."""

    socket: Path
    files: dict[str, bytes] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    cached: dict[str, int] = field(default_factory=dict)
    hidden: int = 0
    calls: list[tuple[str, str, Any]] = field(default_factory=list)  # method, path, body or query
    answers: dict[str, Any] = field(default_factory=dict)  # path -> JSON, or the FsError to fail with
    streams: dict[str, Callable[[], Iterator[dict[str, Any]]]] = field(default_factory=dict)

    def bodies(self, path: str) -> list[Any]:
        """Bodies or queries of the requests to one path."""
        return [body for _, called, body in self.calls if called == path]

    def entry(self, path: str) -> dict[str, Any]:
        """EntryInfo of the contract."""
        name = path.rpartition("/")[2]
        common = {"path": path, "name": name, "mtime_ns": MTIME_NS, "pinned": False, "url": None}
        common |= {"mode": None, "owner": None, "group": None}
        if path in self.files:
            size, cached = len(self.files[path]), self.cached.get(path, 0)
            return common | {"kind": "file", "size": size, "version": "v1", "cached_bytes": cached}
        if path in self.all_folders():
            return common | {"kind": "folder", "size": 0, "version": None, "cached_bytes": None}
        raise NotFound(f"{path} does not exist", path=path)

    def all_folders(self) -> set[str]:
        found = {"/"} | self.folders
        for path in [*self.files, *self.folders]:
            while (path := path.rpartition("/")[0]) != "":
                found.add(path)
        return found

    def listing(self, query: Query) -> Iterator[dict[str, Any]]:
        path = query["path"].rstrip("/") or "/"
        if self.entry(path)["kind"] == "file":
            yield self.entry(path)
            return
        below = path.rstrip("/") + "/"
        everything = sorted((set(self.files) | self.all_folders()) - {"/"})
        for one in everything:
            if one.startswith(below) and (query["recursive"] == "1" or "/" not in one[len(below) :]):
                yield self.entry(one)
        if self.hidden:
            yield {"hidden": self.hidden}

    def read(self, query: Query) -> bytes:
        if query["path"] not in self.files:
            self.entry(query["path"])
            raise IsADirectory(f"{query['path']} is a folder")
        data, offset = self.files[query["path"]], int(query.get("offset", 0))
        start = offset if offset >= 0 else max(0, len(data) + offset)
        return data[start : start + int(query["length"])] if "length" in query else data[start:]

    def answer(self, path: str, query: Query, body: Any) -> Any:
        found = self.answers.get(path, {})
        if isinstance(found, FsError):
            raise found
        match path:
            case "/v1/fs/stat":
                return self.entry(query["path"].rstrip("/") or "/")
            case "/v1/status":
                return found or STATUS
            case "/v1/fs/mounts" | "/v1/fuse" | "/v1/fs/df" | "/v1/fs/uploads":
                return found or []
            case "/v1/fs/mount" | "/v1/fs/update-mount":
                options = {key: "***" if "ecret" in key else value for key, value in body["options"].items()}
                defaults = {"ttl_s": 60.0, "policy": "keep", "freshness": "ttl", "url": "s3://bucket/"}
                defaults |= {"write_mode": "through"}
                given = {name: value for name, value in body.items() if value is not None}
                return body | defaults | given | {"options": options}
        return found

    def stream(self, path: str, query: Query) -> Iterator[dict[str, Any]] | None:
        if path in self.streams:
            return self.streams[path]()
        return self.listing(query) if path == "/v1/fs/list" else None

    def serve(self) -> "RunningServer":
        """Start to answer."""
        return RunningServer(self)


class RunningServer(socketserver.ThreadingUnixStreamServer):
    """Threads that answer for one `AdminServer`; leave it to stop."""

    daemon_threads = True

    def __init__(self, admin: AdminServer) -> None:
        self.admin = admin
        super().__init__(str(admin.socket), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "RunningServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self.admin.socket.unlink()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of some tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RunningServer

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        admin, parts = self.server.admin, urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape"))
        raw = self._body()
        is_write = parts.path == "/v1/fs/write"
        body = raw if is_write else json.loads(raw or b"null")
        admin.calls.append((self.command, parts.path, query if self.command == "GET" or is_write else body))
        try:
            if isinstance(error := admin.answers.get(parts.path), FsError):
                raise error
            if is_write:
                admin.files[query["path"]] = raw
                self._send(200, json.dumps(admin.entry(query["path"])).encode())
            elif parts.path == "/v1/fs/read":
                self._send_chunks(iter([admin.read(query)]))
            elif (lines := admin.stream(parts.path, query)) is not None:
                self._send_chunks(json.dumps(line).encode() + b"\n" for line in lines)
            else:
                self._send(200, json.dumps(admin.answer(parts.path, query, body)).encode())
        except FsError as error:
            told = {"kind": type(error).__name__, "message": error.message, "path": error.filename}
            self._send(error.http_status, json.dumps({"error": told}).encode())

    do_GET = do_POST = do_PUT = _handle

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _send(self, code: int, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send_chunks(self, chunks: Iterator[bytes]) -> None:
        first = next(chunks, b"")  # an error before the first byte is a status, not a line
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chain([first] if first else [], chunks):
            self._send_chunk(chunk)
        self.wfile.write(b"0\r\n\r\n")

    def _send_chunk(self, chunk: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.wfile.flush()
