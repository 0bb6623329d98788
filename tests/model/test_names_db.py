"""The names database against dicts: it tells what was saved last and not forgotten since, or nothing."""

import shutil
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from forebay.clock import FakeClock
from forebay.paths import is_within
from forebay.types import Posix
from forebay.vfs.blocks import FOLDER, NO_TIME, Block, Row, make_block
from forebay.vfs.names_db import AGE_UNKNOWN_S, Asked, NamesDb

PATHS = ("/", "/m", "/m/a", "/m/a/b", "/m/ab", "/m/a0", "/n\udcff")
PLACES = ("s3://bucket\0", "s3://other\0x/")
paths, places = st.sampled_from(PATHS), st.sampled_from(PLACES)
posix = st.sampled_from([None, None, Posix(0o640, 1, 2, "ann", "staff"), Posix(0o600, 0, 0, "root", "root")])
letters = st.characters(exclude_characters="/\0", exclude_categories=["Cs"]) | st.just("\udcff")
names = st.text(letters, min_size=1, max_size=20)
files = st.builds(Row, names, st.integers(0, 1 << 62), st.integers(-1, 1 << 62), st.text("0123abc-", max_size=9), posix)
folders = st.builds(Row, names, st.just(FOLDER), st.sampled_from([NO_TIME, 5]), st.just(""), posix)
listings = st.lists(
    st.lists(st.one_of(files, folders), min_size=1, max_size=6, unique_by=lambda row: row.name), max_size=3
)

Rows = list[list[Row]]


def rows_of(blocks: list[Block]) -> Rows:
    return [list(block.rows()) for block in blocks]


class NamesDbMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.quiet = ExitStack()
        self.quiet.enter_context(capture_logs())
        self.folder = Path(tempfile.mkdtemp(prefix="forebay-model-"))
        self.clock = FakeClock()
        self.known: dict[str, tuple[str, Rows, float, int]] = {}  # place, entries, when the store was asked, hidden
        self.held: dict[int, Rows] = {}
        self.open()

    def open(self, boot: str = "boot") -> None:
        self.db = NamesDb(self.folder / "names.db", self.clock, boot)
        self.held.clear()

    @rule(path=paths, place=places, rows=listings, hidden=st.integers(0, 3), age=st.integers(0, 100))
    def save(self, path: str, place: str, rows: Rows, hidden: int, age: int) -> None:
        blocks = [block for some in rows if (block := make_block(some)) is not None]
        asked = Asked.at(self.clock, self.clock.now_s - age)
        with self.db.transaction():
            self.db.save(path, place, blocks, asked=asked, hidden=hidden)
        self.known[path] = (place, rows, self.clock.now_s - age, hidden)

    @rule(path=paths)
    def drop(self, path: str) -> None:
        with self.db.transaction():
            self.db.drop(path)
        self.known.pop(path, None)

    @rule(path=paths)
    def forget(self, path: str) -> None:
        with self.db.transaction():
            self.db.forget(path)
        self.known = {other: known for other, known in self.known.items() if not is_within(other, path)}

    @rule(path=paths, place=places, rows=listings)
    def save_and_fail(self, path: str, place: str, rows: Rows) -> None:
        blocks = [block for some in rows if (block := make_block(some)) is not None]
        try:
            with self.db.transaction():
                self.db.save(path, place, blocks, asked=Asked.at(self.clock, 0.0), hidden=0)
                raise InterruptedError
        except InterruptedError:
            pass

    @rule(path=paths, place=places)
    def hold(self, path: str, place: str) -> None:
        kept = self.db.find(path, place)
        if kept is not None and kept.id not in self.held:
            self.db.hold(kept.id)
            self.held[kept.id] = self.known[path][1]

    @precondition(lambda self: self.held)
    @rule()
    def let_go(self) -> None:
        kept_id, rows = self.held.popitem()
        assert rows_of(self.db.blocks(kept_id, 0, 99)) == rows
        with self.db.transaction():
            self.db.let_go(kept_id)

    @rule(seconds=st.sampled_from([1.0, 100.0, -1.0, -100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(is_clean=st.booleans(), is_other_boot=st.booleans())
    def restart(self, is_clean: bool, is_other_boot: bool) -> None:
        if is_clean:
            self.db.close()
        else:
            self.db._db.close()
        if is_other_boot:
            with_boot = "boot" if self.db._boot != "boot" else "another boot"
            self.known = self.known if is_clean else {}
            self.open(with_boot)
        else:
            self.open(self.db._boot)

    @rule()
    def damage(self) -> None:
        self.db.close()
        (self.folder / "names.db").write_bytes(b"\1" * 5000)
        self.known.clear()
        self.open(self.db._boot)

    @invariant()
    def it_tells_what_is_known(self) -> None:
        for path in PATHS:
            for place in PLACES:
                kept = self.db.find(path, place)
                known_place, rows, at, hidden = self.known.get(path, ("", [], 0.0, 0))
                assert (kept is not None) == (known_place == place)
                if kept is None:
                    continue
                age_s = self.clock.now_s - at
                assert kept.age_s >= age_s - 1e-6
                assert kept.age_s == AGE_UNKNOWN_S or kept.age_s <= age_s + 1e-6
                assert (kept.age_s == AGE_UNKNOWN_S) == (age_s < 0)
                assert kept.hidden == hidden
                assert [stub.entries for stub in kept.stubs] == [len(some) for some in rows]
                assert rows_of(self.db.blocks(kept.id, 0, len(kept.stubs))) == rows

    @invariant()
    def what_is_held_stays(self) -> None:
        for kept_id, rows in self.held.items():
            assert rows_of(self.db.blocks(kept_id, 0, 99)) == rows

    @invariant()
    def nothing_else_is_left(self) -> None:
        (count,) = self.db._db.execute("SELECT COUNT(*) FROM blocks").fetchone()
        dead = [kept_id for kept_id in self.held if kept_id in self.db._dead]
        known = sum(len(rows) for _, rows, _, _ in self.known.values())
        assert count == known + sum(len(self.held[kept_id]) for kept_id in dead)

    def teardown(self) -> None:
        if hasattr(self, "quiet"):
            self.db.close()
            self.quiet.close()
            shutil.rmtree(self.folder)


TestNamesDb = NamesDbMachine.TestCase
TestNamesDb.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_listing_that_somebody_reads_is_kept_when_the_save_of_another_fails(tmp_path: Path) -> None:
    clock = FakeClock()
    db = NamesDb(tmp_path / "names.db", clock, "boot")
    block = make_block([Row("a", 0, 0, "", None)])
    assert block is not None
    with db.transaction():
        kept_id = db.save("/m", PLACES[0], [block], asked=Asked.at(clock, 0.0), hidden=0)
    db.hold(kept_id)
    with suppress(InterruptedError), db.transaction():
        db.save("/m", PLACES[0], [], asked=Asked.at(clock, 0.0), hidden=0)
        raise InterruptedError
    with db.transaction():
        db.let_go(kept_id)
    kept = db.find("/m", PLACES[0])
    db.close()
    assert kept is not None
    assert (kept.id, len(kept.stubs)) == (kept_id, 1)
