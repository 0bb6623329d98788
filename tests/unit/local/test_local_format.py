"""Frames between programs and the daemon: what is packed comes out again in whatever pieces, and rubbish is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import FsError, NotFound, kinds
from forebay.frontends.local.format import (
    BODY_BYTES_MAX,
    FILES_MAX,
    BadFrame,
    Frame,
    Frames,
    Kind,
    pack,
    pack_error,
    pack_json,
    pack_opened,
    pack_paths,
    pack_piece,
    parse_error,
    parse_json,
    parse_opened,
    parse_paths,
    parse_piece,
)

frames = st.lists(
    st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=40), st.integers(0, 3)), max_size=8
)
names = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


@given(frames, st.lists(st.integers(1, 30), max_size=40))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[tuple[Kind, int, bytes, int]], cuts: list[int]
) -> None:
    whole, starts = b"", dict[int, int]()
    for kind, request, body, count in sent:
        starts[len(whole)] = count  # the kernel gives the descriptors with the first byte of a frame
        whole += pack(kind, request, body, fds=count)
    found, reader, at, given_fds = list[Frame](), Frames(), 0, 0
    for cut in [*cuts, len(whole) + 1]:
        fds = []
        for place in range(at, min(at + cut, len(whole))):
            for _ in range(starts.get(place, 0)):
                given_fds += 1
                fds.append(given_fds)
        found += reader.feed(whole[at : at + cut], fds)
        at += cut
    assert [(each.kind, each.request, each.body, len(each.fds)) for each in found] == sent
    assert [fd for each in found for fd in each.fds] == list(range(1, given_fds + 1))
    assert reader.fds == []


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_waited_for_and_never_anything_else(rubbish: bytes) -> None:
    with contextlib.suppress(BadFrame):
        for frame in Frames().feed(rubbish):
            assert frame.kind in set(Kind)
            for parse in (parse_json, parse_piece, parse_error, parse_paths):
                with contextlib.suppress(BadFrame):
                    parse(frame.body)


@given(st.binary(max_size=100))
def test_a_body_of_rubbish_is_refused(rubbish: bytes) -> None:
    for parse in (parse_json, parse_piece, parse_error):
        with contextlib.suppress(BadFrame):
            parse(rubbish)


def test_a_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    header = pack(Kind.CALL, 1)[4:]
    with pytest.raises(BadFrame):
        list(Frames().feed((BODY_BYTES_MAX + 1).to_bytes(4, "little") + header))


def test_a_frame_whose_descriptors_were_lost_is_refused() -> None:
    with pytest.raises(BadFrame, match="too many open files"):
        list(Frames().feed(pack(Kind.OPENED, 1, pack_opened([(0, 5)]), fds=1)))


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none()), st.binary(max_size=50))
def test_json_and_bytes_behind_it(head: dict[str, object], data: bytes) -> None:
    assert parse_json(pack_json(head, data)) == (head, data)


@given(st.lists(names, min_size=1, max_size=FILES_MAX))
def test_paths(paths: list[str]) -> None:
    assert parse_paths(pack_paths(paths)) == paths


def test_undecodable_names_travel() -> None:
    name = b"/data/\xff.jpg".decode("utf-8", "surrogateescape")
    assert parse_paths(pack_paths([name])) == [name]
    assert parse_json(pack_json({"path": name})) == ({"path": name}, b"")


def test_too_many_paths_are_refused() -> None:
    with pytest.raises(BadFrame):
        parse_paths(pack_paths(["/a"] * (FILES_MAX + 1)))


def test_files_and_pieces() -> None:
    opened = pack_opened([(0, 5), (7, 2**40)])
    assert parse_opened(Frame(Kind.OPENED, 1, opened, [3, 4])) == [(0, 5), (7, 2**40)]
    with pytest.raises(BadFrame):
        parse_opened(Frame(Kind.OPENED, 1, opened, [3]))
    assert parse_piece(pack_piece(3, 10, b"abc")) == (3, 10, b"abc")


@pytest.mark.parametrize("kind", kinds().values(), ids=kinds())
def test_every_kind_of_error_arrives_as_itself(kind: type[FsError]) -> None:
    number, error = parse_error(pack_error(kind("secret", path="/a"), "clean", 9))
    assert (number, type(error), error.message, error.filename) == (9, kind, "clean", "/a")


def test_a_kind_that_nobody_knows_is_an_error_all_the_same() -> None:
    body = pack_json({"kind": "Newer", "message": "m", "path": None, "number": 0})
    assert type(parse_error(body)[1]) is FsError
    assert type(parse_error(pack_error(NotFound("m"), "m"))[1]) is NotFound
