"""The FUSE mounts of this daemon: made, kept in the control database, brought back, taken away.

*Callers*: the daemon, on the loop.  *Locks*: `_lock`, held while a mount is made or taken away, so that one mount
point is in one hand; it is held over awaits on purpose.  *Awaits*: the kernel's first request, threads.
*Invariant*: what `infos` shows is served; what the control database names is brought back by `restore`.
*On crash*: the kernel keeps dead mounts; `restore` detaches and mounts them again.
"""

import asyncio
import contextlib
import os
from dataclasses import dataclass

import structlog

from forebay import paths
from forebay.clock import Clock
from forebay.config.settings import Settings
from forebay.errors import AlreadyExists, FsError, NotADirectory, NotFound, TimedOut
from forebay.frontends.fuse import mounting
from forebay.frontends.fuse.abi import Opcode
from forebay.frontends.fuse.session import Session
from forebay.vfs.control import ControlDb, FolderKind, FuseMount
from forebay.vfs.entries import FileEntry
from forebay.vfs.filesystem import FileSystem

log = structlog.get_logger()

INIT_WAIT_S = 10.0  # the kernel's first request comes at once


@dataclass(frozen=True, slots=True)
class FuseInfo:
    """What is known of one mount."""

    mountpoint: str
    path: str  # of the tree, shown there
    kind: FolderKind
    mode: str  # "passthrough" or "page cache"
    mode_reason: str  # why not passthrough; else ""
    kernel_protocol: str
    max_read_bytes: int
    readahead_bytes: int
    open_files: int
    nodes: int
    requests: dict[str, int]  # by opcode name
    served_from: dict[str, int]


