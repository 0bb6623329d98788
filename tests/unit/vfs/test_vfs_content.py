"""What a file that is being written holds: its own bytes where something was written, the old ones elsewhere."""

import asyncio
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.cache.pages import PAGE_BYTES
from forebay.errors import FsError
from forebay.types import Buffer, ByteRange
from forebay.vfs import content as content_module
from forebay.vfs.content import PatchedContent, Snapshot, Spans, WholeContent, differs, sums_of

BASE = random.Random(2).randbytes(3 * PAGE_BYTES + 7)


class Base:
    """A version in a store, read in pieces as stores do."""

    def __init__(self, data: bytes, *, piece_bytes: int = 1 << 30) -> None:
        self.data = data
        self.piece_bytes = piece_bytes
        self.reads: list[ByteRange] = []
        self.is_closed = False
        self.before: Callable[[], None] = lambda: None  # what happens while a read is on its way

    async def read(self, offset: int, length: int) -> Buffer:
        await asyncio.sleep(0)
        self.before()
        self.reads.append(ByteRange(offset, offset + length))
        return self.data[offset : offset + min(length, self.piece_bytes)]

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path / "local", os.O_RDWR | os.O_CREAT)


@pytest.fixture
def base() -> Base:
    return Base(BASE)


@pytest.fixture
def patched(fd: int, base: Base) -> Iterator[PatchedContent]:
    content = PatchedContent(fd, len(BASE), base.read, base.close)
    yield content
    content.close()


async def all_of(content: PatchedContent) -> bytes:
    return bytes(await content.read(0, content.size() + 1))


# ------------------------------------------------------------------ spans

ranges = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: ByteRange(*pair))


@given(st.lists(st.one_of(ranges, st.integers(0, 40))), ranges)
def test_spans_hold_what_a_set_of_bytes_would(steps: list[ByteRange | int], asked: ByteRange) -> None:
    spans, model = Spans(), set[int]()
    for step in steps:
        if isinstance(step, ByteRange):
            spans.add(step)
            model |= set(range(*step))
        else:
            spans.cut(step)
            model = {byte for byte in model if byte < step}
    gaps = spans.gaps(asked)
    assert [byte for gap in gaps for byte in range(*gap)] == [byte for byte in range(*asked) if byte not in model]
    assert all(before.stop < after.start for before, after in itertools.pairwise(gaps))


def test_spans_that_touch_are_one() -> None:
    spans = Spans()
    for start in (0, 20, 10):
        spans.add(ByteRange(start, start + 10))
    assert len(spans._starts) == 1


# ------------------------------------------------------------------ a file over a version


async def test_what_was_written_hides_the_version_and_the_rest_is_read_from_it(
    patched: PatchedContent, base: Base
) -> None:
    base.piece_bytes = 1000
    expected = bytearray(BASE)
    for offset in (0, 5, PAGE_BYTES - 2, len(BASE) - 3):
        patched.write(offset, b"#####")
        expected[offset : offset + 5] = b"#####"
    assert await all_of(patched) == expected
    assert await patched.read(PAGE_BYTES - 4, 9) == expected[PAGE_BYTES - 4 : PAGE_BYTES + 5]
    assert await patched.read(len(expected), 5) == b""


async def test_bytes_that_are_here_are_read_without_the_version(patched: PatchedContent, base: Base) -> None:
    into = memoryview(bytearray(4))
    assert patched.read_now(10, into) == -1
    patched.write(10, b"here")
    assert (patched.read_now(10, into), bytes(into)) == (4, b"here")
    assert patched.read_now(11, into) == -1
    assert patched.read_now(patched.size(), into) == 0
    assert await patched.read(10, 4) == b"here"
    assert base.reads == []


async def test_a_file_that_was_cut_and_made_longer_has_zeros_there(patched: PatchedContent, base: Base) -> None:
    patched.write(100, b"gone")
    patched.truncate(50)
    patched.truncate(200)
    assert await all_of(patched) == BASE[:50] + bytes(150)
    assert base.reads == [ByteRange(0, 50)]


async def test_what_lies_past_the_end_of_the_version_is_zeros(patched: PatchedContent) -> None:
    patched.write(len(BASE) + 10, b"x")
    assert await all_of(patched) == BASE + bytes(10) + b"x"


async def test_a_version_that_is_shorter_than_it_was_said_to_be_is_an_error_and_no_endless_loop(fd: int) -> None:
    base = Base(b"short")
    content = PatchedContent(fd, 100, base.read, base.close)
    with pytest.raises(FsError, match="ends at 5"):
        await content.read(0, 100)
    content.close()


def test_a_page_is_whole_when_all_of_it_was_written(patched: PatchedContent) -> None:
    assert patched.pages() == 0
    patched.write(PAGE_BYTES, bytes(PAGE_BYTES))
    patched.write(2 * PAGE_BYTES, bytes(PAGE_BYTES - 1))
    patched.write(3 * PAGE_BYTES, bytes(7))
    assert patched.pages() == 0b1010
    patched.write(3 * PAGE_BYTES - 1, b"x")
    assert patched.pages() == 0b1110


def test_a_span_is_unchanged_until_a_byte_of_it_is_written_or_cut(patched: PatchedContent) -> None:
    span = ByteRange(10, 20)
    patched.write(9, b"x")
    patched.write(20, b"x")
    assert patched.is_unchanged(span)
    patched.write(19, b"x")
    assert not patched.is_unchanged(span)
    assert patched.is_unchanged(ByteRange(30, 40))
    patched.truncate(35)
    patched.truncate(100)
    assert not patched.is_unchanged(ByteRange(30, 40))
    assert not patched.is_unchanged(ByteRange(50, 60))


