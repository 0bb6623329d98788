"""The disposable index of one cache folder: which file holds which version, and which pages of it are present.

SQLite in WAL mode, written behind by the cache; nothing here is worth an fsync.  A damaged index is thrown away
and the folder starts empty.  After a process crash the map as last saved is right (a page is saved only after its
bytes reached the kernel).  After an unclean reboot (the boot id changed, no clean mark) bytes may be missing under
a saved map: then every row loses its trust, and pages are checked against their checksums before they are served.

*Callers*: the cache, on the loop for reads and in its disk pool for writes.  *Locks*: one connection each way;
SQLite's own.  *On crash*: as above.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import structlog

log = structlog.get_logger()

SCHEMA_VERSION = 1
SAVE_ROWS = 256  # in one transaction, about 3 ms
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4): one value per boot

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY,
    location TEXT NOT NULL, key BLOB NOT NULL, version TEXT NOT NULL,
    size INTEGER NOT NULL, mount TEXT NOT NULL, folder BLOB NOT NULL,
    pages BLOB NOT NULL, sums BLOB NOT NULL, resident INTEGER NOT NULL,
    used_at INTEGER NOT NULL, trusted INTEGER NOT NULL,
    UNIQUE (location, key, version)
);
CREATE INDEX IF NOT EXISTS files_by_use ON files (mount, folder, used_at);
CREATE TABLE IF NOT EXISTS datasets (
    mount TEXT NOT NULL, folder BLOB NOT NULL, idle_s REAL NOT NULL, PRIMARY KEY (mount, folder)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Row(NamedTuple):
    """One cached version of one object."""

    id: int  # names the cache file
    location: str
    key: str
    version: str
    size: int  # bytes of the object
    mount: str
    folder: str
    pages: bytes  # residency mask, little endian
    sums: bytes  # xxh3-64 of each page, 8 bytes each, native order; absent pages hold anything
    resident: int  # bytes present
    used_at: int  # seconds since 1970 of the last open, coarse
    trusted: bool  # False: verify the pages before serving them


class CacheIndex:
    """The index of one cache folder.  Keys and folder names are stored as bytes: any name a store has survives."""

    def __init__(self, path: Path, boot_id: str) -> None:
        """Open or create.

        Raises:
            sqlite3.Error: the disk refuses, such as when it is full.
        """
        self._path = path
        self._dead: set[int] = set()  # forgotten, and until the last `save` not deleted: no query tells of them
        self._deleted: list[int] = []  # of these, the ones that the last `save` has deleted
        self._write_lock = threading.Lock()
        try:
            self._open(boot_id)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            log.warning("index.thrown_away", path=str(path), reason=str(error))
            self._throw_away()
            self._open(boot_id)

    def _open(self, boot_id: str) -> None:
        self._reader = _connect(self._path)
        self._writer = _connect(self._path)
        self._reader.executescript(_SCHEMA)
        meta = dict(self._reader.execute("SELECT name, value FROM meta"))
        if meta and meta.get("schema") != str(SCHEMA_VERSION):
            raise _OtherSchema(f"made by another version of Forebay (schema {meta.get('schema')})")
        self.is_fresh = not meta
        """No row is known: files that lie in the folder are of an index that is lost."""
        self.session = int(meta.get("session", "0")) + 1
        has_crashed = meta.get("clean") != "1" and meta.get("boot_id", boot_id) != boot_id
        if has_crashed and self._reader.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise _OtherSchema("the machine stopped without warning and left it damaged")
        self._begin_session(boot_id, has_crashed=has_crashed)

    def _begin_session(self, boot_id: str, *, has_crashed: bool) -> None:
        values = {"schema": str(SCHEMA_VERSION), "session": str(self.session), "boot_id": boot_id, "clean": "0"}
        self._writer.execute("PRAGMA synchronous = FULL")  # "not clean" must be on the disk before any new row is
        with self._writer:
            if has_crashed:
                self._writer.execute("UPDATE files SET trusted = 0")
                log.warning("index.trust_lost", path=str(self._path), reason="the machine stopped without warning")
            self._writer.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())
        self._writer.execute("PRAGMA synchronous = OFF")

    def _throw_away(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            if is_damage(error):  # the next start begins with an empty one; until then nothing is found
                log.warning("index.thrown_away", path=str(self._path), reason=str(error))
                self._throw_away()
            else:
                log.warning("index.not_read", path=str(self._path), reason=str(error))
            return []

    def versions(self, location: str, key: str) -> list[Row]:
        """Every row of one object."""
        return self.find(location, [key])

    def find(self, location: str, keys: Sequence[str]) -> list[Row]:
        """Every row of some objects, at most 1,000."""
        marks = ",".join("?" * len(keys))
        query = f"SELECT * FROM files WHERE location = ? AND key IN ({marks})"
        rows = self._select(query, location, *map(_blob, keys))
        return [_row(found) for found in rows if found[0] not in self._dead]

    def oldest(self, mount: str, folder: str, limit: int, offset: int = 0) -> list[Row]:
        """Rows of one data set, least recently used first, those forgotten since the last `save` included."""
        query = "SELECT * FROM files WHERE mount = ? AND folder = ? ORDER BY used_at, id LIMIT ? OFFSET ?"
        return [_row(found) for found in self._select(query, mount, _blob(folder), limit, offset)]

    def oldest_ids(self, mount: str, folder: str) -> list[int]:
        """Ids of all files of one data set, least recently used first."""
        query = "SELECT id FROM files WHERE mount = ? AND folder = ? ORDER BY used_at, id"
        return [found for (found,) in self._select(query, mount, _blob(folder)) if found not in self._dead]

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """Rows by id, at most 1,000."""
        found = self._select(f"SELECT * FROM files WHERE id IN ({','.join('?' * len(ids))})", *ids)
        return [_row(row) for row in found if row[0] not in self._dead]

    def keys(self, mount: str, folder: str, *, after_id: int, limit: int) -> list[tuple[int, str, str]]:
        """Id, location and key of files of one data set, from an id on, by id; those forgotten included."""
        # By the table itself ("+" forbids the other index): else each call would sort the data set anew.
        query = "SELECT id, location, key FROM files WHERE id > ? AND +mount = ? AND +folder = ? ORDER BY id LIMIT ?"
        found = self._select(query, after_id, mount, _blob(folder), limit)
        return [(file_id, location, _name(key)) for file_id, location, key in found]

    def below(self, location: str, prefix: str, after_id: int, limit: int) -> list[Row]:
        """Rows whose key is `prefix` or starts with it ("" means all of the location), from an id on, by id.

        Those forgotten since the last `save` are included.
        """
        start = _blob(prefix)
        query = "SELECT * FROM files WHERE id > ? AND location = ? AND substr(key, 1, ?) = ? ORDER BY id LIMIT ?"
        return [_row(found) for found in self._select(query, after_id, location, len(start), start, limit)]

    def usage(self) -> list[tuple[str, str, int, int]]:
        """Mount, folder, resident bytes and file count of each data set, as last saved."""
        rows = self._select("SELECT mount, folder, SUM(resident), COUNT(*) FROM files GROUP BY mount, folder")
        return [(mount, _name(folder), size, count) for mount, folder, size, count in rows]

    def idle_times(self) -> dict[tuple[str, str], float]:
        """Seconds since the last read of each data set, as last saved."""
        return {(m, _name(f)): idle for m, f, idle in self._select("SELECT * FROM datasets")}

    def ids(self) -> set[int]:
        """Every file id in the index.  Any thread."""
        connection = _connect(self._path)
        try:
            return {found for (found,) in connection.execute("SELECT id FROM files")}
        finally:
            connection.close()

    def save(self, rows: Sequence[Row], idle: dict[tuple[str, str], float] | None = None) -> None:
        """Write rows, new or changed, and delete the forgotten ones.  Any thread.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        deleted, dead = self._deleted, list(self._dead)
        for start in range(0, max(1, len(rows)), SAVE_ROWS):  # the loop may want the lock in between
            self._save_some(rows[start : start + SAVE_ROWS])
        with self._write_lock, self._writer:
            self._writer.executemany("DELETE FROM files WHERE id = ?", ((found,) for found in dead))
            if idle:
                self._writer.executemany(
                    "INSERT OR REPLACE INTO datasets VALUES (?,?,?)",
                    ((mount, _blob(folder), s) for (mount, folder), s in idle.items()),
                )
        # Not those of now: a query that runs beside this may have seen their rows, and look into `_dead` only now.
        self._dead.difference_update(deleted)
        self._deleted = dead

    def _save_some(self, rows: Sequence[Row]) -> None:
        with self._write_lock, self._writer:
            self._writer.executemany(
                "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    (i, location, _blob(key), version, size, mount, _blob(folder), *rest)
                    for i, location, key, version, size, mount, folder, *rest in rows
                ),
            )

    def outdated(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Location and key of those saved rows that have an older version beside them.  Any thread."""
        found: list[tuple[str, str]] = []
        for start in range(0, len(rows), SAVE_ROWS):
            ids = [row.id for row in rows[start : start + SAVE_ROWS]]
            query = (
                "SELECT DISTINCT new.location, new.key FROM files AS new "
                "JOIN files AS old ON old.location = new.location AND old.key = new.key AND old.id < new.id "
                f"WHERE new.id IN ({','.join('?' * len(ids))})"
            )
            with self._write_lock:
                found += [(location, _name(key)) for location, key in self._writer.execute(query, ids)]
        return found

    def is_forgotten(self, file_id: int) -> bool:
        """Was that row forgotten, so that a query may still have told of it?"""
        return file_id in self._dead

    @property
    def has_forgotten(self) -> bool:
        """Is there a `save` to come that has rows to delete, or to be done with?"""
        return bool(self._dead)

    def forget(self, ids: Iterable[int]) -> None:
        """Forget rows: no query tells of them any more, and the next `save` deletes them."""
        self._dead.update(ids)

    def close(self, *, clean: bool) -> None:
        """Close; `clean` says that every cached byte has been synced to disk."""
        with self._write_lock:
            with contextlib.suppress(sqlite3.Error), self._writer:
                self._writer.execute("UPDATE meta SET value = ? WHERE name = 'clean'", ("1" if clean else "0",))
            self._reader.close()
            self._writer.close()


class _OtherSchema(sqlite3.DatabaseError):
    """Not an index that can be used."""


def is_damage(error: sqlite3.Error) -> bool:
    """Is the file unfit, rather than the disk full or the file busy?"""
    # What is not an OperationalError is: "file is not a database", "malformed", or a missing table or column.
    full = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    others = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PERM)
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF not in full + others  # the low byte is the primary code: sqlite.org/rescode.html


def connect_alone(path: Path, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - of sqlite3.connect
    """Open a database that no other process opens: what its connections share in WAL mode is no mapped file then.

    On a full disk a change to a mapped file is SIGBUS, where blocks are copied on write, as on btrfs.
    """
    connection: sqlite3.Connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?vfs=unix-excl", uri=True, **options
    )
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect_alone(path, check_same_thread=False, timeout=10.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # disposable: see the module
    return connection


def _blob(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _row(found: tuple[Any, ...]) -> Row:
    (file_id, location, key, version, size, mount, folder, pages, sums, resident, used_at, trusted) = found
    return Row(
        file_id, location, _name(key), version, size, mount, _name(folder), pages, sums, resident, used_at, trusted == 1
    )
