"""Bytes of the FUSE protocol to requests, and answers to bytes.  Pure.

A request that is shorter than its opcode needs raises ValueError or struct.error; nothing is ever read past its end.
"""

import stat
from array import array
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from forebay.frontends.fuse import abi
from forebay.vfs.entries import Entry, FileEntry

BLOCK_BYTES = 4096
FILE_MODE, FOLDER_MODE = 0o100_644, 0o040_755  # copies made with `cp -r` and `rsync -a` stay writable
VALID_S_MAX = 86_400.0  # times to live of names end somewhere: a day is as good as for ever
SECTOR_BYTES = 512  # st_blocks counts in these, whatever the block size (stat(2))

_REPLY_BYTES = abi.OUT_HEADER.size
_pack_header = abi.OUT_HEADER.pack
_NO_ATTR = bytes(abi.ATTR.size)
_RESERVED = bytes(abi.ENTRY_OUT.size + abi.ATTR.size)  # "." and "..": the kernel knows them


class Request(NamedTuple):
    """One request of the kernel."""

    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int  # the thread that waits; 0 if it lives in another pid namespace
    body: memoryview  # valid until the next request is read


_HEADER_BYTES = abi.IN_HEADER.size
_unpack_header = abi.IN_HEADER.unpack_from
_make_request = partial(tuple.__new__, Request)  # `Request(...)` is Python, and costs every request 0.3 us more


class InitIn(NamedTuple):
    """What the kernel offers."""

    major: int
    minor: int
    max_readahead: int
    flags: int


class ReadIn(NamedTuple):
    """Arguments of READ, READDIR and READDIRPLUS."""

    fh: int
    offset: int
    size: int


class Owner(NamedTuple):
    """Whose files they are shown as."""

    uid: int
    gid: int


def parse_request(data: memoryview) -> Request:
    """The request in `data`, which is what one read(2) of the device gave."""
    if len(data) < _HEADER_BYTES:
        raise ValueError(f"a request of {len(data)} bytes has no header")
    length, opcode, unique, nodeid, uid, gid, pid, extensions, _ = _unpack_header(data)
    if length != len(data):
        raise ValueError(f"a request of {len(data)} bytes says it has {length}")
    stop = length - 8 * extensions
    if stop < _HEADER_BYTES:
        raise ValueError("the extensions of a request are longer than it")
    return _make_request((opcode, unique, nodeid, uid, gid, pid, data[_HEADER_BYTES:stop]))


def parse_name(body: memoryview) -> str:
    """The NUL-terminated name that makes up a body; undecodable bytes become surrogate escapes."""
    raw = bytes(body)
    stop = raw.find(b"\0")
    if stop < 0:
        raise ValueError("a name without its end")
    return raw[:stop].decode("utf-8", "surrogateescape")


def parse_init(body: memoryview) -> InitIn:
    """What the kernel offers; its 64 flags in one number."""
    if len(body) >= abi.INIT_IN_EXT.size:
        major, minor, max_readahead, flags, flags2 = abi.INIT_IN_EXT.unpack_from(body)
        if flags & abi.Init.INIT_EXT:
            flags |= flags2 << 32
        return InitIn(major, minor, max_readahead, flags)
    major, minor, max_readahead, flags = abi.INIT_IN.unpack_from(body)
    return InitIn(major, minor, max_readahead, flags)


def parse_read(body: memoryview) -> ReadIn:
    """Handle, offset and size of a READ, READDIR or READDIRPLUS."""
    fh, offset, size, *_ = abi.READ_IN.unpack_from(body)
    return ReadIn(fh, offset, size)


def parse_names(body: memoryview) -> tuple[str, str]:
    """Two names, each with its NUL, as RENAME and SYMLINK have them."""
    first, end, rest = bytes(body).partition(b"\0")
    second, end2, _ = rest.partition(b"\0")
    if not end or not end2:
        raise ValueError("a name without its end")
    return first.decode("utf-8", "surrogateescape"), second.decode("utf-8", "surrogateescape")


class SetAttr(NamedTuple):
    """What SETATTR shall set; None: nothing."""

    fh: int | None
    size: int | None
    mode: int | None
    uid: int | None
    gid: int | None
    mtime_ns: int | None  # nanoseconds since 1970
    is_now: bool  # the time is to be that of now


def parse_setattr(body: memoryview) -> SetAttr:
    """Arguments of SETATTR; times of access and of change are nobody's to set here."""
    valid, _, fh, size, _, _, mtime, _, _, mtime_nsec, _, mode, _, uid, gid, _ = abi.SETATTR_IN.unpack_from(body)
    return SetAttr(
        fh if valid & abi.Set.FH else None,
        size if valid & abi.Set.SIZE else None,
        mode if valid & abi.Set.MODE else None,
        uid if valid & abi.Set.UID else None,
        gid if valid & abi.Set.GID else None,
        mtime * 1_000_000_000 + mtime_nsec if valid & abi.Set.MTIME else None,
        bool(valid & abi.Set.MTIME_NOW),
    )


def parse_batch_forget(body: memoryview) -> list[tuple[int, int]]:
    """Pairs of node id and number of lookups to take back."""
    count, _ = abi.BATCH_FORGET_IN.unpack_from(body)
    pairs = body[abi.BATCH_FORGET_IN.size :]
    if len(pairs) < count * abi.FORGET_ONE.size:
        raise ValueError(f"{count} nodes to forget in {len(pairs)} bytes")
    return list(abi.FORGET_ONE.iter_unpack(pairs[: count * abi.FORGET_ONE.size]))


