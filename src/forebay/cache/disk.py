"""One cache folder: its files, its index, and how many bytes it may hold.

The bound is the configured capacity, and never more than leaves the reserve of the disk free for others.
"""

import contextlib
import ctypes
import fcntl
import os
import resource
import shutil
import sqlite3
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from forebay.cache.index import BOOT_ID, CacheIndex
from forebay.cache.policy import Dataset
from forebay.clock import Clock
from forebay.config.settings import CacheDir
from forebay.errors import Busy, Denied, NoSpace
from forebay.opened import opened_folder
from forebay.types import Buffer
from forebay.units import KIB, MIB

log = structlog.get_logger()
_libc = ctypes.CDLL(None, use_errno=True)
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000  # linux/fs.h

FREE_CHECK_S = 1.0  # statvfs at most this often, so that admission costs no system call
FAILED_PAUSE_S = 30.0  # a disk that refused a write gets no new bytes for so long
AT_ONCE_BYTES = 256 * KIB  # written on the loop while the disk is quick: less than a hand-over to a thread costs
QUICK_S = 25e-3  # a write that takes longer, and gave up its processor by itself, waited for the disk
SLOW_PAUSE_S = 10.0  # then writes go to the pool for so long: one reader in ten seconds may meet a stall, not all
SLACK_BYTES = 64 * MIB  # others may take this much of the disk between two looks


class DiskUse(NamedTuple):
    """What a cache folder holds, for `forebay fs df`."""

    directory: str
    capacity_bytes: int
    used_bytes: int
    disk_free_bytes: int
    reserve_bytes: int
    files: int


