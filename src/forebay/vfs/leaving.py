"""What stores may show that nobody wants any more: uploads whose file was removed or renamed before they had ended.

The last step of an upload cannot be taken back, and who removes or renames a file on its way need not wait for it: it
goes on by itself, and what it has made is removed after it.  Meanwhile the name shows nothing, and a new file of that
name is not sent.  An object that is not, byte for byte, what we sent is another's, and stays.

*Callers*: the uploader and what changes names, on the loop.  *Awaits*: the store, the journal, the pool.
*Invariants*: no name that leaves is shown; nothing is sent to a key where something is ending or leaving.
*On crash*: the journal knows what leaves, and the next daemon removes it.
"""

import asyncio
import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from forebay.errors import FsError
from forebay.paths import is_within, split
from forebay.vfs.entries import FileEntry, Mount
from forebay.vfs.journal import Journal, Record
from forebay.vfs.records import UploadInfo, offers_in
from forebay.vfs.retries import RETRY_MAX_S, RETRY_S
from forebay.vfs.sending import Offer, Pool, Sender, look, offer_of

log = structlog.get_logger()

Place = tuple[str, str]  # location of the store, and key


class Host(Protocol):
    """What is asked of the file system."""

    async def learn_file(self, path: str, entry: FileEntry | None, *, told: bool = True) -> None:
        """A path shows that file from now on."""
        ...


@dataclass(eq=False, slots=True)
class _Unwanted:
    """An object that may be at a key, or come up there."""

    mount: Mount
    path: str
    key: str
    offered: list[Offer]  # what of us it may be
    record: Record
    error: str = ""  # why it is not removed yet
    again: asyncio.Event = field(default_factory=asyncio.Event)  # do not wait any longer before the next try

    @property
    def place(self) -> Place:
        return self.mount.store.location, self.key


class Leaving:
    """See the module."""

    def __init__(self, host: Host, journal: Journal, pool: Pool) -> None:
        self._host = host
        self._journal = journal
        self._pool = pool
        self._endings: dict[Place, list[asyncio.Task[None]]] = {}
        self._unwanted: dict[Place, _Unwanted] = {}
        self._names: dict[str, dict[str, Place]] = {}  # of those, by folder
        self._tasks: dict[Place, asyncio.Task[None]] = {}

    # ------------------------------------------------------------------ life

    def recover(self, record: Record, mount: Mount) -> None:
        """Something was leaving when an earlier daemon ended."""
        fields = record.fields
        offered = [Offer(*one) for one in fields["offered"]]
        self._hide(_Unwanted(mount, fields["path"], fields["key"], offered, record))

    def start(self) -> None:
        """Begin to remove what was recovered."""
        for one in self._unwanted.values():
            self._begin(one)

    async def close(self) -> None:
        """Stop; the next daemon goes on."""
        tasks = [*self._tasks.values(), *(task for some in self._endings.values() for task in some)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------ what comes to its end

    def let_end(self, mount: Mount, key: str, sender: Sender) -> None:
        """The last step of an upload goes on, and nobody waits for it but who wants to do something with that key."""
        place = mount.store.location, key
        task = asyncio.create_task(sender.outcome(), name=f"end of an upload of {key}")
        self._endings.setdefault(place, []).append(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._endings[place].remove(task)
            if not self._endings[place]:
                del self._endings[place]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("upload.task_failed", name=task.get_name(), exc_info=error)

        task.add_done_callback(ended)

    async def left(self, mount: Mount, key: str, *, below: bool = False) -> None:
        """Return when nothing is ending or leaving at a key, or at any `below` it."""
        location = mount.store.location

        def is_meant(place: Place) -> bool:
            return place == (location, key) or (below and place[0] == location and place[1].startswith(key + "/"))

        while tasks := [
            *(task for place, some in self._endings.items() if is_meant(place) for task in some),
            *(task for place, task in self._tasks.items() if is_meant(place)),
        ]:
            await asyncio.wait(tasks)

    # ------------------------------------------------------------------ what is to be removed

    async def add(self, mount: Mount, path: str, key: str, offered: Iterable[Offer]) -> None:
        """Have what we may have sent to a key removed, as soon as that can be done; hidden until then.

        Raises:
            NoSpace, FsError: the journal cannot keep it.
        """
        fields = {
            "leaving": True,
            "mount": mount.path,
            "location": mount.store.location,
            "path": path,
            "key": key,
            "offered": offers_in(offered),
        }
        record = await self._journal.append(f"leaving {mount.store.location} {key}", fields)
        one = _Unwanted(mount, path, key, list(offered), record)
        self._hide(one)
        self._begin(one)

    def _hide(self, one: _Unwanted) -> None:
        self._unwanted[one.place] = one
        folder, name = split(one.path)
        self._names.setdefault(folder, {})[name] = one.place

    def _begin(self, one: _Unwanted) -> None:
        task = self._tasks[one.place] = asyncio.create_task(self._leave(one), name=f"removal of {one.path}")

        def ended(task: asyncio.Task[None]) -> None:
            if self._tasks.get(one.place) is task:
                del self._tasks[one.place]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("upload.task_failed", name=task.get_name(), exc_info=error)

        task.add_done_callback(ended)

    def in_folder(self, folder: str) -> Collection[str]:
        """The names right in a folder that show nothing, whatever the store has there."""
        return self._names.get(folder, {}).keys()

    def below(self, path: str) -> set[str]:
        """The same, of paths at or below one."""
        return {one.path for one in self._unwanted.values() if is_within(one.path, path)}

    def count_in(self, mount: Mount) -> int:
        """How many objects of a mount have not left yet."""
        return sum(one.mount is mount for one in self._unwanted.values())

    def infos(self, path: str = "/") -> list[UploadInfo]:
        """What has not left yet at or below a path."""
        return [
            UploadInfo(one.path, max((offer.size for offer in one.offered), default=0), "removing", one.error)
            for one in self._unwanted.values()
            if is_within(one.path, path)
        ]

    def hurry(self, path: str) -> None:
        """Try at once what has failed at or below a path."""
        for one in self._unwanted.values():
            if is_within(one.path, path):
                one.error = ""
                one.again.set()

    async def _leave(self, one: _Unwanted) -> None:
        pause_s = RETRY_S
        while True:
            if endings := self._endings.get(one.place):
                await asyncio.wait(endings)
            try:
                await self._remove(one)
                break
            except OSError as error:
                log.warning("upload.not_removed", path=one.path, again_s=pause_s, reason=str(error))
                one.error = str(error)
                one.again.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await one.again.wait()
                pause_s = min(2 * pause_s, RETRY_MAX_S)
        self._journal.retire(one.record)
        with contextlib.suppress(FsError):  # the journal says so
            await self._journal.settle()  # else a crash would bring it back, for what comes to be there next
        folder, name = split(one.path)
        del self._unwanted[one.place]
        del self._names[folder][name]
        if not self._names[folder]:
            del self._names[folder]

    async def _remove(self, one: _Unwanted) -> None:
        store = one.mount.store
        found = await look(store, one.key, {offer.size for offer in one.offered}, self._pool)
        if found is not None and offer_of(found.meta.size, found.sums) in one.offered:
            await store.delete(one.key)
        await self._host.learn_file(one.path, None, told=False)
