"""Which folders a walk will open next, so that their listings are asked for while it is still busy with this one.

A walk opens the folders of a folder one after the other, in the order of its listing, and waits for each listing: a
round trip to the store each time.  Two neighbours opened are taken for a walk; what is listed ahead doubles with each
step, up to `AHEAD_MAX`.  Pure.
"""

from collections import OrderedDict

from forebay.vfs.listing import Listing

AHEAD_MAX = 16  # listings under way for one walk: enough for 1,000,000 keys in 1,000 folders at 20 ms in 2 s
NEAR = 32  # places further in the listing: files may lie between two folders
WALKS_MAX = 1_000  # folders in which somebody may be walking


class _Walk:
    """How far a walk is in one folder."""

    __slots__ = ("ahead", "asked", "at")

    def __init__(self, at: int) -> None:
        self.at = at  # the place of the folder opened last
        self.asked = at  # and of the last one asked for ahead
        self.ahead = 1


class WalkAhead:
    """See the module."""

    def __init__(self) -> None:
        self._walks: OrderedDict[str, _Walk] = OrderedDict()  # by the folder whose folders are opened

    def opened(self, above: Listing, name: str) -> list[str]:
        """The folder `name` of a listing was opened: the names of those to list ahead now."""
        at = above.place_of(name)
        walk = self._walks.get(above.path)
        if at is None:
            return []
        if walk is None or not walk.at < at <= walk.at + NEAR:
            self._walks[above.path] = _Walk(at)
            self._walks.move_to_end(above.path)
            if len(self._walks) > WALKS_MAX:
                self._walks.popitem(last=False)
            return []
        walk.at = at
        walk.ahead = min(2 * walk.ahead, AHEAD_MAX)
        walk.asked = max(walk.asked, at)
        stop = min(at + walk.ahead, len(above) - 1)
        found = [name for place in range(walk.asked + 1, stop + 1) if (name := above.folder_at(place))]
        walk.asked = max(walk.asked, stop)
        return found
