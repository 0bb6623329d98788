"""The exerciser finds nothing on a plain disk, and each kind of fault on a disk that has it."""

import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from forebay.testing import libc
from forebay.testing.fsx import CAN_BE_OPTIONAL, Differs, Exerciser

Break = Callable[[pytest.MonkeyPatch], None]
OPERATIONS = 3_000


def run_fsx(folder: Path, *words: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    code = f"import os, signal, sys\nfrom forebay.testing import fsx, libc\n{before}\nsys.exit(fsx.main())"
    command = [sys.executable, "-c", code, str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("seed", ["1", "2"])
@pytest.mark.parametrize("processes", ["1", "3"])
def test_a_plain_disk_passes_and_nothing_is_left(tmp_path: Path, seed: str, processes: str) -> None:
    ran = run_fsx(tmp_path, "--ops", "10000", "--seed", seed, "--processes", processes)
    assert ran.returncode == 0, ran.stderr
    assert f"{processes} x 10000 operations, seed {seed}" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_makes_the_same_operations(tmp_path: Path) -> None:
    def trail(seed: int) -> str:
        exerciser = Exerciser(tmp_path, seed)
        exerciser.run(500)
        return str(exerciser.trail)

    assert trail(1) == trail(1) != trail(2)


# ---------------------------------------------------------------- broken disks


def writes_lose_their_last_byte(patch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:-1], at) + 1)


def writes_end_early(patch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: libc.PAGE_BYTES], at))


def appends_go_to_the_start(patch: pytest.MonkeyPatch) -> None:
    def write(fd: int, data: memoryview) -> int:
        with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as file:
            return file.write(data)

    patch.setattr(os, "write", write)


def truncates_do_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "ftruncate", lambda _fd, _size: None)


def old_bytes_come_back_when_a_file_grows_again(patch: pytest.MonkeyPatch) -> None:
    real = os.ftruncate

    def ftruncate(fd: int, size: int) -> None:
        grows = size > os.fstat(fd).st_size + 3
        real(fd, size)
        if grows:
            os.pwrite(fd, b"old", size - 3)

    patch.setattr(os, "ftruncate", ftruncate)


def reads_end_early(patch: pytest.MonkeyPatch) -> None:
    real = os.pread
    patch.setattr(os, "pread", lambda fd, size, at: real(fd, size, at)[:200_000])


def reads_show_zeros(patch: pytest.MonkeyPatch) -> None:
    real = os.pread
    patch.setattr(os, "pread", lambda fd, size, at: bytes(size) if at == libc.PAGE_BYTES else real(fd, size, at))


def what_is_written_by_a_mapping_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mmap, "MAP_SHARED", mmap.MAP_PRIVATE)


def a_mapping_shows_bytes_behind_the_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(libc.Mapping, "rest_of_last_page", lambda _: b"\0\1")


def fallocate_leaves_the_size(patch: pytest.MonkeyPatch) -> None:
    real = libc.fallocate
    patch.setattr(libc, "fallocate", lambda fd, mode, at, size: real(fd, mode | libc.FALLOC_KEEP_SIZE, at, size))


def keep_size_grows(patch: pytest.MonkeyPatch) -> None:
    real = libc.fallocate
    patch.setattr(
        libc, "fallocate", lambda fd, mode, at, size: real(fd, 0 if mode == libc.FALLOC_KEEP_SIZE else mode, at, size)
    )


def holes_are_not_punched(patch: pytest.MonkeyPatch) -> None:
    real = libc.fallocate
    patch.setattr(libc, "fallocate", lambda fd, mode, at, size: real(fd, mode & libc.FALLOC_KEEP_SIZE, at, size))


def ranges_are_copied_from_elsewhere(patch: pytest.MonkeyPatch) -> None:
    real = os.copy_file_range
    patch.setattr(
        os, "copy_file_range", lambda one, other, size, source, to: real(one, other, size, max(0, source - 1), to)
    )


def a_close_loses_the_last_page(patch: pytest.MonkeyPatch) -> None:
    real = os.open

    def lossy(path: Path, flags: int, mode: int = 0o777) -> int:
        fd = real(path, flags, mode)
        size = os.fstat(fd).st_size
        if flags == os.O_RDWR and size:
            os.pwrite(fd, bytes(size % libc.PAGE_BYTES), size - size % libc.PAGE_BYTES)
        return fd

    patch.setattr(os, "open", lossy)


