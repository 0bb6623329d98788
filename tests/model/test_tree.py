"""The tree machine finds no difference between two plain folders, and every difference that a broken one has."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from forebay.testing import libc, treemodel
from forebay.testing.treemodel import TreeMachine

QUICK = settings(treemodel.SETTINGS, derandomize=True, database=None)
# A fault is to be found, not to be made small.
HUNT = settings(QUICK, max_examples=2_000, phases=[Phase.generate])

Machine = type[TreeMachine]
Break = Callable[[pytest.MonkeyPatch, str], None]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine on two plain folders."""

    class OnDisk(TreeMachine):
        subject_above, model_above = tmp_path / "subject", tmp_path / "model"

    for above in (OnDisk.subject_above, OnDisk.model_above):
        above.mkdir()
    return OnDisk


def test_a_plain_folder_is_as_another_and_nothing_is_left(machine: Machine) -> None:
    open_before = os.listdir("/proc/self/fd")
    run_state_machine_as_test(machine, settings=QUICK)
    assert len(os.listdir("/proc/self/fd")) <= len(open_before)
    assert [*machine.subject_above.iterdir(), *machine.model_above.iterdir()] == []


# ---------------------------------------------------------------- broken subjects


def instead(patch: pytest.MonkeyPatch, subject: str, name: str, broken: Callable[..., Any], module: Any = os) -> None:
    """Below the subject, a call does something else: `broken(real, *arguments)`."""
    real = getattr(module, name)

    def call(path: Any, *rest: Any, **more: Any) -> Any:
        at = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
        return broken(real, path, *rest, **more) if subject in at else real(path, *rest, **more)

    patch.setattr(module, name, call)


def overwriting_keeps_the_rest(patch: pytest.MonkeyPatch, subject: str) -> None:
    instead(patch, subject, "open", lambda real, path, flags, *mode, **at: real(path, flags & ~os.O_TRUNC, *mode, **at))


def exclusive_creation_opens_what_is_there(patch: pytest.MonkeyPatch, subject: str) -> None:
    instead(patch, subject, "open", lambda real, path, flags, *mode, **at: real(path, flags & ~os.O_EXCL, *mode, **at))


def appends_overwrite(patch: pytest.MonkeyPatch, subject: str) -> None:
    instead(
        patch, subject, "open", lambda real, path, flags, *mode, **at: real(path, flags & ~os.O_APPEND, *mode, **at)
    )


def a_name_that_is_absent_is_an_io_error(patch: pytest.MonkeyPatch, subject: str) -> None:
    def unlink(real: Callable[..., None], path: str, **at: Any) -> None:
        try:
            real(path, **at)
        except FileNotFoundError:
            raise OSError(errno.EIO, "", path) from None

    instead(patch, subject, "unlink", unlink)


def files_without_a_name_are_emptied(patch: pytest.MonkeyPatch, subject: str) -> None:
    def unlink(real: Callable[..., None], path: str, **at: Any) -> None:
        if not at and os.path.isfile(path) and not os.path.islink(path):
            os.truncate(path, 0)
        real(path, **at)

    instead(patch, subject, "unlink", unlink)


def a_rename_copies(patch: pytest.MonkeyPatch, subject: str) -> None:
    def rename(real: Callable[..., None], source: str, target: str) -> None:
        real(source, target)
        if os.path.isfile(target) and not os.path.islink(target):
            os.rename, kept = real, os.rename
            shutil.copyfile(target, f"{target}.new")
            os.replace(f"{target}.new", target)
            os.rename = kept

    instead(patch, subject, "rename", rename)


def a_rename_replaces_what_it_must_not(patch: pytest.MonkeyPatch, subject: str) -> None:
    def renameat2(real: Callable[..., None], source: str, target: str, flags: int) -> None:
        real(source, target, flags & ~libc.RENAME_NOREPLACE)

    instead(patch, subject, "renameat2", renameat2, libc)


def an_exchange_is_refused(patch: pytest.MonkeyPatch, subject: str) -> None:
    def renameat2(real: Callable[..., None], source: str, target: str, flags: int) -> None:
        if flags & libc.RENAME_EXCHANGE:
            raise OSError(errno.EINVAL, "", source)
        real(source, target, flags)

    instead(patch, subject, "renameat2", renameat2, libc)