def pack_reply(unique: int, payload_bytes: int) -> bytes:
    """The header of a good answer."""
    return _pack_header(_REPLY_BYTES + payload_bytes, 0, unique)


def pack_error(unique: int, errno: int) -> bytes:
    """A whole answer that says what went wrong; `errno` is positive, 0 means an empty success."""
    return _pack_header(_REPLY_BYTES, -errno, unique)


def pack_init(offered: InitIn, *, flags: int, max_pages: int, max_background: int, stack_depth: int) -> bytes:
    """Our side of the agreement."""
    minor = min(abi.MINOR, offered.minor)
    return abi.INIT_OUT.pack(
        abi.MAJOR,
        minor,
        max_pages * BLOCK_BYTES,
        flags & 0xFFFFFFFF,
        max_background,
        max_background * 3 // 4,
        BLOCK_BYTES,
        1,
        max_pages,
        0,
        flags >> 32,
        stack_depth,
        0,
    )


def pack_attr(ino: int, entry: Entry, owner: Owner) -> bytes:
    """`struct fuse_attr` of a file or folder."""
    seconds, nanoseconds = divmod(max(0, entry.mtime_ns), 1_000_000_000)
    if isinstance(entry, FileEntry):
        size, mode, links = entry.size, FILE_MODE, 1
    else:
        size, mode, links = 0, FOLDER_MODE, 1  # as btrfs: nothing is said of subfolders, find(1) looks itself
    uid, gid = owner
    if entry.posix is not None:
        kind = stat.S_IFMT(entry.posix.mode) or stat.S_IFMT(mode)
        mode, uid, gid = kind | stat.S_IMODE(entry.posix.mode), entry.posix.uid, entry.posix.gid
    blocks = -(-size // SECTOR_BYTES)
    return abi.ATTR.pack(
        ino, size, blocks, seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds,
        mode, links, uid, gid, 0, BLOCK_BYTES, 0,
    )  # fmt: skip


def pack_entry(ino: int, attr: bytes, ttl_s: float, attr_s: int = int(VALID_S_MAX)) -> bytes:
    """`struct fuse_entry_out`: the name is good for `ttl_s`; attributes of a version are good for ever."""
    seconds, nanoseconds = _valid(ttl_s)
    return abi.ENTRY_OUT.pack(ino, 0, seconds, attr_s, nanoseconds, 0) + attr


def pack_absence(ttl_s: float) -> bytes:
    """An entry that says that there is none, for `ttl_s`."""
    seconds, nanoseconds = _valid(ttl_s)
    return abi.ENTRY_OUT.pack(0, 0, seconds, 0, nanoseconds, 0) + _NO_ATTR


def _valid(ttl_s: float) -> tuple[int, int]:
    if not 0 < ttl_s < VALID_S_MAX:
        return (0 if ttl_s <= 0 else int(VALID_S_MAX)), 0
    seconds = int(ttl_s)
    return seconds, int((ttl_s - seconds) * 1e9)


def pack_attr_out(attr: bytes, attr_s: int = int(VALID_S_MAX)) -> bytes:
    """`struct fuse_attr_out`."""
    return abi.ATTR_OUT.pack(attr_s, 0, 0) + attr


def pack_statfs(capacity_bytes: int, free_bytes: int) -> bytes:
    """`struct fuse_statfs_out` of a cache that size.  Inodes are not counted: they never run out."""
    free = free_bytes // BLOCK_BYTES
    return abi.STATFS_OUT.pack(capacity_bytes // BLOCK_BYTES, free, free, 0, 0, BLOCK_BYTES, 255, BLOCK_BYTES, 0)


_pack_dirent = abi.DIRENT.pack
_PADS = [bytes(-length % 8) for length in range(256)]  # NAME_BYTES_MAX is 255


def pack_dirent(name: bytes, ino: int, cookie: int, file_type: int) -> bytes:
    """One entry of READDIR; `cookie` is the offset from which the next READDIR goes on."""
    length = len(name)
    return _pack_dirent(ino, cookie, length, file_type >> abi.DT_SHIFT) + name + _PADS[length]


def pack_direntplus(name: bytes, ino: int, cookie: int, file_type: int, entry: bytes = _RESERVED) -> bytes:
    """One entry of READDIRPLUS: `entry` is what LOOKUP would answer."""
    return entry + pack_dirent(name, ino, cookie, file_type)


def pack_prune(inos: Sequence[int]) -> bytes:
    """A whole message: the kernel shall forget those nodes, but for what is in use."""
    length = abi.OUT_HEADER.size + abi.PRUNE_OUT.size + 8 * len(inos)
    header = abi.OUT_HEADER.pack(length, abi.Notify.PRUNE, 0) + abi.PRUNE_OUT.pack(len(inos), 0, 0)
    return header + array("Q", inos).tobytes()


def pack_inval_entry(parent: int, name: str, *, expire_only: bool) -> bytes:
    """A whole message: the kernel shall ask for that name again."""
    raw = name.encode("utf-8", "surrogateescape")
    length = abi.OUT_HEADER.size + abi.INVAL_ENTRY_OUT.size + len(raw) + 1
    flags = abi.EXPIRE_ONLY if expire_only else 0
    header = abi.OUT_HEADER.pack(length, abi.Notify.INVAL_ENTRY, 0)
    return header + abi.INVAL_ENTRY_OUT.pack(parent, len(raw), flags) + raw + b"\0"
