"""A proxy between a client and a real HTTP server that does wrong as it is told (`forebay.testing.faults`).

with FaultProxy(server.port) as proxy:
    proxy.script = Script(Rule(Refuse(503), method="GET", chance=0.1), seed=7)
    ...  # read from proxy.endpoint
    print(proxy.did)

It passes requests on as they are, their Host too, so that signatures hold.  An answer is read whole before it is sent.
It is a loop in a thread of its own, so that it answers whatever the test does; `slowproxy`, which makes a link of
bytes slow for benches, is a process of its own, since it must not take its time from what it measures.

*Callers*: one thread, which enters and leaves it.  *Awaits*: the server.
"""

import asyncio
import io
import threading
from types import TracebackType
from typing import Self

import aiohttp
import yarl

from forebay.errors import Unavailable
from forebay.testing.fault_http import FaultyHttp
from forebay.testing.faults import Answer, Request, reset

START_WITHIN_S = 10.0
CONNECTIONS_MAX = 64
_OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length")  # not passed on


class FaultProxy(FaultyHttp):
    """See the module.  It may be stopped, which is a server that is down, and started again at the same port."""

    def __init__(self, upstream_port: int) -> None:
        """`upstream_port` is the real server's, on 127.0.0.1."""
        super().__init__()
        self.port = 0
        self._upstream = f"http://127.0.0.1:{upstream_port}"
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """The URL to use in place of the server's own."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, at the port of last time if there was one.

        Raises:
            Unavailable: the port is taken.
        """
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(ready)), name="fault proxy", daemon=True)
        self._thread.start()
        if not ready.wait(START_WITHIN_S):
            raise Unavailable("the fault proxy did not start; its reason is above")

    def stop(self) -> None:
        """Cut every connection, and refuse others."""
        thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join()

    async def answer(self, request: Request) -> Answer:
        """What the server answers; a reset if it does not."""
        assert self._session is not None
        url = yarl.URL(self._upstream + request.target, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name not in _OF_ONE_CONNECTION}
        try:
            async with self._session.request(
                request.method, url, headers=headers, data=io.BytesIO(request.body), allow_redirects=False
            ) as response:
                body = await response.read()
                kept = {name: value for name, value in response.headers.items() if not _is_of_one_connection(name)}
                if request.method == "HEAD" and "Content-Length" in response.headers:
                    kept["Content-Length"] = response.headers["Content-Length"]
                return Answer(response.status, kept, body)
        except (aiohttp.ClientError, OSError):
            return reset().spoil(Answer(500))

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
        unasked = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
        async with aiohttp.ClientSession(
            connector=connector, skip_auto_headers=unasked, auto_decompress=False
        ) as self._session:
            server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await self._over.wait()
            server.close()
            await self.end()


def _is_of_one_connection(name: str) -> bool:
    return name.lower() in _OF_ONE_CONNECTION