class CacheDisk:
    """See the module.  All methods on the event loop, unless they say otherwise."""

    def __init__(self, folder: CacheDir, *, reserve: float, clock: Clock) -> None:
        """Take the folder.

        Raises:
            Denied, NoSpace: it cannot be used.
            Busy: another daemon uses it.
        """
        self.path = folder.path
        self._limit_bytes = folder.capacity_bytes
        self._reserve = reserve
        self._clock = clock
        self._checked_at = float("-inf")
        self._failed_until = float("-inf")
        self._slow_until = float("-inf")
        self._free_bytes = self._reserve_bytes = 0
        self._used_at_check = 0
        self._lock = _take_folder(self.path)
        try:
            self.index = CacheIndex(self.path / "index.db", BOOT_ID.read_text().strip())
        except sqlite3.Error as error:
            os.close(self._lock)
            raise NoSpace(
                f"the index of the cache folder {self.path} cannot be written: {error}; free some space on that disk, "
                "or choose another folder with `cache_dirs`",
                path=str(self.path),
            ) from error
        self._files = f"{self.path}/files"
        if self.index.is_fresh:
            self._set_aside()
        _spread(self._files)
        self._next_id = self.index.session << 32  # ids of sessions never meet: a crash cannot reuse a name
        self.bytes_of: dict[Dataset, int] = {}
        self.bytes_of_mount: dict[str, int] = {}
        self.files = 0
        for mount, top, size, count in self.index.usage():
            self.bytes_of[Dataset(mount, top)] = size
            self.bytes_of_mount[mount] = self.bytes_of_mount.get(mount, 0) + size
            self.files += count
        self.used_bytes = sum(self.bytes_of.values())

    def _set_aside(self) -> None:
        """Files that no index knows are worth nothing: out of the way, until `remove_orphans` deletes them."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._files, f"{self.path}/lost-{os.getpid()}-{self._clock.time_ns()}")
        os.makedirs(self._files, mode=0o700, exist_ok=True)

    def close(self, *, clean: bool) -> None:
        """Close the index and give the folder back."""
        self.index.close(clean=clean)
        os.close(self._lock)

    def new_id(self) -> int:
        """An id that no file of this folder has or had."""
        self._next_id += 1
        return self._next_id

    def file_path(self, file_id: int) -> str:
        """Where the cache file of that id lies; 32 folders keep each small enough."""
        return f"{self._files}/{file_id & 0x1F:02x}/{file_id:016x}"

    def capacity_bytes(self) -> int:
        """Bytes this folder may hold now: the configured size, less what the reserve of free disk forbids."""
        now = self._clock.monotonic()
        moved = abs(self.used_bytes - self._used_at_check)
        if now - self._checked_at >= FREE_CHECK_S or moved > SLACK_BYTES:
            self._check_free(now)
        grown = self.used_bytes - self._used_at_check
        allowed = self.used_bytes + self._free_bytes - grown - self._reserve_bytes
        return max(0, allowed if self._limit_bytes is None else min(allowed, self._limit_bytes))

    def _check_free(self, now: float) -> None:
        stat = os.statvfs(self.path)
        self._free_bytes = stat.f_bavail * stat.f_frsize
        self._reserve_bytes = int(stat.f_blocks * stat.f_frsize * self._reserve)
        self._used_at_check, self._checked_at = self.used_bytes, now

    def lacking_bytes(self, size: int) -> int:
        """How many bytes must leave before `size` more fit; 0 if they fit."""
        return max(0, self.used_bytes + size - self.capacity_bytes())

    @property
    def accepts_writes(self) -> bool:
        """False for a while after the disk refused a write."""
        return self._clock.monotonic() >= self._failed_until

    def take(self, dataset: Dataset, size: int) -> None:
        """Count bytes in (or out, if negative)."""
        self.used_bytes += size
        self.bytes_of[dataset] = self.bytes_of.get(dataset, 0) + size
        self.bytes_of_mount[dataset.mount] = self.bytes_of_mount.get(dataset.mount, 0) + size
        assert self.used_bytes >= 0

    def write_at_once(self, feed: Callable[[Buffer], None], data: Buffer) -> bool:
        """Write a small piece here and now, if that is quick: into the kernel's page cache; False: use the pool.

        Raises what `feed` raises.
        """
        began = self._clock.monotonic()
        if len(data) > AT_ONCE_BYTES or began < self._slow_until:
            return False
        waits = _waits()
        feed(data)
        ended = self._clock.monotonic()
        if ended - began > QUICK_S and _waits() > waits:
            self._slow_until = ended + SLOW_PAUSE_S
        return True

    def write_failed(self, error: OSError) -> None:
        """The disk refused a write: read through for a while."""
        self._failed_until = self._clock.monotonic() + FAILED_PAUSE_S
        self._checked_at = float("-inf")
        log.warning("cache.write_refused", directory=str(self.path), reason=os.strerror(error.errno or 0))

    def use(self) -> DiskUse:
        """What `forebay fs df` shows."""
        self._check_free(self._clock.monotonic())
        capacity = self.capacity_bytes()
        return DiskUse(str(self.path), capacity, self.used_bytes, self._free_bytes, self._reserve_bytes, self.files)

    def remove_orphans(self) -> int:
        """Delete files that no row names (a crash, or a lost index, left them); return how many.  Blocks."""
        known, removed = self.index.ids(), 0
        for lost in self.path.glob("lost-*"):
            removed += sum(len(files) for *_, files in os.walk(lost))
            shutil.rmtree(lost, ignore_errors=True)
        for folder in self.path.glob("files/??"):
            for entry in os.scandir(folder):
                with contextlib.suppress(ValueError, FileNotFoundError):
                    file_id = int(entry.name, 16)
                    if file_id >> 32 < self.index.session and file_id not in known:
                        os.unlink(entry.path)
                        removed += 1
        return removed

    def sync(self) -> None:
        """Bring every cached byte to the disk, so that a reboot finds a clean index.  Blocks."""
        with opened_folder(self.path) as fd:
            if _libc.syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), "syncfs failed")


def _waits() -> int:
    """How often this thread has waited for anything but a processor, which on a busy machine it waits for long."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def _take_folder(path: Path) -> int:
    """Make the folder, and take its lock for this process; the lock goes with the descriptor."""
    try:
        (path / "files").mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        message = f"the cache folder {path} is not writable; choose another with `cache_dirs` or mend its owner"
        raise Denied(message, path=str(path)) from error
    except OSError as error:
        message = f"the cache folder {path} cannot be used: {error.strerror}; choose another with `cache_dirs`"
        raise NoSpace(message, path=str(path)) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        message = f"the cache folder {path} is in use by another Forebay daemon; give each its own with `cache_dirs`"
        raise Busy(message, path=str(path)) from error
    return lock


def _spread(folder: str) -> None:
    """Tell ext4 that the folders in this one have nothing to do with each other (`chattr +T`).

    It then gives each a block group of its own.  Else all cache files share one group, where making a file took
    500 us instead of 50 after many were deleted: without a journal, ext4 looks at each inode deleted of late.
    """
    with opened_folder(folder) as fd, contextlib.suppress(OSError):  # another file system: nothing to spread
        flags = array("i", [0, 0])  # the ioctl's number says long, the kernel copies an int
        fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
        flags[0] |= _FS_TOPDIR_FL
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags)
