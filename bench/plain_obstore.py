"""Bare obstore as a user would write it, for comparison: reads the objects whose keys are on stdin, prints seconds.

Without any key on stdin it lists the bucket and reads all of it; the listing counts.

plain_obstore.py ENDPOINT BUCKET WAY [FOLDER]    WAY: get-N, range-N (asyncio, N in flight) or threads-N

With a FOLDER each object is kept there as a file of its own, as `aws s3 cp --recursive` does; else it is dropped.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import S3Store

from common import SMALL_BYTES, open_bucket
from forebay.types import Buffer

Keep = Callable[[str, Buffer], None]


def keeper(folder: str) -> Keep:
    """Writes an object into its file."""
    if not folder:
        return lambda key, data: None

    def keep(key: str, data: Buffer) -> None:
        file = os.open(f"{folder}/{key}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(file, data)
        os.close(file)

    return keep


async def read_async(store: S3Store, keys: list[str], way: str, limit: int, keep: Keep) -> None:
    free = asyncio.Semaphore(limit)

    async def read(key: str) -> None:
        async with free:
            if way == "range":
                data = await obstore.get_range_async(store, key, start=0, length=SMALL_BYTES)
            else:
                data = await (await obstore.get_async(store, key)).bytes_async()
            assert len(data) == SMALL_BYTES
            keep(key, data)

    await asyncio.gather(*(read(key) for key in keys))


def read_by_threads(store: S3Store, keys: list[str], limit: int, keep: Keep) -> None:
    def read(key: str) -> int:
        data = obstore.get(store, key).bytes()
        keep(key, data)
        return len(data)

    with ThreadPoolExecutor(limit) as pool:
        for size in pool.map(read, keys):
            assert size == SMALL_BYTES


def main() -> None:
    endpoint, bucket, way, folder = (*sys.argv[1:], "")[:4]
    kind, _, limit = way.partition("-")
    keys = sys.stdin.read().split()
    store = open_bucket(endpoint, bucket)
    begin = time.perf_counter()
    keys = keys or [found["path"] for page in obstore.list(store) for found in page]
    for parent in {os.path.dirname(key) for key in keys} if folder else ():
        os.makedirs(f"{folder}/{parent}", exist_ok=True)
    if kind == "threads":
        read_by_threads(store, keys, int(limit), keeper(folder))
    else:
        asyncio.run(read_async(store, keys, kind, int(limit), keeper(folder)))
    sys.stdout.write(f"{time.perf_counter() - begin}\n")
    sys.stdout.flush()
    os._exit(0)  # its threads are idle, but may abort a regular exit


if __name__ == "__main__":
    main()
