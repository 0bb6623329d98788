"""What goes on at each mount, now and in the last day, as plain values for the admin API and for Prometheus.

*Callers*: the admin API and the metrics, on the loop.  *Awaits*: the clock, in `keep`.
"""

import asyncio
import os
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from forebay.clock import Clock
from forebay.daemon.wire import Fields, Json
from forebay.errors import NotFound
from forebay.observe.series import EVERY_S, KEPT, Row
from forebay.observe.traffic import Traffic
from forebay.vfs.entries import Mount
from forebay.vfs.filesystem import FileSystem

_CACHE = ("capacity_bytes", "used_bytes", "disk_free_bytes", "reserve_bytes", "files")


class Queue(NamedTuple):
    """Requests to one store; mounts of one store share its queue."""

    location: str
    requests: int  # under way
    readers_waiting: int
    background_waiting: int


class Activity:
    """See the module."""

    def __init__(self, fs: FileSystem, clock: Clock) -> None:
        self.fs = fs
        self._clock = clock

    async def keep(self) -> None:
        """Note every ten seconds what has gone on, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            self.fs.tree.ledger.tick(self._clock.monotonic())

    async def now(self, _: Fields) -> Json:
        """Counters and states of everything; rates are the difference of two of these, over that of their `at_s`."""
        uploads = self.uploads()
        return {
            "at_s": self._clock.monotonic(),
            "rss_bytes": resident_bytes(),
            "mounts": [self._mount(mount) | {"uploads": uploads.get(mount.path, 0)} for mount in self.fs.mounts],
            "stores": [queue._asdict() for queue in self.queues()],
            "cache": self.cache() | self.fs.cache.counters(),
        }

    def _mount(self, mount: Mount, from_s: float = -inf) -> Json:
        """Files opened are those since `from_s`; all else is of now, or since the mount began."""
        traffic = mount.traffic
        traffic.stall.advance(self._clock.monotonic())
        opened = traffic.opened.since(from_s)
        return {
            "path": mount.path,
            **traffic.counts(),
            "stall_s": traffic.stall.sum_s,
            "stalled_s": traffic.stall.any_s,
            "readers_waiting": traffic.stall.waiting,
            "open_files": mount.open_files,
            "prefetching": self.fs.prefetcher.under_way(mount.path),
            "cached_bytes": self.fs.cache.held_bytes(mount.place),
            "opened_files": opened.number,
            "opened_bytes": opened.size,
        }

    def traffics(self) -> Iterable[tuple[str, Traffic]]:
        """What was counted at each mount, up to now."""
        for path, traffic in self.fs.tree.ledger:
            traffic.stall.advance(self._clock.monotonic())
            yield path, traffic

    def uploads(self) -> dict[str, int]:
        """How many files wait for their upload, or are sent, by the path of their mount."""
        found: dict[str, int] = {}
        for info in self.fs.uploader.infos():
            mount = self.fs.tree.locate(info.path).mount
            if mount is not None and info.state in ("waiting", "sending", "failing"):
                found[mount.path] = found.get(mount.path, 0) + 1
        return found

    def queues(self) -> list[Queue]:
        """Requests to each store that was asked for bytes."""
        return [
            Queue(location, throttle.requests, throttle.readers_waiting, throttle.background_waiting)
            for location, throttle in sorted(self.fs.cache.throttles.items())
        ]

    def cache(self) -> dict[str, int]:
        """What all cache folders hold together."""
        uses = self.fs.cache.use()
        return {name: sum(getattr(use, name) for use in uses) for name in _CACHE}

    async def history(self, fields: Fields) -> Json:
        """What went on at each mount in the last `since_s` seconds, or at the one at `path`.

        Rows are as `series.Row` has them; files opened are those of that time.
        """
        now_s = self._clock.monotonic()
        since_s = fields.whole("since_s")
        from_s = now_s - (KEPT * EVERY_S if since_s is None else since_s)
        mounts = list(self.fs.mounts)
        if fields.has("path"):
            path = fields.path()
            mount = self.fs.tree.locate(path).mount
            if mount is None:
                raise NotFound(f"{path} is in no mount; forebay fs mounts lists them", path=path)
            mounts = [mount]
        return {
            "at_s": now_s,
            "capacity_bytes": self.cache()["capacity_bytes"],
            "columns": Row._fields,
            "mounts": [
                {"rows": self.fs.tree.ledger.since(mount.path, from_s, now_s), **self._mount(mount, from_s)}
                for mount in mounts
            ],
        }


def resident_bytes() -> int:
    """Memory of this process, bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
