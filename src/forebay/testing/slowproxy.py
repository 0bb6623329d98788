"""A TCP proxy that makes a store on loopback look remote: a round trip's latency and one shared link.

    python -m forebay.testing.slowproxy --upstream 127.0.0.1:8333 --rtt-ms 20 --mbps 200

prints its port as its first line and serves until it is ended.  Bytes travel half the round trip each way, and
share one link per direction, whatever the number of connections; a new connection costs one round trip more.
Latency is pipelined: it delays bytes, but does not limit how many are on their way, up to `WINDOW_BYTES` for each
connection and direction.  A client that signs its Host header uses the proxy's host and port as its endpoint.

It counts what it carries: SIGUSR1 has it print how many bytes came from the client and from the store so far.

The proxy shares the machine with what it measures, so it is one loop over epoll, without tasks: since every byte of
a direction is delayed alike, what is on its way is a plain queue.
"""

import argparse
import errno
import select
import signal
import socket
import struct
import sys
import time
from collections import deque

from forebay.errors import Invalid
from forebay.testing.told_port import ToldPort

CHUNK_BYTES = 256 << 10  # read at a time
WINDOW_BYTES = 4 << 20  # on its way at most, for each connection and direction: 200 MB/s at 20 ms
BURST_S = 0.005  # a link that waited for this loop may catch up by so much
EARLY_S = 0.0005  # epoll rounds its timeout up to 1 ms: half of that early and late evens out
BACKLOG = 1024

_LINGER_NONE = struct.pack("ii", 1, 0)  # close(2) then sends a reset
_FINISHED = b""  # in place of bytes: the sender has ended its direction
_GONE = (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT)


class End:
    """One socket of a connection, the client's or the store's, and what is to be written to it."""

    __slots__ = ("finished", "flying_bytes", "interest", "link", "peer", "shut", "socket", "unsent")

    def __init__(self, sock: socket.socket, link: "Link") -> None:
        self.socket = sock
        self.link = link  # what is read here travels through this link
        self.peer = self  # the other side, set once both exist
        self.flying_bytes = 0  # read here, not yet written to the peer
        self.unsent: deque[memoryview] = deque()  # arrived, but this socket did not take it yet
        self.finished = False  # nothing more is read here
        self.shut = False  # nothing more is written here
        self.interest = 0  # what epoll watches for; 0: it does not know this socket


class Link:
    """One direction of the wire, shared by all connections: a rate, then a delay."""

    def __init__(self, *, delay_s: float, bytes_per_s: float) -> None:
        """`bytes_per_s` of 0 means no limit."""
        self._delay_s = delay_s
        self._second_per_byte = 1 / bytes_per_s if bytes_per_s else 0.0
        self._free_at = 0.0
        self.sent_bytes = 0  # since the start
        self._flying: deque[tuple[float, End, bytes]] = deque()

    def send(self, now: float, sender: End, data: bytes) -> None:
        """Put bytes on the wire; they arrive once all of them have passed the link, and half a round trip later."""
        self.sent_bytes += len(data)
        self._free_at = max(now - BURST_S, self._free_at) + len(data) * self._second_per_byte
        self._flying.append((max(now, self._free_at) + self._delay_s, sender, data))

    def due(self) -> float | None:
        """When the next bytes arrive; None if none are on their way."""
        return self._flying[0][0] if self._flying else None

    def find_arrived(self, now: float) -> tuple[End, bytes] | None:
        """Take the next bytes that have arrived, in the order they were sent; None if there are none."""
        if not self._flying or self._flying[0][0] > now:
            return None
        _, sender, data = self._flying.popleft()
        return sender, data


