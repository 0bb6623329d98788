"""What may be wrong with a machine, from facts to findings.  Pure: `forebay.cli.facts` gathers the facts.

Each check takes the facts and returns what it found, with what to do where there is something to do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from forebay.units import GIB, format_size

KERNEL_NEEDED = (5, 4)  # FUSE_MAX_PAGES, 1 MiB requests: 4.20; the oldest kernel still kept by distributions
KERNEL_PASSTHROUGH = (6, 9)  # FUSE_PASSTHROUGH
PYTHON_NEEDED = (3, 11)
OPEN_FILES_NEEDED = 4096  # a data loader's open files, each with a cache file, plus connections
DISK_FREE_NEEDED = GIB
IDLE_POLL_SETTING = "/sys/module/haltpoll/parameters/guest_halt_poll_ns"
IDLE_POLL_NS = 200_000  # Linux's default (drivers/cpuidle/governors/haltpoll.c); some hosts switch it off


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  # works, but could be better
    MEND = "mend"  # does not work as it is


class Finding(NamedTuple):
    """The answer of one check."""

    check: str
    level: Level
    found: str
    mend: str = ""  # what to do


class CacheDisk(NamedTuple):
    """A cache folder, or where it will be."""

    path: str
    free_bytes: int
    disk_bytes: int
    writable: bool


class StoreFact(NamedTuple):
    """A mount, and what its store said just now."""

    path: str
    url: str
    error: str | None


class FuseFact(NamedTuple):
    """A local folder on which Forebay is mounted, as far as the kernel knows."""

    mountpoint: str
    error: str | None  # what stat(2) says, None if it answers


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that the checks ask of a machine."""

    fuse_device: str  # "ok", "missing" or "denied"
    fusermount: str | None  # its path
    root: bool
    sys_admin: bool  # CAP_SYS_ADMIN, of the daemon if one runs
    kernel: tuple[int, int]
    python: tuple[int, int]
    user_allow_other: bool
    idle_poll_ns: int | None  # of a virtual machine's idle processors; None: not such a machine, or not that governor
    open_files: int  # soft limit, of the daemon if one runs
    cache_disks: tuple[CacheDisk, ...]
    cache_reserve: float
    daemon_version: str | None  # None: none runs
    daemon_error: str | None  # why a daemon that may run cannot be talked to
    version: str
    socket: str
    socket_mode: int | None  # permission bits; None: there is no socket
    stores: tuple[StoreFact, ...]
    fuse_mounts: tuple[FuseFact, ...]


