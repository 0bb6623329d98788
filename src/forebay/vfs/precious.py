"""Databases that are never thrown away: what is in them is nowhere else.

SQLite, WAL, mode 0600.  A damaged one is left as it is, and the start stops with a message.
"""

import os
import sqlite3
from pathlib import Path

from forebay.cache.index import connect_alone
from forebay.errors import Denied, FsError


def open_precious(
    path: Path,
    *,
    name: str,
    advice: str,
    schema: str,
    schema_version: int,
    check_same_thread: bool = True,
    is_shared: bool = False,
) -> sqlite3.Connection:
    """Open or create; synchronous=FULL, so that a change is on the disk when it is committed.

    Args:
        name: what messages call it.
        advice: what they say of a damaged one: what it holds, and what to do.
        check_same_thread: as `sqlite3.connect` has it.
        is_shared: another process may open it too.

    Raises:
        FsError: the file is damaged, or made by a newer Forebay.
        Denied: it cannot be opened.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(path, 0o600)
    except OSError as error:
        raise Denied(f"cannot open {path}: {error.strerror}", path=str(path)) from error
    try:
        connect = sqlite3.connect if is_shared else connect_alone
        db = connect(path, timeout=10.0, check_same_thread=check_same_thread)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check found damage")
            _check_version(db, path, schema_version)
            db.executescript(schema)
        except BaseException:
            db.close()
            raise
    except sqlite3.OperationalError as error:  # locked, full, read-only: nothing is known to be damaged
        raise Denied(f"the {name} {path} cannot be used: {error}", path=str(path)) from error
    except sqlite3.DatabaseError as error:
        raise FsError(f"the {name} {path} is damaged ({error}). {advice}", path=str(path)) from error
    return db


def _check_version(db: sqlite3.Connection, path: Path, schema_version: int) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > schema_version:
        raise FsError(f"{path} was made by a newer Forebay; use that version, or another home", path=str(path))
    db.execute(f"PRAGMA user_version = {schema_version}")
