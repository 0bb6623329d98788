"""Renames of folders in which files are being written, or wait to be sent: these move along, whatever comes between."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fault.lives import ended
from fault.test_rename_recovery import FILES, MOVED, NoRenames, files_in, one, prepared
from fault.writing_child import RealRig, save
from fault.writing_rig import DOWN, Writing
from forebay.errors import NotFound, StaleVersion, Unavailable
from forebay.stores.local import LocalStore
from forebay.testing.faulty_store import Hang
from forebay.types import Buffer, ObjectMeta
from forebay.vfs.entries import MountOptions

WAITS = b"waits to be sent"
MODES = pytest.mark.parametrize("mode", ["through", "back", "lazy"])
RENAMES = pytest.mark.parametrize("renames", [True, False], ids=["in one step", "copied"])
POINTS = ["rename.recorded", "rename.moved", "draft.moved"]  # where a kill may come if the store renames by itself
COPYING_POINTS = ["rename.copied_one", "rename.copied", "rename.deleted_one"]  # and else these, too
EVERY_POINT = pytest.mark.parametrize(
    ("renames", "point"),
    [(True, point) for point in POINTS] + [(False, point) for point in POINTS + COPYING_POINTS],
)


def rig_of(home: Path, *, renames: bool) -> RealRig:
    return RealRig(home) if renames else NoRenames(home)


@contextlib.asynccontextmanager
async def mounted(home: Path, data: Path, mode: str, *, renames: bool) -> AsyncIterator[RealRig]:
    """A life in which the store is mounted."""
    async with rig_of(home, renames=renames) as rig:
        await rig.fs.mount("/s", f"file://{data}", MountOptions(write_mode=mode))
        rig.fs.start()
        yield rig


def left_by(life: str, folder: Path, *words: object, renames: bool, point: str) -> dict[str, bytes]:
    """What there is after a life that a kill ends at some point, and another one."""
    home, data = prepared(folder)
    child = ended(Path(__file__).stem, life, home, data, renames, *words, failpoint=point)
    assert child.returncode == -signal.SIGKILL, child.stderr
    return asyncio.run(finish(home, data, renames=renames))


def change(name: str, wrap: Callable[..., Awaitable[object]], patch: pytest.MonkeyPatch | None = None) -> None:
    """Have a method of the store done by `wrap(method, ...)`, for good or as long as `patch` says."""
    method = getattr(LocalStore, name)

    async def wrapped(self: LocalStore, *words: Any, **options: Any) -> object:
        return await wrap(partial(method, self), *words, **options)

    (setattr if patch is None else patch.setattr)(LocalStore, name, wrapped)


async def refuse_what_waits(put: Callable[..., Awaitable[object]], key: str, data: Buffer, **options: object) -> object:
    if bytes(data).startswith(WAITS):
        raise Unavailable("the store is down")
    return await put(key, data, **options)


async def finish(home: Path, data: Path, *, renames: bool) -> dict[str, bytes]:
    """Another life, with a store that takes everything; what there is then, by key, in the store and as it is shown."""
    async with rig_of(home, renames=renames) as rig:
        rig.fs.start()
        assert await rig.fs.uploader.drain("/s") == []
        assert rig.fs.uploader.storing.conflicts == []
        async with asyncio.timeout(30):
            while list(rig.fs.drafts) or rig.fs.renames.interrupted:
                await asyncio.sleep(0.001)
        shown = {entry.path for page in [page async for page in rig.fs.walk("/s")] for entry in page}
    found = files_in(data)
    assert shown == {f"/s/{key}" for key in found}
    assert not (data / "a").exists()
    return found


# ------------------------------------------------------------------ files that the store never had, and kill -9


async def rename_with_drafts(home: Path, data: Path, renames: bool, mode: str) -> None:
    """The child's life."""
    change("put", refuse_what_waits)
    async with mounted(home, data, mode, renames=renames) as rig:
        for name in ("1 new", "d/new"):
            await save(rig, f"/s/a/{name}", WAITS + name.encode())
        async with asyncio.timeout(30):
            while not all(draft.record for draft in rig.fs.drafts):
                await asyncio.sleep(0.001)
        await rig.fs.changes.rename("/s/a", "/s/b/c")


