"""What a folder can do wrong that a bucket cannot."""

import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError, Invalid, IsADirectory, NotADirectory, NotFound, StaleVersion, Unsupported
from forebay.stores.local import LocalStore
from forebay.testing.store_contract import chunks_of, keys_of
from forebay.types import Attributes, ByteRange


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalStore]:
    (tmp_path / "inside").mkdir()
    store = LocalStore(tmp_path / "inside")
    yield store
    await store.close()


@pytest.fixture
def inside(tmp_path: Path, store: LocalStore) -> Path:
    return tmp_path / "inside"


@pytest.mark.parametrize("key", ["../secret", "a/../../secret", "..", "/etc/passwd", "a//b", ".", "a/.", "", "a\0b"])
async def test_a_key_cannot_climb_out(store: LocalStore, inside: Path, key: str) -> None:
    (inside.parent / "secret").write_text("outside")
    (inside / "a").mkdir()
    with pytest.raises(NotFound):
        await store.head(key)
    with pytest.raises(NotFound):
        await store.get(key)
    with pytest.raises(Invalid):
        await store.put(key, b"x")
    await store.delete(key)
    assert (inside.parent / "secret").read_text() == "outside"


async def test_links_that_lead_out_are_refused_and_not_listed(store: LocalStore, inside: Path) -> None:
    outside = inside.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("outside")
    (inside / "file").symlink_to(outside / "secret")
    (inside / "folder").symlink_to(outside)
    (inside / "sibling").symlink_to(inside.parent / "inside-too")
    for key in ("file", "folder/secret", "sibling"):
        with pytest.raises(Denied):
            await store.head(key)
        with pytest.raises(Denied):
            await store.get(key)
        with pytest.raises(Denied):
            await store.put(key, b"overwritten")
    with pytest.raises(Denied):
        await store.put("folder/new", b"x")
    assert await keys_of(store, "", recursive=True) == []
    assert await keys_of(store, "") == []
    with pytest.raises(Denied):
        await keys_of(store, "folder/")
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == "outside"


async def test_a_link_to_a_file_inside_reads_as_that_file(store: LocalStore, inside: Path) -> None:
    (inside / "real").write_bytes(b"bytes")
    (inside / "link").symlink_to("real")
    assert await keys_of(store, "") == ["link", "real"]
    assert await store.get("link") == b"bytes"


async def test_links_that_go_in_circles_end_no_listing(store: LocalStore, inside: Path) -> None:
    (inside / "a").mkdir()
    (inside / "a" / "up").symlink_to("..")
    (inside / "self").symlink_to("self")
    (inside / "a" / "f").write_bytes(b"x")
    assert await keys_of(store, "", recursive=True) == ["a/f"]
    with pytest.raises(FsError):
        await store.get("self")


async def test_what_is_no_plain_file_is_no_object(store: LocalStore, inside: Path) -> None:
    os.mkfifo(inside / "pipe")
    assert await keys_of(store, "") == []
    with pytest.raises(NotFound):
        await store.get("pipe")  # and does not wait for a writer


async def test_a_file_that_changes_in_place_is_stale(store: LocalStore, inside: Path) -> None:
    (inside / "f").write_bytes(b"first")
    meta = await store.head("f")
    (inside / "f").write_bytes(b"other")
    os.utime(inside / "f", ns=(meta.mtime_ns, meta.mtime_ns + 1))
    with pytest.raises(StaleVersion):
        await store.get("f", ByteRange(0, 5), version=meta.version)


async def test_a_replaced_file_is_another_version_though_size_and_time_are_the_same(
    store: LocalStore, inside: Path
) -> None:
    (inside / "f").write_bytes(b"first")
    meta = await store.head("f")
    (inside / "new").write_bytes(b"other")
    os.utime(inside / "new", ns=(meta.mtime_ns, meta.mtime_ns))
    (inside / "new").replace(inside / "f")
    assert (await store.head("f")).version != meta.version


async def test_a_file_being_written_is_not_seen(store: LocalStore, inside: Path) -> None:
    async def watch() -> AsyncIterator[bytes]:
        yield b"half"
        assert await keys_of(store, "", recursive=True) == []
        [name] = os.listdir(inside)
        with pytest.raises(NotFound):
            await store.get(name)
        yield b" and half"

    await store.put_stream("f", watch())
    assert os.listdir(inside) == ["f"]
    assert await store.get("f") == b"half and half"


async def test_a_failed_write_leaves_no_file(store: LocalStore, inside: Path) -> None:
    with pytest.raises(KeyError):
        await store.put_stream("f", chunks_of(b"half", then=KeyError("gone")))
    assert os.listdir(inside) == []


async def test_files_and_folders_in_each_other_s_way(store: LocalStore) -> None:
    await store.put("file", b"x")
    await store.put("folder/x", b"x")
    with pytest.raises(NotADirectory):
        await store.put("file/below", b"x")
    with pytest.raises(IsADirectory):
        await store.put("folder", b"x")
    with pytest.raises(Invalid):
        await store.put("marker/", b"bytes")


async def test_a_folder_that_does_not_exist_or_is_a_file_is_told_by_the_probe(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, kind, says in (
        (tmp_path / "missing", NotFound, "does not exist"),
        (tmp_path / "file", NotADirectory, "not a folder"),
    ):
        store = LocalStore(path)
        with pytest.raises(kind, match=says):
            await store.probe("")
        await store.close()


async def test_blocking_work_runs_in_threads_of_its_own(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    real, here = os.stat, threading.current_thread().name

    def watched(*args: object, **kwargs: object) -> os.stat_result:
        seen.add(threading.current_thread().name)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    await store.put("f", b"x")
    monkeypatch.setattr(os, "stat", watched)
    await store.head("f")
    assert seen
    assert here not in seen


# ---------------------------------------------------------------------- renames and attributes


async def test_a_link_is_renamed_itself_and_one_that_leads_out_is_refused(store: LocalStore, inside: Path) -> None:
    (inside / "file").write_bytes(b"bytes")
    (inside / "link").symlink_to("file")
    (inside / "out").symlink_to(inside.parent / "elsewhere")
    await store.rename("link", "renamed")
    assert (inside / "renamed").is_symlink()
    assert (inside / "file").read_bytes() == b"bytes"
    for source, target in (("out", "in"), ("file", "out"), ("file", "out/below")):
        with pytest.raises(Denied, match="leads out"):
            await store.rename(source, target)
    assert not (inside.parent / "elsewhere").exists()


async def test_another_time_is_another_version_and_a_mode_is_not(store: LocalStore) -> None:
    before = await store.put("f", b"x")
    await store.set_attributes("f", Attributes(mode=0o600))
    assert (await store.head("f")).version == before.version
    await store.set_attributes("f", Attributes(mtime_ns=7))
    assert (await store.head("f")).version.startswith("1-7-")


async def test_a_put_that_cannot_keep_its_attributes_leaves_nothing(store: LocalStore, inside: Path) -> None:
    (inside / "kept").write_bytes(b"before")
    with pytest.raises(Unsupported):
        await store.put("kept", b"after", attributes=Attributes(mode=stat.S_IFLNK | 0o777))
    assert [one.name for one in inside.iterdir()] == ["kept"]
    assert (inside / "kept").read_bytes() == b"before"
