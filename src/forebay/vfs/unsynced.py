"""Files of mode `lazy` that were closed and not synced: the journal names the local file, and knows its checksum.

A kill of the daemon leaves both as they are.  A power cut may take either; then the checksum tells whether the file is
what was closed.  If it is not, it goes: as on a local disk, a file that nobody synced is not promised to outlast that.

*Callers*: the uploader, on the loop.  *Locks*: none.  *Awaits*: nothing.  *Invariant*: what was synced and is not in
the store yet is never replaced by what is not.
"""

import functools
import os
from array import array
from typing import Any

from forebay.cache.index import BOOT_ID
from forebay.vfs.content import Content, Snapshot, sums_in, sums_of
from forebay.vfs.drafts import Draft
from forebay.vfs.journal import Journal, Record
from forebay.vfs.journal_format import BODY_MAX
from forebay.vfs.records import fields_of
from forebay.vfs.staging import Staging

_OF_UNSYNCED = ("boot", "sums")
_room = memoryview(bytearray(BODY_MAX))


def unsynced_fields(record: Record) -> dict[str, Any]:
    """What a record that is not synced has beside others, for one that takes its place."""
    return {name: record.fields[name] for name in _OF_UNSYNCED}


def record_now(draft: Draft, journal: Journal) -> bool:
    """Have the journal name a small file that nobody has asked to be synced; False if it is none, or was kept better.

    Raises:
        NoSpace, FsError: the journal's disk is full, or failed.
    """
    content = draft.content
    is_kept = draft.stored is not None or (draft.record is not None and draft.record.is_synced)
    if is_kept or not content.is_whole or (stamp := content.stamp()).size > BODY_MAX:
        return False
    body = held(content)
    size, sums = len(body), sums_in(body)
    told = {"boot": boot_id(), "sums": list(sums)}
    draft.record = journal.append_now(f"{draft.id:x}", fields_of(draft, size) | told)
    draft.recorded = Snapshot(stamp._replace(size=size), sums)
    return True


def held(content: Content) -> memoryview:
    """The bytes of a small file, valid until the next call."""
    return _room[: os.preadv(content.fd, [_room], 0)]


def is_lost(record: Record, staging: Staging) -> bool:
    """Has a power cut taken what was closed and not synced?"""
    fields = record.fields
    if record.is_synced or fields["boot"] == boot_id():
        return False
    try:
        fd = staging.open(fields["staging"])
    except FileNotFoundError:
        return True
    try:
        return sums_of(fd) != array("Q", fields["sums"])
    finally:
        os.close(fd)


@functools.cache
def boot_id() -> str:
    """Another one after each start of the machine."""
    return BOOT_ID.read_text().strip()
