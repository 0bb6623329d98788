"""Ceph's client library, libcephfs, by ctypes: a mounted CephFS in this process, as plain calls that block.

Calls release the interpreter and may come from several threads.  They raise OSError with the system's errno.
Paths are bytes from the mounted folder, `/` itself.  Mind that the library lets `..` and links leave that folder:
who calls resolves them first.

*Callers*: `forebay.stores.cephfs`, in its threads.  *Locks*: none.  *Invariants*: a mount ends when the last call and
the last owner are done with it.  *On crash*: the cluster forgets the client by itself, within minutes.
"""

import ctypes
import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int64, c_size_t, c_uint, c_uint32, c_void_p
from functools import cache
from typing import Any, NamedTuple

from forebay.errors import Unsupported
from forebay.types import Attributes, Buffer
from forebay.units import MIB

SONAME = "libcephfs.so.2"  # of every Ceph since Luminous (12, 2017)
_ALL_STATS = 0x1FFF  # CEPH_STATX_ALL_STATS, cephfs/ceph_ll_client.h
_SETATTR = {"mode": 1, "uid": 2, "gid": 4, "mtime": 8}  # CEPH_SETATTR_MODE and so on, cephfs/libcephfs.h
_NOFOLLOW = 0x100  # AT_SYMLINK_NOFOLLOW, fcntl.h
_NAME_AT, _DIRENT_BYTES = 19, 280  # struct dirent of Linux with 64-bit offsets: 8 + 8 + 2 + 1, then a name of 256
_LINK_BYTES = 4_096  # PATH_MAX
_READ_BYTES = 64 * MIB  # of one call: it tells its count as an int, and collects all of it before it copies
_WRITE_BYTES = MIB
_VALUE_BYTES = 4_096


class _Time(ctypes.Structure):
    _fields_ = [("seconds", c_int64), ("nanoseconds", c_int64)]


