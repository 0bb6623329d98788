"""A process that used obstore ends as it should."""

import asyncio
import subprocess
import sys

from forebay.testing.fault_server import fault_server

_CHILD = """
import asyncio, sys
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse

async def main():
    store = S3Store("bucket", parse({"access_key": "K", "secret_key": "S", "endpoint": sys.argv[1]}), deadline_s=5)
    await asyncio.gather(*(store.get("k") for _ in range(20)))
    await store.close()

asyncio.run(main())
"""


async def test_a_process_ends_cleanly_after_close() -> None:
    async with fault_server() as server:
        server.objects = {"k": b"x" * 100_000}
        ends = [await _run(server.endpoint) for _ in range(4)]
    assert ends == [0, 0, 0, 0]


async def _run(endpoint: str) -> int:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, endpoint, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return await asyncio.wait_for(child.wait(), 60)
