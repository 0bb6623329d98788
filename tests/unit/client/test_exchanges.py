"""What is said between a program and the daemon, without either: any order of answers, and those that cannot be."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.client.exchanges import AHEAD, Exchange, ReadFiles, Receive, Send, call, entries, read_many
from forebay.errors import FsError, Invalid, NotFound
from forebay.frontends.local.format import (
    FILES_MAX,
    BadFrame,
    Frame,
    Frames,
    Kind,
    pack,
    pack_error,
    pack_json,
    pack_opened,
    pack_piece,
    parse_paths,
)


class Daemon:
    """Answers requests for files in a random order, each in one of the ways there are; one frame at a time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.answers: list[tuple[Frame, list[tuple[int, str]]]] = []
        self.pieces: list[Frame] = []
        self.most = self.done = 0
        self.files: dict[int, bytes] = {}

    def take(self, data: bytes) -> None:
        for frame in Frames().feed(data):
            if frame.kind == Kind.DONE:
                self.done += 1
                continue
            assert frame.kind == Kind.FILES
            self.answers.append((frame, list(enumerate(parse_paths(frame.body)))))
            self.most = max(self.most, len(self.answers))

    def next(self) -> Frame:
        if self.pieces:
            return self.pieces.pop(0)
        frame, left = self.random.choice(self.answers)
        some = [left.pop(self.random.randrange(len(left))) for _ in range(min(len(left), self.random.randint(1, 5)))]
        if not left:
            self.answers = [each for each in self.answers if each[0] is not frame]
        way = self.random.choice(["opened", "piece", "missed"])
        if way == "opened":
            fds = []
            for _, path in some:
                self.files[fd := len(self.files) + 1000] = path.encode()
                fds.append(fd)
            return Frame(Kind.OPENED, frame.request, pack_opened([(n, len(path)) for n, path in some]), fds)
        for number, path in some:
            if way == "missed":
                self.pieces.append(Frame(Kind.MISSED, frame.request, pack_error(NotFound(path), path, number)))
                continue
            data = path.encode()
            cut = self.random.randint(0, len(data))
            for piece in [data] if cut in (0, len(data)) else [data[:cut], data[cut:]]:
                self.pieces.append(Frame(Kind.PIECE, frame.request, pack_piece(number, len(data), piece)))
        return self.pieces.pop(0)


def drive(exchange: Exchange[Any], daemon: Daemon) -> Any:
    found: Any = None
    try:
        while True:
            step = exchange.send(found)
            found = None
            if isinstance(step, Send):
                daemon.take(step.data)
            elif isinstance(step, Receive):
                found = daemon.next()
            elif isinstance(step, ReadFiles):
                found = [daemon.files.pop(fd) for fd in step.fds]
    except StopIteration as end:
        return end.value


@given(st.integers(0, 3 * FILES_MAX), st.integers())
def test_answers_in_any_order_land_in_their_places(count: int, seed: int) -> None:
    names = [f"/data/{number}" for number in range(count)]
    if count > 3:
        names[2] = "relative"
    daemon = Daemon(seed)
    for name, result in zip(names, drive(read_many(names), daemon), strict=True):
        if isinstance(result, FsError):
            assert isinstance(result, Invalid) == (name == "relative")
            assert isinstance(result, Invalid) or result.message == name
        else:
            assert result.decode() == name
    assert daemon.most <= AHEAD
    assert daemon.done == -(-(count - (count > 3)) // FILES_MAX)
    assert not daemon.files


def answer(exchange: Exchange[Any], *frames: tuple[Kind, bytes]) -> Any:
    """Drive an exchange with one request, which is answered so."""
    (asked,) = Frames().feed(exchange.send(None).data)  # type: ignore[union-attr]
    try:
        assert isinstance(exchange.send(None), Receive)
        for kind, body in frames:
            step = exchange.send(Frame(kind, asked.request, body))
            if isinstance(step, Send):  # it is done with the request
                exchange.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for more")


def test_a_call_gives_its_answer_or_raises_its_error() -> None:
    assert answer(call("stat", {"path": "/"}), (Kind.ANSWER, pack_json({"size": 1}, b"x"))) == ({"size": 1}, b"x", ())
    with pytest.raises(NotFound, match="gone"):
        answer(call("stat", {"path": "/"}), (Kind.FAILED, pack_error(NotFound("gone"), "gone")))


def test_a_long_answer_comes_in_parts_and_may_fail_midway() -> None:
    row = {"path": "/a", "type": "file", "size": 1, "mtime_ns": 2, "version": "v", "mode": None}
    part, end = (Kind.PART, pack_json({"rows": [row]})), (Kind.ANSWER, pack_json({}))
    assert [entry.path for entry in answer(entries("list", "/"), part, part, end)] == ["/a", "/a"]
    with pytest.raises(NotFound):
        answer(entries("list", "/"), part, (Kind.FAILED, pack_error(NotFound("gone"), "gone")))


def test_a_request_that_fails_fails_its_files_only() -> None:
    found = answer(
        read_many(["/a", "/b"]),
        (Kind.PIECE, pack_piece(1, 1, b"b")),
        (Kind.FAILED, pack_error(NotFound("gone"), "gone")),
    )
    assert isinstance(found[0], NotFound)
    assert found[1] == b"b"


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.ANSWER, pack_json({}))],
        [(Kind.PIECE, pack_piece(2, 1, b"x"))],
        [(Kind.PIECE, pack_piece(0, 1, b"x")), (Kind.PIECE, pack_piece(0, 1, b"x"))],
        [(Kind.OPENED, pack_opened([(0, 1)]))],
        [(Kind.MISSED, b"rubbish")],
    ],
)
def test_answers_that_cannot_be_are_refused(frames: list[tuple[Kind, bytes]]) -> None:
    with pytest.raises(BadFrame):
        answer(read_many(["/a", "/b"]), *frames)


def test_an_answer_to_another_request_is_refused() -> None:
    exchange = call("stat", {})
    exchange.send(None)
    exchange.send(None)
    with pytest.raises(BadFrame):
        exchange.send(Frame(Kind.ANSWER, 0xFFFF_FFFF, pack_json({})))


def test_what_is_sent_is_a_frame() -> None:
    step = call("stat", {"path": "/a"}, b"data").send(None)
    assert isinstance(step, Send)
    (frame,) = Frames().feed(step.data)
    assert frame.kind == Kind.CALL
    assert pack(Kind.CALL, frame.request, frame.body) == step.data
