"""Named places in the code where a test may kill the process, to see what a crash just there leaves.

Off, unless `FOREBAY_FAILPOINT=NAME` or `NAME:COUNT` was set when this module was imported: then the process kills
itself with SIGKILL when it comes to that place, or comes there for the COUNT-th time.  Off, it costs one comparison.
"""

import os
import signal

VARIABLE = "FOREBAY_FAILPOINT"

# Every place, with what has just happened there.  A test dies at each.
NAMES: tuple[str, ...] = (
    "journal.synced",  # records are on the disk, and nobody has been told
    "journal.segment_made",  # a new segment is on the disk, and nothing refers to it
    "journal.recycled",  # a recycled segment has its new header, and no record
    "journal.copied",  # live records of the oldest segment are on the disk twice
    "rename.recorded",  # a rename is recorded, and nothing is copied
    "rename.copied_one",
    "rename.copied",  # all copies are there, and so are all sources
    "rename.deleted_one",
    "rename.moved",  # the store has all at its target, and what was written here and not sent is where it was
    "upload.recorded",  # a file is in the journal, and nobody has been told
    "upload.begun",
    "upload.sent",  # the store has a file, and nothing here says so
    "upload.learned",  # names say so, and the journal does not
    "draft.gives_way",  # the journal says that a file is about to be removed or replaced, and the store does not know
    "draft.moved",  # one has moved with its folder, others have not
    "draft.replaced",  # it has been, and the journal would still send it
    "journal.released",  # the oldest segments are said to be free, and have not been used again
)


def _armed() -> tuple[str, int]:
    """The place to die at and how many times to come there first; no place if none is asked for."""
    name, _, count = os.environ.get(VARIABLE, "").partition(":")
    if name and name not in NAMES:
        raise ValueError(f"{VARIABLE}={name}: there is no such place; there are {', '.join(NAMES)}")
    return name, int(count or 1)


_name, _left = _armed()


def hit(name: str) -> None:
    """The code has come to the place `name`, one of `NAMES`."""
    global _left
    if name != _name:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
