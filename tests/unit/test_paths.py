"""Virtual paths have one normal form, and none of them climbs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import Invalid, NameTooLong
from forebay.paths import is_within, join, normalize, relative, split

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=()), max_size=20)
names = texts.filter(lambda name: name not in ("", ".", "..") and "/" not in name and _fits(name))
normal_paths = st.lists(names, max_size=4).map(lambda parts: "/" + "/".join(parts))


def _fits(name: str) -> bool:
    try:
        return len(name.encode("utf-8", "surrogateescape")) <= 255
    except UnicodeEncodeError:
        return False


@pytest.mark.parametrize("path", ["a", "", "./a", "..", "/a/../b", "/..", "/a\0b"])
def test_relative_and_climbing_paths_are_refused(path: str) -> None:
    with pytest.raises(Invalid):
        normalize(path)


def test_names_are_measured_in_bytes() -> None:
    assert normalize("/" + "é" * 127) == "/" + "é" * 127
    with pytest.raises(NameTooLong):
        normalize("/" + "é" * 128)
    with pytest.raises(NameTooLong):
        normalize("/a/" + "n" * 256 + "/b")


@given(normal_paths)
def test_a_normal_path_stays_as_it_is(path: str) -> None:
    assert normalize(path) == path
    assert normalize(path + "/") == path
    assert normalize("/." + path.replace("/", "//")) == path


@given(normal_paths, names)
def test_split_takes_apart_what_join_put_together(folder: str, name: str) -> None:
    path = join(folder, name)
    assert normalize(path) == path
    assert split(path) == (folder, name)
    assert is_within(path, folder)
    assert relative(path, folder) == name
    assert not is_within(folder, path)


def test_a_folder_does_not_hold_names_that_only_begin_like_it() -> None:
    assert not is_within("/ab", "/a")
    assert is_within("/a", "/a")
    assert is_within("/a/b/c", "/a")
