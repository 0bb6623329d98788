"""A home with a mounted folder, for tests of the daemon."""

import os
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="no /dev/fuse here")


@pytest.fixture
def data(forebay_home: Path) -> Path:
    folder = forebay_home.parent / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"hello\n")
    (folder / "sub" / "big").write_bytes(os.urandom(3 << 20))
    return folder


@pytest.fixture
def mounted(forebay: RunForebay, data: Path) -> Path:
    assert forebay("fs", "mkdir", "/data").code == 0
    assert forebay("fs", "mount", "/data/in", f"file://{data}").code == 0
    return data
