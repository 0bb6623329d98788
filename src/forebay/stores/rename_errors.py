"""Why a rename was refused, as rename(2) would say it, for stores that say the same of several things.  Pure."""

from forebay.errors import FsError, Invalid, IsADirectory, NotADirectory, NotEmpty
from forebay.types import FolderMeta, ObjectMeta

Meta = ObjectMeta | FolderMeta


def why_not_renamed(
    location: str, source: tuple[str, Meta], target: tuple[str, Meta | None], *, has_entries: bool
) -> FsError | None:
    """The error for what was at two keys when the rename failed; None if that does not explain it.

    `has_entries`: what is at the target is a folder that is not empty.
    """
    (old, moved), (new, there) = source, target
    what = f"{location}: {new!r}"
    if new.startswith(old + "/"):
        return Invalid(f"{what} is below {old!r}, which cannot be renamed to it", path=new)
    if isinstance(moved, FolderMeta):
        if isinstance(there, ObjectMeta):
            return NotADirectory(f"{what} is a file, and {old!r} a folder", path=new)
        return NotEmpty(f"{what} has entries", path=new) if has_entries else None
    return IsADirectory(f"{what} is a folder, and {old!r} a file", path=new) if isinstance(there, FolderMeta) else None
