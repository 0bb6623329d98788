"""How the journal's log writes to the local disk.  Blocks; all raise OSError."""

import errno
import mmap
import os
from pathlib import Path

from forebay.opened import opened
from forebay.types import Buffer
from forebay.vfs.journal_format import BLOCK_BYTES

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what a disk, or a share of it, without room says


def reserve(fd: int, size: int) -> None:
    """Fail at once where there is no room, before others have less because of a try."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno in FULL:
            raise  # else the file system cannot tell


def write_at(fd: int, data: Buffer, offset: int) -> None:
    """Write all of `data` from an offset on."""
    rest = memoryview(data)
    while rest:  # again on a disk that is about to be full
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def write_synced(fd: int, blocks: memoryview, offset: int) -> None:
    """Write whole blocks by a descriptor with O_DSYNC, and so return when they are on the disk.

    One call costs less than two.
    """
    if os.pwrite(fd, blocks, offset) < len(blocks):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # the rest had no room: blocks here are copied on write


def takes_direct(folder: Path, block: mmap.mmap) -> bool:
    """Does the file system take writes past the page cache, of whole blocks from a page's start?  Raises nothing."""
    try:
        with opened(folder, os.O_RDWR | os.O_TMPFILE | os.O_DIRECT) as fd:
            os.pwrite(fd, memoryview(block)[:BLOCK_BYTES], 0)
    except OSError:
        return False
    return True


def sync(fd: int) -> None:
    """Return when all that was written is on the disk."""
    os.fdatasync(fd)
