"""Where benches write, and memory to write into: two things that a small virtual machine does in its own way.

A file system without a journal (this machine's) looks at every inode deleted in the last five minutes when it makes a
file: 500 us instead of 20 after another bench has cleaned up.  So benches get a fresh ext4, as mkfs makes it, in an
image that is removed as one file.

A guest that gives free memory back to its host pays 9 us for the first touch of each page: writing a file of 110 KiB
takes 250 us instead of 50.  Whoever is measured second would find the memory of the first.  So before each timed run
that writes, what others wrote is brought to the disk, and as much memory as it will need is touched.

The image's own pages, a second copy of all that is read and written there, would drive the first out of memory: they
are let go at the same time.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE = "image"
IMAGE_BYTES = 64 << 30  # sparse: it takes what is written
BLOCK_BYTES = 1 << 20
TOUCHED_BYTES = 3 << 30  # the host takes back what lies free for seconds, save about 2 GiB


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder on a fresh ext4, or a mere temporary one where that cannot be made; gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="forebay-bench-"))
    disk = folder / "disk"
    disk.mkdir()
    try:
        is_mounted = _mount_new(folder / IMAGE, disk)
        try:
            yield disk
        finally:
            if is_mounted:
                subprocess.run(["umount", "-l", str(disk)], check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _mount_new(image: Path, disk: Path) -> bool:
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(disk)]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return False
        if done.returncode != 0:
            return False
    return True


def settle(folder: Path) -> None:
    """Make ready for a run that writes: nothing left to write back, and memory that the host has given."""
    os.sync()
    _forget_image(folder.parent / IMAGE)
    path, block = folder / "touched", os.urandom(BLOCK_BYTES)
    with path.open("wb", buffering=0) as file:
        for _ in range(TOUCHED_BYTES // BLOCK_BYTES):
            file.write(block)
    path.unlink()


def _forget_image(image: Path) -> None:
    if image.exists():
        file = os.open(image, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
