"""Memory that was freed is kept for the next object, instead of being given back to the kernel each time.

glibc gives back whatever is free above 128 KiB.  So the buffers of the objects on their way were new memory again and
again, a page fault for every 4 KiB: a tenth of what a small object costs the daemon.
"""

import contextlib
import ctypes

from forebay.units import MIB

KEPT_BYTES = 32 * MIB  # more than as many small objects take as are on their way
_MAPPED_FROM_BYTES = 4 * MIB  # larger pieces than any part of a read are mapped one by one, and given back
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed() -> None:
    """Have malloc keep up to `KEPT_BYTES` of freed memory, from now on; other C libraries do as they do."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES)
