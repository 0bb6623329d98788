"""Where our file systems are mounted, by the text of proc(5)'s mountinfo.  Pure.

The table is read instead of asking the mount points themselves: a mount whose daemon died answers nothing but errors,
and our own must not be touched by the process that serves it.
"""

import re
from typing import NamedTuple

FILESYSTEM = "fuse.forebay"


class MountInfo(NamedTuple):
    """One mount of ours."""

    mountpoint: str
    device: str  # "major:minor"


def parse_mountinfo(text: str) -> list[MountInfo]:
    r"""Every Forebay mount, oldest first.

    >>> parse_mountinfo(r"36 35 0:44 / /mnt/a\040b rw,nosuid - fuse.forebay forebay:/ ro,user_id=0")
    [MountInfo(mountpoint='/mnt/a b', device='0:44')]
    """
    found = []
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith(FILESYSTEM + " "):
            _, _, device, _, mountpoint, *_ = fields.split(" ")
            found.append(MountInfo(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mountpoint), device))
    return found
