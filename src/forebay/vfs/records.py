"""What the journal and the store say of a draft beside its bytes, and the draft that comes back from that."""

import os
from array import array
from collections.abc import Iterable
from typing import Any, NamedTuple

import structlog

from forebay.errors import NoSpace
from forebay.types import Attributes, ObjectMeta, Posix
from forebay.vfs.content import SMALL_BYTES, Snapshot, WholeContent, sums_of, write_all
from forebay.vfs.drafts import Draft
from forebay.vfs.entries import Mount
from forebay.vfs.journal import Record
from forebay.vfs.sending import Offer
from forebay.vfs.staging import Staging

log = structlog.get_logger()


class UploadInfo(NamedTuple):
    """What `forebay fs uploads` shows of one file."""

    path: str
    size: int  # bytes
    state: str  # "open", "waiting", "sending", "failing", "removing" or "conflict"
    error: str


def fields_of(draft: Draft, size: int) -> dict[str, Any]:
    """A draft as a record has it, beside its bytes."""
    posix = draft.posix
    fields: dict[str, Any] = {
        "mount": draft.mount.path,
        "location": draft.mount.store.location,
        "path": draft.path,
        "key": draft.key,
        "base": draft.base,
        "size": size,
        "posix": None if posix is None else list(posix),
        "mtime_ns": draft.mtime_ns,
        "staging": draft.staging,
    }
    return fields | ({"offered": offers_in(draft.offered)} if draft.offered else {})


def offers_in(offered: Iterable[Offer]) -> list[list[object]]:
    """Offers as a record has them."""
    return [list(one) for one in offered]


def draft_of(record: Record, body: bytes | None, mount: Mount, staging: Staging) -> Draft | None:
    """The draft of a record with that body; None, and a line in the log, if its local file is gone.

    Raises:
        NoSpace: the disk is full; the journal keeps what it has.
    """
    fields = record.fields
    staging_id = fields["staging"]
    try:
        fd = staging.open(staging_id) if body is None else _file_of(staging_id, body, staging)
    except FileNotFoundError:
        log.error("upload.lost", path=fields["path"], staging=staging_id)
        return None
    content = WholeContent(fd, may_be_mapped=True)  # a mapping outlasts the daemon
    draft = Draft(int(record.about, 16), mount, fields["path"], fields["key"], content)
    draft.staging, draft.base, draft.record = staging_id, fields["base"], record
    draft.posix = None if fields["posix"] is None else Posix(*fields["posix"])
    draft.mtime_ns = fields["mtime_ns"]
    draft.offered = [Offer(*one) for one in fields.get("offered", ())]
    draft.may_be_sent = True
    draft.recorded = Snapshot(content.stamp(), sums_of(content.fd) if content.size() <= SMALL_BYTES else array("Q"))
    return draft


def _file_of(staging_id: int, body: bytes, staging: Staging) -> int:
    """A file with what was acknowledged, whatever has been written since."""
    path = staging.path(staging_id)
    try:
        fd = staging.open(staging_id) if os.path.exists(path) else staging.make(staging_id)
        if os.pread(fd, len(body) + 1, 0) != body:
            os.ftruncate(fd, 0)
            write_all(fd, 0, body)
    except OSError as error:
        message = f"{path} cannot be written, which a file that waits to be sent needs: {error.strerror}"
        raise NoSpace(f"{message}; make room there, and start again", path=path) from error
    return fd


def attributes_of(draft: Draft) -> Attributes:
    """What the store shall keep of a draft beside its bytes."""
    posix = draft.posix
    if posix is None:
        return Attributes(mtime_ns=draft.mtime_ns)
    return Attributes(posix.mode, posix.uid, posix.gid, draft.mtime_ns)


def has_attributes(meta: ObjectMeta, wanted: Attributes) -> bool:
    """Does the store keep those attributes already, since they were put along with the bytes?"""
    if meta.mtime_ns != wanted.mtime_ns:
        return False
    if wanted.mode is None:
        return True
    return meta.posix is not None and (meta.posix.mode, meta.posix.uid, meta.posix.gid) == wanted[:3]