async def test_what_is_written_while_a_file_is_sent_is_not_taken_for_sent(patched: PatchedContent, base: Base) -> None:
    patched.write(0, b"first")
    patched.begin_sending()
    sent = await all_of(patched)
    patched.write(1000, b"late")
    new = Base(sent)
    patched.rebase(len(sent), new.read, new.close)
    assert base.is_closed
    assert patched.is_unchanged(ByteRange(0, 100))
    assert not patched.is_unchanged(ByteRange(1000, 1004))
    assert await all_of(patched) == sent[:1000] + b"late" + sent[1004:]


@pytest.mark.parametrize("size", [len(BASE) + 100, 60])
async def test_a_size_that_changes_while_a_file_is_sent_is_not_that_of_the_new_version(
    patched: PatchedContent, size: int
) -> None:
    patched.write(0, b"first")
    patched.begin_sending()
    sent = await all_of(patched)
    patched.truncate(size)
    patched.truncate(len(BASE) + 200)
    new = Base(sent)
    patched.rebase(len(sent), new.read, new.close)
    kept = min(size, len(sent))
    assert await all_of(patched) == sent[:kept] + bytes(len(BASE) + 200 - kept)
    assert not patched.is_unchanged(ByteRange(kept, kept + 1))


async def test_a_write_while_old_bytes_are_fetched_is_neither_lost_nor_a_hole(
    patched: PatchedContent, base: Base
) -> None:
    base.before = lambda: patched.write(500, b"new")
    seen = await patched.read(0, 1000)
    assert seen in (BASE[:1000], BASE[:500] + b"new" + BASE[503:1000])
    assert await patched.read(500, 3) == b"new"


async def test_writes_from_several_threads_are_all_there(patched: PatchedContent) -> None:
    step, pieces = 64, 2_000
    order = random.Random(3).sample(range(pieces), pieces)

    def write(mine: list[int]) -> None:
        for index in mine:
            patched.write(2 * step * index, index.to_bytes(step, "big"))

    await asyncio.gather(*(asyncio.to_thread(write, order[start::4]) for start in range(4)))
    assert patched.stamp().writes == pieces
    assert len(patched._local._starts) == len(patched._changed._starts) == pieces
    assert not any(patched.is_unchanged(ByteRange(2 * step * index, 2 * step * index + 1)) for index in order)


@given(st.data())
def test_a_patched_file_is_what_a_plain_one_would_be(data: st.DataObject) -> None:
    old = bytes(range(1, 61))
    new, plain = Base(old), bytearray(old)
    fd = os.memfd_create("local")
    content = PatchedContent(fd, len(old), new.read, new.close)
    sent = b""
    for _ in range(data.draw(st.integers(0, 8))):
        at, length = data.draw(st.integers(0, 80)), data.draw(st.integers(1, 30))
        match data.draw(st.sampled_from(["write", "truncate", "begin", "end"])):
            case "write":
                content.write(at, b"#" * length)
                plain.extend(bytes(max(0, at - len(plain))))
                plain[at : at + length] = b"#" * length
            case "truncate":
                content.truncate(at)
                plain = plain[:at] + bytearray(max(0, at - len(plain)))
            case "begin":
                content.begin_sending()
                sent = bytes(plain)
            case "end" if sent:
                new, sent = Base(sent), b""
                content.rebase(len(new.data), new.read, new.close)
        assert asyncio.run(all_of(content)) == plain
        for start in range(len(plain)):
            span = ByteRange(start, start + 1)
            assert not content.is_unchanged(span) or plain[start] == new.data[start]
    content.close()


# ------------------------------------------------------------------ has it changed?


@pytest.mark.parametrize("has_fine_times", [True, False])
@pytest.mark.parametrize("size", [10, 2 * PAGE_BYTES])
def test_a_whole_file_differs_once_a_byte_of_it_is_another(
    fd: int, monkeypatch: pytest.MonkeyPatch, size: int, has_fine_times: bool
) -> None:
    content = WholeContent(fd)
    content.write(0, bytes(size))
    if not content_module.has_fine_times():
        has_fine_times = False  # this kernel cannot
    monkeypatch.setattr(content_module, "has_fine_times", lambda: has_fine_times)
    then = Snapshot(content.stamp(), sums_of(fd))
    assert not differs(content, then)
    os.pwrite(fd, b"x", size // 2)  # as the kernel writes by itself
    assert differs(content, then)


def test_a_small_file_whose_time_was_set_back_differs_by_its_bytes(fd: int) -> None:
    content = WholeContent(fd)
    content.write(0, b"before")
    then = Snapshot(content.stamp(), sums_of(fd))
    os.pwrite(fd, b"after!", 0)
    os.utime(fd, ns=(then.stamp.mtime_ns, then.stamp.mtime_ns))
    assert differs(content, then)


async def test_a_patched_file_differs_after_any_change(patched: PatchedContent) -> None:
    changes: list[Callable[[], None]] = [
        lambda: patched.write(0, b"x"),
        lambda: patched.truncate(patched.size()),
        lambda: patched.allocate(0, patched.size(), 10),
    ]
    for change in changes:
        then = Snapshot(patched.stamp(), sums_of(patched.fd))
        assert not differs(patched, then)
        change()
        assert differs(patched, then)


def test_only_the_pages_that_are_asked_for_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, BASE, 0)
    whole = sums_of(fd)
    read: list[int] = []
    pread = os.pread

    def note(fd: int, size: int, at: int) -> bytes:
        read.append(at)
        return pread(fd, size, at)

    monkeypatch.setattr(os, "pread", note)
    assert list(sums_of(fd, pages=0b1010)) == [0, whole[1], 0, whole[3]]
    assert read == [PAGE_BYTES, 3 * PAGE_BYTES]
    os.close(fd)
