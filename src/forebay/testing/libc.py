"""Calls of Linux that Python's `os` lacks, for tests: fallocate(2), renameat2(2), mappings of one file, prctl(2).

Every call raises OSError as `os` does.  Constants are those of linux/falloc.h, linux/fs.h and linux/prctl.h.
"""

import ctypes
import mmap
import os
import signal
from types import TracebackType

FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2  # only together with FALLOC_KEEP_SIZE
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
PAGE_BYTES = mmap.PAGESIZE
_AT_FDCWD = -100
_PR_SET_PDEATHSIG = 1
_MS_SYNC = 4
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.mmap.restype = ctypes.c_void_p
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Reserve or punch `size` bytes; without glibc's emulation, by which `os.posix_fallocate` hides a refusal."""
    _check(_libc.fallocate(fd, mode, offset, size))


def renameat2(source: str, target: str, flags: int) -> None:
    """Rename with `RENAME_NOREPLACE` or `RENAME_EXCHANGE`."""
    _check(_libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags))


def die_with_parent() -> None:
    """Let the kernel end this process with the thread that started it; see `forebay.testing.leash`."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


class Mapping:
    """`size` bytes of a file from `offset` on, mapped shared while the `with` runs, in `view`.

    It keeps no duplicate of the descriptor, as `mmap.mmap` does, whose close would be a flush of its own; and it
    shows the rest of the last page, of which POSIX says that it reads as zeros behind the end of the file.
    A page that cannot be read ends the process by SIGBUS.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._skip = offset % PAGE_BYTES
        self._size = size
        self._mapped_bytes = -(-(self._skip + size) // PAGE_BYTES) * PAGE_BYTES
        address = _libc.mmap(
            None, self._mapped_bytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, offset - self._skip
        )
        if address == _MAP_FAILED:
            _check(-1)
        self._address = address
        self._pages = memoryview((ctypes.c_ubyte * self._mapped_bytes).from_address(address)).cast("B")
        self.view = self._pages[self._skip : self._skip + size]

    def __enter__(self) -> "Mapping":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.view.release()
        self._pages.release()
        _check(_libc.munmap(self._address, self._mapped_bytes))

    def rest_of_last_page(self) -> bytes:
        """What is mapped behind `view`."""
        return bytes(self._pages[self._skip + self._size :])

    def sync(self) -> None:
        """msync(2) all of it; return when the file system has it."""
        _check(_libc.msync(self._address, self._mapped_bytes, _MS_SYNC))