def rmdir_removes_what_is_not_empty(patch: pytest.MonkeyPatch, subject: str) -> None:
    def rmdir(real: Callable[..., None], path: str, **more: Any) -> None:
        for name in os.listdir(path) if not more and os.path.isdir(path) and not os.path.islink(path) else ():
            if os.path.isfile(f"{path}/{name}"):
                os.unlink(f"{path}/{name}")
        real(path, **more)

    instead(patch, subject, "rmdir", rmdir)


def links_lead_elsewhere(patch: pytest.MonkeyPatch, subject: str) -> None:
    real = os.symlink
    patch.setattr(os, "symlink", lambda target, path: real(f"./{target}" if subject in path else target, path))


def modes_are_forgotten(patch: pytest.MonkeyPatch, subject: str) -> None:
    def chmod(_: Callable[..., None], path: str, __: int) -> None:
        os.stat(path)

    instead(patch, subject, "chmod", chmod)


def times_are_of_microseconds(patch: pytest.MonkeyPatch, subject: str) -> None:
    def utime(real: Callable[..., None], path: str, *, ns: tuple[int, int]) -> None:
        real(path, ns=(ns[0] // 1_000 * 1_000, ns[1] // 1_000 * 1_000))

    instead(patch, subject, "utime", utime)


def writing_keeps_the_time(patch: pytest.MonkeyPatch, subject: str) -> None:
    def pwrite(real: Callable[..., int], fd: int, data: bytes, offset: int) -> int:
        time_ns = os.fstat(fd).st_mtime_ns
        done = real(fd, data, offset)
        os.utime(fd, ns=(time_ns, time_ns))
        return done

    instead(patch, subject, "pwrite", pwrite)


def attributes_vanish_with_a_rename(patch: pytest.MonkeyPatch, subject: str) -> None:
    def rename(real: Callable[..., None], source: str, target: str) -> None:
        real(source, target)
        if not os.path.islink(target):
            for name in os.listxattr(target):
                os.removexattr(target, name)

    instead(patch, subject, "rename", rename)


def a_write_behind_the_end_leaves_no_zeros(patch: pytest.MonkeyPatch, subject: str) -> None:
    def pwrite(real: Callable[..., int], fd: int, data: bytes, offset: int) -> int:
        return real(fd, data, min(offset, os.fstat(fd).st_size))

    instead(patch, subject, "pwrite", pwrite)


def an_open_file_reads_as_it_was(patch: pytest.MonkeyPatch, subject: str) -> None:
    known: dict[str, bytes] = {}

    def pread(real: Callable[..., bytes], fd: int, size: int, offset: int) -> bytes:
        return known.setdefault(f"{os.fstat(fd).st_ino} {offset}", real(fd, size, offset))

    instead(patch, subject, "pread", pread)


BROKEN: list[Break] = [
    overwriting_keeps_the_rest, exclusive_creation_opens_what_is_there, appends_overwrite,
    a_name_that_is_absent_is_an_io_error, files_without_a_name_are_emptied, a_rename_copies,
    a_rename_replaces_what_it_must_not, an_exchange_is_refused, rmdir_removes_what_is_not_empty, links_lead_elsewhere,
    modes_are_forgotten, times_are_of_microseconds, writing_keeps_the_time, attributes_vanish_with_a_rename,
    a_write_behind_the_end_leaves_no_zeros, an_open_file_reads_as_it_was,
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_folder_is_found(machine: Machine, monkeypatch: pytest.MonkeyPatch, broken: Break) -> None:
    with monkeypatch.context() as patch:
        broken(patch, str(machine.subject_above))
        with pytest.raises(AssertionError):
            run_state_machine_as_test(machine, settings=HUNT)


def test_a_folder_that_forgets_at_a_restart_is_found(machine: Machine) -> None:
    class Forgetful(machine):  # type: ignore[valid-type, misc]
        def restart_subject(self) -> None:
            for folder, _, names in os.walk(self.subject):
                for name in names:
                    if not os.path.islink(f"{folder}/{name}"):
                        os.truncate(f"{folder}/{name}", 0)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Forgetful, settings=HUNT)


def test_an_exchange_may_be_refused_where_that_was_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Without(machine):  # type: ignore[valid-type, misc]
        without = frozenset({"exchange"})

    with monkeypatch.context() as patch:
        an_exchange_is_refused(patch, str(machine.subject_above))
        run_state_machine_as_test(Without, settings=QUICK)
