"""The home folder: what lies in it under which name, and who may see it."""

import os
import stat
from pathlib import Path

from forebay.errors import Denied, Invalid

SOCKET_PATH_BYTES_MAX = 107  # sun_path of unix(7), less its final NUL


def socket_path(home: Path) -> Path:
    """Where the daemon listens."""
    return home / "daemon.sock"


def local_socket_path(home: Path) -> Path:
    """Where the daemon answers Python programs."""
    return home / "local.sock"


def lock_path(home: Path) -> Path:
    """Locked by the daemon as long as it lives; holds its pid."""
    return home / "daemon.lock"


def is_killed(home: Path) -> bool:
    """Has a home's daemon been killed, but cannot end yet?  Then the kernel waits for it, and it waits for the kernel.

    See `forebay.frontends.fuse.mounting.abort`.
    """
    try:
        pid = int(lock_path(home).read_text())
        status = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return False
    return status.rpartition(")")[2].split()[0] == "Z"  # its first thread has gone


def start_lock_path(home: Path) -> Path:
    """Locked by whoever starts the daemon, so that two do not at once."""
    return home / "start.lock"


def log_path(home: Path) -> Path:
    """The log, one JSON object per line."""
    return home / "daemon.log"


def stderr_path(home: Path) -> Path:
    """What a detached daemon writes to stderr: only what goes wrong outside its log."""
    return home / "daemon.stderr"


def control_path(home: Path) -> Path:
    """The control database."""
    return home / "control.db"


def make_home(home: Path) -> None:
    """Make the home, for this user alone, or check the one that is there.

    Raises:
        Denied: it cannot be made or written, or others could put their own files into it.
        Invalid: it is no folder, or its path is too long for a socket in it.
    """
    if len(os.fsencode(socket_path(home))) > SOCKET_PATH_BYTES_MAX:
        most = SOCKET_PATH_BYTES_MAX - len("/daemon.sock")
        raise Invalid(f"the home folder's path is longer than {most} bytes: {home}; choose a shorter FOREBAY_HOME")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = home.stat()
    except FileExistsError as error:
        raise Invalid(f"{home} is not a folder; set FOREBAY_HOME to another", path=str(home)) from error
    except OSError as error:
        message = f"cannot make the home folder {home}: {error.strerror}; set FOREBAY_HOME to another"
        raise Denied(message, path=str(home)) from error
    # A folder that was there keeps its mode, since it may hold more than Forebay's files, each of which is private.
    # But who can write to it could put a socket or a database of their own there.
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        raise Denied(f"the home folder {home} belongs to another user; set FOREBAY_HOME to one of yours")
    if stat.S_IMODE(found.st_mode) & 0o022:
        mode = f"mode {stat.S_IMODE(found.st_mode):04o}"
        raise Denied(f"other users can write to the home folder {home} ({mode}); mend it: chmod 0700 {home}")
    if not os.access(home, os.W_OK | os.X_OK):
        raise Denied(f"cannot write to the home folder {home}; set FOREBAY_HOME to another", path=str(home))