def examine(facts: Facts) -> list[Finding]:
    """Every finding, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(facts)]


def check_python(facts: Facts) -> Iterator[Finding]:
    """Is Python new enough?"""
    words = "{}.{}".format(*facts.python)
    if facts.python < PYTHON_NEEDED:
        yield Finding("python", Level.MEND, words, "install Python 3.11 or newer, and Forebay with it")
    else:
        yield Finding("python", Level.OK, words)


def check_kernel(facts: Facts) -> Iterator[Finding]:
    """Is the kernel new enough, for FUSE and for passthrough?"""
    words = "{}.{}".format(*facts.kernel)
    if facts.kernel < KERNEL_NEEDED:
        yield Finding("kernel", Level.MEND, words, "use Linux 5.4 or newer (6.9 or newer for passthrough)")
    elif facts.kernel < KERNEL_PASSTHROUGH:
        found = f"{words}: no passthrough, cached files are read through the page cache"
        yield Finding("kernel", Level.NOTE, found, "use Linux 6.9 or newer for the disk's own speed")
    else:
        yield Finding("kernel", Level.OK, f"{words}, knows passthrough")


def check_fuse_device(facts: Facts) -> Iterator[Finding]:
    """Can /dev/fuse be opened?"""
    if facts.fuse_device == "missing":
        mend = "load it: modprobe fuse; in a container start it with --device /dev/fuse"
        yield Finding("/dev/fuse", Level.MEND, "missing", mend)
    elif facts.fuse_device == "denied":
        yield Finding("/dev/fuse", Level.MEND, "no right to open it", "chmod 0666 /dev/fuse, as distributions set it")
    else:
        yield Finding("/dev/fuse", Level.OK, "can be opened")


def check_fusermount(facts: Facts) -> Iterator[Finding]:
    """Can a user who is not root mount?"""
    if facts.fusermount is not None:
        yield Finding("fusermount3", Level.OK, facts.fusermount)
    elif facts.sys_admin:
        yield Finding("fusermount3", Level.OK, "missing, and not needed: this user may mount without it")
    else:
        yield Finding(
            "fusermount3", Level.MEND, "missing", "install it (apt-get install fuse3), or run the daemon as root"
        )


def check_rights(facts: Facts) -> Iterator[Finding]:
    """May the daemon hand cache files to the kernel?"""
    if facts.sys_admin:
        yield Finding("rights", Level.OK, "CAP_SYS_ADMIN: passthrough works")
        return
    found = "no CAP_SYS_ADMIN: cached files are read through the page cache, not by passthrough"
    yield Finding("rights", Level.NOTE, found, "run the daemon as root, or in the container add --cap-add SYS_ADMIN")


def check_allow_other(facts: Facts) -> Iterator[Finding]:
    """May other users see a mount of this one?"""
    if facts.root or facts.user_allow_other:
        yield Finding("fuse.conf", Level.OK, "other users can be let in")
    else:
        found = "a mount is seen by its own user only"
        yield Finding("fuse.conf", Level.NOTE, found, "to let others in, write user_allow_other into /etc/fuse.conf")


def check_cache_disks(facts: Facts) -> Iterator[Finding]:
    """Can each cache folder be written, and has its disk room beyond the reserve?"""
    for disk in facts.cache_disks:
        room = disk.free_bytes - int(facts.cache_reserve * disk.disk_bytes)
        if not disk.writable:
            mend = "give this user the right to write there, or set cache_dirs to another folder"
            yield Finding("cache", Level.MEND, f"{disk.path} cannot be written", mend)
        elif room < DISK_FREE_NEEDED:
            found = f"{disk.path}: {format_size(max(room, 0))} beyond the reserve of {facts.cache_reserve:.0%}"
            yield Finding("cache", Level.MEND, found, "make room on that disk, or set cache_dirs to a larger one")
        else:
            yield Finding("cache", Level.OK, f"{disk.path}: {format_size(room)} of free disk may be used")


def check_idle_processors(facts: Facts) -> Iterator[Finding]:
    """Do the idle processors of a virtual machine wake at once?"""
    if facts.idle_poll_ns is None:
        return
    if facts.idle_poll_ns:
        yield Finding("idle cpus", Level.OK, f"poll for {facts.idle_poll_ns // 1000} us before they halt")
    else:
        found = "halt at once, and take 25 us and more to wake: small files open at a third of their speed"
        mend = f"echo {IDLE_POLL_NS} > {IDLE_POLL_SETTING}  (as root; Linux's own default)"
        yield Finding("idle cpus", Level.NOTE, found, mend)


def check_open_files(facts: Facts) -> Iterator[Finding]:
    """Are enough open files allowed?"""
    if facts.open_files < OPEN_FILES_NEEDED:
        mend = f"raise it: ulimit -n 65536, or LimitNOFILE=65536 in the service (at least {OPEN_FILES_NEEDED})"
        yield Finding("open files", Level.NOTE, f"limit {facts.open_files}", mend)
    else:
        yield Finding("open files", Level.OK, f"limit {facts.open_files}")


def check_daemon(facts: Facts) -> Iterator[Finding]:
    """Can the daemon be talked to, and only by its user?"""
    if facts.daemon_error is not None:
        yield Finding("daemon", Level.MEND, facts.daemon_error, "run this as the daemon's user, or: forebay start")
    elif facts.daemon_version is None:
        yield Finding("daemon", Level.OK, "does not run; it starts with the first command that needs it")
    elif facts.daemon_version != facts.version:
        found = f"runs version {facts.daemon_version}, this command is {facts.version}"
        yield Finding("daemon", Level.NOTE, found, "forebay stop && forebay start")
    else:
        yield Finding("daemon", Level.OK, f"runs, version {facts.daemon_version}")
    if facts.socket_mode is not None and facts.socket_mode & 0o077:
        found = f"{facts.socket} is open to other users (mode {facts.socket_mode:04o})"
        yield Finding("socket", Level.MEND, found, f"chmod 0600 {facts.socket}")


def check_stores(facts: Facts) -> Iterator[Finding]:
    """Does the store of each mount answer?"""
    for store in facts.stores:
        if store.error is None:
            yield Finding("store", Level.OK, f"{store.path} ({store.url}) answers")
        else:
            mend = f"see to it, or take it out: forebay fs unmount {store.path}"
            yield Finding("store", Level.MEND, f"{store.path} ({store.url}): {store.error}", mend)


def check_fuse_mounts(facts: Facts) -> Iterator[Finding]:
    """Does every mount of ours on this machine answer?"""
    for mount in facts.fuse_mounts:
        if mount.error is None:
            yield Finding("fuse mount", Level.OK, f"{mount.mountpoint} answers")
        else:
            mend = f"forebay fuse unmount --force {mount.mountpoint}; if that fails: umount -l {mount.mountpoint}"
            yield Finding("fuse mount", Level.MEND, f"{mount.mountpoint}: {mount.error}", mend)


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    check_python,
    check_kernel,
    check_fuse_device,
    check_fusermount,
    check_rights,
    check_allow_other,
    check_cache_disks,
    check_idle_processors,
    check_open_files,
    check_daemon,
    check_stores,
    check_fuse_mounts,
)
