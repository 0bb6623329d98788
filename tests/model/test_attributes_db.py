"""The attributes database against a dict, through restarts and kills."""

import shutil
import stat
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forebay.types import Attributes
from forebay.vfs.attributes_db import AttributesDb, Kept

LOCATIONS = ("s3://bucket", "mem://\udcff")
KEYS = ("a", "a/", "a/b", "a/b/", "a/b/\udcff", "a/bc", "a0", "ab/", "b", "b/", "b/b", "c/d/")
locations, keys = st.sampled_from(LOCATIONS), st.sampled_from(KEYS)
folders = st.sampled_from([key for key in KEYS if key.endswith("/")])
modes = st.none() | st.integers(0, 0o7777) | st.just(stat.S_IFLNK | 0o777)
numbers = st.none() | st.integers(0, (1 << 32) - 1)
times = st.none() | st.integers(-(1 << 62), 1 << 62)
attributes = st.builds(Attributes, modes, numbers, numbers, times)
versions = st.sampled_from(["1", "2", "3"])
xattrs = st.dictionaries(st.sampled_from(["user.a", "user.\udcff"]), st.none() | st.binary(max_size=3), max_size=2)

Known = dict[tuple[str, str], Kept]


class AttributesDbMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-model-"))
        self.known: Known = {}
        self.lives = 0
        self.db = AttributesDb(self.folder / "0.db")

    def know(self, location: str, key: str, kept: Kept) -> None:
        self.known.pop((location, key), None)
        if kept != Kept():
            self.known[location, key] = kept

    @rule(location=locations, key=keys, asked=attributes, version=versions, xattrs=xattrs)
    def amend(self, location: str, key: str, asked: Attributes, version: str, xattrs: dict[str, bytes | None]) -> None:
        version = "" if key.endswith("/") else version
        with self.db.transaction():
            kept = self.db.amend(location, key, asked, version, xattrs)
        before = self.known.get((location, key), Kept())
        if before.version != version:
            before = Kept() if before.is_link else before._replace(mtime_ns=None)
        told = [old if new is None else new for old, new in zip(before[:4], asked, strict=True)]
        assert list(kept[:4]) == told
        assert kept.version == (version if kept.mtime_ns is not None or kept.is_link else "")
        assert dict(kept.xattrs) == {
            name: value for name, value in {**before.xattrs, **xattrs}.items() if value is not None
        }
        self.know(location, key, kept)

    @rule(location=locations, source=keys, to=keys, source_version=versions, version=versions)
    def copy(self, location: str, source: str, to: str, source_version: str, version: str) -> None:
        if source == to:
            return
        with self.db.transaction():
            kept = self.db.copy(location, source, to, source_version, version)
        self.know(location, to, self.known.get((location, source), Kept()).carried(source_version, version))
        assert self.known.get((location, to), Kept()) == kept

    @rule(location=locations, source=keys, to=keys)
    def move(self, location: str, source: str, to: str) -> None:
        if source == to:
            return
        with self.db.transaction():
            self.db.move(location, source, to)
        self.know(location, to, self.known.pop((location, source), Kept()))

    @rule(location=locations, source=folders, to=folders)
    def move_below(self, location: str, source: str, to: str) -> None:
        if source.startswith(to) or to.startswith(source):
            return
        with self.db.transaction():
            self.db.move_below(location, source, to)
        moved = [place for place in self.known if place[0] == location and place[1].startswith(source)]
        for place in moved:
            self.known.setdefault((location, to + place[1][len(source) :]), self.known[place])
            del self.known[place]

    @rule(location=locations, key=keys)
    def forget(self, location: str, key: str) -> None:
        with self.db.transaction():
            self.db.forget(location, key)
        self.known.pop((location, key), None)

    @rule(location=locations, prefix=folders)
    def forget_below(self, location: str, prefix: str) -> None:
        with self.db.transaction():
            self.db.forget_below(location, prefix)
        gone = [place for place in self.known if place[0] == location and place[1].startswith(prefix)]
        for place in gone:
            del self.known[place]

    @rule()
    def fail(self) -> None:
        try:
            with self.db.transaction():
                for location in LOCATIONS:
                    for folder in KEYS:
                        self.db.keep(location, folder, Kept(uid=77))
                raise InterruptedError
        except InterruptedError:
            pass

    @rule()
    def restart(self) -> None:
        self.db.close()
        self.db = AttributesDb(self.folder / f"{self.lives}.db")

    @rule()
    def be_killed(self) -> None:
        """Go on with the files as they are now, as after kill -9."""
        self.lives += 1
        for file in self.folder.glob(f"{self.lives - 1}.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, self.folder / file.name.replace(f"{self.lives - 1}.db", f"{self.lives}.db"))
        self.db.close()
        self.db = AttributesDb(self.folder / f"{self.lives}.db")

    @invariant()
    def tells_all_that_is_kept_and_nothing_else(self) -> None:
        assert set(self.db.locations()) == {location for location, _ in self.known}
        for location in LOCATIONS:
            expected = {key: kept for (place, key), kept in self.known.items() if place == location}
            asked = [*KEYS, *(key for key in expected if key not in KEYS)]
            for key in asked:
                assert self.db.of(location, key) == expected.get(key)
            without = {key: kept._replace(xattrs={}) for key, kept in expected.items()}
            assert self.db.find(location, asked) == without

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()
            shutil.rmtree(self.folder)


TestAttributesDb = AttributesDbMachine.TestCase
TestAttributesDb.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
