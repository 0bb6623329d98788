"""A home with a mounted folder, for tests of the daemon."""

import os
from pathlib import Path

import pytest

from forebay.config.load import load
from forebay.daemon.starter import ensure_daemon

needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="no /dev/fuse here")


@pytest.fixture
def data(forebay_home: Path) -> Path:
    folder = forebay_home.parent / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"hello\n")
    (folder / "sub" / "big").write_bytes(os.urandom(3 << 20))
    return folder


@pytest.fixture
def mounted(forebay_home: Path, data: Path) -> Path:
    return show(forebay_home, data)


def show(home: Path, data: Path) -> Path:
    """Start the home's daemon and mount the folder at /data/in: as two commands do, without their start."""
    client = ensure_daemon(load({"home": str(home)}))
    client.call("POST", "/v1/fs/mkdir", {"path": "/data"})
    client.call("POST", "/v1/fs/mount", {"path": "/data/in", "url": f"file://{data}"})
    return data
