"""The control database: what must survive everything.  Mounts with their credentials, virtual folders, pins,
and the FUSE mounts to bring back.

SQLite, WAL, synchronous=FULL, mode 0600: a change is on the disk when its method returns.  A damaged database is
never thrown away: the start stops with a message.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from forebay.errors import Denied, FsError, NoSpace
from forebay.vfs.entries import MountOptions

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mounts (path TEXT PRIMARY KEY, url TEXT NOT NULL, options TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pins (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fuse_mounts (mountpoint TEXT PRIMARY KEY, path TEXT NOT NULL) WITHOUT ROWID;
"""


class ControlDb:
    """See the module.  Paths and URLs may hold surrogate escapes: they are kept as JSON strings."""

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises:
            FsError: the file is damaged, or made by a newer Forebay.
            Denied: it cannot be opened.
        """
        self._path = path
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)
        except OSError as error:
            raise Denied(f"cannot open {path}: {error.strerror}", path=str(path)) from error
        try:
            self._db = sqlite3.connect(path, timeout=10.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")  # an unmounted credential does not stay in free pages
            if self._db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check found damage")
            self._check_version(path)
            self._db.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:  # locked, full, read-only: nothing is known to be damaged
            raise Denied(f"the control database {path} cannot be used: {error}", path=str(path)) from error
        except sqlite3.DatabaseError as error:
            raise FsError(
                f"the control database {path} is damaged ({error}). It holds your mounts and credentials, so it is "
                "not replaced by itself: restore it from a backup, or move it away and mount again.",
                path=str(path),
            ) from error

    def _check_version(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise FsError(f"{path} was made by a newer Forebay; use that version, or another home", path=str(path))
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Close; no call may follow."""
        self._db.close()

    def folders(self) -> list[str]:
        """Every virtual folder, parents first."""
        return sorted(json.loads(path) for (path,) in self._db.execute("SELECT path FROM folders"))

    def mounts(self) -> list[tuple[str, str, MountOptions]]:
        """Path, URL and options of every mount, parents first."""
        found = []
        for path, url, options in self._db.execute("SELECT path, url, options FROM mounts"):
            values = json.loads(options)
            values["options"] = tuple((name, value) for name, value in values["options"])
            found.append((json.loads(path), json.loads(url), MountOptions(**values)))
        return sorted(found, key=lambda mount: mount[0])

    def pins(self) -> list[str]:
        """Every pinned virtual path."""
        return sorted(json.loads(path) for (path,) in self._db.execute("SELECT path FROM pins"))

    def fuse_mounts(self) -> list[tuple[str, str]]:
        """Mount point and virtual path of every FUSE mount to bring back."""
        rows = self._db.execute("SELECT mountpoint, path FROM fuse_mounts")
        return sorted((json.loads(mountpoint), json.loads(path)) for mountpoint, path in rows)

    def add_folder(self, path: str) -> None:
        """Keep a virtual folder."""
        self._change("INSERT OR REPLACE INTO folders VALUES (?)", json.dumps(path))

    def remove_folder(self, path: str) -> None:
        """Forget a virtual folder."""
        self._change("DELETE FROM folders WHERE path = ?", json.dumps(path))

    def add_mount(self, path: str, url: str, options: MountOptions) -> None:
        """Keep a mount, its credentials included; a virtual folder of that path becomes the mount."""
        row = (json.dumps(path), json.dumps(url), json.dumps(asdict(options)))
        with self._changing() as db:
            db.execute("DELETE FROM folders WHERE path = ?", (json.dumps(path),))
            db.execute("INSERT OR REPLACE INTO mounts VALUES (?, ?, ?)", row)

    def remove_mount(self, path: str) -> None:
        """Forget a mount and its credentials."""
        self._change("DELETE FROM mounts WHERE path = ?", json.dumps(path))

    def add_pin(self, path: str) -> None:
        """Keep a pin."""
        self._change("INSERT OR REPLACE INTO pins VALUES (?)", json.dumps(path))

    def remove_pin(self, path: str) -> None:
        """Forget a pin."""
        self._change("DELETE FROM pins WHERE path = ?", json.dumps(path))

    def add_fuse_mount(self, mountpoint: str, path: str) -> None:
        """Keep a FUSE mount, to be brought back at the next start."""
        self._change("INSERT OR REPLACE INTO fuse_mounts VALUES (?, ?)", json.dumps(mountpoint), json.dumps(path))

    def remove_fuse_mount(self, mountpoint: str) -> None:
        """Forget a FUSE mount."""
        self._change("DELETE FROM fuse_mounts WHERE mountpoint = ?", json.dumps(mountpoint))

    def _change(self, statement: str, *values: str) -> None:
        with self._changing() as db:
            db.execute(statement, values)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._db:
                yield self._db
        except sqlite3.Error as error:
            raise NoSpace(
                f"the control database {self._path} cannot be written ({error}); nothing was changed. "
                "Free some space on its disk and try again.",
                path=str(self._path),
            ) from error
