"""What each call of a program means: names, and files that are open by handle.

*Callers*: the server, one task per call, on the loop.  *Locks*: none.  *Awaits*: the file system.
*Invariants*: a handle is of one version, or of what is being written; what a call opened is in its session, or closed.
"""

import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import NamedTuple

from forebay import paths
from forebay.cache.pagefile import Descriptor
from forebay.errors import Invalid, IsADirectory, StaleVersion
from forebay.frontends.local.format import FILES_MAX, PIECE_BYTES, Json
from forebay.frontends.local.orders import Job, Orders
from forebay.frontends.local.sessions import Session
from forebay.types import Buffer
from forebay.vfs.drafts import AnyFile, OpenDraft
from forebay.vfs.entries import Entry, FileEntry, is_link
from forebay.vfs.filesystem import FileSystem
from forebay.vfs.modes import touch
from forebay.vfs.openfile import OpenFile
from forebay.vfs.views import shown

ROWS = 2 * FILES_MAX  # entries of a listing in one frame


class Answer(NamedTuple):
    """What a call gives."""

    head: Json = {}  # noqa: RUF012 - never changed
    data: Buffer = b""
    files: Sequence[Descriptor] = ()


class Caller(NamedTuple):
    """Who calls."""

    session: Session
    pid: int
    jobs: list[Job]  # of this connection; one at most


Call = Callable[[Caller, Json, bytes], Awaitable[Answer]]
LongCall = Callable[[Json], AsyncGenerator[list[Json], None]]


