"""The control database: what must survive everything.  Mounts with their credentials, virtual folders, pins,
the FUSE mounts to bring back, and renames under way.

SQLite, WAL, synchronous=FULL, mode 0600: a change is on the disk when its method returns.  A damaged database is
never thrown away: the start stops with a message.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from forebay.errors import NoSpace
from forebay.vfs.entries import MountOptions
from forebay.vfs.precious import open_precious

SCHEMA_VERSION = 1
_NAMES_MAX = 1_000  # in one query; SQLite takes 32,766

_SCHEMA = """
CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mounts (path TEXT PRIMARY KEY, url TEXT NOT NULL, options TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pins (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fuse_mounts (mountpoint TEXT PRIMARY KEY, path TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS fuse_kinds (mountpoint TEXT PRIMARY KEY, kind TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS renames (
    id INTEGER PRIMARY KEY, mount TEXT NOT NULL, location TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL,
    is_folder INTEGER NOT NULL, replaces INTEGER NOT NULL, phase TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS rename_copies (
    rename INTEGER NOT NULL, name BLOB NOT NULL, version TEXT NOT NULL, PRIMARY KEY (rename, name)
) WITHOUT ROWID;
"""


class FolderKind(StrEnum):
    """What a local folder is made for."""

    WRITABLE = "writable"  # where the mounts that it shows are
    READONLY = "readonly"  # the kernel refuses every change by itself
    SMALL_FILES = "small files"  # readonly, and the kernel opens files without asking


class FuseMount(NamedTuple):
    """A FUSE mount."""

    mountpoint: str
    path: str  # of the tree, shown there
    kind: FolderKind


class Phase(StrEnum):
    """How far a rename is."""

    MOVING = "moving"  # the store renames a folder, in one step
    COPYING = "copying"
    UNDOING = "undoing"  # it has failed: copies go, sources stay
    COPIED = "copied"  # all is at the target, and sources go; there is no way back


class Rename(NamedTuple):
    """A rename under way."""

    id: int
    mount: str  # the mount's path
    location: str  # of its store: another one at the same path is none of this rename's business
    source: str  # key of a file; of a folder, ending in "/"
    target: str
    is_folder: bool
    replaces: bool  # something was at `target` itself before: a file, or an empty folder's own object
    phase: Phase


class ControlDb:
    """See the module.  Paths and URLs may hold surrogate escapes: they are kept as JSON strings."""

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises:
            FsError: the file is damaged, or made by a newer Forebay.
            Denied: it cannot be opened.
        """
        self._path = path
        self._db = open_precious(
            path,
            name="control database",
            advice="It holds your mounts and credentials, so it is not replaced by itself: restore it from a backup, "
            "or move it away and mount again.",
            schema=_SCHEMA,
            schema_version=SCHEMA_VERSION,
            is_shared=True,  # with a daemon that was killed and cannot end yet: see `daemon/main.py`
        )
        self._db.execute("PRAGMA secure_delete = ON")  # an unmounted credential does not stay in free pages

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

    def fuse_mounts(self) -> list[FuseMount]:
        """Every FUSE mount to bring back."""
        rows = self._db.execute(
            "SELECT mountpoint, path, kind FROM fuse_mounts LEFT JOIN fuse_kinds USING (mountpoint)"
        )
        return sorted(
            FuseMount(json.loads(mountpoint), json.loads(path), FolderKind(kind or FolderKind.WRITABLE))
            for mountpoint, path, kind in rows
        )

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

    def add_fuse_mount(self, mount: FuseMount) -> None:
        """Keep a FUSE mount, to be brought back at the next start."""
        mountpoint = json.dumps(mount.mountpoint)
        with self._changing() as db:
            db.execute("INSERT OR REPLACE INTO fuse_mounts VALUES (?, ?)", (mountpoint, json.dumps(mount.path)))
            db.execute("INSERT OR REPLACE INTO fuse_kinds VALUES (?, ?)", (mountpoint, mount.kind))

    def remove_fuse_mount(self, mountpoint: str) -> None:
        """Forget a FUSE mount."""
        with self._changing() as db:
            db.execute("DELETE FROM fuse_mounts WHERE mountpoint = ?", (json.dumps(mountpoint),))
            db.execute("DELETE FROM fuse_kinds WHERE mountpoint = ?", (json.dumps(mountpoint),))

    # ------------------------------------------------------------------ renames

    def renames(self) -> list[Rename]:
        """Every rename under way, the first one first."""
        found = []
        for row in self._db.execute("SELECT * FROM renames ORDER BY id"):
            number, mount, location, source, target, is_folder, replaces, phase = row
            mount, location, source, target = map(json.loads, (mount, location, source, target))
            flags = bool(is_folder), bool(replaces)
            found.append(Rename(number, mount, location, source, target, *flags, Phase(phase)))
        return found

    def add_rename(
        self,
        mount: str,
        location: str,
        source: str,
        target: str,
        *,
        is_folder: bool,
        replaces: bool,
        phase: Phase = Phase.COPYING,
        versions: Mapping[str, str] = MappingProxyType({}),
    ) -> Rename:
        """Keep a rename that begins; for `versions` see `add_rename_copies`."""
        places = [json.dumps(place) for place in (mount, location, source, target)]
        with self._changing() as db:
            statement = "INSERT INTO renames VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)"
            number = db.execute(statement, (*places, is_folder, replaces, phase)).lastrowid
            assert number is not None
            _add_copies(db, number, versions)
        return Rename(number, mount, location, source, target, is_folder, replaces, phase)

    def set_rename_phase(self, number: int, phase: Phase) -> None:
        """Keep how far a rename is."""
        self._change("UPDATE renames SET phase = ? WHERE id = ?", phase, number)

    def remove_rename(self, number: int) -> None:
        """Forget a rename that has ended, and what it has copied."""
        with self._changing() as db:
            db.execute("DELETE FROM rename_copies WHERE rename = ?", (number,))
            db.execute("DELETE FROM renames WHERE id = ?", (number,))

    def add_rename_copies(self, number: int, versions: Mapping[str, str]) -> None:
        """Keep which objects a rename is about to copy, by name below its source, and their versions then."""
        with self._changing() as db:
            _add_copies(db, number, versions)

    def rename_copies(self, number: int, names: Sequence[str]) -> dict[str, str]:
        """The versions, by name, of those of some objects that a rename has copied, or was about to."""
        found: dict[str, str] = {}
        for start in range(0, len(names), _NAMES_MAX):
            some = [_raw(name) for name in names[start : start + _NAMES_MAX]]
            marks = ",".join("?" * len(some))
            query = f"SELECT name, version FROM rename_copies WHERE rename = ? AND name IN ({marks})"
            found.update((_text(name), version) for name, version in self._db.execute(query, (number, *some)))
        return found

    def some_rename_copies(self, number: int) -> list[str]:
        """The names of some objects that a rename has copied, or was about to; a folder's after those below it."""
        query = "SELECT name FROM rename_copies WHERE rename = ? ORDER BY name DESC LIMIT ?"
        return [_text(name) for (name,) in self._db.execute(query, (number, _NAMES_MAX))]

    def remove_rename_copies(self, number: int, names: Sequence[str]) -> None:
        """Forget that a rename has copied some objects."""
        with self._changing() as db:
            statement = "DELETE FROM rename_copies WHERE rename = ? AND name = ?"
            db.executemany(statement, [(number, _raw(name)) for name in names])

    def _change(self, statement: str, *values: str | int) -> None:
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


def _add_copies(db: sqlite3.Connection, number: int, versions: Mapping[str, str]) -> None:
    rows = [(number, _raw(name), version) for name, version in versions.items()]
    db.executemany("INSERT OR REPLACE INTO rename_copies VALUES (?, ?, ?)", rows)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
