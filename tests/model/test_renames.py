"""Renames through failures, lost answers, crashes and others' writes: every object is at one place, and whole."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from forebay.clock import FakeClock
from forebay.config.settings import Settings
from forebay.errors import FsError, Unavailable
from forebay.stores.memory import MemoryStore
from forebay.types import Buffer, ObjectMeta
from forebay.vfs.control import ControlDb, Phase
from forebay.vfs.entries import Mount, MountOptions
from forebay.vfs.metadata import Metadata
from forebay.vfs.renames import PASSES_MAX, Renames

CHANGES = ("put", "copy", "delete")
SAFE_TO_WRITE = {Phase.COPYING: ("copy", "list", "head"), Phase.COPIED: ("list", "head")}
"""Requests before which others may write and be noticed: not between the last look at an object and its removal."""

names = st.sampled_from(("", "1", "2", "d/", "d/3", "d/4", "d/e/5", "f/6", "\udcff", "g//7"))
events = st.sampled_from(["well"] * 12 + ["fail", "fail", "lose", "crash", "write", "write"])
scripts = st.lists(events, max_size=60)

Tree = dict[str, bytes]


class Wild(MemoryStore):
    """A store where each request meets the next event of a script."""

    def __init__(self, script: Iterator[str], case: "Case") -> None:
        super().__init__("s", page_keys=3)
        self.script = script
        self.case = case
        self.has_crashed = asyncio.Event()

    async def _request(self, method: str) -> None:
        await super()._request(method)
        if self.has_crashed.is_set():
            await asyncio.Event().wait()  # whoever asks belongs to a life that is over
        self.case.check_nothing_is_lost(self)
        event = next(self.script, "well")
        if event == "crash":
            self.has_crashed.set()
            await asyncio.Event().wait()
        if event == "write":
            self.case.others_write(self, method)
        if event == "fail" or (event == "lose" and method not in CHANGES):
            raise Unavailable(f"{method} failed")
        self.is_lost = event == "lose"

    def _answer(self) -> None:
        if self.is_lost:
            self.is_lost = False
            raise Unavailable("the answer was lost")

    async def put(self, key: str, data: Buffer, **_: object) -> ObjectMeta:
        await self._request("put")
        meta = self.keep(key, bytes(memoryview(data)))
        self._answer()
        return meta

    async def copy(self, source: str, target: str) -> ObjectMeta:
        meta = await super().copy(source, target)
        self._answer()
        return meta

    async def copy_version(self, known: ObjectMeta, target: str) -> ObjectMeta:
        if not self.case.compares_versions:
            return await self.copy(known.key, target)
        meta = await super().copy_version(known, target)
        self._answer()
        return meta

    async def delete(self, key: str) -> None:
        await super().delete(key)
        self._answer()

    def reborn(self, script: Iterator[str]) -> "Wild":
        """The same objects, for a later life."""
        other = Wild(script, self.case)
        other._objects, other._order, other._puts = self._objects, self._order, self._puts
        return other

    def tree(self) -> Tree:
        return {key: found.data for key, found in self._objects.items()}


class Case:
    """One rename, in as many lives as it takes."""

    def __init__(
        self, tree: Tree, replaced: bytes | None, *, is_folder: bool, believed: str, compares_versions: bool
    ) -> None:
        self.is_folder = is_folder
        self.believed = believed
        self.compares_versions = compares_versions  # some servers copy what is there
        self.source, self.target = ("a/", "b/") if is_folder else ("a", "b")
        self.latest = tree  # by name below the source, as its last writer left it
        self.replaced = replaced
        self.writes = 0
        self.phase: Phase | None = None
        self.control: ControlDb
        self.abandoned: list[asyncio.Future[Any]] = []
        self.metadatas: list[Metadata] = []

    def check_nothing_is_lost(self, store: Wild) -> None:
        records = self.control.renames()
        self.phase = records[0].phase if records else None
        for name, data in self.latest.items():
            found = [store._objects.get(place + name) for place in (self.source, self.target)]
            assert any(one is not None and one.data == data for one in found), name

    def others_write(self, store: Wild, method: str) -> None:
        if self.phase is None or method not in SAFE_TO_WRITE.get(self.phase, ()):
            return
        self.writes += 1
        name = sorted(self.latest)[self.writes % len(self.latest)] + (
            "new" if self.is_folder and self.writes % 3 else ""
        )
        self.latest[name] = b"%d" % self.writes
        store.keep(self.source + name, self.latest[name])

    async def run(self, folder: Path, lives: list[list[str]]) -> None:
        store = Wild(iter(()), self)
        for name, data in self.latest.items():
            store.keep(self.source + name, data)
        if self.replaced is not None:
            store.keep(self.target, self.replaced)
        beside = {key: b"beside" for key in ("a0", "ab/1", "b0", "c/a/1")}
        for key, data in beside.items():
            store.keep(key, data)
        has_returned = False
        for number, script in enumerate([*lives, []]):
            store = store.reborn(iter(script))
            has_returned |= await self.live(store, folder, number)
        for metadata in self.metadatas:
            await metadata.close()
        assert self.control.renames() == []
        self.control.close()
        self.check_outcome(store.tree(), beside, has_returned=has_returned)

    def check_outcome(self, found: Tree, beside: Tree, *, has_returned: bool) -> None:
        before = {} if self.replaced is None else {self.target: self.replaced}
        sources = {self.source + name: data for name, data in self.latest.items()}
        targets = {self.target + name: data for name, data in self.latest.items()}
        if self.source + min(self.latest) not in found:  # all or nothing
            assert found == {**before, **beside, **targets}
        elif self.writes < PASSES_MAX:
            assert not has_returned
            # What was to be replaced may have been, if the answer was lost.
            over = {key: data for key, data in found.items() if key == self.target and key in before}
            assert found == {**sources, **beside, **before, **over}

    def known(self, store: Wild) -> ObjectMeta | None:
        """What the first life believes of a file."""
        if self.is_folder or self.believed == "nothing":
            return None
        meta = store._find(self.source).meta
        return meta if self.believed == "what is there" else meta._replace(version="older")

    async def live(self, store: Wild, folder: Path, number: int) -> bool:
        """One life, to its end or its crash; did the rename succeed?"""
        path = folder / str(number) / "control.db"
        path.parent.mkdir()
        if number:
            for file in (folder / str(number - 1)).glob("control.db*"):
                if not file.name.endswith("-shm"):
                    shutil.copy(file, path.parent)  # as after kill -9
            self.control.close()
        self.control = ControlDb(path)
        metadata = Metadata(Settings(home=path.parent), FakeClock())
        self.metadatas.append(metadata)
        renames = Renames(self.control, metadata)
        mount = Mount(path="/m", url="mem://s", store=store, prefix="", settings=MountOptions(), ttl_s=60.0)
        life: asyncio.Future[Any]
        if number:
            life = asyncio.ensure_future(renames.resume([mount]))
        else:
            known = self.known(store)
            life = asyncio.ensure_future(renames.rename(mount, "a", "b", is_folder=self.is_folder, known=known))
        crash = asyncio.ensure_future(store.has_crashed.wait())
        await asyncio.wait([life, crash], return_when=asyncio.FIRST_COMPLETED)
        crash.cancel()
        if not life.done():
            self.abandoned.append(life)
            return False
        try:
            await life
        except FsError:
            return False
        return number == 0


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(names, st.binary(max_size=3), min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["nothing", "what is there", "what was there"]),
    st.booleans(),
    st.lists(scripts, min_size=1, max_size=3),
)
def test_every_object_is_at_one_place_and_whole(
    tree: Tree, is_folder: bool, replaces: bool, believed: str, compares_versions: bool, lives: list[list[str]]
) -> None:
    if not is_folder:
        tree = {"": b"content"}
    replaced = b"old" if replaces else None
    case = Case(tree, replaced, is_folder=is_folder, believed=believed, compares_versions=compares_versions)
    folder = Path(tempfile.mkdtemp(prefix="forebay-model-"))
    with capture_logs():
        asyncio.run(case.run(folder, lives))
    shutil.rmtree(folder)
