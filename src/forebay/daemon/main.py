"""The daemon's life: lock, log, build, serve, drain, end.

*Callers*: `python -m forebay.daemon`, once per process.  *Locks*: `home/daemon.lock`, held until the process ends.
*Awaits*: the stop, by signal or by the admin API.  *On crash*: the kernel lets go of the lock; the next daemon
brings the FUSE mounts back over the dead ones.
"""

import asyncio
import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
import uvloop

from forebay import __version__
from forebay.clock import SystemClock
from forebay.config.load import load
from forebay.config.settings import Settings
from forebay.daemon import home as names
from forebay.daemon.assemble import Daemon
from forebay.daemon.malloc import keep_freed
from forebay.errors import Busy, FsError
from forebay.frontends.fuse import mounting
from forebay.observe.log import set_up_log
from forebay.observe.redact import Redactor
from forebay.vfs.control import ControlDb

log = structlog.get_logger()

GC_THRESHOLDS = 50_000, 20, 50
"""Python's own are 700, 10, 10: with tens of thousands of names and files known, a load spent 15 % of its time in
looking through them for garbage cycles, of which the daemon makes few."""
LOCK_WAIT_S = 75.0  # a daemon that stops drains for half a minute and unmounts
LOOK_S = 0.05
RESTORE_WAIT_S = 20.0  # then the daemon serves, and goes on to bring back mounts whose stores are slow


def run(words: Sequence[str], *, is_detached: bool) -> int:
    """Run a daemon as the command line says; return the exit code."""
    flags, ready_fd = _parse(words)
    try:
        settings = load(flags)
        code = serve(settings, is_detached=is_detached, ready_fd=ready_fd)
    except OSError as error:
        told = error if isinstance(error, FsError) else FsError(str(error))
        _tell_starter(ready_fd, told)
        if not is_detached:
            sys.stderr.write(f"forebay: {told.message}\n")
        return 1
    return code


def _parse(words: Sequence[str]) -> tuple[dict[str, str], int | None]:
    flags = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    ready = flags.pop("ready-fd", None)
    return flags, None if ready is None else int(ready)


def serve(settings: Settings, *, is_detached: bool = False, ready_fd: int | None = None) -> int:
    """Serve this home until a signal or `forebay stop`; return the exit code.

    Raises:
        Busy: another daemon serves this home.
        FsError: the home, the cache or the control database cannot be used; the message says what to do.
    """
    os.umask(0o077)
    names.make_home(settings.home)
    redactor = Redactor()
    set_up_log(settings.log_level, redactor, file=names.log_path(settings.home) if is_detached else None)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # where every thread is, to stderr
    _raise_open_files()
    gc.set_threshold(*GC_THRESHOLDS)
    keep_freed()
    lock = _take_lock(settings.home)
    try:
        # Not asyncio.run: at its end it waits for threads, and one may hang in a stat(2) for ever.
        # uvloop: a cached object costs a quarter less CPU on its way in than with asyncio's own loop.
        uvloop.new_event_loop().run_until_complete(_serve(settings, redactor, ready_fd))
    except OSError as error:
        log.error("daemon.failed", reason=str(error))
        raise
    except Exception:  # the outermost boundary: what nobody foresaw belongs into the log
        log.exception("daemon.crashed")
        raise
    finally:
        os.close(lock)
    return 0


async def _serve(settings: Settings, redactor: Redactor, ready_fd: int | None) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopping)
    daemon = Daemon(settings, redactor, stopping)
    try:
        daemon.start()
        restored = asyncio.create_task(daemon.mounts.restore(), name="fuse.restore")
        await asyncio.wait([restored], timeout=RESTORE_WAIT_S)
        await daemon.listen()
        log.info("daemon.ready", pid=os.getpid(), version=__version__, home=str(settings.home))
        _tell_starter(ready_fd, None)
        _tell_service_manager("READY=1")
        await stopping.wait()
        log.info("daemon.stopping")
        _tell_service_manager("STOPPING=1")
        restored.cancel()
        await asyncio.wait([restored])
    finally:
        await daemon.close()
    log.info("daemon.stopped")


def _stop(stopping: asyncio.Event) -> None:
    """The first signal drains; the second one ends the process at once, as `kill -9` would."""
    if stopping.is_set():
        log.warning("daemon.killed", reason="a second signal")
        os._exit(1)
    stopping.set()


def _take_lock(home: Path) -> int:
    """Hold `home/daemon.lock` until the process ends, and write the pid into it.

    Raises:
        Busy: another daemon serves this home, and does not end.
    """
    descriptor = os.open(names.lock_path(home), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = SystemClock().monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Whoever holds the lock either serves, or stops and will soon have gone.
            is_killed = names.is_killed(home)
            if is_killed:
                _abort_mounts(home)
            if (not is_killed and _is_served(home)) or SystemClock().monotonic() > deadline:
                pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise Busy(f"another daemon (pid {pid}) serves {home}; forebay stop ends it") from None
            time.sleep(LOOK_S)
        else:
            try:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            except OSError as error:
                raise FsError(f"the home folder {home} cannot be written: {error.strerror}", path=str(home)) from error
            return descriptor


def _abort_mounts(home: Path) -> None:
    """Let a daemon end that was killed while the kernel waited for its answer."""
    control = ControlDb(names.control_path(home))
    try:
        for mount in control.fuse_mounts():
            mounting.abort(mount.mountpoint)
    finally:
        control.close()


def _is_served(home: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(names.socket_path(home)))
        except OSError:
            return False
    return True


def _raise_open_files() -> None:
    """Allow as many open files as the system lets us: each cached file that is read holds one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tell_starter(ready_fd: int | None, error: FsError | None) -> None:
    """Tell who started us that we are ready, or why we are not, once."""
    if ready_fd is None:
        return
    with contextlib.suppress(OSError):  # it has gone, or has been told
        if error is None:
            os.write(ready_fd, b"ready\n")
        else:
            told = {"kind": type(error).__name__, "message": error.message, "path": error.filename}
            os.write(ready_fd, json.dumps(told).encode())
        os.close(ready_fd)


def _tell_service_manager(state: str) -> None:
    """sd_notify(3), for services of type notify."""
    address = os.environ.get("NOTIFY_SOCKET")  # part of the protocol with systemd, not a setting
    if not address:
        return
    address = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier, contextlib.suppress(OSError):
        notifier.connect(address)
        notifier.send(state.encode())