@MODES
@EVERY_POINT
def test_files_that_wait_to_be_sent_move_with_their_folder_though_a_kill_comes_between(
    tmp_path: Path, mode: str, renames: bool, point: str
) -> None:
    found = left_by("rename_with_drafts", tmp_path, mode, renames=renames, point=point)
    assert found == MOVED | {f"b/c/{name}": WAITS + name.encode() for name in ("1 new", "d/new")}


# ------------------------------------------------------------------ files that are synced meanwhile


async def sync_meanwhile(home: Path, data: Path, renames: bool, who: str) -> None:
    """The child's life: a file is written and synced by who has it open, or opens it, or puts a whole one there."""
    async with mounted(home, data, "back", renames=renames) as rig:
        entry = await rig.stat_file("/s/a/1")
        opened = await rig.fs.changes.open(entry, truncate=False) if who == "had it open" else None

        async def sync() -> None:
            nonlocal opened
            if who == "puts":
                await rig.fs.write("/s/a/1", one())
                return
            opened = opened or await rig.fs.changes.open(entry, truncate=False)
            opened.draft.content.write(0, WAITS)
            await rig.fs.uploader.flush(opened.draft)

        syncing: list[asyncio.Task[None]] = []

        async def sync_first(method: Callable[..., Awaitable[object]], *words: object, **options: object) -> object:
            if not syncing:
                syncing.append(asyncio.create_task(sync()))
            await asyncio.wait(syncing, timeout=None if who == "had it open" else 0.1)
            return await method(*words, **options)

        for name in ("rename", "copy", "put"):
            change(name, sync_first)
        await rig.fs.changes.rename("/s/a", "/s/b/c")


@pytest.mark.parametrize(
    ("renames", "point"),
    [(True, "rename.moved")] + [(False, point) for point in ["rename.moved", *COPYING_POINTS]],
)
@pytest.mark.parametrize("who", ["had it open", "opens", "puts"])
def test_a_file_that_is_synced_while_its_folder_is_renamed_is_in_conflict_with_nobody_after_a_kill(
    tmp_path: Path, renames: bool, point: str, who: str
) -> None:
    found = left_by("sync_meanwhile", tmp_path, who, renames=renames, point=point)
    written = MOVED | {"b/c/1": WAITS + FILES["1"][len(WAITS) :]}
    assert found == (written if who == "had it open" else MOVED), "who comes meanwhile waits"


# ------------------------------------------------------------------ a store that is down at the next start


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Writing]:
    async with Writing(tmp_path) as rig:
        yield rig


async def broken_off(rig: Writing, source: str, target: str, patch: pytest.MonkeyPatch) -> None:
    """Rename until the copies are there and the sources are to go; then the daemon ends, and the store is down."""
    never, began = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        began.set()
        await never.wait()

    with patch.context() as while_it_hangs:
        while_it_hangs.setattr(rig.memory("s"), "delete", hang)
        renaming = asyncio.create_task(rig.fs.changes.rename(source, target))
        async with asyncio.timeout(30):
            await began.wait()
        renaming.cancel()
        await asyncio.wait({renaming})
        await rig.restart()
    rig.down()
    rig.fs.start()
    await rig.pass_time(5)
    assert rig.fs.renames.interrupted
    rig.up()