def a_name_shows_an_old_size(patch: pytest.MonkeyPatch) -> None:
    real = os.stat
    first: list[os.stat_result] = []

    def stat(path: Path) -> os.stat_result:
        first.append(real(path))
        return first[0]

    patch.setattr(os, "stat", stat)


def fsync_fails(patch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    patch.setattr(os, "fsync", fsync)


def a_close_fails(patch: pytest.MonkeyPatch) -> None:
    real = os.close

    def close(fd: int) -> None:
        real(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    patch.setattr(os, "close", close)


def an_open_fails_after_a_close(patch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags == os.O_RDWR:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return real(path, flags, mode)

    patch.setattr(os, "open", refuse)


BROKEN: list[Break] = [
    writes_lose_their_last_byte, writes_end_early, appends_go_to_the_start, truncates_do_nothing,
    old_bytes_come_back_when_a_file_grows_again, reads_end_early, reads_show_zeros,
    what_is_written_by_a_mapping_is_lost, a_mapping_shows_bytes_behind_the_end, fallocate_leaves_the_size,
    keep_size_grows, holes_are_not_punched, ranges_are_copied_from_elsewhere, a_close_loses_the_last_page,
    a_name_shows_an_old_size, fsync_fails, a_close_fails,
    an_open_fails_after_a_close,
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_disk_is_found_and_told_with_seed_and_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Break
) -> None:
    with monkeypatch.context() as patch:
        broken(patch)
        with pytest.raises(Differs) as caught:
            Exerciser(tmp_path, 7).run(OPERATIONS)
    head, _, *last = str(caught.value).splitlines()
    assert head.startswith("seed 7, process 0, operation ")
    number = int(head.split("operation ")[1].split(":")[0])
    assert [int(line.split()[0]) for line in last] == list(range(max(1, number - 19), number + 1))


def test_a_close_that_fails_at_the_very_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        exerciser = Exerciser(tmp_path, 1)
        a_close_fails(patch)
        with pytest.raises(Differs, match="EIO"):
            exerciser.run(0)


@pytest.mark.parametrize("name", CAN_BE_OPTIONAL)
def test_a_refusal_is_let_pass_only_where_it_was_said_to_be_optional(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "copy_file_range") if name == "copy_range" else (libc, "fallocate")), refuse)
        others = {"fallocate", "keep_size", "punch_hole"} - {name}
        with pytest.raises(Differs, match="ENOTSUP"):
            Exerciser(tmp_path, 1, optional=others).run(OPERATIONS)
        exerciser = Exerciser(tmp_path, 1, optional={*others, name})
        exerciser.run(OPERATIONS)
    assert exerciser.refused[name] > 0


def test_what_others_change_in_a_shared_file_is_found(tmp_path: Path) -> None:
    harm = """
real = os.pwrite
os.pwrite = lambda fd, data, at: real(fd, data, at + (at >= fsx.REGION_BYTES))
"""
    ran = run_fsx(tmp_path, "--ops", "2000", "--processes", "2", before=harm)
    assert ran.returncode == 1
    assert "process 1, operation " in ran.stderr
    assert (tmp_path / "fsx.shared").exists(), "it is left to be looked at"


def test_a_file_that_reads_otherwise_once_its_writer_has_ended_is_found(tmp_path: Path) -> None:
    harm = """
real = fsx._check_left
def late(path, *rest, **more):
    path.write_bytes(path.read_bytes() + b'.')
    return real(path, *rest, **more)
fsx._check_left = late
"""
    ran = run_fsx(tmp_path, "--ops", "500", before=harm)
    assert ran.returncode == 1
    assert "reads otherwise after its writer has ended" in ran.stderr


def test_a_process_that_is_killed_by_a_mapping_leaves_its_trail(tmp_path: Path) -> None:
    harm = """
real = libc.Mapping.__enter__
def fault(mapping):
    os.truncate(sys.argv[1] + '/fsx.0', 0)
    return real(mapping)
libc.Mapping.__enter__ = fault
"""
    ran = run_fsx(tmp_path, "--ops", "500", "--seed", "3", before=harm)
    assert ran.returncode == 1
    assert "seed 3, process 0, operation " in ran.stderr
    assert "SIGBUS" in ran.stderr
    assert ran.stderr.splitlines()[-1].split()[2].startswith("map_")
