"""The attributes database: modes, owners, times, links and extended attributes that stores cannot keep.

One row for each file or folder of which something is kept; SQLite, so a million rows are a million rows on disk and
nothing in memory.  Nothing here is anywhere else: see `precious.py`.

A time, and that a file is a symbolic link, hold for one version of an object: what somebody else writes has a time of
its own, and is a file.  Modes, owners and extended attributes hold for the key.

*Callers*: `attributes.py`, from one thread at a time.  *Locks*: none.  *On crash*: what was committed is there; after
a power cut, what was committed before the last `sync`.
"""

import base64
import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from forebay.cache.index import is_damage
from forebay.errors import FsError, Invalid, NoSpace
from forebay.opened import opened
from forebay.types import Attributes
from forebay.vfs.precious import open_precious

SCHEMA_VERSION = 1
KEYS_MAX = 1_000  # in one query; SQLite takes 32,766
_ADVICE = (
    "It holds modes, owners, times and symbolic links of files, so it is not replaced by itself: restore it from a "
    "backup, or move it away, and files show as their stores have them."
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS attributes (
    location BLOB NOT NULL, key BLOB NOT NULL,
    mode INTEGER, uid INTEGER, gid INTEGER, mtime_ns INTEGER, version TEXT NOT NULL, xattrs TEXT,
    PRIMARY KEY (location, key)
) WITHOUT ROWID;
"""
# The first location, then each time the next one: a step for each location, not for each row.
_LOCATIONS = """
WITH RECURSIVE found (location) AS (
    SELECT MIN(location) FROM attributes UNION ALL
    SELECT (SELECT MIN(location) FROM attributes WHERE location > found.location) FROM found
    WHERE found.location IS NOT NULL
) SELECT location FROM found WHERE location IS NOT NULL
"""


class Kept(NamedTuple):
    """What is kept of one file or folder; None: nothing of that."""

    mode: int | None = None  # permission bits, with S_IFLNK for a symbolic link
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    version: str = ""  # which `mtime_ns` and the link are of; "" if there are none, and of folders
    xattrs: Mapping[str, bytes] = MappingProxyType({})

    @property
    def is_link(self) -> bool:
        """Is it a symbolic link?"""
        return self.mode is not None and stat.S_ISLNK(self.mode)

    @property
    def needs_version(self) -> bool:
        """Does some of it hold for one version only?"""
        return self.mtime_ns is not None or self.is_link

    def of_version(self, version: str) -> "Kept":
        """What of it holds for that version of the object; of a folder, "" is the version."""
        if self.version == version:
            return self
        return Kept() if self.is_link else self._replace(mtime_ns=None, version="")

    def carried(self, source_version: str, version: str) -> "Kept":
        """What of it holds for another object, of `version`, that was copied from `source_version` of this one."""
        kept = self.of_version(source_version)
        return kept._replace(version=version if kept.needs_version else "")

    def amended(
        self, attributes: Attributes, version: str | None, xattrs: Mapping[str, bytes | None] = MappingProxyType({})
    ) -> "Kept":
        """This, with what is not None taken over; a None among `xattrs` takes that one away.

        `version`: the object's, or None if it is not known, which will do for what holds for the key.
        """
        before = self if version is None else self.of_version(version)
        mode, uid, gid, mtime_ns = attributes
        if mode is not None:
            mode = stat.S_IMODE(mode) | (stat.S_IFLNK if stat.S_ISLNK(mode) else 0)
        kept = Kept(
            before.mode if mode is None else mode,
            before.uid if uid is None else uid,
            before.gid if gid is None else gid,
            before.mtime_ns if mtime_ns is None else mtime_ns,
            xattrs={name: value for name, value in {**before.xattrs, **xattrs}.items() if value is not None},
        )
        return kept._replace(version=(self.version if version is None else version) if kept.needs_version else "")


class AttributesDb:
    """See the module.  Locations and keys may hold surrogate escapes: they are kept as bytes."""

    def __init__(self, path: Path) -> None:
        """Open or create.

        Raises:
            FsError: the file is damaged, or made by a newer Forebay.
            Denied: it cannot be opened.
        """
        self._path = path
        self._db = open_precious(
            path,
            name="attributes database",
            advice=_ADVICE,
            schema=_SCHEMA,
            schema_version=SCHEMA_VERSION,
            check_same_thread=False,
        )
        self._db.execute("PRAGMA synchronous = NORMAL")  # `sync` is asked for where it matters
        _sync_file(path.parent)  # the files themselves are there after a power cut

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; what was done at its end outlives this process.

        Raises:
            NoSpace: nothing was changed.
            FsError: the database is damaged.
        """
        try:
            with self._db:
                yield
        except sqlite3.Error as error:
            if is_damage(error):
                message = f"the attributes database {self._path} is damaged ({error}). {_ADVICE}"
                raise FsError(message, path=str(self._path)) from error
            raise NoSpace(
                f"the attributes database {self._path} cannot be used ({error}); nothing was changed. "
                "Free some space on its disk and try again.",
                path=str(self._path),
            ) from error

    def sync(self) -> None:
        """Have all that was committed outlive a power cut.

        Raises:
            NoSpace: the disk refuses.
        """
        try:
            _sync_file(Path(f"{self._path}-wal"))  # whatever SQLite moves from there, it syncs by itself
        except OSError as error:
            raise NoSpace(
                f"{self._path} cannot be written: {(error.strerror or 'failed').lower()}", path=str(self._path)
            ) from error

    def close(self) -> None:
        """Close; no call may follow."""
        self._db.close()

    # ------------------------------------------------------------------ questions

    def locations(self) -> list[str]:
        """Every location of which something is kept."""
        return [_text(location) for (location,) in self._db.execute(_LOCATIONS)]

    def find(self, location: str, keys: Sequence[str]) -> dict[str, Kept]:
        """What is kept of some keys, without extended attributes."""
        found: dict[str, Kept] = {}
        for start in range(0, len(keys), KEYS_MAX):
            some = [_raw(key) for key in keys[start : start + KEYS_MAX]]
            query = (
                "SELECT key, mode, uid, gid, mtime_ns, version FROM attributes "
                f"WHERE location = ? AND key IN ({','.join('?' * len(some))})"
            )
            for key, *kept in self._db.execute(query, (_raw(location), *some)):
                found[_text(key)] = Kept(*kept)
        return found

    def of(self, location: str, key: str) -> Kept | None:
        """All that is kept of one key."""
        query = "SELECT mode, uid, gid, mtime_ns, version, xattrs FROM attributes WHERE location = ? AND key = ?"
        row = self._db.execute(query, (_raw(location), _raw(key))).fetchone()
        if row is None:
            return None
        *kept, xattrs = row
        return Kept(*kept)._replace(xattrs=_unpacked(xattrs))

    # ------------------------------------------------------------------ changes

    def keep(self, location: str, key: str, kept: Kept) -> None:
        """Keep that of a key, and nothing else; of nothing, no row is left."""
        if kept == Kept():
            self.forget(location, key)
            return
        row = _raw(location), _raw(key), *kept[:5], _packed(kept.xattrs)
        self._db.execute("INSERT OR REPLACE INTO attributes VALUES (?,?,?,?,?,?,?,?)", row)

    def amend(
        self,
        location: str,
        key: str,
        attributes: Attributes,
        version: str | None,
        xattrs: Mapping[str, bytes | None],
    ) -> Kept:
        """Take over what is not None; what is kept then.  See `Kept.amended`."""
        kept = (self.of(location, key) or Kept()).amended(attributes, version, xattrs)
        if kept.needs_version and not kept.version and not key.endswith("/"):
            raise Invalid(
                f"{location}: the time of {key!r}, or that it is a link, is kept for a version only", path=key
            )
        self.keep(location, key, kept)
        return kept

    def copy(self, location: str, source: str, target: str, source_version: str, version: str) -> Kept:
        """Keep of `target` what holds for `source`, as `Kept.carried` says; what that is."""
        kept = (self.of(location, source) or Kept()).carried(source_version, version)
        self.keep(location, target, kept)
        return kept

    def move(self, location: str, source: str, target: str) -> None:
        """What was kept of `source` is kept of `target`, and of that no more what was before."""
        self.forget(location, target)
        statement = "UPDATE attributes SET key = ? WHERE location = ? AND key = ?"
        self._db.execute(statement, (_raw(target), _raw(location), _raw(source)))

    def move_below(self, location: str, source: str, target: str) -> None:
        """What was kept of the folder `source/` and below it is kept of `target/`, where nothing is kept already.

        Done twice, it changes nothing more.
        """
        _check_apart(source, target)
        # `||` makes a text of the bytes it joins, and the cast makes them bytes again.
        statement = (
            "UPDATE OR IGNORE attributes SET key = CAST(? || substr(key, ?) AS BLOB) "
            "WHERE location = ? AND key >= ? AND key < ?"
        )
        self._db.execute(statement, (_raw(target), len(_raw(source)) + 1, _raw(location), *_below(source)))
        self.forget_below(location, source)

    def forget(self, location: str, key: str) -> None:
        """Keep nothing of a key."""
        self._db.execute("DELETE FROM attributes WHERE location = ? AND key = ?", (_raw(location), _raw(key)))

    def forget_below(self, location: str, prefix: str) -> None:
        """Keep nothing of the folder `prefix/` and below it."""
        statement = "DELETE FROM attributes WHERE location = ? AND key >= ? AND key < ?"
        self._db.execute(statement, (_raw(location), *_below(prefix)))


def _below(prefix: str) -> tuple[bytes, bytes]:
    """The first key of a folder, and the first one after them."""
    if len(prefix) < 2 or not prefix.endswith("/"):
        raise Invalid(f"{prefix!r} is no prefix of a folder's keys", path=prefix)
    return _raw(prefix), _raw(prefix[:-1]) + b"0"  # "0" comes right after "/"


def _check_apart(source: str, target: str) -> None:
    _below(target)
    if source.startswith(target) or target.startswith(source):
        raise Invalid(f"{source!r} cannot become {target!r}: one lies in the other", path=source)


def _packed(xattrs: Mapping[str, bytes]) -> str | None:
    if not xattrs:
        return None
    return json.dumps({name: base64.b64encode(value).decode() for name, value in xattrs.items()})


def _unpacked(packed: str | None) -> Mapping[str, bytes]:
    if packed is None:
        return MappingProxyType({})
    return {name: base64.b64decode(value) for name, value in json.loads(packed).items()}


def _sync_file(path: Path) -> None:
    with opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
