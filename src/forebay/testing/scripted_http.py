"""An HTTP server in the test's own loop that answers by script, for what no real server here can be made to say.

async with scripted_http() as server:
    server.answers.append(Answer(429, headers={"Retry-After": "1"}))
    ...
    assert server.seen[-1].headers["authorization"] == "Bearer T"
"""

import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say to one request; a `body` that is no bytes goes out as JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    method: str
    path: str  # percent-encoded, as it came
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: bytes


Script = Answer | Callable[[Seen], Answer]


class ScriptedHttp:
    """See the module; made by `scripted_http`."""

    def __init__(self) -> None:
        self.answers: deque[Script] = deque()  # one for each request, in order
        self.always: Script = Answer(501)  # when there are no more
        self.seen: list[Seen] = []
        self.endpoint = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.content.read()
        seen = Seen(request.method, request.raw_path.partition("?")[0], request.query, headers, body)
        self.seen.append(seen)
        answer = self.answers.popleft() if self.answers else self.always
        if callable(answer):
            answer = answer(seen)
        said = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        return web.Response(status=answer.status, body=said, headers=dict(answer.headers))


@asynccontextmanager
async def scripted_http(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedHttp]:
    """A server on a free loopback port, until the block ends."""
    scripted = ScriptedHttp()
    runner = web.ServerRunner(web.Server(scripted.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    scripted.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield scripted
    finally:
        await runner.cleanup()
