"""From the options of a mount to a mounted CephFS, or to an error that names the cause.

The library itself says little: of a monitor that is away, and of a key that is wrong at a port that is not Ceph's
usual one, only that the time was over.  So monitors are asked first who they are.
"""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from forebay.errors import Denied, FsError, Invalid, NotFound, TimedOut, Unavailable
from forebay.stores.cephfs_options import DEFAULT_CONF, CephFsOptions, address_of
from forebay.stores.libcephfs import CephMount

PORTS = (3300, 6789)  # of monitors: since Nautilus, and before
_BANNERS = {b"ceph v2\n": "v2", b"ceph v02": "v1"}  # what a monitor says first, by protocol
_BANNER_BYTES = 8
_MONITORS_SHARE = 1 / 3  # of the deadline
_MOUNT_SHARE = 1 / 2
_REFUSED = (errno.EACCES, errno.EPERM, errno.EOPNOTSUPP)
_FIXED = {
    "client_oc": "false",  # no second cache in the daemon: half the CPU per byte, a fifth of the memory
    # With a time limit for OSDs, a read that ran into it comes back as zeros, and as a success (seen with 16.2).
    "rados_osd_op_timeout": "0",
    "log_to_stderr": "false",
    "err_to_stderr": "false",
    "log_file": "",
    "admin_socket": "",
}


def connect(options: CephFsOptions, *, deadline_s: float) -> CephMount:
    """A new client of the cluster, with the folder of `options` mounted.  Blocks.

    Raises:
        Unsupported: libcephfs is not installed.
        Unavailable, TimedOut: no monitor, or no metadata server, can be reached or answers.
        Denied: no such user, a wrong key, or a user who may not mount the folder.
        NotFound: no such file system, folder or file of the configuration.
        Invalid: the configuration is wrong.
    """
    mount = CephMount(options.user)
    try:
        _configure(mount, options, deadline_s)
        try:
            mount.mount(options.path, options.fs_name)
        except OSError as error:
            raise _failed(error, mount, options, deadline_s) from None
    except BaseException:
        mount.close()
        raise
    return mount


def _configure(mount: CephMount, options: CephFsOptions, deadline_s: float) -> None:
    seconds = str(max(1, int(deadline_s * _MOUNT_SHARE)))
    values = _FIXED | {"client_mount_timeout": seconds}
    if options.monitors:
        values["mon_host"] = ",".join(_find_monitors(options, deadline_s * _MONITORS_SHARE))
    secret = options.read_secret()
    if secret is not None:
        values["key"] = secret
    if options.keyring is not None:
        if not os.access(options.keyring, os.R_OK):
            raise NotFound(f"cephfs.keyring {options.keyring} does not exist, or this user may not read it")
        values["keyring"] = str(options.keyring)
    try:
        mount.configure(values, str(_config(options)))
    except OSError as error:
        raise Invalid(f"{options.location}: {_config(options)} is not a ceph.conf, or cannot be read") from error


def _config(options: CephFsOptions) -> Path:
    if options.conf is None and options.monitors:
        return Path(os.devnull)  # monitors in the URL may be another cluster's than this machine's own
    path = options.conf or DEFAULT_CONF
    if not path.exists():
        hint = "check cephfs.conf" if options.conf else "write cephfs://MONITOR:PORT/path, or give --option cephfs.conf"
        raise NotFound(f"{options.location}: {path} does not exist, and the URL names no monitor; {hint}")
    return path


# ------------------------------------------------------------------ monitors


def _find_monitors(options: CephFsOptions, within_s: float) -> list[str]:
    """The monitors that answer, as the library's `mon_host` has them: `v2:127.0.0.1:3300`."""
    found, failed = [], []
    each_s = within_s / len(options.monitors)
    for monitor in options.monitors:
        host, port = address_of(monitor)
        ports = PORTS if port is None else (port,)
        for one in ports:
            try:
                found.append(_ask(host, one, each_s / len(ports)))
                break
            except (OSError, ValueError) as error:
                failed.append(f"{host}:{one} ({_why(error)})")
    if not found:
        raise Unavailable(
            f"{options.location}: no monitor can be reached: {', '.join(failed)}; check the URL, network and firewall"
        )
    return found


def _ask(host: str, port: int, within_s: float) -> str:
    with socket.create_connection((host, port), timeout=within_s) as wire:
        banner = b""
        while len(banner) < _BANNER_BYTES and (more := wire.recv(_BANNER_BYTES - len(banner))):
            banner += more
        address = wire.getpeername()[0]
    protocol = _BANNERS.get(banner)
    if protocol is None:
        raise ValueError("what answers there is not a monitor of Ceph")
    return f"{protocol}:[{address}]:{port}" if ":" in address else f"{protocol}:{address}:{port}"


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError):
        return os.strerror(error.errno).lower() if error.errno else "no connection"
    return str(error)


# ------------------------------------------------------------------ what a failed mount means


def _failed(error: OSError, mount: CephMount, options: CephFsOptions, deadline_s: float) -> FsError:
    place, user = options.location, f"client.{options.user}"
    if error.errno in _REFUSED:
        if not _has_key(mount):
            how = "--option cephfs.secret=..., cephfs.secretFile or cephfs.keyring"
            return Denied(f"{place}: no key of {user} was given, nor found in {_keyrings(mount)}; add {how}")
        return Denied(
            f"{place}: the cluster refuses {user}: there is no such user, its key is wrong, or it may not mount "
            f"{options.path} (`ceph auth get {user}` tells); check cephfs.user and its key"
        )
    if error.errno == errno.ENOENT:
        return _not_there(options, deadline_s)
    if error.errno == errno.ETIMEDOUT:
        who = "monitors" if options.monitors else f"monitors of {_config(options)}"
        return TimedOut(f"{place}: the {who} or the metadata server did not answer in time; `ceph -s` tells which")
    if error.errno == errno.EINVAL:
        return Invalid(f"{place}: the client refuses its configuration; check monitors and keys in {_config(options)}")
    return Unavailable(f"{place}: it cannot be mounted: {os.strerror(error.errno or errno.EIO).lower()}")


def _not_there(options: CephFsOptions, deadline_s: float) -> FsError:
    """The library says the same of a folder and of a whole file system that is not there: try its root."""
    missing = NotFound(f"{options.location}: no such folder: {options.path}")
    if options.path != "/":
        root = CephMount(options.user)
        try:
            _configure(root, options, deadline_s)
            root.mount("/", options.fs_name)
        except OSError as error:
            if error.errno != errno.ENOENT:
                return missing
        else:
            return missing
        finally:
            root.close()
    which = f"no file system {options.fs_name!r}" if options.fs_name else "no file system, or none with a server"
    return NotFound(f"{options.location}: the cluster has {which}; `ceph fs ls` tells their names")


def _has_key(mount: CephMount) -> bool:
    if mount.configured("key") or mount.configured("keyfile"):
        return True
    with suppress(OSError):
        return any(os.access(path, os.R_OK) for path in _keyrings(mount).split(","))
    return False


def _keyrings(mount: CephMount) -> str:
    return mount.configured("keyring").rstrip(",")
