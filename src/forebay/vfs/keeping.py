"""What leaves the cache by itself: what nobody reads for as long as its mount says, and what is over a quota.

Only the cache's copies go: no store is ever asked here.
*Callers*: the file system, on the loop.  *Awaits*: the cache, between batches.  *Invariant*: where several mounts show
one place, the most generous of them counts.
"""

import asyncio
import math

import structlog

from forebay.cache.cache import Cache
from forebay.vfs.tree import Tree

log = structlog.get_logger()

LOOK_EVERY_S = 60.0  # a time to live is kept this exactly; longer ones make no difference to anyone


class Keeper:
    """See the module."""

    def __init__(self, tree: Tree, cache: Cache) -> None:
        self._tree = tree
        self._cache = cache
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on, now and then."""
        self._task = asyncio.create_task(self._run(), name="keeper")

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Free what is over a quota, and what was not read for long enough."""
        quotas: dict[str, float] = {}
        lives: dict[str, float] = {}
        for mount in self._tree.mounts:
            place, settings = mount.place, mount.settings
            quotas[place] = max(
                quotas.get(place, 0), math.inf if settings.quota_bytes is None else settings.quota_bytes
            )
            lives[place] = max(lives.get(place, 0), math.inf if settings.cache_ttl_s is None else settings.cache_ttl_s)
        for place, quota in quotas.items():
            if math.isfinite(quota):
                await self._cache.room.shrink(place, int(quota))
        for place, life_s in lives.items():
            if math.isfinite(life_s) and (files := await self._cache.room.expire(place, life_s)):
                log.info("cache.expired", place=place, files=files)
