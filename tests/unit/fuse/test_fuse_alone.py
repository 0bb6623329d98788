"""Who asks is alone while no other request waits, neither for its answer nor to be read."""

import asyncio
import os

from forebay.clock import FakeClock
from forebay.frontends.fuse import abi
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.server import Answer, Server
from forebay.frontends.fuse.wire import Request
from forebay.types import Buffer
from fuse.conftest import KeptDevice


async def test_who_asks_is_alone_until_another_request_comes_or_waits() -> None:
    device = KeptDevice()
    device.close()
    device.fd, kernel = os.pipe()
    go_on = asyncio.Event()

    async def late() -> Buffer:
        await go_on.wait()
        return b""

    def answer(_: Request) -> Answer:
        return late()

    server = Server(device, {Opcode.FLUSH: answer}, {}, FakeClock(), lambda: None)
    assert server.is_alone()
    os.write(kernel, b"a request")
    assert not server.is_alone()
    os.read(device.fd, 100)
    server.serve(memoryview(abi.IN_HEADER.pack(abi.IN_HEADER.size, Opcode.FLUSH, 1, 1, 0, 0, 0, 0, 0)))
    assert not server.is_alone()
    go_on.set()
    while server.waiters:
        await asyncio.sleep(0)
    assert server.is_alone()
    await server.stop()
    device.close()
    os.close(kernel)
