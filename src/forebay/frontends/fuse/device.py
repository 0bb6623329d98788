"""The open /dev/fuse of one mount: requests in, answers out, and passthrough files registered.

No method waits: reads say that there is nothing, and writes of answers never block (the kernel copies them).
"""

import errno
import fcntl
import io
import os
import sys

from forebay.frontends.fuse import abi
from forebay.frontends.fuse.handshake import MAX_READ_BYTES
from forebay.types import Buffer

REQUEST_BYTES_MAX = MAX_READ_BYTES + 64 * 1024  # a WRITE of the largest size, its header, and room for more


class Gone(Exception):
    """The kernel has ended this mount."""


class Device:
    """See the module."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self._reader = io.FileIO(fd, closefd=False)  # its readinto() costs half of os.readv()
        self._buffer = memoryview(bytearray(REQUEST_BYTES_MAX))

    def read(self) -> memoryview | None:
        """The next request, valid until the next call; None if there is none.

        Raises:
            Gone: the mount has ended.
        """
        while True:
            try:
                size = self._reader.readinto(self._buffer)
                return None if size is None else self._buffer[:size]
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # the caller was killed before we read its request
                raise Gone from error

    def write(self, answer: bytes, payload: Buffer = b"") -> bool:
        """Write one answer, in one piece or two; False if nobody waits for it any more."""
        try:
            if payload:
                os.writev(self.fd, (answer, payload))
            else:
                os.write(self.fd, answer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.EBADF, errno.EPERM):
                return False
            raise
        return True

    def open_backing(self, fd: int) -> int:
        """Register a local file that the kernel may read by itself; return its backing id.

        Raises:
            OSError: EPERM without CAP_SYS_ADMIN, ENOTTY before Linux 6.9, ELOOP on a stacked file system.
        """
        request = bytearray(abi.BACKING_MAP.pack(fd, 0, 0))  # mutable: else ioctl() returns the bytes, not the id
        backing_id: int = fcntl.ioctl(self.fd, abi.DEV_IOC_BACKING_OPEN, request, True)
        return backing_id

    def close_backing(self, backing_id: int) -> None:
        """Take a registration back; opens that use it go on."""
        fcntl.ioctl(self.fd, abi.DEV_IOC_BACKING_CLOSE, backing_id.to_bytes(4, sys.byteorder))

    def close(self) -> None:
        """Give the device back; the kernel ends a mount that still stands."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