class Calls:
    """See the module."""

    def __init__(self, fs: FileSystem, orders: Orders) -> None:
        self._fs = fs
        self._links = fs.links
        self._orders = orders
        self.short: dict[str, Call] = {
            "stat": self._stat,
            "readlink": self._readlink,
            "mkdir": self._change(self._mkdir),
            "rmdir": self._change(self._rmdir),
            "remove": self._change(self._remove),
            "rename": self._change(self._rename),
            "touch": self._change(self._touch),
            "refresh": self._change(self._refresh),
            "open": self._open,
            "read": self._read,
            "write": self._write,
            "truncate": self._truncate,
            "flush": self._flush,
            "close": self._close,
            "local_folders": self._tell_local_folders,
            "job.open": self._open_job,
            "job.announce": self._announce,
            "job.advance": self._advance,
            "job.close": self._close_job,
        }
        self.long: dict[str, LongCall] = {"list": self._list, "walk": self._walk}

    def _change(self, call: Call) -> Call:
        """A call that returns when local folders show what it has changed."""

        async def change(caller: Caller, fields: Json, data: bytes) -> Answer:
            answer = await call(caller, fields, data)
            await shown(self._fs.views)
            return answer

        return change

    # ------------------------------------------------------------------ names

    async def _stat(self, _: Caller, fields: Json, __: bytes) -> Answer:
        path = _path(fields)
        if fields.get("follows", True):
            return Answer(row_of(await self._links.find(path), path))
        return Answer(row_of(await self._fs.stat(await self._links.place(path, last=False)), path))

    async def _readlink(self, _: Caller, fields: Json, __: bytes) -> Answer:
        return Answer({"target": await self._links.read(_path(fields))})

    async def _name(self, fields: Json, name: str = "path") -> str:
        """Where the name lies that a call changes: links above it are followed, it itself is not."""
        return await self._links.place(_path(fields, name), last=False)

    async def _mkdir(self, _: Caller, fields: Json, __: bytes) -> Answer:
        await self._fs.mkdir(await self._name(fields), parents=bool(fields.get("parents")))
        return Answer()

    async def _rmdir(self, _: Caller, fields: Json, __: bytes) -> Answer:
        await self._fs.rmdir(await self._name(fields))
        return Answer()

    async def _remove(self, _: Caller, fields: Json, __: bytes) -> Answer:
        path, recursive = await self._name(fields), bool(fields.get("recursive"))
        removed = await self._fs.remove(path, recursive=recursive)
        return Answer({"removed": removed})

    async def _rename(self, _: Caller, fields: Json, __: bytes) -> Answer:
        source, target = await self._name(fields, "source"), await self._name(fields, "target")
        await self._fs.changes.rename(source, target, replace=bool(fields.get("replace")))
        self._fs.tell(source)
        self._fs.tell(target)
        return Answer()

    async def _touch(self, _: Caller, fields: Json, __: bytes) -> Answer:
        await touch(self._fs, await self._links.place(_path(fields)), mtime_ns=None)
        return Answer()

    async def _refresh(self, _: Caller, fields: Json, __: bytes) -> Answer:
        path = _path(fields)
        await self._fs.refresh(name := await self._links.place(path, last=False))
        if (real := await self._links.place(path)) != name:
            await self._fs.refresh(real)
        return Answer()

    async def _list(self, fields: Json) -> AsyncGenerator[list[Json], None]:
        path = _path(fields)
        listing = await self._fs.open_folder(await self._links.place(path), reads=True)
        async for some in listing.batches(ROWS, listing.counted(self._fs.monotonic)):
            yield [row_of(entry, paths.join(path, name)) for name, entry in some]

    async def _walk(self, fields: Json) -> AsyncGenerator[list[Json], None]:
        path = _path(fields)
        real = await self._links.place(path)
        async for files in self._fs.walk(real, reads=True):
            for start in range(0, len(files), ROWS):
                some = files[start : start + ROWS]
                yield [row_of(file, _seen_from(path, real, file.path)) for file in some]

    async def _tell_local_folders(self, _: Caller, __: Json, ___: bytes) -> Answer:
        return Answer({"folders": [list(pair) for pair in self._fs.local_folders()]})

    # ------------------------------------------------------------------ files

    async def _file(self, path: str, version: object) -> FileEntry:
        entry = await self._links.find(path)
        if not isinstance(entry, FileEntry):
            raise IsADirectory(f"{path} is a folder", path=path)
        if version is not None and entry.version != version:
            raise StaleVersion(f"{path} has changed since it was opened; open it again", path=path)
        return entry

    async def _open(self, caller: Caller, fields: Json, _: bytes) -> Answer:
        path = _path(fields)
        if fields.get("writes"):
            file: AnyFile = await self._open_to_write(path, fields)
        else:
            file = self._fs.open(await self._file(path, fields.get("version")))
        return self._opened(caller, file, path, append=bool(fields.get("append")))

    async def _open_to_write(self, path: str, fields: Json) -> OpenDraft:
        try:
            return await self._begin_to_write(path, fields)
        except StaleVersion:  # it was being renamed, or has just been stored: the path may show something else now
            return await self._begin_to_write(path, fields)

    async def _begin_to_write(self, path: str, fields: Json) -> OpenDraft:
        truncates, exclusive = bool(fields.get("truncates")), bool(fields.get("exclusive"))
        if fields.get("creates"):
            path = await self._links.place(path, last=not exclusive)
            await self._fs.writer.check_target(path, overwrite=not exclusive)
            opened = await self._fs.changes.create(path, None, exclusive=exclusive, truncate=truncates)
        else:
            opened = await self._fs.changes.open(await self._file(path, None), truncate=truncates)
        self._fs.tell(opened.draft.path, below=False)  # the program writes the local file by itself
        await shown(self._fs.views)
        return opened

    def _opened(self, caller: Caller, file: AnyFile, path: str, *, append: bool) -> Answer:
        try:
            if isinstance(file, OpenDraft) and file.is_writer:
                local = file.opened_again(os.O_RDWR | (os.O_APPEND if append else 0))
            else:
                local = file.reader()
        except BaseException:
            file.close()
            raise
        if local is not None and isinstance(file, OpenFile):
            file.passed()
        head = row_of(file.entry, path) | {"handle": caller.session.add(file)}
        return Answer(head, files=() if local is None else (local,))

    async def _read(self, caller: Caller, fields: Json, _: bytes) -> Answer:
        """Bytes of a file that is not whole here; with a descriptor once it is."""
        file, offset, size = caller.session.file(fields.get("handle")), _whole(fields, "offset"), _whole(fields, "size")
        data = await file.read(offset, min(size, PIECE_BYTES))
        local = file.reader() if isinstance(file, OpenFile) else None
        if local is not None and isinstance(file, OpenFile):
            file.passed(offset + len(data))
        return Answer(data=data, files=() if local is None else (local,))

    async def _write(self, caller: Caller, fields: Json, data: bytes) -> Answer:
        """Bytes into a file of which not all is here; all others are written by their descriptor."""
        content = caller.session.draft(fields.get("handle")).draft.content
        offset = content.size() if fields.get("append") else _whole(fields, "offset")
        await self._fs.uploader.pool(content.write, offset, data)
        return Answer({"offset": offset})

    async def _truncate(self, caller: Caller, fields: Json, _: bytes) -> Answer:
        caller.session.draft(fields.get("handle")).draft.content.truncate(_whole(fields, "size"))
        return Answer()

    async def _flush(self, caller: Caller, fields: Json, _: bytes) -> Answer:
        await self._fs.uploader.flush(caller.session.draft(fields.get("handle")).draft)
        return Answer()

    async def _close(self, caller: Caller, fields: Json, _: bytes) -> Answer:
        caller.session.close(fields.get("handle"))
        return Answer()

    # ------------------------------------------------------------------ announced orders

    async def _open_job(self, caller: Caller, fields: Json, _: bytes) -> Answer:
        if caller.jobs:
            raise Invalid("this connection has a job already")
        caller.jobs.append(self._orders.open_job(_text(fields, "name"), caller.pid))
        return Answer()

    async def _announce(self, caller: Caller, fields: Json, data: bytes) -> Answer:
        wanted = data.decode("utf-8", "surrogateescape").split("\0") if data else []
        self._job(caller).announce(paths.normalize_all(wanted))
        return Answer()

    async def _advance(self, caller: Caller, fields: Json, _: bytes) -> Answer:
        self._job(caller).advance(_whole(fields, "count"))
        return Answer()

    async def _close_job(self, caller: Caller, _: Json, __: bytes) -> Answer:
        self._job(caller).close()
        caller.jobs.clear()
        return Answer()

    def _job(self, caller: Caller) -> Job:
        if not caller.jobs:
            raise Invalid("this connection has no job")
        return caller.jobs[0]


def row_of(entry: Entry, path: str) -> Json:
    """A file or folder as programs see it, at the path by which they know it."""
    mode = None if entry.posix is None else stat.S_IMODE(entry.posix.mode)
    common = {"path": path, "mtime_ns": entry.mtime_ns, "mode": mode}
    if isinstance(entry, FileEntry):
        kind = "link" if is_link(entry) else "file"
        return common | {"type": kind, "size": entry.size, "version": entry.version}
    return common | {"type": "directory", "size": 0, "version": None}


def _seen_from(path: str, real: str, found: str) -> str:
    """What was found at or below `real`, as it is called where `path` led there."""
    if path == real:
        return found
    return path if found == real else paths.join(path, paths.relative(found, real))


def _path(fields: Json, name: str = "path") -> str:
    return paths.normalize(_text(fields, name))


def _text(fields: Json, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise Invalid(f"the call needs the text {name!r}")
    return value


def _whole(fields: Json, name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Invalid(f"the call's {name!r} must be a whole number, 0 or more")
    return value
