"""What the stores do not have yet, as the admin API tells it.

*Callers*: the admin API.  *Awaits*: the uploader.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from forebay.daemon.wire import Json
from forebay.observe.redact import Redactor
from forebay.paths import is_within
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.records import UploadInfo

EVENT_EVERY_S = 0.2
_UNDER_WAY = ("waiting", "sending", "removing")


def upload_info(info: UploadInfo, redactor: Redactor) -> Json:
    """One file as listings show it."""
    return info._asdict() | {"error": redactor.clean(info.error)}


async def flush(fs: FileSystem, path: str, redactor: Redactor) -> AsyncGenerator[Sequence[Json], None]:
    """Wait until the stores show what the tree does at or below a path; now and then, what is left to do.

    The last line has `done` and what failed: files that could not be sent, and conflicts that came up meanwhile.
    """
    before = len(fs.uploader.storing.conflicts)
    task = asyncio.ensure_future(fs.uploader.drain(path))
    try:
        while not (await asyncio.wait({task}, timeout=EVENT_EVERY_S))[0]:
            left = [info for info in fs.uploader.infos() if info.state in _UNDER_WAY and is_within(info.path, path)]
            yield [{"files_left": len(left), "bytes_left": sum(info.size for info in left), "done": False}]
        conflicts = [info for info in fs.uploader.storing.conflicts[before:] if is_within(info.path, path)]
        failed = [upload_info(info, redactor) for info in task.result() + conflicts]
        yield [{"files_left": 0, "bytes_left": 0, "done": True, "failed": failed}]
    finally:
        task.cancel()
