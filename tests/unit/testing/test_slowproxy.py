"""The slow proxy: what is sent arrives, later and at the rate of the link; never a figure of this machine."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.slowproxy import End, Link, SlowProxy

TIMEOUT_S = 20


class Echo:
    """A server that sends back what it gets, until its client ends; `ended` counts connections that ended well."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.ends: list[str] = []
        self._over = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
                self.ends.append("finished")
            except ConnectionError:
                self.ends.append("reset")
        self._over.release()

    def wait_for_end(self) -> None:
        assert self._over.acquire(timeout=TIMEOUT_S), "the server's connection did not end"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def receive_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def send_and_finish(connection: socket.socket, data: bytes) -> threading.Thread:
    def send() -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_bytes_larger_than_the_window_pass_unchanged_both_ways(echo: Echo) -> None:
    data = os.urandom(12 << 20)
    with SlowProxy(echo.port, rtt_ms=2, mbps=0) as proxy, connect(proxy.port) as connection:
        sender = send_and_finish(connection, data)
        answer = receive_all(connection)
        sender.join(TIMEOUT_S)
    assert hashlib.sha256(answer).digest() == hashlib.sha256(data).digest()


def test_it_tells_how_many_bytes_it_carried_each_way(echo: Echo) -> None:
    with SlowProxy(echo.port, rtt_ms=2, mbps=0) as proxy:
        assert proxy.carried() == (0, 0)
        for sent in (100_000, 200_000):
            with connect(proxy.port) as connection:
                send_and_finish(connection, bytes(100_000))
                receive_all(connection)
            assert proxy.carried() == (sent, sent)


def test_many_connections_do_not_mix_their_bytes(echo: Echo) -> None:
    with SlowProxy(echo.port, rtt_ms=2, mbps=0) as proxy:
        connections = [connect(proxy.port) for _ in range(40)]
        for number, connection in enumerate(connections):
            connection.sendall(bytes([number]) * 50_000)
            connection.shutdown(socket.SHUT_WR)
        for number, connection in enumerate(connections):
            with connection:
                assert receive_all(connection) == bytes([number]) * 50_000


def test_a_client_that_finishes_sending_still_gets_its_answer_and_both_sides_end(echo: Echo) -> None:
    with SlowProxy(echo.port, rtt_ms=2, mbps=0) as proxy, connect(proxy.port) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert receive_all(connection) == b"last words"
        echo.wait_for_end()
    assert echo.ends == ["finished"]


def test_a_client_that_breaks_off_breaks_off_the_store_and_harms_no_other_connection(echo: Echo) -> None:
    with SlowProxy(echo.port, rtt_ms=2, mbps=0) as proxy, connect(proxy.port) as steady:
        broken = connect(proxy.port)
        broken.sendall(b"x" * 1000)
        assert broken.recv(1)
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        broken.close()
        echo.wait_for_end()
        steady.sendall(b"still here")
        steady.shutdown(socket.SHUT_WR)
        assert receive_all(steady) == b"still here"


def test_a_store_that_is_down_is_a_broken_connection_not_a_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        SlowProxy(port, rtt_ms=2, mbps=0) as proxy,
        connect(proxy.port) as connection,
        pytest.raises(ConnectionResetError),
    ):
        receive_all(connection)


def test_the_process_ends_with_the_context(echo: Echo) -> None:
    with SlowProxy(echo.port, rtt_ms=2, mbps=0) as proxy:
        process = Path(f"/proc/{proxy.pid}")
        assert process.exists()
    assert not process.exists()


class Wire:
    """A link under a clock of the test's own."""

    def __init__(self, *, delay_s: float, bytes_per_s: float) -> None:
        self.link = Link(delay_s=delay_s, bytes_per_s=bytes_per_s)
        self._pair = socket.socketpair()
        self.sender = End(self._pair[0], self.link)

    def send(self, now: float, size: int) -> None:
        self.link.send(now, self.sender, bytes(size))

    def arrivals(self) -> list[float]:
        """When each of what was sent arrives."""
        times = []
        while (due := self.link.due()) is not None:
            assert self.link.find_arrived(due - 1e-6) is None, "it came before its time"
            assert self.link.find_arrived(due) is not None
            times.append(due)
        return times

    def close(self) -> None:
        for each in self._pair:
            each.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire(delay_s=0.01, bytes_per_s=1_000_000)
    yield wire
    wire.close()


def test_one_small_message_is_late_by_the_delay(wire: Wire) -> None:
    wire.send(100.0, 1)
    assert wire.arrivals() == [pytest.approx(100.01)]


def test_the_delay_is_pipelined_and_does_not_limit_the_rate(wire: Wire) -> None:
    for number in range(100):  # one every 0.1 ms: a thousand bytes take 1 ms
        wire.send(100.0 + number / 10_000, 1000)
    arrivals = wire.arrivals()
    assert arrivals[-1] == pytest.approx(100.0 + 0.1 + 0.01, abs=0.006)  # the rate's 100 ms, once the delay; the burst


def test_all_connections_share_the_rate(wire: Wire) -> None:
    other = End(wire.sender.socket, wire.link)
    wire.send(100.0, 100_000)
    wire.link.send(100.0, other, bytes(100_000))
    first, second = wire.arrivals()
    assert second - first == pytest.approx(0.1)


def test_an_idle_link_saves_up_no_more_than_its_burst(wire: Wire) -> None:
    wire.send(100.0, 1)
    wire.send(200.0, 100_000)
    assert wire.arrivals()[-1] == pytest.approx(200.0 + 0.1 + 0.01, abs=0.006)
