"""The disposable index of one cache folder: which file holds which version, and which pages of it are present.

SQLite in WAL mode, written behind by the cache; nothing here is worth an fsync.  A damaged index is thrown away
and the folder starts empty.  After a process crash the map as last saved is right (a page is saved only after its
bytes reached the kernel).  After an unclean reboot (the boot id changed, no clean mark) bytes may be missing under
a saved map: then every row loses its trust, and pages are checked against their checksums before they are served.

*Callers*: the cache, on the loop for reads and in its disk pool for writes.  *Locks*: one connection each way;
SQLite's own.  *On crash*: as above.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import structlog

log = structlog.get_logger()

SCHEMA_VERSION = 1
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
        self._path = path
        try:
            self._open()
            self._begin_session(boot_id)
        except sqlite3.DatabaseError as error:
            log.warning("index.thrown_away", path=str(path), reason=str(error))
            self.was_damaged = True
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._open()
            self._begin_session(boot_id)

    def _open(self) -> None:
        self._reader = _connect(self._path)
        self._reader.executescript(_SCHEMA)
        self._writer = _connect(self._path)
        self._write_lock = threading.Lock()
        self.was_damaged = False

    def _begin_session(self, boot_id: str) -> None:
        meta = dict(self._reader.execute("SELECT name, value FROM meta"))
        if meta and meta.get("schema") != str(SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"made by another version of Forebay (schema {meta.get('schema')})")
        self.session = int(meta.get("session", "0")) + 1
        with self._writer:
            if meta.get("clean") != "1" and meta.get("boot_id", boot_id) != boot_id:
                self._writer.execute("UPDATE files SET trusted = 0")
                log.warning("index.trust_lost", path=str(self._path), reason="the machine stopped without warning")
            values = {
                "schema": str(SCHEMA_VERSION),
                "session": str(self.session),
                "boot_id": boot_id,
                "clean": "0",
            }
            self._writer.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def find(self, location: str, key: str, version: str) -> Row | None:
        """The row of one version, if there is one."""
        found = self._reader.execute(
            "SELECT * FROM files WHERE location = ? AND key = ? AND version = ?",
            (location, _blob(key), version),
        ).fetchone()
        return None if found is None else _row(found)

    def versions(self, location: str, key: str) -> list[Row]:
        """Every row of one object."""
        rows = self._reader.execute("SELECT * FROM files WHERE location = ? AND key = ?", (location, _blob(key)))
        return [_row(found) for found in rows]

    def oldest(self, mount: str, folder: str, limit: int, offset: int = 0) -> list[Row]:
        """Rows of one data set, least recently used first."""
        rows = self._reader.execute(
            "SELECT * FROM files WHERE mount = ? AND folder = ? ORDER BY used_at, id LIMIT ? OFFSET ?",
            (mount, _blob(folder), limit, offset),
        )
        return [_row(found) for found in rows]

    def below(self, location: str, prefix: str) -> Iterator[Row]:
        """Rows whose key is `prefix` or starts with `prefix`; "" means every row of the location."""
        start = _blob(prefix)
        rows = self._reader.execute(
            "SELECT * FROM files WHERE location = ? AND key >= ? AND substr(key, 1, ?) = ?",
            (location, start, len(start), start),
        )
        return map(_row, rows.fetchall())

    def usage(self) -> list[tuple[str, str, int, int]]:
        """Mount, folder, resident bytes and file count of each data set."""
        rows = self._reader.execute("SELECT mount, folder, SUM(resident), COUNT(*) FROM files GROUP BY mount, folder")
        return [(mount, _name(folder), size, count) for mount, folder, size, count in rows]

    def idle_times(self) -> dict[tuple[str, str], float]:
        """Seconds since the last read of each data set, as last saved."""
        return {(m, _name(f)): idle for m, f, idle in self._reader.execute("SELECT * FROM datasets")}

    def ids(self) -> set[int]:
        """Every file id in the index."""
        return {found for (found,) in self._reader.execute("SELECT id FROM files")}

    def save(self, rows: Iterable[Row], idle: dict[tuple[str, str], float] | None = None) -> None:
        """Write rows, new or changed.  Any thread."""
        with self._write_lock, self._writer:
            self._writer.executemany(
                "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (row._replace(key=_blob(row.key), folder=_blob(row.folder)) for row in rows),  # type: ignore[arg-type]
            )
            if idle:
                self._writer.executemany(
                    "INSERT OR REPLACE INTO datasets VALUES (?,?,?)",
                    ((mount, _blob(folder), s) for (mount, folder), s in idle.items()),
                )

    def delete(self, ids: Iterable[int]) -> None:
        """Forget rows.  Any thread."""
        with self._write_lock, self._writer:
            self._writer.executemany("DELETE FROM files WHERE id = ?", ((found,) for found in ids))

    def close(self, *, clean: bool) -> None:
        """Close; `clean` says that every cached byte has been synced to disk."""
        with self._write_lock:
            with self._writer:
                self._writer.execute("UPDATE meta SET value = ? WHERE name = 'clean'", ("1" if clean else "0",))
            self._reader.close()
            self._writer.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=10.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # disposable: see the module
    return connection


def _blob(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _row(found: tuple[Any, ...]) -> Row:
    row = Row._make(found)
    return row._replace(key=_name(found[2]), folder=_name(found[6]), trusted=bool(row.trusted))
