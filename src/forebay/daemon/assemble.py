"""Builds the daemon from its settings, and takes it apart again: the only place that makes components."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from forebay.cache.cache import Cache
from forebay.clock import Clock, SystemClock
from forebay.config.settings import Settings
from forebay.daemon import home as names
from forebay.daemon.activity import Activity
from forebay.daemon.admin import Admin
from forebay.frontends.fuse.mounts import FuseMounts
from forebay.frontends.local.server import LocalServer
from forebay.observe.redact import Redactor
from forebay.vfs.control import ControlDb
from forebay.vfs.filesystem import FileSystem

if TYPE_CHECKING:
    from forebay.daemon.metrics import Metrics


class Daemon:
    """Every component of one running daemon.

    *Callers*: `forebay.daemon.main`, on the loop: `start`, `listen`, and `close` in any case.  *Awaits*: `listen`,
    `close`.  *Invariant*: what is built first is closed last.
    """

    def __init__(self, settings: Settings, redactor: Redactor, stopping: asyncio.Event) -> None:
        """Build; no store is asked, and nobody is answered yet.

        Raises:
            FsError: the control database, a cache folder or the port of the metrics cannot be used; the message says
                what to do.
        """
        clock: Clock = SystemClock()
        self.control = ControlDb(names.control_path(settings.home))
        try:
            for _, _, options in self.control.mounts():
                redactor.learn(options.options)
            self.metrics = _take_port(settings.metrics_port)
            self.cache = Cache(settings, clock)
        except BaseException:
            self.control.close()
            raise
        self.fs = FileSystem(settings, self.control, self.cache, clock)
        self.mounts = FuseMounts(self.fs, self.control, settings, clock)
        self.fs.local_folders = self.mounts.local_folders
        self.local = LocalServer(
            self.fs,
            names.local_socket_path(settings.home),
            clock,
            clean=redactor.clean,
            orders=self.fs.orders,
        )
        self.activity = Activity(self.fs, clock)
        self.admin = Admin(self.fs, self.mounts, self.activity, settings, redactor, clock, stopping)
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Bring the tree back, and begin the background work."""
        self.fs.restore()
        self.cache.start()
        self.fs.start()
        self._keeping = asyncio.create_task(self.activity.keep(), name="activity.keep")

    async def listen(self) -> None:
        """Answer on the sockets from now on, and on the port of the metrics if there is one.

        On the admin API's last, since who finds that one may use the other.
        """
        self.local.listen()
        await self.admin.listen()
        if self.metrics is not None:
            await self.metrics.listen(self.activity)

    async def close(self) -> None:
        """Let requests end, unmount, save, close; every part even if one before it fails."""
        if self._keeping is not None:
            self._keeping.cancel()
        async with contextlib.AsyncExitStack() as parts:  # the last one first
            parts.callback(self.control.close)
            parts.push_async_callback(self.fs.close)
            parts.push_async_callback(self.mounts.close)
            parts.push_async_callback(self.local.close)
            if self.metrics is not None:
                parts.push_async_callback(self.metrics.close)
            parts.push_async_callback(self.admin.close)


def _take_port(port: int) -> "Metrics | None":
    if not port:
        return None
    from forebay.daemon.metrics import Metrics  # its library costs 40 ms of CPU, and few ask for it

    return Metrics(port)