class _Statx(ctypes.Structure):  # struct ceph_statx, cephfs/ceph_ll_client.h
    _fields_ = [
        ("mask", c_uint32),
        ("blksize", c_uint32),
        ("nlink", c_uint32),
        ("uid", c_uint32),
        ("gid", c_uint32),
        ("mode", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("dev", ctypes.c_uint64),
        ("rdev", ctypes.c_uint64),
        ("atime", _Time),
        ("ctime", _Time),
        ("mtime", _Time),
        ("btime", _Time),
        ("version", ctypes.c_uint64),
    ]


class Found(NamedTuple):
    """What CephFS says of a file, folder or link."""

    mode: int  # with the type, as stat(2) has it
    uid: int
    gid: int
    size: int  # bytes
    nlink: int  # names that it has; of a folder, 0 once it is removed
    mtime_ns: int
    ctime_ns: int
    ino: int
    changes: int  # counted by the cluster at each change of content or attributes

    @property
    def is_folder(self) -> bool:
        """Is it a directory?"""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Is it a regular file?"""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Is it a symbolic link?"""
        return stat.S_ISLNK(self.mode)


class CephMount:
    """One client of a cluster.  See the module; `mount` comes first."""

    def __init__(self, user: str) -> None:
        """Raises Unsupported: the library is not installed on this machine."""
        self._lib = _library()
        handle = c_void_p()
        self._check(self._lib.ceph_create(byref(handle), os.fsencode(user)))
        self._handle = handle
        self._end = weakref.finalize(self, _end, self._lib, handle)
        self._end.atexit = False  # a process that ends does not wait for the cluster

    # ------------------------------------------------------------------ the mount

    def configure(self, values: Mapping[str, str], config: str) -> None:
        """Set the client's options, which win over those of the file `config` (a path in the form of ceph.conf)."""
        for name, value in values.items():
            self._check(self._lib.ceph_conf_set(self._handle, name.encode(), os.fsencode(value)))
        # Reading any file is also what makes the options count that say where the library logs.
        self._check(self._lib.ceph_conf_read_file(self._handle, os.fsencode(config)))

    def configured(self, name: str) -> str:
        """The value of a client's option, "" if it has none."""
        value = ctypes.create_string_buffer(_VALUE_BYTES)
        done = self._lib.ceph_conf_get(self._handle, name.encode(), value, c_size_t(_VALUE_BYTES))
        return os.fsdecode(value.value) if done >= 0 else ""

    def mount(self, folder: str, fs_name: str | None) -> None:
        """Connect, and mount a folder of the cluster's file system of that name, or of its default one."""
        if fs_name is not None:
            self._check(self._lib.ceph_select_filesystem(self._handle, os.fsencode(fs_name)))
        self._check(self._lib.ceph_mount(self._handle, os.fsencode(folder)))

    def close(self) -> None:
        """Unmount; no call may follow, and none may be under way."""
        self._end()

    # ------------------------------------------------------------------ files

    def open(self, path: bytes, flags: int, mode: int = 0) -> int:
        """See open(2); the descriptor is this mount's own."""
        return self._check(self._lib.ceph_open(self._handle, path, flags, mode))

    def close_file(self, fd: int) -> None:
        """See close(2)."""
        self._check(self._lib.ceph_close(self._handle, fd))

    def read(self, fd: int, size: int, offset: int) -> bytearray:
        """Bytes of an open file: `size` of them, or less at its end."""
        data = bytearray(size)
        came = 0
        while came < size:
            want = min(size - came, _READ_BYTES)
            place = (c_char * want).from_buffer(data, came)
            got = self._check(self._lib.ceph_read(self._handle, fd, place, want, offset + came))
            del place  # else the buffer could not shrink
            if got == 0:
                del data[came:]
                break
            came += got
        return data

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        """Write all of `data` at an offset."""
        view = memoryview(data)
        at = 0
        while at < len(view):
            piece = bytes(view[at : at + _WRITE_BYTES])
            at += self._check(self._lib.ceph_write(self._handle, fd, piece, len(piece), offset + at))

    def sync(self, fd: int) -> None:
        """See fsync(2)."""
        self._check(self._lib.ceph_fsync(self._handle, fd, 0))

    def stat(self, path: bytes) -> Found:
        """See lstat(2): a link is not followed."""
        found = _Statx()
        self._check(self._lib.ceph_statx(self._handle, path, byref(found), _ALL_STATS, _NOFOLLOW))
        return _found(found)

    def stat_file(self, fd: int) -> Found:
        """See fstat(2)."""
        found = _Statx()
        self._check(self._lib.ceph_fstatx(self._handle, fd, byref(found), _ALL_STATS, 0))
        return _found(found)

    # ------------------------------------------------------------------ names

    def scan(self, path: bytes) -> Iterator[tuple[bytes, Found]]:
        """The names in a folder, in no order, with what they are; links are not followed.

        A listing brings all that there is to know of each name, and so each `stat` is answered from memory, unless
        another client is writing that file.  The library has a call for both at once, but what it says of a folder's
        first name may be older than what is known of it (seen with 16.2: an empty file, where another client had
        written 20 kB).
        """
        folder, above = c_void_p(), path.rstrip(b"/") + b"/"
        self._check(self._lib.ceph_opendir(self._handle, path, byref(folder)))
        try:
            entry = ctypes.create_string_buffer(_DIRENT_BYTES)
            while self._check(self._lib.ceph_readdir_r(self._handle, folder, entry)):
                name = entry.raw[_NAME_AT:].partition(b"\0")[0]
                if name in (b".", b".."):
                    continue
                try:
                    found = self.stat(above + name)
                except FileNotFoundError:  # removed since the folder was read
                    continue
                yield name, found
        finally:
            self._lib.ceph_closedir(self._handle, folder)

    def read_link(self, path: bytes) -> bytes:
        """See readlink(2)."""
        target = ctypes.create_string_buffer(_LINK_BYTES)
        size = self._check(self._lib.ceph_readlink(self._handle, path, target, _LINK_BYTES))
        return target.raw[:size]

    def make_folder(self, path: bytes, mode: int) -> None:
        """See mkdir(2)."""
        self._check(self._lib.ceph_mkdir(self._handle, path, mode))

    def remove_folder(self, path: bytes) -> None:
        """See rmdir(2)."""
        self._check(self._lib.ceph_rmdir(self._handle, path))

    def remove(self, path: bytes) -> None:
        """See unlink(2)."""
        self._check(self._lib.ceph_unlink(self._handle, path))

    def rename(self, source: bytes, target: bytes) -> None:
        """See rename(2)."""
        self._check(self._lib.ceph_rename(self._handle, source, target))

    def link(self, source: bytes, target: bytes) -> None:
        """See link(2)."""
        self._check(self._lib.ceph_link(self._handle, source, target))

    def make_link(self, target: bytes, path: bytes) -> None:
        """See symlink(2)."""
        self._check(self._lib.ceph_symlink(self._handle, target, path))

    def set_attributes(self, path: bytes, attributes: Attributes) -> None:
        """Change what is not None of a file or folder, all at once; links are followed."""
        mode, uid, gid, mtime_ns = attributes
        mtime = None if mtime_ns is None else _Time(*divmod(mtime_ns, 1_000_000_000))
        given = {"mode": mode, "uid": uid, "gid": gid, "mtime": mtime}
        wanted = {name: value for name, value in given.items() if value is not None}
        mask = sum(_SETATTR[name] for name in wanted)
        self._check(self._lib.ceph_setattrx(self._handle, path, byref(_Statx(**wanted)), mask, 0))

    def _check(self, answer: int) -> int:
        if answer < 0:
            raise OSError(-answer, os.strerror(-answer))
        return answer


def _end(lib: ctypes.CDLL, handle: c_void_p) -> None:
    if lib.ceph_is_mounted(handle):
        lib.ceph_unmount(handle)
    lib.ceph_release(handle)


def _found(it: Any) -> Found:  # noqa: ANN401 - ctypes makes its fields at run time
    mtime, ctime = it.mtime, it.ctime
    return Found(
        it.mode, it.uid, it.gid, it.size, it.nlink,
        mtime.seconds * 1_000_000_000 + mtime.nanoseconds, ctime.seconds * 1_000_000_000 + ctime.nanoseconds,
        it.ino, it.version,
    )  # fmt: skip


_CALLS: dict[str, tuple[Any, ...]] = {  # arguments after the mount's handle, cephfs/libcephfs.h; all answer an int
    "ceph_conf_read_file": (c_char_p,),
    "ceph_conf_set": (c_char_p, c_char_p),
    "ceph_conf_get": (c_char_p, c_char_p, c_size_t),
    "ceph_select_filesystem": (c_char_p,),
    "ceph_mount": (c_char_p,),
    "ceph_is_mounted": (),
    "ceph_unmount": (),
    "ceph_release": (),
    "ceph_open": (c_char_p, c_int, c_uint32),
    "ceph_close": (c_int,),
    "ceph_read": (c_int, c_void_p, c_int64, c_int64),
    "ceph_write": (c_int, c_char_p, c_int64, c_int64),
    "ceph_fsync": (c_int, c_int),
    "ceph_statx": (c_char_p, POINTER(_Statx), c_uint, c_uint),
    "ceph_fstatx": (c_int, POINTER(_Statx), c_uint, c_uint),
    "ceph_opendir": (c_char_p, POINTER(c_void_p)),
    "ceph_readdir_r": (c_void_p, c_char_p),
    "ceph_closedir": (c_void_p,),
    "ceph_readlink": (c_char_p, c_char_p, c_int64),
    "ceph_mkdir": (c_char_p, c_uint32),
    "ceph_rmdir": (c_char_p,),
    "ceph_unlink": (c_char_p,),
    "ceph_rename": (c_char_p, c_char_p),
    "ceph_link": (c_char_p, c_char_p),
    "ceph_symlink": (c_char_p, c_char_p),
    "ceph_setattrx": (c_char_p, POINTER(_Statx), c_int, c_int),
}


@cache
def _library() -> ctypes.CDLL:
    try:
        lib = ctypes.CDLL(SONAME)
    except OSError as error:
        raise Unsupported(
            "cephfs:// needs Ceph's client library, libcephfs, which is not installed on this machine; "
            "as root: apt-get install libcephfs2 (Debian, Ubuntu) or dnf install libcephfs2 (Fedora, RHEL)"
        ) from error
    lib.ceph_create.argtypes = (POINTER(c_void_p), c_char_p)
    for name, words in _CALLS.items():
        getattr(lib, name).argtypes = (c_void_p, *words)
    return lib