async def test_what_waits_where_a_rename_broke_off_is_sent_after_that_is_finished(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "a/1", b"first")
    await rig.put("s", "a/2", b"other")
    await rig.start("back")
    opened = await rig.open("/s/a/1")
    copy = rig.memory("s").copy_version

    async def and_sync(known: ObjectMeta, target: str) -> object:
        copied = await copy(known, target)
        if known.key == "a/1":
            opened.draft.content.write(0, b"FIRST")
            await rig.fs.uploader.flush(opened.draft)
        return copied

    monkeypatch.setattr(rig.memory("s"), "copy_version", and_sync)
    await broken_off(rig, "/s/a", "/s/b", monkeypatch)
    await rig.settled()
    assert {key: await rig.stored(key) for key in rig.memory("s")._objects} == {"b/1": b"FIRST", "b/2": b"other"}
    assert not rig.fs.renames.interrupted
    assert rig.fs.uploader.storing.conflicts == []


async def test_what_was_to_be_replaced_by_a_rename_that_broke_off_is_not_in_conflict_with_it(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "old", b"old")
    await rig.put("s", "new", b"new")
    await rig.start("back")
    rig.down()
    await rig.save("/s/old", b"OLD", truncate=True)
    await rig.pass_time(3)
    rig.up()
    await broken_off(rig, "/s/new", "/s/old", monkeypatch)
    await rig.settled()
    assert {key: await rig.stored(key) for key in rig.memory("s")._objects} == {"old": b"new"}
    assert await rig.read("/s/old") == b"new"
    assert rig.fs.uploader.storing.conflicts == []


# ------------------------------------------------------------------ a rename that fails half way


class Gate:
    """A place where the store waits."""

    def __init__(self) -> None:
        self._came, self._is_open = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        """The store comes there."""
        self._came.set()
        await self._is_open.wait()

    async def came(self) -> None:
        async with asyncio.timeout(30):
            await self._came.wait()

    def open(self) -> None:
        self._is_open.set()

    async def pass_through(self, *tasks: "asyncio.Task[object]") -> list[object]:
        """Let some tasks go as far as they can, then open; what they return or raise."""
        await asyncio.wait(tasks, timeout=0.05)
        self.open()
        async with asyncio.timeout(30):
            return await asyncio.gather(*tasks, return_exceptions=True)


def failing(rig: Writing, patch: pytest.MonkeyPatch) -> Gate:
    """While the sources of a rename go: the last one waits, and is then refused by a store that is down."""
    delete, gate = rig.memory("s").delete, Gate()

    async def refuse_last(key: str) -> None:
        if key.endswith("/2"):
            await gate.wait()
            raise DOWN
        await delete(key)

    patch.setattr(rig.memory("s"), "delete", refuse_last)
    return gate


