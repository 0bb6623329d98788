"""What an earlier daemon acknowledged and did not send: from the records of the journal to drafts.

*Callers*: the uploader, before anything else uses drafts.  Blocks.
"""

from collections.abc import Iterator

import structlog

from forebay.vfs.drafts import Draft
from forebay.vfs.journal import Journal
from forebay.vfs.records import draft_of
from forebay.vfs.staging import Staging
from forebay.vfs.tree import Tree
from forebay.vfs.unsynced import is_lost

log = structlog.get_logger()


def recovered_drafts(journal: Journal, staging: Staging, tree: Tree) -> Iterator[Draft]:
    """What the journal has, in order; the files of other writes go: nobody was told that they are kept.

    Raises:
        NoSpace: the disk is full; the journal keeps what it has.
    """
    records = []
    for record in journal.recovered():
        lost = is_lost(record, staging)
        if lost:
            log.warning("upload.not_synced", path=record.fields["path"], reason="the machine stopped before it was")
        if lost or record.fields.get("gone"):
            journal.retire(record)
        else:
            records.append(record)
    gone = staging.sweep({record.fields["staging"] for record in records})
    for record in records:
        fields = record.fields
        mount = tree.mount_at(fields["mount"])
        if mount is None or mount.store.location != fields["location"]:
            log.error("upload.no_mount", path=fields["path"], mount=fields["mount"], url=fields["location"])
            continue
        draft = draft_of(record, mount, staging)
        if draft is not None:
            yield draft
    if records or gone:
        log.info("uploads.recovered", files=len(records), removed=gone)
