"""FUSE_INIT: what the kernel offers against what we want.  Pure."""

from typing import NamedTuple

from forebay.errors import Unsupported
from forebay.frontends.fuse import abi
from forebay.frontends.fuse.wire import InitIn

MAX_PAGES = 256  # 1 MiB requests: the kernel's limit without tuning (fs.fuse.max_pages_limit)
MAX_READ_BYTES = MAX_PAGES * 4096
MAX_BACKGROUND = 128  # read-aheads under way at a time, over all files of a mount

WANTED = (
    abi.Init.ASYNC_READ
    | abi.Init.ATOMIC_O_TRUNC
    | abi.Init.DONT_MASK
    | abi.Init.DO_READDIRPLUS
    | abi.Init.READDIRPLUS_AUTO
    | abi.Init.ASYNC_DIO
    | abi.Init.PARALLEL_DIROPS
    | abi.Init.ABORT_ERROR
    | abi.Init.MAX_PAGES
    | abi.Init.CACHE_SYMLINKS
    | abi.Init.EXPLICIT_INVAL_DATA
    | abi.Init.HANDLE_KILLPRIV_V2
    | abi.Init.INIT_EXT
    | abi.Init.HAS_EXPIRE_ONLY
    | abi.Init.PASSTHROUGH
)

# Without opens nobody tells that a file is being written, and whose pages not to keep: the kernel must see to that.
WANTED_FOR_SMALL_FILES = (
    WANTED & ~(abi.Init.EXPLICIT_INVAL_DATA | abi.Init.PASSTHROUGH)
    | abi.Init.AUTO_INVAL_DATA
    | abi.Init.NO_OPEN_SUPPORT
)


class Agreement(NamedTuple):
    """What both sides keep to."""

    minor: int
    flags: int
    max_read_bytes: int

    @property
    def passthrough(self) -> bool:
        """May files be handed to the kernel?"""
        return bool(self.flags & abi.Init.PASSTHROUGH)

    @property
    def passthrough_writes(self) -> bool:
        """May files that are written be handed to the kernel?  It knows their new size from Linux 6.12 on."""
        return self.passthrough and self.minor >= abi.MINOR_PASSED_WRITES

    @property
    def expire_only(self) -> bool:
        """Can names be expired without unhashing what is open or mounted on them?"""
        return bool(self.flags & abi.Init.HAS_EXPIRE_ONLY)

    @property
    def protocol(self) -> str:
        """For people."""
        return f"{abi.MAJOR}.{self.minor}"


def agree(offered: InitIn, wanted: abi.Init = WANTED) -> Agreement:
    """The agreement that follows from what the kernel offers.

    Raises:
        Unsupported: the kernel is too old.
    """
    if (offered.major, offered.minor) < (abi.MAJOR, abi.MINOR_MIN):
        raise Unsupported(
            f"the kernel speaks FUSE {offered.major}.{offered.minor}; Forebay needs {abi.MAJOR}.{abi.MINOR_MIN} "
            "(Linux 4.18) or newer"
        )
    flags = offered.flags & int(wanted)
    max_read = MAX_READ_BYTES if flags & abi.Init.MAX_PAGES else 32 * 4096  # FUSE_DEFAULT_MAX_PAGES_PER_REQ
    return Agreement(min(offered.minor, abi.MINOR), flags, max_read)