class FuseMounts:
    """See the module."""

    def __init__(self, fs: FileSystem, control: ControlDb, settings: Settings, clock: Clock) -> None:
        self._fs = fs
        self._control = control
        self._settings = settings
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    async def mount(self, mountpoint: str, path: str, kind: FolderKind = FolderKind.WRITABLE) -> FuseInfo:
        """Show a folder of the tree at a local folder, now and after every restart.

        Raises:
            NotFound, NotADirectory, NotEmpty, AlreadyExists, Denied, Unsupported: with what to do.
        """
        async with self._lock:
            mountpoint = await asyncio.to_thread(os.path.realpath, mountpoint)
            if mountpoint in self._sessions:
                shown = self._sessions[mountpoint].path
                raise AlreadyExists(
                    f"{mountpoint} shows {shown} already; take it away first: forebay fuse unmount {mountpoint}",
                    path=mountpoint,
                )
            await asyncio.to_thread(mounting.check_mountpoint, mountpoint)
            mount = FuseMount(mountpoint, paths.normalize(path), kind)
            session = await self._begin(mount)
            self._control.add_fuse_mount(mount)
            return _info(session)

    async def _begin(self, mount: FuseMount) -> Session:
        mountpoint, path = mount.mountpoint, mount.path
        entry = await self._fs.stat(path)
        if isinstance(entry, FileEntry):
            raise NotADirectory(f"{path} is a file; only a folder can be mounted", path=path)
        fd = await mounting.mount(mountpoint, path, readonly=mount.kind is not FolderKind.WRITABLE)
        folders = [folder.path for folder in self._settings.cache_folders]
        session = Session(self._fs, fd, mount, entry, self._clock, cache_folders=folders, on_end=self._ended)
        try:
            session.start()
            async with asyncio.timeout(INIT_WAIT_S):
                await session.agreed
        except BaseException as error:
            session.is_ending = True
            with contextlib.suppress(FsError):
                await mounting.unmount(mountpoint, lazily=True)
            await session.close()
            if isinstance(error, TimeoutError) and not isinstance(error, FsError):
                raise TimedOut(f"the kernel did not begin to use the mount on {mountpoint}") from error
            raise
        session.try_passthrough()
        session.readahead_bytes = mounting.set_readahead(mountpoint)
        self._sessions[mountpoint] = session
        log.info("fuse.mounted", mountpoint=mountpoint, path=path, kind=mount.kind, mode=session.mode)
        return session

    def _ended(self, session: Session) -> None:
        """The kernel ended a mount: somebody called umount(8), unless it is our own doing."""
        if session.is_ending or self._sessions.get(session.mountpoint) is not session:
            return
        del self._sessions[session.mountpoint]
        self._control.remove_fuse_mount(session.mountpoint)
        log.info("fuse.unmounted_by_others", mountpoint=session.mountpoint)
        closing = asyncio.create_task(session.close(), name=f"fuse.close {session.mountpoint}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def unmount(self, mountpoint: str, *, force: bool) -> None:
        """Take a mount away, for good.

        Raises:
            NotFound: nothing of ours is mounted there.
            Busy: it is in use, and not `force`.
        """
        async with self._lock:
            if mountpoint not in self._sessions:
                mountpoint = await asyncio.to_thread(os.path.realpath, mountpoint)
            if mountpoint in self._sessions:
                await self._end(mountpoint, lazily=force)
            elif force and any(mount.mountpoint == mountpoint for mount in mounting.mounts_here()):
                await mounting.unmount(mountpoint, lazily=True)  # left behind by a daemon of another home
            else:
                raise NotFound(
                    f"Forebay is not mounted at {mountpoint}; forebay fuse stat lists where it is", path=mountpoint
                )
            self._control.remove_fuse_mount(mountpoint)

    async def _end(self, mountpoint: str, *, lazily: bool) -> None:
        session = self._sessions[mountpoint]
        session.is_ending = True
        try:
            await mounting.unmount(mountpoint, lazily=lazily)
        except OSError:
            session.is_ending = False
            raise
        del self._sessions[mountpoint]
        await session.close()
        log.info("fuse.unmounted", mountpoint=mountpoint)

    def infos(self) -> list[FuseInfo]:
        """Every mount, by mount point."""
        return [_info(self._sessions[mountpoint]) for mountpoint in sorted(self._sessions)]

    def local_folders(self) -> list[tuple[str, str]]:
        """Each mount point, and the folder of the tree that it shows."""
        return [(mountpoint, self._sessions[mountpoint].path) for mountpoint in sorted(self._sessions)]

    async def restore(self) -> None:
        """Bring back the mounts that the control database names; what cannot be is logged, and tried next time."""
        dead = {mount.mountpoint for mount in mounting.mounts_here()}
        for mount in self._control.fuse_mounts():
            mountpoint = mount.mountpoint
            try:
                if mountpoint in dead:  # ours, since this home has no other daemon
                    await mounting.unmount(mountpoint, lazily=True)
                async with self._lock:
                    await asyncio.to_thread(mounting.check_mountpoint, mountpoint)
                    await self._begin(mount)
            except OSError as error:
                log.error("fuse.not_restored", mountpoint=mountpoint, path=mount.path, reason=str(error))

    async def close(self) -> None:
        """Unmount everything, to be brought back at the next start."""
        async with self._lock:
            for mountpoint in list(self._sessions):
                try:
                    await self._end(mountpoint, lazily=False)
                except OSError as error:
                    log.warning("fuse.unmounted_in_use", mountpoint=mountpoint, reason=str(error))
                    with contextlib.suppress(OSError):
                        await self._end(mountpoint, lazily=True)
            await asyncio.gather(*self._closing)


def _info(session: Session) -> FuseInfo:
    agreement = session.agreement
    return FuseInfo(
        mountpoint=session.mountpoint,
        path=session.path,
        kind=session.kind,
        mode=session.mode,
        mode_reason=session.mode_reason,
        kernel_protocol=agreement.protocol,
        max_read_bytes=agreement.max_read_bytes,
        readahead_bytes=session.readahead_bytes,
        open_files=len(session.operations.handles),
        nodes=len(session.operations.nodes),
        requests={_name(opcode): count for opcode, count in sorted(session.server.requests.items())},
        served_from=dict(session.operations.handles.served_from),
    )


def _name(opcode: int) -> str:
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"OPCODE {opcode}"
