"""Every kind of error: its errno, its builtin, and that it crosses process borders."""

import copy
import errno
import pickle

import pytest

from forebay.errors import Corrupt, FsError, NotFound, StaleVersion, TimedOut, Unavailable, kinds

ALL = sorted(kinds().values(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ALL)
def test_a_kind_is_made_of_one_string_and_carries_errno_status_and_path(kind: type[FsError]) -> None:
    error = kind("what happened", path="/a/b")
    assert isinstance(error, OSError)
    assert error.errno == kind.ERRNO
    assert error.errno in errno.errorcode
    assert (str(error), error.filename) == ("what happened", "/a/b")
    assert 400 <= kind.http_status < 600
    assert str(kind("alone")) == "alone"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("through", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy])
def test_a_kind_survives_pickling_and_copying(kind: type[FsError], through: object) -> None:
    assert callable(through)
    again = through(kind("what happened", path="/a"))
    assert (type(again), str(again), again.filename) == (kind, "what happened", "/a")


def test_library_users_catch_the_builtin_of_the_same_meaning() -> None:
    assert issubclass(NotFound, FileNotFoundError)
    assert issubclass(TimedOut, TimeoutError)
    assert issubclass(Unavailable, ConnectionError)
    assert StaleVersion.ERRNO == errno.ESTALE


def test_only_what_a_second_try_can_mend_is_retryable() -> None:
    assert {kind.__name__ for kind in ALL if kind.retryable} == {"Throttled", "Unavailable", "TimedOut", "Corrupt"}
    assert Corrupt.retryable
