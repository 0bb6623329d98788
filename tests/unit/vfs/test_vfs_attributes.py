"""What stores cannot keep is kept: told with every answer, for as long as it holds, and never lost."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError, Invalid, NoSpace
from forebay.stores.base import ListPage
from forebay.stores.memory import MemoryStore
from forebay.testing.store_contract import pages_of
from forebay.types import Attributes
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.attributes import FILE_MODE, FOLDER_MODE, KeptAttributes
from forebay.vfs.attributes_db import Kept

AT = "mem://s"
LINK = stat.S_IFLNK | 0o777


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[KeptAttributes]:
    kept = KeptAttributes(tmp_path / "attributes.db")
    yield kept
    await kept.close()


@pytest.fixture
def inner() -> MemoryStore:
    return MemoryStore("s", page_keys=4)


@pytest.fixture
def store(inner: MemoryStore, kept: KeptAttributes) -> AttributedStore:
    return AttributedStore(inner, kept)


async def test_a_time_and_a_link_end_with_the_version_and_a_mode_stays(
    store: AttributedStore, inner: MemoryStore
) -> None:
    await store.put("k", b"ours", attributes=Attributes(0o600, 7, 8, 99))
    await store.put("l", b"../k", attributes=Attributes(mode=LINK, uid=7))
    before = await store.head("l")
    assert before.posix is not None
    assert (before.posix.mode, before.posix.uid) == (LINK, 7)
    theirs = await inner.put("k", b"somebody else's")
    await inner.put("l", b"a file now")
    after = await store.head("k")
    assert after.posix is not None
    assert (after.posix[:3], after.mtime_ns) == ((0o600, 7, 8), theirs.mtime_ns)
    assert (await store.head("l")).posix is None
    await store.set_attributes("k", Attributes(uid=9))  # what held for the old version does not come back with it
    assert (await store.head("k")).mtime_ns == theirs.mtime_ns


async def test_what_is_not_kept_is_as_a_mount_shows_it(store: AttributedStore) -> None:
    await store.put("d/k", b"", attributes=Attributes(uid=7))
    await store.put("d/", b"", attributes=Attributes(gid=7))
    [page] = await pages_of(store, "d/")
    marker, file = page.objects
    assert file.posix is not None
    assert marker.posix is not None
    assert file.posix[:3] == (FILE_MODE, 7, os.getegid())
    assert marker.posix[:3] == (FOLDER_MODE, os.geteuid(), 7)


async def test_a_folder_without_an_object_of_its_own_is_told_of_once_wherever_it_is_listed(
    store: AttributedStore,
) -> None:
    keys = ["a/b/1", "a/b/2", "a/b/c/3", "a/b/c/4", "a/b/c/5", "a/d/6"]
    for key in keys:
        await store.put(key, b"")
    for folder in ("a/", "a/b/", "a/b/c/"):
        await store.set_attributes(folder, Attributes(mode=0o700, mtime_ns=5))
    [above] = await pages_of(store, "")
    [page] = await pages_of(store, "a/")
    told = [dict(page.folder_metas) for page in await pages_of(store, "", recursive=True)]
    assert list(above.folder_metas) == ["a/"]
    assert page.folders == ["a/b/", "a/d/"]
    assert sorted(page.folder_metas) == ["a/", "a/b/"]
    assert [sorted(metas) for metas in told] == [["a/", "a/b/", "a/b/c/"], []]
    assert {(meta.mtime_ns, meta.posix and meta.posix.mode) for meta in told[0].values()} == {(5, 0o700)}


async def test_a_copy_has_the_attributes_of_its_source_and_a_removal_forgets_them(
    store: AttributedStore, kept: KeptAttributes
) -> None:
    await store.put("l", b"../k", attributes=Attributes(mode=LINK, mtime_ns=5))
    await kept.set(AT, "l", Attributes(), xattrs={"user.a": b"\0\xff"})
    await store.put("plain", b"bytes")
    await store.put("over", b"bytes", attributes=Attributes(mode=0o600))
    link = await store.copy("l", "m")
    assert (link.posix and link.posix.mode, link.mtime_ns) == (LINK, 5)
    assert await store.head("m") == link
    copied = await kept.of(AT, "m")
    assert copied is not None
    assert dict(copied.xattrs) == {"user.a": b"\0\xff"}
    assert (await store.copy("plain", "over")).posix is None  # it has those of the source, which has none
    assert (await store.head("over")).posix is None
    await store.delete("m")
    assert await kept.of(AT, "m") is None


async def test_a_copy_of_what_others_have_changed_has_a_time_of_its_own(
    store: AttributedStore, inner: MemoryStore
) -> None:
    await store.put("l", b"../k", attributes=Attributes(mode=LINK))
    await store.put("k", b"bytes", attributes=Attributes(mode=0o600, mtime_ns=5))
    await inner.put("l", b"a file now")
    await inner.put("k", b"other bytes")
    assert (await store.copy("l", "m")).posix is None
    copied = await store.copy("k", "n")
    assert (copied.posix and copied.posix.mode, copied.mtime_ns) == (0o600, (await inner.head("n")).mtime_ns)


async def test_extended_attributes_come_and_go_one_by_one(kept: KeptAttributes) -> None:
    await kept.set(AT, "k", Attributes(mode=0o600), xattrs={"user.a": b"1", "user.b": b""})
    await kept.set(AT, "k", Attributes(uid=1), xattrs={"user.a": None, "user.c": b"\0"})
    found = await kept.of(AT, "k")
    assert found == Kept(0o600, 1, xattrs={"user.b": b"", "user.c": b"\0"})
    await kept.set(AT, "x", Attributes(), xattrs={"user.a": b"1"})
    await kept.set(AT, "x", Attributes(), xattrs={"user.a": None})
    assert await kept.of(AT, "x") is None  # of nothing, no row is left


async def test_a_time_without_a_version_is_refused_but_for_a_folder(kept: KeptAttributes) -> None:
    for asked in (Attributes(mtime_ns=1), Attributes(mode=LINK)):
        with pytest.raises(Invalid, match="version"):
            await kept.set(AT, "k", asked)
    await kept.set(AT, "k/", Attributes(mtime_ns=1))
    assert await kept.of(AT, "k/") == Kept(mtime_ns=1)


async def test_a_folder_moves_with_all_below_it_and_moving_it_again_changes_nothing(kept: KeptAttributes) -> None:
    keys = ["a/", "a/b", "a/b\udcff/\udcff", "a0", "a", "aa/b"]
    for number, key in enumerate(keys):
        await kept.set(AT, key, Attributes(uid=number))
        await kept.set("mem://other", key, Attributes(uid=number))
    await kept.move_below(AT, "a/", "new\udcff/place/")
    await kept.move_below(AT, "a/", "new\udcff/place/")
    assert [await kept.of(AT, key) for key in keys[:3]] == [None] * 3
    assert [await kept.of(AT, "new\udcff/place/" + key[2:]) for key in keys[:3]] == [
        Kept(uid=0),
        Kept(uid=1),
        Kept(uid=2),
    ]
    assert [await kept.of(AT, key) for key in keys[3:]] == [Kept(uid=3), Kept(uid=4), Kept(uid=5)]
    assert [await kept.of("mem://other", key) for key in keys] == [Kept(uid=number) for number in range(6)]
    for target in ("a/b/", "a/"):
        with pytest.raises(Invalid):
            await kept.move_below(AT, "a/", target)


async def test_a_file_that_moves_takes_the_place_of_what_was_kept_there(kept: KeptAttributes) -> None:
    await kept.set(AT, "a", Attributes(uid=1))
    await kept.set(AT, "b", Attributes(uid=2))
    await kept.move(AT, "a", "b")
    await kept.move(AT, "none", "c")
    assert [await kept.of(AT, key) for key in "abc"] == [None, Kept(uid=1), None]
    await kept.move(AT, "none", "b")
    assert await kept.of(AT, "b") is None


async def test_of_a_location_of_which_nothing_is_kept_nothing_is_asked(kept: KeptAttributes) -> None:
    page = ListPage([await MemoryStore("s").put("k", b"")], [])
    assert await kept.overlay(AT, page) is page
    await kept.forget(AT, "k")
    await kept.move_below(AT, "a/", "b/")
    assert await kept.of(AT, "k") is None
    assert kept._thread is None


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "attributes.db"
    places = ["mem://s", "s3://\udcff", "file:///x"]
    first = KeptAttributes(path)
    await asyncio.gather(*(first.set(place, "k\udcff", Attributes(1, 2, 3, -4), version="v") for place in places))
    await first.settle(places[0])
    await first.close()
    second = KeptAttributes(path)
    assert [second.has_any(place) for place in (*places, "mem://none")] == [True, True, True, False]
    for place in places:
        assert await second.of(place, "k\udcff") == Kept(1, 2, 3, -4, "v")
    await second.close()


async def test_what_was_settled_has_been_synced(kept: KeptAttributes, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.setattr(os, "fsync", fsync)
    await kept.set(AT, "k", Attributes(uid=1))
    assert synced == []  # a process that ends does not lose it; each chmod(2) need not wait for the disk
    await kept.settle("mem://none")
    assert synced == []
    await kept.settle(AT)
    assert [Path(path).name for path in synced] == ["attributes.db-wal"]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    db = KeptAttributes(tmp_path / "attributes.db")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert db.has_any(AT) is False


async def test_a_change_that_fails_is_told_to_who_asked_for_it_alone(kept: KeptAttributes) -> None:
    answers = await asyncio.gather(
        kept.set(AT, "a", Attributes(uid=1)),
        kept.set(AT, "b", Attributes(mtime_ns=1)),  # without a version
        kept.set(AT, "c", Attributes(uid=3)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [Kept, Invalid, Kept]
    assert [await kept.of(AT, key) for key in "abc"] == [Kept(uid=1), None, Kept(uid=3)]


async def test_a_disk_that_is_full_is_said_and_what_was_kept_stays(kept: KeptAttributes) -> None:
    await kept.set(AT, "k", Attributes(uid=1))
    pages = await kept._ask(lambda db: db._db.execute("PRAGMA page_count").fetchone()[0])
    await kept._ask(lambda db: db._db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    with pytest.raises(NoSpace, match="Free some space"):
        await kept.set(AT, "big", Attributes(), xattrs={"user.a": bytes(100_000)})
    assert await kept.of(AT, "k") == Kept(uid=1)
    assert await kept.of(AT, "big") is None


@pytest.mark.parametrize("harm", ["rubbish", "cut"])
async def test_a_damaged_database_stops_the_start_and_is_left_as_it_is(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "attributes.db"
    kept = KeptAttributes(path)
    await asyncio.gather(*(kept.set(AT, f"{index:0100}", Attributes(uid=1)) for index in range(300)))
    await kept.close()
    path.write_bytes(b"no database" * 1000 if harm == "rubbish" else path.read_bytes()[:4500])
    before = path.read_bytes()
    with pytest.raises(FsError, match="restore it from a backup, or move it away"):
        KeptAttributes(path)
    assert path.read_bytes() == before


async def test_damage_found_later_is_said_to_who_asks(kept: KeptAttributes, tmp_path: Path) -> None:
    await kept.set(AT, "k", Attributes(uid=1))
    with sqlite3.connect(tmp_path / "attributes.db") as db:
        db.execute("DROP TABLE attributes")
    db.close()
    with pytest.raises(FsError, match="restore it from a backup"):
        await kept.of(AT, "k")


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="cannot open"):
        KeptAttributes(tmp_path / "none" / "attributes.db")
