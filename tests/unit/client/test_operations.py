"""Blocking programs and asyncio ones can do the same."""

import inspect

import pytest

from forebay import AsyncFileSystem, FileSystem
from forebay.client.aio import AsyncJob
from forebay.client.jobs import Job
from forebay.client.operations import ls, read_many
from forebay.errors import Invalid


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_asyncio_programs_have_the_same_methods_with_the_same_arguments() -> None:
    assert public(AsyncFileSystem) == public(FileSystem)
    for name in public(FileSystem) - {"home", "open"}:
        blocking, waiting = getattr(FileSystem, name), getattr(AsyncFileSystem, name)
        assert inspect.signature(blocking).parameters == inspect.signature(waiting).parameters, name
        assert inspect.iscoroutinefunction(waiting) == (name != "close"), name
    assert list(inspect.signature(AsyncFileSystem.open).parameters) == ["self", "path", "mode"], "always binary"
    assert public(AsyncJob) - {"begin"} == public(Job)


def test_a_path_that_is_none_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(Invalid, match="absolute"):
        ls("relative")


def test_one_path_is_not_taken_for_many_of_one_letter() -> None:
    with pytest.raises(TypeError, match=r"a list of paths, not one: read_many\(\['/data/a'\]\)"):
        read_many("/data/a")
