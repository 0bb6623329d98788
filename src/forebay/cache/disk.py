"""One cache folder: its files, its index, and how many bytes it may hold.

The bound is the configured capacity, and never more than leaves the reserve of the disk free for others.
"""

import contextlib
import ctypes
import os
from pathlib import Path
from typing import NamedTuple

import structlog

from forebay.cache.index import BOOT_ID, CacheIndex
from forebay.cache.policy import Dataset
from forebay.clock import Clock
from forebay.config.settings import CacheDir
from forebay.errors import Denied, NoSpace
from forebay.units import MIB

log = structlog.get_logger()
_libc = ctypes.CDLL(None, use_errno=True)

FREE_CHECK_S = 1.0  # statvfs at most this often, so that admission costs no system call
FAILED_PAUSE_S = 30.0  # a disk that refused a write gets no new bytes for so long
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
        self.path = folder.path
        self._limit_bytes = folder.capacity_bytes
        self._reserve = reserve
        self._clock = clock
        self._checked_at = float("-inf")
        self._failed_until = float("-inf")
        self._free_bytes = self._reserve_bytes = 0
        self._used_at_check = 0
        _make_folder(self.path)
        self.index = CacheIndex(self.path / "index.db", BOOT_ID.read_text().strip())
        self._next_id = self.index.session << 32  # ids of sessions never meet: a crash cannot reuse a name
        self.bytes_of: dict[Dataset, int] = {}
        for mount, top, size, _ in self.index.usage():
            self.bytes_of[Dataset(mount, top)] = size
        self.used_bytes = sum(self.bytes_of.values())

    def new_id(self) -> int:
        """An id that no file of this folder has or had."""
        self._next_id += 1
        return self._next_id

    def file_path(self, file_id: int) -> Path:
        """Where the cache file of that id lies; 256 folders keep each small."""
        return self.path / "files" / f"{file_id & 0xFF:02x}" / f"{file_id:016x}"

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
        assert self.used_bytes >= 0

    def write_failed(self, error: OSError) -> None:
        """The disk refused a write: read through for a while."""
        self._failed_until = self._clock.monotonic() + FAILED_PAUSE_S
        self._checked_at = float("-inf")
        log.warning("cache.write_refused", directory=str(self.path), reason=os.strerror(error.errno or 0))

    def use(self) -> DiskUse:
        """What `forebay fs df` shows."""
        self._check_free(self._clock.monotonic())
        files = sum(count for *_, count in self.index.usage())
        capacity = self.capacity_bytes()
        return DiskUse(str(self.path), capacity, self.used_bytes, self._free_bytes, self._reserve_bytes, files)

    def remove_orphans(self) -> int:
        """Delete files of earlier sessions that no row names (a crash left them); return how many.  Blocks."""
        known, removed = self.index.ids(), 0
        for folder in (self.path / "files").glob("??"):
            for entry in os.scandir(folder):
                with contextlib.suppress(ValueError):
                    file_id = int(entry.name, 16)
                    if file_id >> 32 < self.index.session and file_id not in known:
                        os.unlink(entry.path)
                        removed += 1
        return removed

    def sync(self) -> None:
        """Bring every cached byte to the disk, so that a reboot finds a clean index.  Blocks."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if _libc.syncfs(fd) != 0:
                raise OSError(ctypes.get_errno(), "syncfs failed")
        finally:
            os.close(fd)


def _make_folder(path: Path) -> None:
    try:
        (path / "files").mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except PermissionError as error:
        message = f"the cache folder {path} is not writable; choose another with `cache_dirs` or mend its owner"
        raise Denied(message, path=str(path)) from error
    except OSError as error:
        message = f"the cache folder {path} cannot be used: {error.strerror}; choose another with `cache_dirs`"
        raise NoSpace(message, path=str(path)) from error
