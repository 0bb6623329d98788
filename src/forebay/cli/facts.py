"""Asks the machine for what `forebay.cli.doctor` judges.  Changes nothing, starts nothing, hangs nowhere for long."""

import os
import platform
import re
import resource
import shutil
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from forebay import __version__
from forebay.cli.doctor import IDLE_POLL_SETTING, CacheDisk, Facts, FuseFact, StoreFact
from forebay.cli.session import Session, find_daemon
from forebay.config.settings import Settings
from forebay.daemon.client import Client
from forebay.errors import FsError
from forebay.frontends.fuse.mountinfo import parse_mountinfo

CAP_SYS_ADMIN = 21  # linux/capability.h
STAT_WAIT_S = 3.0  # a mount that does not answer stat(2) for so long hangs
STORES_AT_ONCE = 8


def gather(session: Session) -> Facts:
    """Everything there is to know, as far as this user may know it."""
    settings = session.settings
    client, status, daemon_error = _ask_daemon(session)
    pid = str(status["pid"]) if status else "self"
    return Facts(
        fuse_device=_fuse_device(),
        fusermount=shutil.which("fusermount3"),
        root=os.geteuid() == 0,
        sys_admin=_has_sys_admin(pid),
        kernel=_kernel(),
        python=sys.version_info[:2],
        user_allow_other=_allows_other(_read("/etc/fuse.conf")),
        idle_poll_ns=_idle_poll_ns(),
        open_files=_open_files(pid),
        cache_disks=_cache_disks(settings),
        cache_reserve=settings.cache_reserve,
        daemon_version=status["version"] if status else None,
        daemon_error=daemon_error,
        version=__version__,
        socket=session.socket,
        socket_mode=_find_mode(session.socket),
        stores=_stores(client) if client else (),
        fuse_mounts=tuple(FuseFact(at, _stat_error(at)) for at, _ in parse_mountinfo(_read("/proc/self/mountinfo"))),
    )


def _ask_daemon(session: Session) -> tuple[Client | None, dict[str, Any] | None, str | None]:
    try:
        found = find_daemon(session)
    except OSError as error:
        return None, None, str(error)
    return (*found, None) if found else (None, None, None)


def _fuse_device() -> str:
    if not os.path.exists("/dev/fuse"):
        return "missing"
    return "ok" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "denied"


def _has_sys_admin(pid: str) -> bool:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", _read(f"/proc/{pid}/status"), re.MULTILINE)
    return match is not None and bool(int(match[1], 16) >> CAP_SYS_ADMIN & 1)


def _kernel() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _allows_other(fuse_conf: str) -> bool:
    return any(line.strip() == "user_allow_other" for line in fuse_conf.splitlines())


def _idle_poll_ns() -> int | None:
    if _read("/sys/devices/system/cpu/cpuidle/current_governor").strip() != "haltpoll":
        return None
    text = _read(IDLE_POLL_SETTING).strip()
    return int(text) if text.isdigit() else None


def _open_files(pid: str) -> int:
    match = re.search(r"^Max open files\s+(\d+)", _read(f"/proc/{pid}/limits"), re.MULTILINE)
    return int(match[1]) if match else resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _cache_disks(settings: Settings) -> tuple[CacheDisk, ...]:
    disks = []
    for cache_dir in settings.cache_folders:
        present = next(path for path in (cache_dir.path, *cache_dir.path.absolute().parents) if path.exists())
        usage = shutil.disk_usage(present)
        writable = present.is_dir() and os.access(present, os.W_OK | os.X_OK)
        disks.append(CacheDisk(str(cache_dir.path), usage.free, usage.total, writable))
    return tuple(disks)


def _find_mode(path: str) -> int | None:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return None


def _stores(client: Client) -> tuple[StoreFact, ...]:
    def ask(mount: dict[str, Any]) -> StoreFact:
        try:
            next(client.stream("GET", "/v1/fs/list", query={"path": mount["path"], "recursive": 0}), None)
        except FsError as error:
            return StoreFact(mount["path"], mount["url"], str(error))
        return StoreFact(mount["path"], mount["url"], None)

    with ThreadPoolExecutor(STORES_AT_ONCE) as pool:
        return tuple(pool.map(ask, client.call("GET", "/v1/fs/mounts")))


def _stat_error(path: str) -> str | None:
    """What is wrong with a mount; asked in a thread of its own, since a hanging one never answers."""
    answer = [f"does not answer within {STAT_WAIT_S:.0f} s"]

    def ask() -> None:
        try:
            os.stat(path)
        except OSError as error:
            answer[:] = [error.strerror or str(error)]
        else:
            answer.clear()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(STAT_WAIT_S)
    return answer[0] if answer else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="surrogateescape")
    except OSError:
        return ""
