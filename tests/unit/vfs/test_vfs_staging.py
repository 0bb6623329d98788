"""The folder of files that are being written: ids never come again, and only what is wanted stays."""

import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from forebay.clock import FakeClock
from forebay.errors import Denied, FsError, NoSpace
from forebay.vfs.staging import Staging


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "writes" / "files", FakeClock())


def test_a_file_is_made_opened_and_removed_and_only_its_owner_may_read_it(staging: Staging) -> None:
    one = staging.new_id()
    fd = staging.make(one)
    os.write(fd, b"bytes")
    again = staging.open(one)
    assert os.read(again, 10) == b"bytes"
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(staging.path(one))).st_mode) == 0o700
    assert not os.get_inheritable(fd)
    staging.remove(one)
    staging.remove(one)
    with pytest.raises(FileNotFoundError):
        staging.open(one)
    for each in (fd, again):
        os.close(each)


def test_an_id_never_comes_again_nor_after_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    staging = Staging(tmp_path, clock)
    ids = [staging.new_id() for _ in range(100)]
    clock.advance(1)
    ids += [Staging(tmp_path, clock).new_id() for _ in range(1)]
    assert ids == sorted(set(ids))


def test_a_file_that_is_there_is_never_taken_for_a_new_one(staging: Staging) -> None:
    one = staging.new_id()
    os.close(staging.make(one))
    with pytest.raises(FsError, match="File exists"):
        staging.make(one)


def test_a_sweep_leaves_what_is_kept_and_takes_everything_else(staging: Staging) -> None:
    kept, gone = staging.new_id(), staging.new_id()
    for each in (kept, gone):
        os.close(staging.make(each))
    folder = Path(staging.path(kept)).parent
    (folder / "odd name").touch()
    (folder / "folder").mkdir()
    assert staging.sweep({kept}) == 2
    assert sorted(os.listdir(folder)) == sorted([os.path.basename(staging.path(kept)), "folder"])


def test_a_lack_of_descriptors_is_no_lack_of_space(staging: Staging) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(FsError, match="Too many open files") as raised:
            staging.make(staging.new_id())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not isinstance(raised.value, NoSpace)
    assert raised.value.errno == errno.EIO


def test_a_folder_that_cannot_be_made_is_told_with_the_setting_to_change(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Denied, match="writes_dir"):
        Staging(tmp_path / "file" / "files", FakeClock())
