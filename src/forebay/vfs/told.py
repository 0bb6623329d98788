"""What the listings of some stores do not tell: modes, owners, times and links, asked for object by object.

A store that keeps attributes with an object writes it anew when they change (S3: a copy onto itself), so its listing
then shows another time or version.  What was asked once holds as long as the listing shows the same.

*Callers*: metadata, on the loop.  *Awaits*: heads, some at a time.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from forebay.clock import Clock
from forebay.errors import Denied, Invalid, NotFound
from forebay.stores.base import ListPage
from forebay.types import FolderMeta, ObjectMeta
from forebay.vfs.entries import Mount
from forebay.vfs.parallel import each

PARALLEL = 32  # heads of one page at a time: a page of 1,000 takes 0.6 s at 20 ms
KEPT_MAX = 100_000  # objects whose attributes are remembered, about 500 bytes each
RESTED_NS = 60_000_000_000  # listings tell seconds, by another clock: what changed so lately is asked for again

Head = Callable[[Mount, str], Awaitable[ObjectMeta]]


class _Asked(NamedTuple):
    listed: ObjectMeta
    told: ObjectMeta


def is_silent(mount: Mount) -> bool:
    """Does a mount's store keep attributes that its listings do not tell?"""
    can = mount.store.capabilities
    return can.attributes and not can.listed_attributes


class Told:
    """See the module."""

    def __init__(self, clock: Clock, head: Head) -> None:
        self._clock = clock
        self._head = head
        self._asked: OrderedDict[tuple[str, str], _Asked] = OrderedDict()  # by location and key

    async def page(self, mount: Mount, page: ListPage) -> ListPage:
        """A page of a listing with all attributes; what has gone since is not in it any more.

        An object that may not be asked for shows as the listing has it.

        Raises what the store raises if it cannot be reached.
        """
        if not is_silent(mount):
            return page
        listed = {meta.key: meta for meta in page.objects}
        found = {key: asked.told for key, meta in listed.items() if (asked := self._known(mount, meta)) is not None}
        folders: dict[str, FolderMeta] = dict(page.folder_metas)

        async def ask(key: str) -> None:
            try:
                meta = await self._head(mount, key)
            except NotFound:  # of a folder: it exists by the keys below it alone
                return
            except (Denied, Invalid):
                if key in listed:
                    found[key] = listed[key]
                return
            if key in listed:
                found[key] = meta
                self._keep(mount, _Asked(listed[key], meta))
            else:
                folders[key] = FolderMeta(meta.mtime_ns, meta.posix)

        await each([*(key for key in listed if key not in found), *page.folders], ask, parallel=PARALLEL)
        return ListPage([found[key] for key in listed if key in found], page.folders, folders)

    def _known(self, mount: Mount, listed: ObjectMeta) -> _Asked | None:
        place = (mount.store.location, listed.key)
        asked = self._asked.get(place)
        if asked is None or asked.listed != listed:
            return None
        self._asked.move_to_end(place)
        return asked

    def _keep(self, mount: Mount, asked: _Asked) -> None:
        if self._clock.time_ns() - asked.listed.mtime_ns < RESTED_NS:
            return
        self._asked[mount.store.location, asked.listed.key] = asked
        if len(self._asked) > KEPT_MAX:
            self._asked.popitem(last=False)
