"""Numbers and layouts of the FUSE protocol, from the kernel's include/uapi/linux/fuse.h (protocol 7.45, Linux 6.18).

Every layout is native byte order and has no hidden padding: the header file aligns each field by hand.
"""

import struct
from enum import IntEnum, IntFlag

MAJOR = 7
MINOR_MIN = 27  # Linux 4.18; older kernels miss FUSE_MAX_PAGES only, but nobody tests them any more
MINOR = 45
MINOR_PRUNE = 45  # FUSE_NOTIFY_PRUNE
MINOR_PASSED_WRITES = 41  # Linux 6.12: an appending write through passthrough grows the inode that others see

ROOT_ID = 1  # FUSE_ROOT_ID
UNKNOWN_INO = 0xFFFFFFFF  # FUSE_UNKNOWN_INO: a directory entry without an inode number


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class Notify(IntEnum):
    """enum fuse_notify_code: messages that we begin."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    PRUNE = 9  # since 7.45


EXPIRE_ONLY = 1  # FUSE_EXPIRE_ONLY: the entry is asked for again, but what is open or mounted on it stays


class Init(IntFlag):
    """Flags of FUSE_INIT: bits 0 to 31 travel in `flags`, 32 to 63 in `flags2`."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    DONT_MASK = 1 << 6
    AUTO_INVAL_DATA = 1 << 12  # pages of a file go once its time or size is told to be another
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    EXPLICIT_INVAL_DATA = 1 << 25
    HANDLE_KILLPRIV_V2 = 1 << 28  # set-user-ID bits are for us to clear: the kernel need not ask at every write
    INIT_EXT = 1 << 30
    HAS_EXPIRE_ONLY = 1 << 35
    PASSTHROUGH = 1 << 37


class Set(IntFlag):
    """FATTR_*: what SETATTR sets."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    MTIME = 1 << 5
    FH = 1 << 6
    MTIME_NOW = 1 << 8


class Open(IntFlag):
    """FOPEN_* flags of `fuse_open_out`."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


IN_HEADER = struct.Struct("=IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
OUT_HEADER = struct.Struct("=IiQ")  # len, error, unique

ATTR = struct.Struct("=6Q10I")  # ino size blocks atime mtime ctime, *nsec x3 mode nlink uid gid rdev blksize flags
ENTRY_OUT = struct.Struct("=4Q2I")  # nodeid generation entry_valid attr_valid, entry_valid_nsec attr_valid_nsec; ATTR
ATTR_OUT = struct.Struct("=QII")  # attr_valid, attr_valid_nsec, dummy; ATTR follows
FORGET_IN = struct.Struct("=Q")  # nlookup
BATCH_FORGET_IN = struct.Struct("=II")  # count, dummy; FORGET_ONE follows, count times
FORGET_ONE = struct.Struct("=QQ")  # nodeid, nlookup
OPEN_IN = struct.Struct("=II")  # flags, open_flags
OPEN_OUT = struct.Struct("=QIi")  # fh, open_flags, backing_id
RELEASE_IN = struct.Struct("=QIIQ")  # fh, flags, release_flags, lock_owner
READ_IN = struct.Struct("=QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags, padding
STATFS_OUT = struct.Struct("=5Q4I24x")  # blocks bfree bavail files ffree, bsize namelen frsize padding, spare
GETXATTR_IN = struct.Struct("=II")  # size, padding; a name follows for GETXATTR
GETXATTR_OUT = struct.Struct("=II")  # size, padding
ACCESS_IN = struct.Struct("=II")  # mask, padding
LSEEK_IN = struct.Struct("=QQII")  # fh, offset, whence, padding
LSEEK_OUT = struct.Struct("=Q")  # offset
INTERRUPT_IN = struct.Struct("=Q")  # unique
DIRENT = struct.Struct("=QQII")  # ino, off, namelen, type; the name follows, padded to 8 bytes
INIT_IN = struct.Struct("=IIII")  # major, minor, max_readahead, flags
INIT_IN_EXT = struct.Struct("=IIIII44x")  # the same, flags2 (since 7.36)
# major minor max_readahead flags, max_background congestion_threshold, max_write time_gran, max_pages map_alignment,
# flags2 max_stack_depth, request_timeout unused
INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
INVAL_INODE_OUT = struct.Struct("=Qqq")  # ino, offset, length
PRUNE_OUT = struct.Struct("=IIQ")  # count, padding, spare; so many node ids follow
INVAL_ENTRY_OUT = struct.Struct("=QII")  # parent, namelen, flags; the name and a NUL follow

# valid padding, fh size lock_owner atime mtime ctime, *nsec x3, mode unused uid gid unused
SETATTR_IN = struct.Struct("=II6Q8I")
WRITE_IN = struct.Struct("=QQIIQII")  # fh, offset, size, write_flags, lock_owner, flags, padding
WRITE_OUT = struct.Struct("=II")  # size, padding
FLUSH_IN = struct.Struct("=QIIQ")  # fh, unused, padding, lock_owner
FSYNC_IN = struct.Struct("=QII")  # fh, fsync_flags, padding
CREATE_IN = struct.Struct("=IIII")  # flags, mode, umask, open_flags; a name follows
MKDIR_IN = struct.Struct("=II")  # mode, umask; a name follows
MKNOD_IN = struct.Struct("=IIII")  # mode, rdev, umask, padding; a name follows
RENAME_IN = struct.Struct("=Q")  # newdir; two names follow
RENAME2_IN = struct.Struct("=QII")  # newdir, flags, padding; two names follow
SETXATTR_IN = struct.Struct("=II")  # size, flags; a name and the value follow
FALLOCATE_IN = struct.Struct("=QQQII")  # fh, offset, length, mode, padding

DT_DIR, DT_REG, DT_LNK = 4, 8, 10  # dirent.h
DT_SHIFT = 12  # from S_IFDIR, S_IFREG, S_IFLNK to those


def _ioc(direction: int, number: int, size: int) -> int:
    """A request number of ioctl(2), as <asm-generic/ioctl.h> makes it, of FUSE's type 229."""
    return direction << 30 | size << 16 | 229 << 8 | number


BACKING_MAP = struct.Struct("=iIQ")  # fd, flags, padding: struct fuse_backing_map
DEV_IOC_BACKING_OPEN = _ioc(1, 1, BACKING_MAP.size)
DEV_IOC_BACKING_CLOSE = _ioc(1, 2, 4)
