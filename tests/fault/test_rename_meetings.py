"""Who reads a large file that is written, changes attributes or makes a name where a folder is just being renamed.

They meet the rename at each of its stages: what they did is at the new place afterwards, or they are told to look
again, as the kernel does then, and nothing is left or made anew at the old place.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from fault.conftest import BUCKET
from fault.test_folder_renames import STAGES, Gate, check_moved, failed_half_way, gated, mounted
from fault.test_rename_recovery import FILES, prepared
from fault.writing_child import RealRig
from fault.writing_rig import DOWN, MINE, Writing
from forebay.errors import NotFound, StaleVersion, Unavailable
from forebay.stores.memory import MemoryStore
from forebay.stores.s3 import S3Store
from forebay.testing.rig import Rig
from forebay.testing.seaweed import SeaweedS3
from forebay.types import Attributes
from forebay.units import MIB
from forebay.vfs import drafting
from forebay.vfs.drafts import OpenDraft
from forebay.vfs.entries import Mount, MountOptions

LARGE = random.Random("large").randbytes(20 * MIB + 1)
PATCHED = LARGE[:10] + b"patch" + LARGE[15:]
COPYING = [*STAGES[False], ("delete", True)]
MEETINGS = pytest.mark.parametrize(
    ("renames", "name", "after"), [(True, *stage) for stage in STAGES[True]] + [(False, *stage) for stage in COPYING]
)
COPYING_MEETINGS = pytest.mark.parametrize(("name", "after"), COPYING)
MODES = pytest.mark.parametrize("mode", ["through", "back"])
LONG_AGO = 1_234_567_890_000_000_000

_numbers = itertools.count()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Writing]:
    async with Writing(tmp_path) as rig:
        yield rig


async def meet(rig: Rig, gate: Gate, act: Awaitable[object]) -> bool:
    """Rename /s/a to /s/b/c, and act when the store has come to the gate.

    False: who does it found what the path shows after the rename: nothing.
    """
    renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
    await gate.came()
    renamed, acted = await gate.pass_through(renaming, asyncio.ensure_future(act))
    assert renamed is None
    assert not isinstance(acted, BaseException) or isinstance(acted, StaleVersion | NotFound)
    return acted is None


async def filled(rig: Writing, mode: str = "through") -> None:
    """Mount a store in memory that has a folder to be renamed, of which attributes are kept here."""
    for file, content in FILES.items():
        await rig.put("s", f"a/{file}", content)
    await rig.put("s", "a/empty/", b"")
    await rig.put("s", "b/", b"")
    await rig.start(mode)
    await rig.fs.changes.set_attributes("/s/a", Attributes(mode=0o755))


def left(rig: Writing) -> list[str]:
    """What is at the old place."""
    return [key for key in rig.memory("s")._objects if key.startswith("a/")]


# ------------------------------------------------------------------ a large file, only a part of which is here


@pytest.fixture
def patching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "FETCHED_BYTES", MIB)


async def patched(rig: Rig, path: str) -> OpenDraft:
    """A large file, open; a few bytes of it are written."""
    opened = await rig.fs.changes.open(await rig.stat_file(path), truncate=False)
    assert not opened.draft.content.is_whole
    opened.draft.content.write(10, b"patch")
    return opened


@pytest.mark.usefixtures("patching")
@pytest.mark.parametrize("what", ["its folder", "itself"])
@MEETINGS
async def test_who_writes_a_part_of_a_large_file_reads_the_rest_of_it_while_it_is_renamed_and_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool, name: str, after: bool, what: str
) -> None:
    home, data = prepared(tmp_path)
    (data / "a" / "large").write_bytes(LARGE)
    async with mounted(home, data, "back", renames=renames) as rig:
        opened = await patched(rig, "/s/a/large")
        gate = gated(monkeypatch, name, after=after)
        names = ("/s/a", "/s/b/c") if what == "its folder" else ("/s/a/large", "/s/b/moved")
        renaming = asyncio.create_task(rig.fs.changes.rename(*names))
        await gate.came()
        reading = asyncio.create_task(opened.read(8 * MIB, 100))
        assert await gate.pass_through(renaming, reading) == [None, LARGE[8 * MIB :][:100]]
        assert await opened.read(0, 100) == PATCHED[:100]
        assert await opened.read(16 * MIB, 100) == LARGE[16 * MIB :][:100]
        await rig.fs.uploader.flush(opened.draft)
        opened.close()
        assert rig.fs.uploader.storing.conflicts == []
    assert (data / ("b/c/large" if what == "its folder" else "b/moved")).read_bytes() == PATCHED
    assert not (data / "a" / "large").exists()


@pytest.mark.usefixtures("patching")
async def test_a_read_of_a_large_file_that_is_written_goes_on_though_the_file_is_renamed_meanwhile(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.start("through")
    opened = await patched(rig, "/s/a/1")
    await rig.fs.uploader.flush(opened.draft)
    gate = gated(monkeypatch, "get", after=True, of=MemoryStore)
    reading = asyncio.create_task(opened.read(8 * MIB, 100))
    await gate.came()
    await rig.fs.changes.rename("/s/a", "/s/b")
    assert await gate.pass_through(reading) == [LARGE[8 * MIB :][:100]]
    await rig.close(opened)
    await check_moved(rig, _1=PATCHED)


@pytest.mark.usefixtures("patching")
@MODES
@pytest.mark.parametrize("is_moved_first", [True, False], ids=["moved first", "sent first"])
async def test_what_was_not_written_of_a_large_file_is_copied_by_its_store_from_where_a_rename_has_brought_it(
    rig: Writing, mode: str, is_moved_first: bool
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.start(mode)
    opened = await rig.open("/s/a/1")
    if not is_moved_first:
        opened.draft.content.write(9 * MIB, LARGE[9 * MIB :][:5])
    await rig.fs.changes.rename("/s/a", "/s/b")
    opened.draft.content.write(10, b"patch")
    rig.memory("s").requests.clear()
    await rig.close(opened)
    assert rig.memory("s").requests["upload.send"] == 1, "of three parts two are copied"
    await check_moved(rig, _1=PATCHED)


@pytest.mark.usefixtures("patching")
@MODES
async def test_a_part_of_a_large_file_that_is_written_where_a_rename_failed_half_way_is_at_its_end(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.put("s", "a/2", b"other")
    await rig.start(mode)
    opened = await rig.open("/s/a/1")
    await failed_half_way(rig, monkeypatch)
    opened.draft.content.write(10, b"patch")
    await rig.close(opened)
    await check_moved(rig, _1=PATCHED, _2=b"other")


@pytest.mark.usefixtures("patching")
async def test_a_large_file_that_others_cut_where_a_rename_failed_half_way_is_not_taken_for_what_was_open(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.put("s", "a/1", LARGE)
    await rig.put("s", "a/2", b"other")
    await rig.start("through")
    opened = await patched(rig, "/s/a/1")
    await failed_half_way(rig, monkeypatch)
    opened.draft.content.write(10, b"PATCH")
    await rig.put("s", "b/1", b"theirs")
    with pytest.raises(StaleVersion):
        await rig.close(opened)
    assert await rig.stored("b/1") == b"theirs"
    assert len(rig.fs.uploader.storing.conflicts) == 1


# ------------------------------------------------------------------ attributes


WANTED: dict[str, tuple[str, Attributes]] = {
    "chmod": ("/1", Attributes(mode=0o640)),
    "chown": ("/1", Attributes(uid=4711, gid=4712)),
    "utimens": ("/1", Attributes(mtime_ns=LONG_AGO)),
    "chmod of a folder in it": ("/d", Attributes(mode=0o750)),
    "chmod of it itself": ("", Attributes(mode=0o750)),
    "setxattr": ("/1", Attributes()),
}
ACTS = pytest.mark.parametrize("act", WANTED)


async def change(rig: Rig, act: str) -> Awaitable[None]:
    """Somebody has looked up what is at a path, and now changes attributes of that."""
    name, wanted = WANTED[act]
    entry = await rig.fs.stat(f"/s/a{name}")

    async def changing() -> None:
        if act == "setxattr":
            await rig.fs.changes.set_xattr(entry, "user.x", b"value")
        else:
            await rig.fs.changes.set_attributes(entry.path, wanted)

    return changing()


async def is_changed(rig: Rig, act: str, folder: str = "/s/b/c") -> bool:
    """Is it so at the new place, when all is asked anew?"""
    name, wanted = WANTED[act]
    rig.fs.metadata.forget("/s")
    entry = await rig.fs.stat(folder + name)
    if act == "setxattr":
        return await rig.fs.changes.xattrs(entry) == {"user.x": b"value"}
    if act == "utimens":
        return entry.mtime_ns == LONG_AGO
    posix = entry.posix or MINE
    return posix[1:3] == (wanted.uid, wanted.gid) if act == "chown" else posix.mode & 0o777 == wanted.mode


@ACTS
@COPYING_MEETINGS
async def test_attributes_that_are_kept_here_and_changed_while_a_folder_is_renamed_are_at_its_new_place(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, name: str, after: bool, act: str
) -> None:
    await filled(rig)
    changing = await change(rig, act)
    gate = gated(monkeypatch, name, after=after, of=MemoryStore)
    assert await meet(rig, gate, changing) == await is_changed(rig, act)
    assert left(rig) == []


@pytest.mark.parametrize("act", [act for act in WANTED if act != "chown"])
@MEETINGS
async def test_attributes_that_a_file_system_keeps_and_are_changed_while_a_folder_is_renamed_are_at_its_new_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool, name: str, after: bool, act: str
) -> None:
    home, data = prepared(tmp_path)
    async with mounted(home, data, "through", renames=renames) as rig:
        changing = await change(rig, act)
        gate = gated(monkeypatch, name, after=after)
        assert await meet(rig, gate, changing) == await is_changed(rig, act)
        assert not (data / "a").exists()


async def mount_objects(rig: Rig, seaweed: SeaweedS3, *, keeps_attributes: bool) -> Mount:
    """Mount objects of a real server, which keep their attributes themselves or not."""
    words = {"access_key": seaweed.access_key, "secret_key": seaweed.secret_key, "endpoint": seaweed.endpoint}
    options = tuple({**words, "s3.attributes": str(keeps_attributes).lower()}.items())
    mount = await rig.fs.mount("/s", f"s3://{BUCKET}/meetings-{next(_numbers)}/", MountOptions(options=options))
    for key in ("a/1", "a/d/2", "b/"):
        await mount.store.put(mount.prefix + key, key.encode())
    return mount


async def refuse(*_: object) -> None:
    raise DOWN


@pytest.mark.parametrize("kept_in", ["the object", "Forebay"])
@ACTS
@COPYING_MEETINGS
async def test_attributes_of_objects_that_are_changed_while_a_folder_is_renamed_are_at_its_new_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seaweed: SeaweedS3,
    name: str,
    after: bool,
    act: str,
    kept_in: str,
) -> None:
    async with RealRig(tmp_path) as rig:
        mount = await mount_objects(rig, seaweed, keeps_attributes=kept_in == "the object")
        changing = await change(rig, act)
        gate = gated(monkeypatch, name, after=after, of=S3Store)
        assert await meet(rig, gate, changing) == await is_changed(rig, act)
        pages = [page async for page in mount.store.list(f"{mount.prefix}a/", recursive=True)]
        assert [meta.key for page in pages for meta in page.objects] == []


@pytest.mark.parametrize("breaks_off", [False, True], ids=["at once", "at the next try"])
async def test_extended_attributes_of_objects_that_keep_their_modes_themselves_go_along_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seaweed: SeaweedS3, breaks_off: bool
) -> None:
    async with RealRig(tmp_path) as rig:
        await mount_objects(rig, seaweed, keeps_attributes=True)
        await (await change(rig, "setxattr"))
        if breaks_off:
            with monkeypatch.context() as patch:
                patch.setattr(S3Store, "delete", refuse)
                with pytest.raises(Unavailable):
                    await rig.fs.changes.rename("/s/a", "/s/b/c")
            assert await rig.fs.changes.settle_renames("/s/a")
        else:
            await rig.fs.changes.rename("/s/a", "/s/b/c")
        assert await is_changed(rig, "setxattr")


@ACTS
async def test_a_folder_is_renamed_when_who_changes_attributes_of_what_is_in_it_has_done_so(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    await filled(rig)
    keep, gate = rig.fs.kept.set, Gate()

    async def waiting(*words: object, **options: object) -> object:
        await gate.wait()
        return await keep(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(rig.fs.kept, "set", waiting)
    changing = asyncio.ensure_future(await change(rig, act))
    await gate.came()
    renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
    assert await gate.pass_through(renaming, changing) == [None, None]
    assert await is_changed(rig, act)
    assert left(rig) == []


async def test_a_file_is_renamed_when_who_changes_its_attributes_has_done_so_and_not_in_between(
    rig: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(rig)
    changing = await change(rig, "chmod")
    gate = gated(monkeypatch, "delete", after=False, of=MemoryStore)
    renaming = asyncio.create_task(rig.fs.changes.rename("/s/a/1", "/s/b/1"))
    await gate.came()
    renamed, changed = await gate.pass_through(renaming, asyncio.ensure_future(changing))
    assert renamed is None
    assert isinstance(changed, StaleVersion) or await is_changed(rig, "chmod", "/s/b")


# ------------------------------------------------------------------ new names


async def make_file(rig: Rig, path: str) -> None:
    """As mknod(2) does."""
    opened = await rig.fs.changes.create(path, MINE, exclusive=True)
    try:
        await rig.fs.uploader.flush(opened.draft)
    finally:
        opened.close()


async def make_link(rig: Rig, path: str) -> None:
    await rig.fs.changes.symlink(path, "target", MINE)


async def make_folder(rig: Rig, path: str) -> None:
    """As mkdir(2) does."""
    await rig.fs.changes.mkdir(path, Attributes(mode=0o700))


Make = Callable[[Rig, str], Awaitable[None]]
MAKES: list[Make] = [make_file, make_link, make_folder]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("folder", ["", "/d", "/empty"])
@MODES
@COPYING_MEETINGS
async def test_a_name_that_is_made_while_a_folder_above_is_renamed_does_not_bring_the_old_place_back(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, name: str, after: bool, mode: str, folder: str, make: Make
) -> None:
    await filled(rig, mode)
    gate = gated(monkeypatch, name, after=after, of=MemoryStore)
    was_made = await meet(rig, gate, make(rig, f"/s/a{folder}/new"))
    await rig.settled()
    assert left(rig) == []
    rig.fs.metadata.forget("/s")
    assert ("new" in await rig.names(f"/s/b/c{folder}")) == was_made


@MEETINGS
async def test_a_folder_of_a_file_system_that_is_made_while_one_above_is_renamed_does_not_bring_that_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: bool, name: str, after: bool
) -> None:
    home, data = prepared(tmp_path)
    async with mounted(home, data, "through", renames=renames) as rig:
        gate = gated(monkeypatch, name, after=after)
        assert await meet(rig, gate, make_folder(rig, "/s/a/d/new")) == (data / "b/c/d/new").exists()
        assert not (data / "a").exists()


@pytest.mark.parametrize("parents", [False, True])
@COPYING_MEETINGS
async def test_who_makes_a_folder_by_its_path_while_one_above_is_renamed_finds_what_the_path_shows_then(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, name: str, after: bool, parents: bool
) -> None:
    await filled(rig)
    gate = gated(monkeypatch, name, after=after, of=MemoryStore)
    renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
    await gate.came()
    making = asyncio.create_task(rig.fs.mkdir("/s/a/d/new", parents=parents))
    renamed, made = await gate.pass_through(renaming, making)
    assert renamed is None
    if parents:
        assert made is None
        assert left(rig) == ["a/", "a/d/", "a/d/new/"]
    else:
        assert isinstance(made, NotFound)
        assert left(rig) == []


@pytest.mark.parametrize("makes", [True, False], ids=["makes", "removes"])
async def test_a_folder_is_renamed_when_who_makes_or_removes_one_in_it_has_done_so(
    rig: Writing, monkeypatch: pytest.MonkeyPatch, makes: bool
) -> None:
    await filled(rig)
    gate = gated(monkeypatch, "put" if makes else "delete", after=False, of=MemoryStore)
    acting = asyncio.create_task(make_folder(rig, "/s/a/d/new") if makes else rig.fs.rmdir("/s/a/empty"))
    await gate.came()
    renaming = asyncio.create_task(rig.fs.changes.rename("/s/a", "/s/b/c"))
    assert await gate.pass_through(renaming, acting) == [None, None]
    assert left(rig) == []
    assert ("new" in await rig.names("/s/b/c/d")) == makes
    assert ("empty" in await rig.names("/s/b/c")) == makes
