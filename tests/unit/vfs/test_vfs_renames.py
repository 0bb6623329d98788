"""Renames in stores that cannot: all or nothing, nothing lost, and nothing done twice."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.clock import FakeClock
from forebay.config.settings import Settings
from forebay.errors import Busy, Invalid, NotEmpty, NotFound, Unavailable, Unsupported
from forebay.stores.base import Capabilities, Store
from forebay.stores.local import LocalStore
from forebay.stores.memory import MemoryStore
from forebay.testing.faulty_store import Fault, FaultyStore, Hang
from forebay.types import Attributes, ObjectMeta
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.attributes import KeptAttributes
from forebay.vfs.control import ControlDb, Phase
from forebay.vfs.entries import Mount, MountOptions
from forebay.vfs.metadata import Metadata
from forebay.vfs.renames import Renames

DOWN = Unavailable("down")
PAGE_KEYS = 4


def content(key: str) -> bytes:
    return b"" if key.endswith("/") else key.encode("utf-8", "surrogateescape")


async def until(holds: Callable[[], bool]) -> None:
    """Let others run until something holds."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


class NeverCopies(MemoryStore):
    """A store that finds every object too large to copy."""

    async def copy(self, source: str, target: str) -> ObjectMeta:
        raise Unsupported(f"{source!r} is too large", path=source)

    async def copy_version(self, known: ObjectMeta, target: str) -> ObjectMeta:
        return await self.copy(known.key, target)


