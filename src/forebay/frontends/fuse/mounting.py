"""Mounting and unmounting: by mount(2) as root, by fusermount3 otherwise.

*Callers*: `forebay.frontends.fuse.mounts`.  *Awaits*: threads and a child process, since each step here may need an
answer of a mount that this very process serves.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import shutil
import socket
from pathlib import Path

from forebay.errors import AlreadyExists, Busy, Denied, FsError, NotADirectory, NotEmpty, NotFound, Unsupported
from forebay.frontends.fuse.handshake import MAX_READ_BYTES
from forebay.frontends.fuse.mountinfo import FILESYSTEM, MountInfo, parse_mountinfo
from forebay.units import KIB

_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOATIME = 1, 2, 4, 1024  # sys/mount.h
_MNT_FORCE, _MNT_DETACH = 1, 2  # sys/mount.h
_libc = ctypes.CDLL(None, use_errno=True)

READAHEAD_BYTES = 1024 * KIB
"""The kernel's read-ahead on a mount; its default of 128 KiB would cut our 1 MiB requests into eight."""


def mounts_here() -> list[MountInfo]:
    """Every Forebay mount of this mount namespace."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def check_mountpoint(mountpoint: str) -> None:
    """Check that a folder can be mounted on.  Blocks.

    Raises:
        NotFound, NotADirectory, NotEmpty, AlreadyExists, Denied: it cannot, and what to do.
    """
    if any(mount.mountpoint == mountpoint for mount in mounts_here()):
        raise AlreadyExists(
            f"{mountpoint} is a Forebay mount already; take it away first: forebay fuse unmount {mountpoint}",
            path=mountpoint,
        )
    try:
        with os.scandir(mountpoint) as entries:
            if next(entries, None) is not None:
                message = f"{mountpoint} is not empty: what it holds would be hidden; use an empty folder"
                raise NotEmpty(message, path=mountpoint)
    except FileNotFoundError as error:
        raise NotFound(f"{mountpoint} does not exist; make it: mkdir -p {mountpoint}", path=mountpoint) from error
    except NotADirectoryError as error:
        raise NotADirectory(f"{mountpoint} is a file; mount on an empty folder", path=mountpoint) from error
    except PermissionError as error:
        raise Denied(f"{mountpoint} cannot be opened: {error.strerror}", path=mountpoint) from error
    except OSError as error:
        if isinstance(error, FsError):
            raise
        raise FsError(f"{mountpoint}: {error.strerror}", path=mountpoint) from error


async def mount(mountpoint: str, path: str, *, readonly: bool) -> int:
    """Mount, and return the device's descriptor, which the kernel's first request waits on.

    `readonly`: the kernel refuses every write by itself, and does not ask at each open whether the last read has
    changed the time of access.

    Raises:
        Denied, Unsupported, FsError: it cannot be done here, and what to do.
    """
    if not Path("/dev/fuse").exists():  # noqa: ASYNC240 - devtmpfs does not wait
        raise Unsupported(
            "there is no /dev/fuse: load it (modprobe fuse), or start the container with "
            "--device /dev/fuse --cap-add SYS_ADMIN"
        )
    if os.geteuid() == 0:
        try:
            return await asyncio.to_thread(_mount_as_root, mountpoint, path, readonly)
        except PermissionError:
            pass  # root without CAP_SYS_ADMIN, as in most containers
    return await _mount_by_helper(mountpoint, path, readonly)


def _mount_as_root(mountpoint: str, path: str, readonly: bool) -> int:
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = (
            f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},"
            f"allow_other,default_permissions,max_read={MAX_READ_BYTES}"
        )
        flags = _MS_NOSUID | _MS_NODEV | _MS_NOATIME | (_MS_RDONLY if readonly else 0)
        source, target = os.fsencode(f"forebay:{path}"), os.fsencode(mountpoint)
        if _libc.mount(source, target, FILESYSTEM.encode(), flags, options.encode()) != 0:
            number = ctypes.get_errno()
            if number in (errno.EPERM, errno.EACCES):
                raise PermissionError(number, os.strerror(number), mountpoint)
            raise FsError(f"cannot mount on {mountpoint}: {os.strerror(number)}", path=mountpoint)
    except BaseException:
        os.close(fd)
        raise
    return fd


async def _mount_by_helper(mountpoint: str, path: str, readonly: bool) -> int:
    helper = shutil.which("fusermount3")
    if helper is None:
        raise Denied("only root may mount without fusermount3; install it: apt-get install fuse3", path=mountpoint)
    words = ["ro"] if readonly else []
    words += ["nosuid", "nodev", "noatime", "default_permissions", f"max_read={MAX_READ_BYTES}"]
    words += ["subtype=forebay", f"fsname=forebay:{path.replace(',', '_')}"]
    if _may_allow_other():
        words.append("allow_other")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        arguments = (helper, "-o", ",".join(words), "--", mountpoint)
        process = await asyncio.create_subprocess_exec(
            *arguments, env=environment, pass_fds=[theirs.fileno()], stderr=asyncio.subprocess.PIPE
        )
        _, told = await process.communicate()
        if process.returncode != 0:
            reason = told.decode(errors="replace").strip().rpartition("fusermount3: ")[2]
            raise Denied(f"cannot mount on {mountpoint}: {reason or 'fusermount3 failed'}", path=mountpoint)
        ours.setblocking(False)  # the helper has ended: what it sent is here
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    return fds[0]


def _may_allow_other() -> bool:
    if os.geteuid() == 0:
        return True
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


async def unmount(mountpoint: str, *, lazily: bool = False) -> None:
    """Take a mount away; `lazily` also while it is in use, or its daemon is dead.

    Raises:
        Busy: a process uses it, and not `lazily`.
        FsError: the kernel refuses.
    """
    if os.geteuid() == 0:
        number = await asyncio.to_thread(_umount, mountpoint, lazily)
        if number == 0:
            return
        if number not in (errno.EPERM, errno.EBUSY):
            raise FsError(f"cannot unmount {mountpoint}: {os.strerror(number)}", path=mountpoint)
    else:
        number = await _unmount_by_helper(mountpoint, lazily)
    if number:
        users = ", ".join(await asyncio.to_thread(users_of, mountpoint)) or "a process"
        raise Busy(
            f"{mountpoint} is in use by {users}; end that first, or add --force (open files then fail to read)",
            path=mountpoint,
        )


def abort(mountpoint: str) -> None:
    """Have every call fail that waits for an answer of a mount.  Blocks for a moment.

    A daemon that is killed may need that: a thread of it may wait in the kernel for a folder's lock, which is held by a
    call that waits for the daemon's answer; and its end of the mount is not closed before its last thread ends.
    """
    devices = [mount.device for mount in mounts_here() if mount.mountpoint == mountpoint]
    for device in devices:
        with contextlib.suppress(OSError):  # who mounted it may write there, if that is mounted
            Path(f"/sys/fs/fuse/connections/{device.rpartition(':')[2]}/abort").write_text("1")
    if devices and os.geteuid() == 0:
        _libc.umount2(os.fsencode(mountpoint), _MNT_FORCE)  # aborts, also if it then says that it is busy


def _umount(mountpoint: str, lazily: bool) -> int:
    if _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH if lazily else 0) != 0:
        return ctypes.get_errno()
    return 0


async def _unmount_by_helper(mountpoint: str, lazily: bool) -> int:
    words = ["-u", "-z"] if lazily else ["-u"]
    process = await asyncio.create_subprocess_exec(
        "fusermount3", *words, "--", mountpoint, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


def users_of(mountpoint: str) -> list[str]:
    """Processes that work in a mount or hold a file of it open, as `name (pid 4711)`.  Blocks; touches no mount."""
    found = []
    below = mountpoint.rstrip("/") + "/"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
            if any((target := os.readlink(link)) == mountpoint or target.startswith(below) for link in links):
                found.append(f"{(process / 'comm').read_text().strip()} (pid {process.name})")
    return found


def set_readahead(mountpoint: str) -> int:
    """Raise the kernel's read-ahead on a mount; return what it is then, bytes.  Only root may; others keep theirs."""
    device = next((mount.device for mount in reversed(mounts_here()) if mount.mountpoint == mountpoint), None)
    if device is None:
        return 0
    knob = Path(f"/sys/class/bdi/{device}/read_ahead_kb")
    with contextlib.suppress(OSError):
        knob.write_text(str(READAHEAD_BYTES // KIB))
    try:
        return int(knob.read_text()) * KIB
    except OSError:
        return 0
