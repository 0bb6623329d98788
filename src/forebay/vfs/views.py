"""When those who show the tree, as the kernel does for local folders, show what has changed in it.

*Callers*: the file system and frontends, on the loop.  *Awaits*: each view, for a moment.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

SHOWN_WITHIN_S = 0.5  # a local folder that nobody waits in shows a change within a millisecond
REFRESHED_WITHIN_S = 10.0  # and each name of a refreshed tree, of which there may be a million, within 10 us

View = Callable[[], Awaitable[object]]  # returns when a local folder shows what was told before


async def shown(views: Sequence[View], *, within_s: float = SHOWN_WITHIN_S) -> None:
    """Return when local folders show what was changed, or do not because somebody there waits for a store."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(view() for view in views))
