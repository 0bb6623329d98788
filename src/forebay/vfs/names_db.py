"""The names database: listed folders on disk, so that memory holds a hot part only and a restart finds them again.

SQLite in WAL mode, one file, disposable: a damaged one is thrown away with a warning.  A folder's row says which
store and keys it is of and when the store was asked; its entries lie beside it in blocks (`blocks.py`), which are
written once and never change.  A listing that takes the place of another gets rows of its own; the older ones go
when nobody reads them any more.

What was forgotten must not come back.  A process crash loses nothing that was committed.  A power cut may lose
anything (nothing here is worth an fsync), so after an unclean reboot the database is thrown away.

*Callers*: `names.py`, from one thread at a time.  *Locks*: none.  *On crash*: as above.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog

from forebay.cache.index import connect_alone, is_damage
from forebay.clock import Clock
from forebay.vfs.blocks import Block, Packed, unpack
from forebay.vfs.listing import Stub

log = structlog.get_logger()

SCHEMA_VERSION = 1
AGE_UNKNOWN_S = 1e18  # older than any time to live, but for that of "immutable"
_NUMBERS = 1 << 24  # blocks of one listing at most; ids of listings count above
_SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (
    id INTEGER PRIMARY KEY, path BLOB UNIQUE, place BLOB NOT NULL,
    listed_ns INTEGER NOT NULL, ticks_ns INTEGER NOT NULL, boot TEXT NOT NULL, hidden INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY, first BLOB NOT NULL, last BLOB NOT NULL, entries INTEGER NOT NULL,
    names BLOB NOT NULL, sizes BLOB NOT NULL, times BLOB NOT NULL, versions BLOB NOT NULL, posix BLOB
);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Asked(NamedTuple):
    """When the store was asked, on the two clocks."""

    time_ns: int  # since 1970
    ticks_ns: int  # of the monotonic clock, which goes on from one process to the next until the machine stops

    @classmethod
    def at(cls, clock: Clock, moment: float) -> "Asked":
        """When the monotonic clock showed `moment`."""
        ticks_ns = int(moment * 1e9)
        return cls(clock.time_ns() - (int(clock.monotonic() * 1e9) - ticks_ns), ticks_ns)


class Kept(NamedTuple):
    """A listed folder as it was kept."""

    id: int
    age_s: float  # since the store was asked; never less than it is; AGE_UNKNOWN_S if it cannot be told
    hidden: int
    stubs: list[Stub]


class NamesDb:
    """See the module.  Paths, places and names may hold surrogate escapes: they are kept as bytes."""

    def __init__(self, path: Path, clock: Clock, boot_id: str) -> None:
        """Open or create.

        Args:
            boot_id: tells one boot of the machine from another.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        self._path = path
        self._clock = clock
        self._boot = boot_id
        self._last_id = 0  # ids are not used again while somebody may hold one, not even after damage
        self._held: dict[int, int] = {}  # how many readers each listing has
        self._dead: set[int] = set()  # of those, the ones that are to go
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.throw_away(str(error))

    def _open(self) -> None:
        self._db = connect_alone(self._path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # "not clean" must be on the disk before anything else is
        self._db.executescript(_SCHEMA)
        meta = dict(self._db.execute("SELECT name, value FROM meta"))
        if meta and meta.get("schema") != str(SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"made by another version of Forebay (schema {meta.get('schema')})")
        if meta and meta.get("clean") != "1" and meta.get("boot") != self._boot:
            raise sqlite3.DatabaseError("the machine stopped without warning")
        values = {"schema": str(SCHEMA_VERSION), "boot": self._boot, "clean": "0"}
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA synchronous = OFF")
        (highest,) = self._db.execute("SELECT MAX(id) FROM folders").fetchone()
        self._last_id = max(self._last_id, highest or 0)
        for (left,) in self._db.execute("SELECT id FROM folders WHERE path IS NULL").fetchall():
            self._remove(left)

    def throw_away(self, reason: str) -> None:
        """Begin again with an empty database.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        log.warning("names.thrown_away", path=str(self._path), reason=reason)
        with contextlib.suppress(sqlite3.Error, AttributeError):  # it may not have been opened
            self._db.close()
        discard(self._path)
        self._open()

    def close(self) -> None:
        """Close, and say that all of it is on the disk."""
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("UPDATE meta SET value = '1' WHERE name = 'clean'")
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; what was done at its end outlives this process."""
        self._db.execute("BEGIN")
        dead = self._dead.copy()
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._dead = dead
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back by itself
                self._db.execute("ROLLBACK")
            raise

    def save(self, path: str, place: str, blocks: Iterable[Block], *, asked: Asked, hidden: int) -> int:
        """Keep a folder's listing in place of the one before; its id."""
        self.drop(path)
        self._last_id += 1
        first = self._last_id * _NUMBERS
        rows = ((first + number, *block.pack()) for number, block in enumerate(blocks))
        self._db.executemany("INSERT INTO blocks VALUES (?,?,?,?,?,?,?,?,?)", rows)
        row = self._last_id, _raw(path), _raw(place), *asked, self._boot, hidden
        self._db.execute("INSERT INTO folders VALUES (?,?,?,?,?,?,?)", row)
        return self._last_id

    def find(self, path: str, place: str) -> Kept | None:
        """The listing of a folder, if that is of `place` still."""
        query = "SELECT id, listed_ns, ticks_ns, boot, hidden FROM folders WHERE path = ? AND place = ?"
        found = self._db.execute(query, (_raw(path), _raw(place))).fetchone()
        if found is None:
            return None
        kept_id, listed_ns, ticks_ns, boot, hidden = found
        query = "SELECT first, last, entries FROM blocks WHERE id >= ? AND id < ? ORDER BY id"
        rows = self._db.execute(query, (kept_id * _NUMBERS, (kept_id + 1) * _NUMBERS))
        stubs = [Stub(_text(first), _text(last), entries) for first, last, entries in rows]
        return Kept(kept_id, self._age_s(listed_ns, ticks_ns, boot), hidden, stubs)

    def _age_s(self, listed_ns: int, ticks_ns: int, boot: str) -> float:
        """By the wall clock, and within one boot by the one that nobody sets: whichever says more."""
        age_ns = self._clock.time_ns() - listed_ns
        if age_ns < 0:  # the clock went back
            return AGE_UNKNOWN_S
        return max(age_ns, int(self._clock.monotonic() * 1e9) - ticks_ns if boot == self._boot else 0) / 1e9

    def blocks(self, kept_id: int, start: int, stop: int) -> list[Block]:
        """Blocks of a listing, by their numbers; fewer if they are gone.

        Raises:
            sqlite3.DatabaseError: damaged.
        """
        query = "SELECT * FROM blocks WHERE id >= ? AND id < ? ORDER BY id"
        first = kept_id * _NUMBERS
        rows = self._db.execute(query, (first + start, first + stop))
        try:
            return [unpack(Packed(*row[1:])) for row in rows]
        except ValueError as error:  # and UnicodeError
            raise sqlite3.DatabaseError(f"a block is damaged: {error}") from error

    def drop(self, path: str) -> None:
        """Forget the listing of one folder."""
        found = self._db.execute("SELECT id FROM folders WHERE path = ?", (_raw(path),)).fetchall()
        self._forget(found)

    def forget(self, path: str) -> None:
        """Forget the listings of all folders at or below a path."""
        raw = _raw(path.rstrip("/"))
        query = "SELECT id FROM folders WHERE path = ? OR path >= ? AND path < ?"  # "0" comes right after "/"
        self._forget(self._db.execute(query, (raw or b"/", raw + b"/", raw + b"0")).fetchall())

    def _forget(self, ids: Sequence[tuple[int]]) -> None:
        for (found,) in ids:
            if self._held.get(found):
                self._db.execute("UPDATE folders SET path = NULL WHERE id = ?", (found,))
                self._dead.add(found)
            else:
                self._remove(found)

    def _remove(self, kept_id: int) -> None:
        first = kept_id * _NUMBERS
        self._db.execute("DELETE FROM blocks WHERE id >= ? AND id < ?", (first, first + _NUMBERS))
        self._db.execute("DELETE FROM folders WHERE id = ?", (kept_id,))

    def hold(self, kept_id: int) -> None:
        """Keep a listing's blocks until `let_go`, whatever is forgotten."""
        self._held[kept_id] = self._held.get(kept_id, 0) + 1

    def let_go(self, kept_id: int) -> None:
        """End one `hold`."""
        self._held[kept_id] -= 1
        if not self._held[kept_id]:
            del self._held[kept_id]
            if kept_id in self._dead:
                self._dead.discard(kept_id)
                self._remove(kept_id)


def discard(path: Path) -> None:
    """Remove a names database that nobody has open."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