class Bench:
    """Renames over a store in memory, in lives that follow each other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory = MemoryStore("s", page_keys=PAGE_KEYS)
        self.store = FaultyStore(self.memory)
        self.store.pages.extend([None] * 1_000)  # so that `faults` are of all calls but listings
        self.begin()

    def begin(self) -> None:
        """As the daemon starts."""
        self.control = ControlDb(self.folder / "control.db")
        self.metadata = Metadata(Settings(home=self.folder), FakeClock())
        self.renames = Renames(self.control, self.metadata)

    async def end(self) -> None:
        await self.metadata.close()
        self.control.close()

    def mount(self, store: Store | None = None) -> Mount:
        return Mount(
            path="/m", url="mem://s", store=store or self.store, prefix="", settings=MountOptions(), ttl_s=60.0
        )

    async def put(self, keys: Iterable[str]) -> None:
        for key in keys:
            await self.memory.put(key, content(key))
        self.memory.requests.clear()

    def copies(self) -> int:
        """How many objects were copied, or, of empty folders, made anew."""
        return self.memory.requests["copy"] + self.memory.requests["put"]

    def objects(self) -> dict[str, bytes]:
        return {key: found.data for key, found in self.memory._objects.items()}

    def faults(self, *faults: Fault) -> None:
        self.store.script.extend(faults)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    await bench.end()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[KeptAttributes]:
    kept = KeptAttributes(tmp_path / "attributes.db")
    yield kept
    await kept.close()


NAMES = ("", "1", "2", "d/", "d/3", "d/e/4", "\udcff", "odd//", "odd//5", "f/g/6")
FOLDER = [f"a/{name}" for name in NAMES]


async def test_a_folder_is_renamed_with_all_below_it_and_nothing_beside_it(bench: Bench) -> None:
    beside = ["a", "a0", "ab/1", "b0", "c/a/1"]
    await bench.put([*FOLDER, *beside])
    told: list[tuple[int, int]] = []
    await bench.renames.rename(
        bench.mount(), "a", "b/c", is_folder=True, progress=lambda done, total: told.append((done, total))
    )
    moved = {"b/c/" + key[2:]: content(key) for key in FOLDER}
    assert bench.objects() == {**moved, **{key: key.encode() for key in beside}}
    assert told[0] == (0, PAGE_KEYS)  # a page is known
    assert told[-1] == (len(FOLDER), len(FOLDER))
    assert told == sorted(told)
    assert bench.control.renames() == []


async def test_objects_are_copied_many_at_a_time(bench: Bench) -> None:
    await bench.put(FOLDER)
    gate = asyncio.Event()
    bench.faults(*[Hang(gate)] * PAGE_KEYS)
    task = asyncio.create_task(bench.renames.rename(bench.mount(), "a", "b", is_folder=True))
    await until(lambda: not bench.store.script)  # all of a page are under way
    gate.set()
    await task
    assert set(bench.objects()) == {f"b/{name}" for name in NAMES}


async def test_a_file_is_renamed_and_replaces_another(bench: Bench) -> None:
    await bench.put(["a", "a/below", "b"])
    await bench.renames.rename(bench.mount(), "a", "b", is_folder=False)
    assert bench.objects() == {"a/below": b"a/below", "b": b"a"}


async def test_an_empty_folder_is_renamed_and_replaces_another(bench: Bench) -> None:
    await bench.put(["a/", "b/"])
    await bench.renames.rename(bench.mount(), "a", "b", is_folder=True)
    assert bench.objects() == {"b/": b""}


async def test_a_rename_to_itself_asks_nothing(bench: Bench) -> None:
    await bench.put(["a/1"])
    await bench.renames.rename(bench.mount(), "a", "a", is_folder=True)
    assert not bench.memory.requests


async def test_what_cannot_be_renamed_is_said_and_nothing_changes(bench: Bench) -> None:
    await bench.put(["a/b/1", "c/2", "f"])
    before = bench.objects()
    with pytest.raises(Invalid, match="below it"):
        await bench.renames.rename(bench.mount(), "a", "a/b", is_folder=True)
    for target in ("c", "a"):
        with pytest.raises(NotEmpty, match="with entries"):
            await bench.renames.rename(bench.mount(), "a/b", target, is_folder=True)
    for is_folder in (True, False):
        with pytest.raises(NotFound, match="nothing"):
            await bench.renames.rename(bench.mount(), "nothing", "new", is_folder=is_folder)
    assert bench.objects() == before
    assert bench.control.renames() == []


async def test_where_the_store_renames_it_is_asked_once_and_no_object_is_kept(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    bench = Bench(tmp_path / "home")
    local = LocalStore(tmp_path / "data")
    await local.put("a/1", b"one")
    before = (await local.head("a/1")).version
    await bench.renames.rename(bench.mount(local), "a", "b", is_folder=True)
    assert (await local.head("b/1")).version == before  # no copy
    assert bench.control.renames() == []
    changes = bench.control._db.total_changes
    assert changes == 2, "that it is under way, until what is written there has moved"
    await bench.renames.rename(bench.mount(local), "b/1", "b/2", is_folder=False)
    assert bench.control._db.total_changes == changes
    await bench.end()
    await local.close()


async def test_what_a_store_cannot_copy_travels_through_here(bench: Bench, kept: KeptAttributes) -> None:
    bench.memory = NeverCopies("s")
    store = AttributedStore(bench.memory, kept)
    big = bytes(range(256)) * 70_000
    await store.put("a/big", big, attributes=Attributes(mode=0o600, mtime_ns=5))
    await store.put("a/empty", b"")
    await bench.renames.rename(bench.mount(store), "a", "b", is_folder=True)
    assert bench.objects() == {"b/big": big, "b/empty": b""}
    meta = await store.head("b/big")
    assert (meta.posix and meta.posix.mode, meta.mtime_ns) == (0o600, 5)


async def test_an_object_that_changes_while_it_travels_travels_again(bench: Bench) -> None:
    class Changing(NeverCopies):
        async def head(self, key: str) -> ObjectMeta:
            meta = await super().head(key)
            if self.requests["head"] == 3:  # when its version has been asked for, and nothing has been read
                await self.put(key, b"changed")
            return meta

    bench.memory = Changing("s")
    await bench.memory.put("a", b"before")
    await bench.renames.rename(bench.mount(bench.memory), "a", "b", is_folder=False)
    assert bench.objects() == {"b": b"changed"}


async def test_attributes_go_along_those_of_folders_that_are_no_objects_too(bench: Bench, kept: KeptAttributes) -> None:
    store = AttributedStore(bench.memory, kept)
    await store.put("a/l", b"../x", attributes=Attributes(mode=stat.S_IFLNK | 0o777, mtime_ns=5))
    await store.put("a/marked/", b"", attributes=Attributes(mode=0o711))
    await store.put("a/d/1", b"x")
    await store.set_attributes("a/d/", Attributes(mode=0o700, mtime_ns=6))
    await kept.set("mem://s", "a/d/1", Attributes(), xattrs={"user.a": b"1"})
    await kept.set("mem://s", "b/d/", Attributes(uid=99))  # of a folder that others have removed
    await bench.renames.rename(bench.mount(store), "a", "b", is_folder=True)
    link = await store.head("b/l")
    assert (link.posix and link.posix.mode, link.mtime_ns) == (stat.S_IFLNK | 0o777, 5)
    found = {key: await kept.of("mem://s", key) for key in ("b/marked/", "b/d/", "b/d/1")}
    assert {key: one and (one.mode, one.uid, one.mtime_ns, dict(one.xattrs)) for key, one in found.items()} == {
        "b/marked/": (0o711, None, None, {}),
        "b/d/": (0o700, None, 6, {}),
        "b/d/1": (None, None, None, {"user.a": b"1"}),
    }
    assert [await kept.of("mem://s", key) for key in ("a/l", "a/marked/", "a/d/", "a/d/1")] == [None] * 4


async def test_folders_of_their_own_are_made_not_copied(tmp_path: Path, kept: KeptAttributes) -> None:
    (tmp_path / "home").mkdir()
    bench = Bench(tmp_path / "home")
    local = LocalStore(tmp_path / "data")
    local.capabilities = Capabilities(folders=True)
    store = AttributedStore(local, kept)
    await store.put("a/empty/", b"", attributes=Attributes(mode=0o700))
    await store.put("a/d/1", b"one")
    await store.set_attributes("a/d", Attributes(mode=0o711))
    await bench.renames.rename(bench.mount(store), "a", "b", is_folder=True)
    assert sorted(str(path.relative_to(tmp_path / "data")) for path in (tmp_path / "data").rglob("*")) == [
        "b", "b/d", "b/d/1", "b/empty",
    ]  # fmt: skip
    for key, mode in (("b/empty", 0o700), ("b/d", 0o711)):
        posix = (await store.stat(key)).posix
        assert posix is not None
        assert posix.mode == mode
    await bench.end()
    await local.close()


# ------------------------------------------------------------------ failures


async def test_a_failure_while_copying_is_undone(bench: Bench) -> None:
    await bench.put(FOLDER)
    before = bench.objects()
    bench.faults(*[None] * 5, DOWN)  # on the second page
    with pytest.raises(Unavailable, match="down"):
        await bench.renames.rename(bench.mount(), "a", "b", is_folder=True)
    assert bench.copies() == 7
    assert bench.objects() == before
    assert bench.control.renames() == []


async def test_an_undo_waits_for_the_copies_that_are_under_way(bench: Bench) -> None:
    await bench.put(FOLDER)
    before = bench.objects()
    gate = asyncio.Event()
    bench.faults(None, DOWN, Hang(gate))
    task = asyncio.create_task(bench.renames.rename(bench.mount(), "a", "b", is_folder=True))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(Unavailable):
        await task
    assert bench.objects() == before


async def test_an_undo_leaves_the_empty_folder_that_was_there(bench: Bench) -> None:
    await bench.put([*FOLDER, "b/"])
    before = bench.objects()
    bench.faults(None, DOWN)
    with pytest.raises(Unavailable):
        await bench.renames.rename(bench.mount(), "a", "b", is_folder=True)
    assert bench.objects() == before


async def test_a_failed_rename_of_a_file_leaves_the_one_that_it_was_to_replace(bench: Bench) -> None:
    await bench.put(["a", "b"])
    before = bench.objects()
    bench.faults(None, None, DOWN)
    with pytest.raises(Unavailable):
        await bench.renames.rename(bench.mount(), "a", "b", is_folder=False)
    assert bench.objects() == before


async def test_an_undo_that_fails_is_done_before_the_next_rename_there(bench: Bench) -> None:
    await bench.put(FOLDER)
    bench.faults(None, DOWN, None, None, *[DOWN] * 4)  # copies of one page, then removals
    with capture_logs() as logs, pytest.raises(Unavailable):
        await bench.renames.rename(bench.mount(), "a", "b", is_folder=True)
    assert [log["event"] for log in logs] == ["rename.not_undone"]
    assert [record.phase for record in bench.control.renames()] == [Phase.UNDOING]
    bench.store.script.clear()
    await bench.end()
    bench.begin()
    await bench.renames.rename(bench.mount(), "a", "b", is_folder=True)
    assert set(bench.objects()) == {f"b/{name}" for name in NAMES}
    assert bench.control.renames() == []


async def test_a_failure_while_sources_are_removed_is_made_good_at_the_next_start(bench: Bench) -> None:
    await bench.put(FOLDER)
    bench.faults(*[None] * len(FOLDER), None, DOWN)
    with pytest.raises(Unavailable):
        await bench.renames.rename(bench.mount(), "a", "b", is_folder=True)
    assert {f"b/{name}" for name in NAMES} < set(bench.objects())
    await bench.end()
    bench.begin()
    await bench.renames.resume([bench.mount()])
    assert set(bench.objects()) == {f"b/{name}" for name in NAMES}
    assert bench.control.renames() == []


async def test_a_rename_that_was_cancelled_is_finished_at_the_next_start(bench: Bench) -> None:
    await bench.put(FOLDER)
    bench.faults(None, Hang(asyncio.Event()))
    task = asyncio.create_task(bench.renames.rename(bench.mount(), "a", "b", is_folder=True))
    await until(lambda: bench.copies() == 3)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await bench.end()
    bench.begin()
    await bench.renames.resume([bench.mount()])
    assert set(bench.objects()) == {f"b/{name}" for name in NAMES}


async def test_a_store_that_is_down_at_the_start_does_not_undo_what_can_wait(bench: Bench) -> None:
    await bench.put(FOLDER)
    bench.control.add_rename("/m", "mem://s", "a/", "b/", is_folder=True, replaces=False)
    await bench.end()
    bench.begin()
    bench.store.pages.appendleft(DOWN)
    with capture_logs() as logs:
        await bench.renames.resume([bench.mount()])
    assert [log["event"] for log in logs] == ["rename.not_finished"]
    await bench.renames.resume([bench.mount()])
    assert set(bench.objects()) == {f"b/{name}" for name in NAMES}


async def test_another_store_at_the_same_path_is_not_touched(bench: Bench) -> None:
    await bench.put(FOLDER)
    before = bench.objects()
    bench.control.add_rename("/m", "mem://another", "a/", "b/", is_folder=True, replaces=False)
    await bench.end()
    bench.begin()
    await bench.renames.resume([bench.mount()])
    assert bench.objects() == before
    assert len(bench.control.renames()) == 1


# ------------------------------------------------------------------ others


async def test_what_others_change_or_add_meanwhile_is_moved_too(bench: Bench) -> None:
    await bench.put(FOLDER)
    gate = asyncio.Event()
    bench.faults(*[None] * 9, Hang(gate))  # nine are copied
    task = asyncio.create_task(bench.renames.rename(bench.mount(), "a", "b", is_folder=True))
    await until(lambda: bench.copies() == 9)
    await bench.memory.put("a/1", b"changed")
    await bench.memory.put("a/0 new", b"added")
    await bench.memory.delete("a/2")
    gate.set()
    await task
    found = bench.objects()
    assert set(found) == {*(f"b/{name}" for name in NAMES), "b/0 new"}  # what has gone since stays where it was moved
    assert (found["b/1"], found["b/0 new"]) == (b"changed", b"added")


async def test_of_two_renames_that_meet_the_second_is_busy(bench: Bench) -> None:
    await bench.put([*FOLDER, "c/1", "x/1"])
    gate = asyncio.Event()
    bench.faults(Hang(gate))
    first = asyncio.create_task(bench.renames.rename(bench.mount(), "a", "b", is_folder=True))
    await until(lambda: bench.memory.requests["list"] == 2)
    for source, target in (("a/d", "z"), ("c", "b/c"), ("c", "a"), ("b", "z")):
        with pytest.raises(Busy, match="another rename"):
            await bench.renames.rename(bench.mount(), source, target, is_folder=True)
    await bench.renames.rename(bench.mount(), "c", "ba", is_folder=True)  # beside it
    gate.set()
    await first
    assert set(bench.objects()) == {*(f"b/{name}" for name in NAMES), "ba/1", "x/1"}
