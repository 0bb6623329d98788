"""Files that are being written, by path and by version."""

import asyncio
import gc
import os
from collections.abc import Callable

import pytest

from forebay.stores.memory import MemoryStore
from forebay.types import Attributes
from forebay.vfs.content import WholeContent
from forebay.vfs.drafts import Draft, DraftTable, OpenDraft, is_draft
from forebay.vfs.entries import Mount, MountOptions

MakeDraft = Callable[..., Draft]


@pytest.fixture
def make() -> MakeDraft:
    mount = Mount(path="/m", url="mem://s", store=MemoryStore("s"), prefix="", settings=MountOptions(), ttl_s=60.0)
    made = 0

    def make(path: str) -> Draft:
        nonlocal made
        made += 1
        return Draft(made, mount, path, path.removeprefix("/m/"), WholeContent(os.memfd_create("draft")))

    return make


def test_a_draft_is_found_by_its_path_its_folder_and_its_version(make: MakeDraft) -> None:
    table, draft = DraftTable(), make("/m/a/f")
    table.add(draft)
    assert table.find("/m/a/f") is draft
    assert table.in_folder("/m/a") == {"f": draft}
    assert table.of(draft.entry()) is draft
    assert is_draft(draft.entry())
    assert table.below("/m") == table.below("/m/a/f") == list(table) == [draft]
    assert table.below("/m/a/f2") == []
    assert table.has_below("/m")
    assert not table.has_below("/m/b")


def test_a_draft_without_a_name_is_found_by_its_version_until_it_has_ended(make: MakeDraft) -> None:
    table, draft = DraftTable(), make("/m/f")
    table.add(draft)
    table.remove(draft)
    assert table.find("/m/f") is None
    assert not table.has_below("/m")
    assert table.of(draft.entry()) is draft
    draft.is_ended = True
    assert table.of(draft.entry()) is None


def test_a_draft_that_nobody_has_is_not_held(make: MakeDraft) -> None:
    table, draft = DraftTable(), make("/m/f")
    table.add(draft)
    table.remove(draft)
    entry = draft.entry()
    del draft
    gc.collect()
    assert table.of(entry) is None


def test_a_draft_that_is_moved_over_another_takes_its_place_and_keeps_it(make: MakeDraft) -> None:
    table, draft, replaced = DraftTable(), make("/m/new"), make("/m/a/old")
    table.add(draft)
    table.add(replaced)
    table.move(draft, "/m/a/old", "a/old")
    assert (draft.path, draft.key) == ("/m/a/old", "a/old")
    assert list(table) == [draft]
    assert table.of(draft.entry()) is draft
    table.remove(replaced)  # comes late
    assert table.find("/m/a/old") is draft
    assert table.of(replaced.entry()) is replaced


def test_a_time_that_was_set_counts_until_the_next_write(make: MakeDraft) -> None:
    draft = make("/m/f")
    draft.amend(Attributes(mtime_ns=5, mode=0o600))
    assert (draft.entry().mtime_ns, draft.has_new_attributes) == (5, True)
    assert draft.entry().posix is not None
    draft.content.write(0, b"x")
    assert draft.entry().mtime_ns > 5


def test_each_open_counts_once_for_draft_and_mount(make: MakeDraft) -> None:
    draft, scratch = make("/m/f"), memoryview(bytearray(100))
    closed: list[OpenDraft] = []
    writer = OpenDraft(draft, scratch, closed.append, os.O_WRONLY)
    reader = OpenDraft(draft, scratch, closed.append, os.O_RDONLY)
    assert (draft.handles, draft.writers, draft.mount.open_files) == (2, 1, 2)
    draft.content.write(0, b"bytes")
    assert bytes(asyncio.run(reader.read(1, 3))) == b"yte"
    assert reader.read_now(0, 101) is None  # larger than what it is read into
    writer.close()
    assert (draft.handles, draft.writers, draft.mount.open_files) == (1, 0, 1)
    reader.close()
    assert (draft.handles, draft.mount.open_files, closed) == (0, 0, [writer, reader])
