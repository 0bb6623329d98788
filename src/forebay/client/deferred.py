"""Files that are written within a transaction of fsspec: on the local disk, until it is committed."""

import io
import os
import tempfile
import weakref

from forebay.client.filesystem import FileSystem
from forebay.errors import Unsupported

COPY_BYTES = 4 << 20


class DeferredFile(io.BufferedRandom):
    """A file without a name in TMPDIR; what it replaces stays as it is until `commit`."""

    def __init__(self, fs: FileSystem, path: str, mode: str) -> None:
        """`mode` as of the built-in `open`; of an append, only what is appended is kept here.

        Raises:
            Unsupported: of an existing file more than its end would be changed.
        """
        if "r" in mode or ("a" in mode and "+" in mode):
            raise Unsupported(f"{path}: what is there cannot be opened to be changed within a transaction", path=path)
        self._fs = fs
        self._path = path
        self._mode = mode
        fd, name = tempfile.mkstemp(prefix="forebay-")
        os.unlink(name)
        super().__init__(io.FileIO(fd, "r+"))
        self._fd = os.dup(fd)  # it is committed when the file has long been closed
        self._let_go = weakref.finalize(self, os.close, self._fd)

    def commit(self) -> None:
        """Write it to where it belongs, as if it were opened, written and closed now.

        Raises what opening, writing and closing raise.
        """
        self.close()
        try:
            with self._fs.open(self._path, self._mode.replace("+", ""), 0) as file:
                at = 0
                while piece := os.pread(self._fd, COPY_BYTES, at):
                    at += file.write(piece)
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget it."""
        self.close()
        self._let_go()
