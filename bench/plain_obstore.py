"""Bare obstore as a user would write it, for comparison: reads the objects whose keys are on stdin, prints seconds.

plain_obstore.py ENDPOINT BUCKET WAY     WAY: get-N, range-N (asyncio, N in flight) or threads-N
"""

import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import obstore
from obstore.store import S3Store

from common import SMALL_BYTES, open_bucket


async def read_async(store: S3Store, keys: list[str], way: str, limit: int) -> None:
    free = asyncio.Semaphore(limit)

    async def read(key: str) -> None:
        async with free:
            if way == "range":
                data = await obstore.get_range_async(store, key, start=0, length=SMALL_BYTES)
            else:
                data = await (await obstore.get_async(store, key)).bytes_async()
            assert len(data) == SMALL_BYTES

    await asyncio.gather(*(read(key) for key in keys))


def read_by_threads(store: S3Store, keys: list[str], limit: int) -> None:
    with ThreadPoolExecutor(limit) as pool:
        for size in pool.map(lambda key: len(obstore.get(store, key).bytes()), keys):
            assert size == SMALL_BYTES


def main() -> None:
    endpoint, bucket, way = sys.argv[1:]
    kind, _, limit = way.partition("-")
    keys = sys.stdin.read().split()
    store = open_bucket(endpoint, bucket)
    begin = time.perf_counter()
    if kind == "threads":
        read_by_threads(store, keys, int(limit))
    else:
        asyncio.run(read_async(store, keys, kind, int(limit)))
    sys.stdout.write(f"{time.perf_counter() - begin}\n")
    sys.stdout.flush()
    os._exit(0)  # its threads are idle, but may abort a regular exit


if __name__ == "__main__":
    main()
