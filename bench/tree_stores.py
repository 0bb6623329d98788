"""How fast a large file comes by SFTP and WebDAV: through Forebay's adapters, and by their libraries alone.

    python bench/tree_stores.py [MIB=1024] [ROUNDS=3]

Loopback; client and server share the machine.  Parts of 8 MiB, IN_FLIGHT at a time, as the cache asks for them.
"""

import asyncio
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh
import httpx

from forebay.config.settings import Settings
from forebay.stores.base import Store
from forebay.stores.registry import open_store
from forebay.testing.sshd import Sshd
from forebay.testing.webdav import NginxDav
from forebay.types import ByteRange
from forebay.units import GIB, MIB

IN_FLIGHT = 4
PART_BYTES = 8 * MIB
Read = Callable[[ByteRange], Awaitable[int]]


async def measure(name: str, size: int, read: Read) -> None:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(start: int) -> int:
        async with slots:
            return await read(ByteRange(start, min(start + PART_BYTES, size)))

    began, used = time.perf_counter(), _cpu()
    came = sum(await asyncio.gather(*(one(start) for start in range(0, size, PART_BYTES))))
    seconds = time.perf_counter() - began
    assert came == size
    print(f"{name:34} {size / seconds / 1e6:6.0f} MB/s {(_cpu() - used) * GIB / size:5.2f} CPU s/GiB", flush=True)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def adapter(name: str, url: str, options: dict[str, str], size: int) -> None:
    store: Store = open_store(url, options, settings=Settings(home=Path("/nowhere"))).store
    meta = await store.head("large")

    async def stream(span: ByteRange) -> int:
        chunks = store.stream("large", span, version=meta.version, chunk_bytes=MIB)
        return sum([len(chunk) async for chunk in chunks])

    await measure(f"{name}: Forebay's adapter", size, stream)
    await store.close()


async def bare_sftp(server: Sshd, size: int, ciphers: str) -> None:
    keys = {"username": server.user, "client_keys": [str(server.key_file)], "known_hosts": None}
    async with asyncssh.connect("127.0.0.1", server.port, **keys, encryption_algs=ciphers) as connection:  # noqa: SIM117
        async with connection.start_sftp_client() as sftp:

            async def read(span: ByteRange) -> int:
                async with sftp.open(str(server.root / "large"), "rb") as file:
                    return len(await file.read(span.size, span.start))

            await measure(f"sftp: bare asyncssh, {ciphers.split('-')[0]}", size, read)


async def bare_webdav(server: NginxDav, size: int) -> None:
    with httpx.Client() as client:

        def get(span: ByteRange) -> int:
            headers = {"Range": f"bytes={span.start}-{span.stop - 1}"}
            with client.stream("GET", f"http://127.0.0.1:{server.port}/large", headers=headers) as response:
                return sum(len(chunk) for chunk in response.iter_raw(MIB))

        await measure("webdav: bare httpx in threads", size, lambda span: asyncio.to_thread(get, span))


def main() -> None:
    size = int(sys.argv[1] if len(sys.argv) > 1 else 1024) * MIB
    rounds = int(sys.argv[2] if len(sys.argv) > 2 else 3)
    folder = Path(tempfile.mkdtemp(prefix="forebay-bench-"))
    try:
        with Sshd(folder / "sshd") as sshd, NginxDav(folder / "nginx") as nginx:
            for server in (sshd, nginx):
                with (server.root / "large").open("wb") as file:
                    file.truncate(size)
            for _ in range(rounds):
                asyncio.run(bare_sftp(sshd, size, "aes128-gcm@openssh.com"))
                asyncio.run(bare_sftp(sshd, size, "chacha20-poly1305@openssh.com"))
                asyncio.run(adapter("sftp", sshd.url, sshd.options, size))
                asyncio.run(bare_webdav(nginx, size))
                asyncio.run(adapter("webdav", nginx.url, {}, size))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
