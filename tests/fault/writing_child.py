"""A file system that writes until something kills it, or that finishes what another one left.

writing_child.py write HOME MODE URL ROUNDS NAME...   writes every file in every round; says `begin NAME ROUND`, and
                                                     `acked NAME ROUND` when it is acknowledged
writing_child.py finish HOME                          sends what is left; says `left PATH` of what cannot be sent

Options of the mount come in the environment, as JSON in MOUNT_OPTIONS.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from forebay.clock import FakeClock, SystemClock
from forebay.config.settings import Settings
from forebay.errors import FsError
from forebay.stores.base import Store
from forebay.stores.posix import posix_of
from forebay.stores.registry import open_store
from forebay.testing.rig import Rig
from forebay.vfs.entries import FileEntry, MountOptions

SIZES = {"small": 1_000, "body": 120_000, "file": 300_000, "large": (9 << 20) + 1}  # by how a name begins
BLOCKED = "blocked/f"  # cannot be stored while there is a file `blocked`


def content_of(name: str, turn: int) -> bytes:
    """What a file holds after that round."""
    return random.Random(f"{name} {turn}").randbytes(SIZES.get(name.rstrip("0123456789"), 1_000))


def say(line: str) -> None:
    """Tell the parent, in one piece whatever threads log."""
    os.write(1, f"{line}\n".encode())


class RealRig(Rig):
    """A rig with the stores and the clock of the product."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock = cast(FakeClock, SystemClock())

    def _open_store(self, url: str, options: Mapping[str, str], *, settings: Settings) -> tuple[Store, str]:
        return open_store(url, options, settings=settings)


async def write(rig: Rig, mode: str, url: str, rounds: int, names: list[str]) -> None:
    options = tuple(json.loads(os.environ["MOUNT_OPTIONS"]).items())
    await rig.fs.mount("/s", url, MountOptions(write_mode=mode, options=options))
    rig.fs.start()
    for turn in range(rounds):
        for name in names:
            if turn and name == BLOCKED and len(names) > 1:
                continue  # its record stays where it is, and the others go on
            say(f"begin {name} {turn}")
            if await save(rig, f"/s/{name}", content_of(name, turn)):
                say(f"acked {name} {turn}")
    await rig.fs.uploader.drain("/s")


async def save(rig: Rig, path: str, data: bytes) -> bool:
    """As open(2), write(2) and close(2); False if that fails."""
    changes = rig.fs.changes
    opened = await changes.create(path, posix_of(0o644, 0, 0), exclusive=False, truncate=True)
    try:
        opened.draft.content.write(0, data)
        if not rig.fs.uploader.close_now(opened.draft) and not rig.fs.uploader.sync_now(opened.draft):
            await rig.fs.uploader.flush(opened.draft)
    except FsError:
        return False
    finally:
        opened.close()
    return True


async def finish(rig: Rig) -> None:
    rig.fs.start()
    for info in await rig.fs.uploader.drain("/s"):
        say(f"left {info.path} {info.error}")
    for draft in rig.fs.drafts:
        async with draft.lock:  # it becomes a version
            pass
    async for page in rig.fs.walk("/s"):
        for entry in page:
            assert isinstance(entry, FileEntry)
            say(f"shows {entry.path}")


async def main(what: str, home: str, *words: str) -> None:
    async with RealRig(Path(home)) as rig:
        if what == "write":
            mode, url, rounds, *names = words
            await write(rig, mode, url, int(rounds), names)
        else:
            await finish(rig)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
