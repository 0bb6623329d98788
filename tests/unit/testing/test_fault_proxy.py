"""The fault proxy: right requests pass as they are, and each fault is on the wire what its name says."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import (
    BEFORE_HEADERS,
    Cut,
    Fault,
    Flip,
    OtherBody,
    OtherHeaders,
    OtherRange,
    OtherTarget,
    Refuse,
    Request,
    Rule,
    Script,
    Short,
    Stall,
    WrongLength,
    reset,
)

SILENT_S = 0.3
BODY = b"0123456789"


class Upstream(BaseHTTPRequestHandler):
    """Answers with ten digits, or what a range says, and tells in headers what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        asked = [self.command, self.path, self.headers["Host"], self.rfile.read(length).decode()]
        self.server.asked.append(asked)  # type: ignore[attr-defined]
        first, _, last = self.headers.get("Range", "bytes=0-9").removeprefix("bytes=").partition("-")
        body = BODY[int(first) : int(last) + 1]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(upstream: ThreadingHTTPServer) -> Iterator[FaultProxy]:
    with FaultProxy(upstream.server_port) as proxy:
        yield proxy


def ask(proxy: FaultProxy, method: str = "GET", *, headers: str = "", body: str = "") -> tuple[bytes, bytes, str]:
    """Head and body of the answer as they came, and how the connection ended: closed, reset or silent."""
    raw, end = b"", "closed"
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.settimeout(SILENT_S)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        client.sendall(f"{method} /a%2Fb?c=d HTTP/1.1\r\nHost: signed.example\r\n{length}{headers}\r\n{body}".encode())
        try:
            while piece := client.recv(1 << 16):
                raw += piece
        except ConnectionResetError:
            end = "reset"
        except TimeoutError:
            end = "silent"
    head, _, rest = raw.partition(b"\r\n\r\n")
    return head, rest, end


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_without_a_fault_requests_and_answers_pass_as_they_are(
    proxy: FaultProxy, upstream: ThreadingHTTPServer, method: str
) -> None:
    head, body, end = ask(proxy, method, body="sent" if method == "PUT" else "")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"Content-Length: 10" in head
    assert (body, end) == (b"" if method == "HEAD" else BODY, "silent")  # the connection is kept
    asked = [method, "/a%2Fb?c=d", "signed.example", "sent" if method == "PUT" else ""]
    assert upstream.asked == [asked]  # type: ignore[attr-defined]
    assert not proxy.did


WIRE: list[tuple[Fault, bytes | None, bytes, str]] = [  # the fault; then what is in the head (None: no head), body, end
    (Refuse(429, "SlowDown", headers=(("Retry-After", "7"),)), b"Retry-After: 7", b"<Error><Code>SlowDown<", "silent"),
    (Refuse(503), b"503 Service Unavailable", b"", "silent"),
    (reset(), None, b"", "reset"),
    (reset(0), b"200 OK", b"", "reset"),
    (reset(4), b"Content-Length: 10", b"0123", "reset"),
    (Cut(BEFORE_HEADERS), None, b"", "closed"),
    (Cut(4), b"Content-Length: 10", b"0123", "closed"),
    (Stall(), None, b"", "silent"),
    (Stall(4), b"Content-Length: 10", b"0123", "silent"),
    (Short(3), b"Content-Length: 7", b"0123456", "silent"),
    (Short(3, is_chunked=True), b"Transfer-Encoding: chunked", b"7\r\n0123456\r\n0\r\n\r\n", "silent"),
    (WrongLength(5), b"Content-Length: 15", BODY, "closed"),
    (WrongLength(-5), b"Content-Length: 5", BODY, "closed"),
    (Flip(-1), b"Content-Length: 10", b"0123456788", "silent"),
    (OtherHeaders((("ETag", "other"), ("Server", ""))), b"ETag: other", BODY, "silent"),
    (OtherBody(b"other"), b"Content-Length: 5", b"other", "silent"),
    (OtherRange(2), b"Content-Length: 3", b"345", "silent"),
    (OtherRange(None), b"Content-Length: 10", BODY, "silent"),
]


@pytest.mark.parametrize(("fault", "told", "body", "end"), WIRE, ids=str)
def test_a_fault_is_on_the_wire_what_its_name_says(
    proxy: FaultProxy, fault: Fault, told: bytes | None, body: bytes, end: str
) -> None:
    proxy.faults.append(fault)
    headers = "Range: bytes=1-3\r\n" if isinstance(fault, OtherRange) else ""
    head, came, ended = ask(proxy, headers=headers)
    assert head == b"" if told is None else told in head
    assert came.startswith(body)
    assert end == "reset" or len(came) == len(body) or isinstance(fault, Refuse)
    assert ended == end
    assert proxy.did == {type(fault).__name__: 1}


def test_a_request_reaches_the_server_or_not_as_the_fault_says(
    proxy: FaultProxy, upstream: ThreadingHTTPServer
) -> None:
    proxy.faults.extend([Refuse(500), reset(reaches_server=False), Refuse(500, reaches_server=True), reset()])
    for _ in range(4):
        ask(proxy, "PUT", body="sent")
    assert len(upstream.asked) == 2  # type: ignore[attr-defined]
    proxy.faults.append(OtherTarget("/other"))
    ask(proxy)
    assert upstream.asked[-1][1] == "/other"  # type: ignore[attr-defined]


def test_a_proxy_that_was_stopped_refuses_and_answers_again_at_the_same_port(proxy: FaultProxy) -> None:
    port = proxy.port
    proxy.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy)
    proxy.start()
    assert proxy.port == port
    assert ask(proxy)[1] == BODY


def test_the_same_seed_gives_the_same_faults_in_whatever_order_requests_come() -> None:
    def drawn(seed: int, names: list[int]) -> dict[int, list[bool]]:
        script = Script(Rule(Refuse(500), "GET", chance=0.5), seed=seed)
        found: dict[int, list[bool]] = {name: [] for name in sorted(names)}
        for _ in range(20):
            for name in names:
                found[name].append(script.choose(Request("GET", f"/{name}", {})) is not None)
        return found

    forwards, backwards = drawn(1, [1, 2, 3]), drawn(1, [3, 2, 1])
    assert forwards == backwards != drawn(2, [1, 2, 3])
    assert {True, False} == set(forwards[1])


def test_a_rule_is_about_its_requests_and_ends_when_it_is_used_up() -> None:
    script = Script(Rule(Refuse(500), "PUT", "part=", times=2), Rule(Refuse(404), "HEAD"))
    asked = [Request(*words, {}) for words in (("PUT", "/k"), ("PUT", "/k?part=1"), ("HEAD", "/k"), ("GET", "/k"))]
    assert [script.choose(request) for request in asked] == [None, Refuse(500), Refuse(404), None]
    assert [script.choose(asked[1]) for _ in range(2)] == [Refuse(500), None]