class Proxy:
    """The loop.  *Callers*: one thread, which calls `serve`."""

    def __init__(self, upstream: tuple[str, int], *, rtt_s: float, bytes_per_s: float, port: int = 0) -> None:
        self._upstream = upstream
        self._rtt_s = rtt_s
        self._down = Link(delay_s=rtt_s / 2, bytes_per_s=bytes_per_s)
        self._up = Link(delay_s=rtt_s / 2, bytes_per_s=bytes_per_s)
        self._epoll = select.epoll()
        self._ends: dict[int, End] = {}  # by file descriptor
        self._opening: deque[tuple[float, socket.socket]] = deque()  # accepted; their first round trip passes
        self._listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        return int(self._listener.getsockname()[1])

    def carried(self) -> tuple[int, int]:
        """Bytes that came from clients, and from the store, since the start."""
        return self._up.sent_bytes, self._down.sent_bytes

    def serve(self) -> None:
        """Move bytes, for ever."""
        while True:
            for number, events in self._epoll.poll(self._wait_s()):
                if number == self._listener.fileno():
                    self._accept()
                elif end := self._ends.get(number):  # the peer's event may just have closed it
                    self._handle(end, events)
            now = time.monotonic() + EARLY_S
            while self._opening and self._opening[0][0] <= now:
                self._open(self._opening.popleft()[1])
            for link in (self._down, self._up):
                while arrived := link.find_arrived(now):
                    self._deliver(*arrived)

    def _wait_s(self) -> float | None:
        dues = [due for due in (self._down.due(), self._up.due()) if due is not None]
        if self._opening:
            dues.append(self._opening[0][0])
        return max(0.0, min(dues) - EARLY_S - time.monotonic()) if dues else None

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # none is left, or it hung up while it waited
                return
            self._opening.append((time.monotonic() + self._rtt_s, client))

    def _open(self, client: socket.socket) -> None:
        try:
            store = socket.create_connection(self._upstream, timeout=5)
        except OSError:
            _reset(client)
            return
        near, far = End(client, self._up), End(store, self._down)
        near.peer, far.peer = far, near
        for end in (near, far):
            end.socket.setblocking(False)
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends[end.socket.fileno()] = end
            self._watch(end)

    def _handle(self, end: End, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._flush(end)
            if events & ~select.EPOLLOUT and self._is_alive(end):
                self._read(end)  # says what EPOLLERR and EPOLLHUP mean
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._drop(end)

    def _is_alive(self, end: End) -> bool:
        return end.socket.fileno() in self._ends

    def _read(self, end: End) -> None:
        try:
            data = end.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        end.flying_bytes += len(data)
        end.finished = not data
        end.link.send(time.monotonic(), end, data or _FINISHED)
        self._watch(end)

    def _deliver(self, sender: End, data: bytes) -> None:
        target = sender.peer
        if not self._is_alive(target):
            return  # dropped while the bytes were on their way
        try:
            target.unsent.append(memoryview(data))
            self._flush(target)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self._drop(target)

    def _flush(self, end: End) -> None:
        """Write what arrived for this socket, as far as it takes it."""
        try:
            while end.unsent:
                data = end.unsent[0]
                sent = end.socket.send(data) if data else self._finish(end)
                end.peer.flying_bytes -= sent
                if sent < len(data):
                    end.unsent[0] = data[sent:]
                else:
                    end.unsent.popleft()
        except BlockingIOError:
            pass
        if self._is_alive(end):
            self._watch(end)
            self._watch(end.peer)

    def _finish(self, end: End) -> int:
        """The other side has ended its direction; once both have, the connection is over."""
        end.socket.shutdown(socket.SHUT_WR)
        end.shut = True
        if end.peer.shut:
            for each in (end, end.peer):
                del self._ends[each.socket.fileno()]
                each.socket.close()
        return 0

    def _watch(self, end: End) -> None:
        interest = 0
        if not end.finished and end.flying_bytes < WINDOW_BYTES:
            interest |= select.EPOLLIN
        if end.unsent:
            interest |= select.EPOLLOUT
        if interest == end.interest:
            return
        number = end.socket.fileno()
        if not interest:  # not merely nothing to watch for: a hang-up would be told again and again
            self._epoll.unregister(number)
        elif end.interest:
            self._epoll.modify(number, interest)
        else:
            self._epoll.register(number, interest)
        end.interest = interest

    def _drop(self, end: End) -> None:
        """One side broke off: so does the other, and what is on its way is lost, as on a wire."""
        for each in (end, end.peer):
            del self._ends[each.socket.fileno()]
            each.unsent.clear()
            _reset(each.socket)


class SlowProxy(ToldPort):
    """A proxy in a process of its own."""

    def __init__(self, upstream_port: int, *, rtt_ms: float, mbps: float) -> None:
        """`mbps` is in 1e6 bytes per second, for each direction; 0 means no limit."""
        command = [sys.executable, "-m", "forebay.testing.slowproxy", "--upstream", f"127.0.0.1:{upstream_port}"]
        super().__init__("the slow proxy", [*command, "--rtt-ms", f"{rtt_ms:g}", "--mbps", f"{mbps:g}"])

    @property
    def pid(self) -> int:
        """The process, for who wants to know its share of the processors."""
        return self.process.pid

    def carried(self) -> tuple[int, int]:
        """Bytes that came from clients, and from the store, since the start."""
        self.process.send_signal(signal.SIGUSR1)
        from_clients, from_store = self.told().split()
        return int(from_clients), int(from_store)


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    sock.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        raise Invalid(f"{text!r}: write HOST:PORT, such as 127.0.0.1:8333")
    return host or "127.0.0.1", int(port)


def main() -> None:
    """Serve as the command line says, until ended."""
    parser = argparse.ArgumentParser(prog="forebay.testing.slowproxy", description="Makes a local store look remote.")
    parser.add_argument("--upstream", required=True, type=_address, metavar="HOST:PORT", help="the real store")
    parser.add_argument("--rtt-ms", type=float, default=20.0, help="round trip (20)")
    parser.add_argument("--mbps", type=float, default=200.0, help="1e6 bytes/s in each direction; 0: no limit (200)")
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1 (a free one)")
    words = parser.parse_args()
    proxy = Proxy(words.upstream, rtt_s=words.rtt_ms / 1000, bytes_per_s=words.mbps * 1e6, port=words.port)

    def tell(*numbers: int) -> None:
        sys.stdout.write(" ".join(map(str, numbers)) + "\n")
        sys.stdout.flush()

    signal.signal(signal.SIGUSR1, lambda *_: tell(*proxy.carried()))
    tell(proxy.port)
    try:
        proxy.serve()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
