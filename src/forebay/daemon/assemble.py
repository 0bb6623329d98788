"""Builds the daemon from its settings, and takes it apart again: the only place that makes components."""

import asyncio

from forebay.cache.cache import Cache
from forebay.clock import Clock, SystemClock
from forebay.config.settings import Settings
from forebay.daemon import home as names
from forebay.daemon.admin import Admin
from forebay.frontends.fuse.mounts import FuseMounts
from forebay.frontends.local.server import LocalServer
from forebay.observe.redact import Redactor
from forebay.vfs.control import ControlDb
from forebay.vfs.filesystem import FileSystem


class Daemon:
    """Every component of one running daemon.

    *Callers*: `forebay.daemon.main`, on the loop: `start`, `listen`, and `close` in any case.  *Awaits*: `listen`,
    `close`.  *Invariant*: what is built first is closed last.
    """

    def __init__(self, settings: Settings, redactor: Redactor, stopping: asyncio.Event) -> None:
        """Build; no store is asked, and nobody is answered yet.

        Raises:
            FsError: the control database or a cache folder cannot be used; the message says what to do.
        """
        clock: Clock = SystemClock()
        self.control = ControlDb(names.control_path(settings.home))
        try:
            for _, _, options in self.control.mounts():
                redactor.learn(options.options)
            self.cache = Cache(settings, clock)
        except BaseException:
            self.control.close()
            raise
        self.fs = FileSystem(settings, self.control, self.cache, clock)
        self.mounts = FuseMounts(self.fs, self.control, settings, clock)
        self.local = LocalServer(
            self.fs,
            names.local_socket_path(settings.home),
            clock,
            clean=redactor.clean,
            local_folders=lambda: [(info.mountpoint, info.path) for info in self.mounts.infos()],
            orders=self.fs.orders,
        )
        self.admin = Admin(self.fs, self.mounts, settings, redactor, clock, stopping)

    def start(self) -> None:
        """Bring the tree back, and begin the background work."""
        self.fs.restore()
        self.cache.start()
        self.fs.start()

    async def listen(self) -> None:
        """Answer on the sockets from now on; on the admin API's last, since who finds that one may use both."""
        self.local.listen()
        await self.admin.listen()

    async def close(self) -> None:
        """Let requests end, unmount, save, close; every part even if one before it fails."""
        try:
            await self.admin.close()
        finally:
            try:
                await self.local.close()
            finally:
                try:
                    await self.mounts.close()
                finally:
                    try:
                        await self.fs.close()
                    finally:
                        self.control.close()
