"""Folders of a web server, from its index pages.

Sizes and times are mostly rounded in an index page, so each file is asked for its headers too, many at a time; not
so where the page tells both exactly (nginx's JSON), and one file shows how the server makes versions of them.

*Callers*: the web store, on the loop.  *Locks*: none.  *Awaits*: the network.  *Invariants*: only what lies directly
below a folder is listed in it; a page that is not surely an index is an error, never an empty folder.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import NamedTuple

import aiohttp

from forebay.errors import Denied, NotFound, Unsupported
from forebay.stores.base import ListPage
from forebay.stores.http_calls import Request
from forebay.stores.web_http import WebHttp
from forebay.stores.web_index import Named, is_page, nginx_etag, parse, raw
from forebay.stores.web_versions import sized
from forebay.types import FolderMeta, ObjectMeta
from forebay.units import KIB, MIB

PAGE_KEYS = 1_000
HEADS_MAX = 32  # at a time, of one store: half of its connections, so that readers find one
FOLDERS_AHEAD = 8  # of a recursive listing: they are read before their turn comes
DEPTH_MAX = 32  # of folders in folders; a link on the server to a folder above ends it at 40 only (ELOOP), in silence
INDEX_BYTES_MAX = 64 * MIB  # about 400,000 files
FOLDER = FolderMeta(0)  # servers say no more of one
_PARSE_IN_THREAD_BYTES = 64 * KIB
UNREADABLE = "unreadable"  # the version of a file that is listed and cannot be read: each read says why

Found = list[ObjectMeta | str]  # files, and folders ("/" at the end), in the order of their keys


class _Folder(NamedTuple):
    prefix: str
    first: Found
    rest: Iterator[list[Named]]  # not yet asked for


class WebListing:
    """See the module."""

    def __init__(self, http: WebHttp, index: str, stat: Callable[[str], Awaitable[ObjectMeta | FolderMeta]]) -> None:
        self._http = http
        self._index = index  # one of `web_options.INDEXES`
        self._stat = stat
        self._heads = asyncio.Semaphore(HEADS_MAX)

    async def entries(self, prefix: str) -> list[Named]:
        """What the index page of a folder names, in the order of bytes.

        Raises:
            NotFound: there is no such folder.
            Unsupported: the server shows no index of it.
        """
        what = f"{self._http.origin}/{prefix}"
        if self._index == "none":
            raise Unsupported(f"{what}: is mounted with http.index=none, so files are found by name only", path=prefix)
        answer = await self._http.ask(Request("GET", prefix), _read_page)
        if len(answer.body) > INDEX_BYTES_MAX:
            raise Unsupported(f"{what}: the index page is larger than {INDEX_BYTES_MAX // MIB} MiB", path=prefix)
        found = await self._parse(answer)
        if found is None:
            message = f"{what}: what the server shows there is not an index of files, so it cannot be listed"
            ways = "http.index=none to read files by name, or http.index=links to take the page's links for files"
            raise Unsupported(f"{message}; add --option {ways}", path=prefix)
        return found

    async def _parse(self, page: "_Page") -> list[Named] | None:
        def work() -> list[Named] | None:
            return parse(page.body, page.kind, page.url, any_page=self._index == "links")

        return work() if len(page.body) < _PARSE_IN_THREAD_BYTES else await asyncio.to_thread(work)

    async def pages(self, prefix: str, start_after: str) -> AsyncGenerator[ListPage, None]:
        """What lies directly below a folder."""
        folder = await self._open(prefix, start_after, recursive=False)
        async with aclosing(self._founds(folder)) as founds:
            async for found in founds:
                folders = [one for one in found if isinstance(one, str)]
                objects = [one for one in found if not isinstance(one, str)]
                yield ListPage(objects, folders, dict.fromkeys(folders, FOLDER))

    async def walk(self, prefix: str, start_after: str) -> AsyncGenerator[ListPage, None]:
        """Every file at or below a folder."""
        folder = await self._open(prefix, start_after, recursive=True)
        async with aclosing(self._below(folder, start_after, 0)) as pages:
            async for page in pages:
                yield page

    async def _below(self, folder: _Folder, start_after: str, depth: int) -> AsyncGenerator[ListPage, None]:
        if depth > DEPTH_MAX:
            raise Unsupported(f"{self._http.origin}: {folder.prefix[:200]!r}: folders in folders without an end")
        async with aclosing(self._founds(folder)) as founds:
            async for found in founds:
                async with aclosing(self._ahead([one for one in found if isinstance(one, str)], start_after)) as ahead:
                    objects: list[ObjectMeta] = []
                    for one in found:
                        if isinstance(one, ObjectMeta):
                            objects.append(one)
                            continue
                        yield ListPage(objects, [], {one: FOLDER})
                        objects = []
                        async with aclosing(self._below(await anext(ahead), start_after, depth + 1)) as pages:
                            async for page in pages:
                                yield page
                    if objects:
                        yield ListPage(objects, [])

    async def _ahead(self, prefixes: Iterable[str], start_after: str) -> AsyncGenerator[_Folder, None]:
        """Folders in order, each opened some time before its turn."""
        waiting = iter(prefixes)
        tasks: deque[asyncio.Task[_Folder]] = deque()
        try:
            while True:
                for prefix in islice(waiting, FOLDERS_AHEAD - len(tasks)):
                    tasks.append(asyncio.create_task(self._open(prefix, start_after, recursive=True)))
                if not tasks:
                    return
                yield await tasks[0]
                tasks.popleft()
        finally:
            await _end(tasks)

    async def _open(self, prefix: str, start_after: str, *, recursive: bool) -> _Folder:
        """A folder with what comes first in it; an empty one holds a marker of itself, as S3's tools make it."""
        try:
            entries = await self.entries(prefix)
        except NotFound:  # removed since it was listed, or never there: a prefix without keys
            return _Folder(prefix, [], iter(()))
        if not entries:
            return _Folder(prefix, [marker(prefix)] if prefix and raw(prefix) > raw(start_after) else [], iter(()))
        wanted = iter([one for one in entries if _is_after(prefix + one.name, start_after, recursive=recursive)])
        batches = iter(lambda: list(islice(wanted, PAGE_KEYS)), [])
        return _Folder(prefix, await self._resolve(prefix, next(batches, [])), batches)

    async def _founds(self, folder: _Folder) -> AsyncGenerator[Found, None]:
        if folder.first:
            yield folder.first
        for batch in folder.rest:
            if found := await self._resolve(folder.prefix, batch):
                yield found

    async def _resolve(self, prefix: str, named: Sequence[Named]) -> Found:
        """What the names of an index page are, those left out that lead to nothing."""
        files = [one for one in named if not one.name.endswith("/")]
        found: Found = [prefix + one.name for one in named if one.name.endswith("/")]
        found += await self._told(prefix, files) or await self._looked_up([prefix + one.name for one in files])
        return sorted(found, key=lambda one: raw(one if isinstance(one, str) else one.key))

    async def _told(self, prefix: str, files: Sequence[Named]) -> list[ObjectMeta]:
        """The files as the page tells them, if it tells all that makes a version: the first one shows whether."""
        if len(files) < 2 or not all(one.mtime_ns for one in files):
            return []
        first = next(iter(await self._looked_up([prefix + files[0].name])), None)
        if not isinstance(first, ObjectMeta) or (first.size, first.mtime_ns) != files[0][1:]:
            return []
        for version in (nginx_etag, sized):
            if version(first.size, first.mtime_ns) == first.version:
                return [
                    ObjectMeta(prefix + name, size or 0, mtime_ns, version(size or 0, mtime_ns))
                    for name, size, mtime_ns in files
                ]
        return []

    async def _looked_up(self, keys: Iterable[str]) -> Found:
        tasks = [asyncio.create_task(self._look(key)) for key in keys]
        try:
            return [found for found in await asyncio.gather(*tasks) if found is not None]
        finally:
            await _end(tasks)

    async def _look(self, key: str) -> ObjectMeta | str | None:
        async with self._heads:
            try:
                meta = await self._stat(key)
            except NotFound:
                return None
            except (Denied, Unsupported):
                return ObjectMeta(key, 1, 0, UNREADABLE)  # not empty: else nobody would ask for its bytes
        return meta if isinstance(meta, ObjectMeta) else key + "/"


def marker(prefix: str) -> ObjectMeta:
    """An empty folder as the object that it is to the contract."""
    return ObjectMeta(prefix, 0, 0, sized(0, 0))


class _Page(NamedTuple):
    url: str
    kind: str  # Content-Type
    body: bytearray


async def _read_page(response: aiohttp.ClientResponse) -> _Page:
    page = _Page(str(response.url), response.headers.get("Content-Type", ""), bytearray())
    if is_page(page.kind):
        async for chunk in response.content.iter_any():
            page.body.extend(chunk)
            if len(page.body) > INDEX_BYTES_MAX:
                break
    return page


def _is_after(key: str, start_after: str, *, recursive: bool) -> bool:
    own, after = raw(key), raw(start_after)
    if own > after:
        return True
    return key.endswith("/") and after.startswith(own) and (own != after or recursive)


async def _end(tasks: Iterable[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