async def failed_half_way(rig: Writing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rename /s/a to /s/b; it fails when the last source is to go, and the store is up again."""
    with monkeypatch.context() as patch:
        failing(rig, patch).open()
        with pytest.raises(Unavailable):
            await rig.fs.changes.rename("/s/a", "/s/b")


async def check_moved(rig: Writing, **expected: bytes) -> None:
    """The store has that below `b`, and no other file."""
    await rig.settled()
    found = {key: await rig.stored(key) for key in rig.memory("s")._objects if not key.endswith("/")}
    assert found == {f"b/{name[1:]}": data for name, data in expected.items()}
    assert rig.fs.uploader.storing.conflicts == []
    assert not rig.fs.renames.interrupted


@pytest.mark.parametrize("mode", ["through", "back"])
@pytest.mark.parametrize("is_written", [True, False], ids=["written", "closed"])
async def test_a_file_that_is_open_where_a_rename_failed_half_way_is_at_its_end_when_that_is_finished(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, mode: str, is_written: bool
) -> None:
    await rig.put("s", "a/1", b"first")
    await rig.put("s", "a/2", b"other")
    await rig.start(mode)
    opened = await rig.open("/s/a/1")
    await failed_half_way(rig, monkeypatch)
    if is_written:
        opened.draft.content.write(0, b"FIRST")
    else:
        await rig.fs.changes.settle_renames("/s/b")
    await rig.close(opened)
    await check_moved(rig, _1=b"FIRST" if is_written else b"first", _2=b"other")
    assert await rig.read("/s/b/1") == (b"FIRST" if is_written else b"first")


@pytest.mark.parametrize("place", ["/s/a/1", "/s/a"])
async def test_who_renames_what_another_rename_leaves_half_way_finishes_that_first_and_fails_if_it_cannot(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    await rig.put("s", "a/1", b"first")
    await rig.put("s", "a/2", b"other")
    await rig.start("back")
    opened = await rig.open("/s/a/1")
    with monkeypatch.context() as patch:
        gate = failing(rig, patch)
        first = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b"))
        await gate.came()
        failed, refused = await gate.pass_through(first, asyncio.create_task(rig.fs.changes.rename(place, "/s/c")))
    assert isinstance(failed, Unavailable)
    assert isinstance(refused, Unavailable)
    with pytest.raises(NotFound):
        await rig.fs.changes.rename(place, "/s/c")
    opened.close()
    await check_moved(rig, _1=b"first", _2=b"other")


async def test_who_waits_for_the_store_while_a_rename_fails_half_way_is_not_in_conflict_with_it(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "a/1", b"first")
    await rig.put("s", "a/2", b"other")
    await rig.start("through")
    opened = [await rig.open(f"/s/a/{name}") for name in "12"]
    opened[1].draft.content.write(0, b"OTHER")
    sent = asyncio.Event()
    rig.faulty.script.append(Hang(sent))
    second = asyncio.create_task(rig.fs.uploader.flush(opened[1].draft))
    await rig.until(lambda: not rig.faulty.script)
    with monkeypatch.context() as patch:
        gate = failing(rig, patch)
        renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b"))
        await rig.until(opened[0].draft.lock.locked)  # the other one is on its way to the store
        first = asyncio.create_task(rig.fs.uploader.flush(opened[0].draft))
        await asyncio.sleep(0)
        sent.set()
        await gate.came()
        opened[0].draft.content.write(0, b"FIRST")
        failed = (await gate.pass_through(renaming, second))[0]
    assert isinstance(failed, Unavailable)
    await first
    for file in opened:
        await rig.close(file)
    await check_moved(rig, _1=b"FIRST", _2=b"OTHER")


# ------------------------------------------------------------------ who removes and opens meanwhile


def gated(patch: pytest.MonkeyPatch, name: str, *, after: bool, of: object = LocalStore) -> Gate:
    """A method of the store waits before or after it has done its work; of "copy", what copies where both can."""
    if name == "copy" and hasattr(of, "copy_version"):
        name = "copy_version"
    method, gate = getattr(of, name), Gate()

    async def waiting(*words: object, **options: object) -> object:
        done = await method(*words, **options) if after else None
        await gate.wait()
        return done if after else await method(*words, **options)

    patch.setattr(of, name, waiting)
    return gate


STAGES = {
    True: [("rename", False), ("rename", True)],  # of a store that renames in one step
    False: [("copy", False), ("copy", True), ("delete", False)],
}


@pytest.mark.parametrize(
    ("renames", "name", "after"), [(renames, *stage) for renames, stages in STAGES.items() for stage in stages]
)
@pytest.mark.parametrize("what", ["stored", "open", "waits"])
async def test_a_file_that_is_removed_while_its_folder_is_renamed_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool, name: str, after: bool, what: str
) -> None:
    home, data = prepared(tmp_path)
    async with mounted(home, data, "back", renames=renames) as rig:
        file = "new" if what == "waits" else "1"
        with contextlib.ExitStack() as stack:
            if what == "waits":
                patch = stack.enter_context(monkeypatch.context())
                change("put", refuse_what_waits, patch=patch)
                await save(rig, "/s/a/new", WAITS)
            elif what == "open":
                opened = await rig.fs.changes.open(await rig.stat_file("/s/a/1"), truncate=False)
                stack.callback(opened.close)
            gate = gated(monkeypatch, name, after=after)
            renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
            await gate.came()
            removing = asyncio.create_task(rig.fs.changes.unlink(f"/s/a/{file}"))
            renamed, removed = await gate.pass_through(renaming, removing)
        assert renamed is None
        assert removed is None or isinstance(removed, NotFound)
    found = await asyncio.to_thread(lambda: asyncio.run(finish(home, data, renames=renames)))
    is_there = {f"b/c/{file}": found.get(f"b/c/{file}")} if removed is not None else {}
    assert found == {key: content for key, content in MOVED.items() if key != f"b/c/{file}"} | is_there
    assert None not in is_there.values(), "nobody has removed it"


@RENAMES
async def test_a_folder_is_renamed_when_who_removes_a_file_of_it_has_done_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool
) -> None:
    home, data = prepared(tmp_path)
    async with rig_of(home, renames=renames) as rig:
        await rig.fs.mount("/s", f"file://{data}", MountOptions())
        gate = gated(monkeypatch, "delete", after=False)
        removing = asyncio.create_task(rig.fs.changes.unlink("/s/a/1"))
        await gate.came()
        renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
        assert await gate.pass_through(renaming, removing) == [None, None]
        assert files_in(data) == {key: content for key, content in MOVED.items() if key != "b/c/1"}


@RENAMES
async def test_an_empty_folder_that_is_removed_while_the_one_above_is_renamed_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool
) -> None:
    home, data = prepared(tmp_path)
    async with rig_of(home, renames=renames) as rig:
        await rig.fs.mount("/s", f"file://{data}", MountOptions())
        gate = gated(monkeypatch, "rename" if renames else "delete", after=renames)
        renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
        await gate.came()
        removing = asyncio.create_task(rig.fs.rmdir("/s/a/empty"))
        renamed, removed = await gate.pass_through(renaming, removing)
        assert renamed is None
        assert isinstance(removed, NotFound) == (data / "b/c/empty").exists()
        assert not (data / "a").exists()


@RENAMES
@pytest.mark.parametrize("begins", ["before", "meanwhile"])
async def test_who_opens_a_file_for_writing_while_its_folder_is_renamed_writes_it_where_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool, begins: str
) -> None:
    home, data = prepared(tmp_path)
    async with mounted(home, data, "back", renames=renames) as rig:
        entry = await rig.stat_file("/s/a/1")

        async def write() -> None:
            opened = await rig.fs.changes.open(entry, truncate=False)
            try:
                opened.draft.content.write(0, WAITS)
                await rig.fs.uploader.flush(opened.draft)
            finally:
                opened.close()

        if begins == "before":
            gate = gated(monkeypatch, "fetch", after=True, of=rig.fs)
        else:
            gate = gated(monkeypatch, "rename" if renames else "copy", after=False)
        acts = [write(), rig.fs.changes.rename("/s/a", "/s/b/c")]
        first = asyncio.create_task(acts.pop(0 if begins == "before" else 1))
        await gate.came()
        outcomes = await gate.pass_through(first, asyncio.create_task(acts.pop()))
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert all(isinstance(outcome, StaleVersion) for outcome in refused), "the kernel asks again then"
    found = await asyncio.to_thread(lambda: asyncio.run(finish(home, data, renames=renames)))
    assert found == MOVED | ({} if refused else {"b/c/1": WAITS + FILES["1"][len(WAITS) :]})


async def test_a_file_that_is_created_while_its_folder_is_renamed_is_not_made_at_the_old_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, data = prepared(tmp_path)
    async with mounted(home, data, "back", renames=True) as rig:
        lookup, gate = rig.fs.lookup, Gate()

        async def slow(folder: str, name: str, **options: bool) -> object:
            found = await lookup(folder, name, **options)
            if name == "new":
                await gate.wait()
            return found

        monkeypatch.setattr(rig.fs, "lookup", slow)
        creating = asyncio.create_task(rig.fs.changes.create("/s/a/new", None, exclusive=True))
        await gate.came()
        await rig.fs.changes.rename("/s/a", "/s/b/c")
        [refused] = await gate.pass_through(creating)
        assert isinstance(refused, StaleVersion), "the kernel asks again then"
        assert list(rig.fs.drafts) == []
