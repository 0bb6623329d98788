"""SFTP: any account on an SSH server, through asyncssh.

asyncssh has many reads under way at a time, where paramiko waits for each or reads a file from its start.  It runs on
a loop of the store's own, in a thread of its own: encryption is work, and the daemon's loop has readers waiting.

Links are followed if they lead to files below the mount's folder; links to folders, and links that lead out, are not
shown.  A version is size and time, and SFTP tells times in whole seconds.

*Callers*: threads of `TreeStore`.  *Locks*: one, for connecting.  *Awaits*: the network, within the deadline.
*Invariants*: a piece of a file is given only after the open file has told the version that was asked for.
"""

import asyncio
import os
import stat
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import asyncssh

from forebay.config.settings import Settings
from forebay.errors import Corrupt, FsError, Invalid, NotADirectory, NotEmpty, NotFound, StaleVersion, Unsupported
from forebay.stores import sftp_errors
from forebay.stores.base import Capabilities, Opened
from forebay.stores.named_options import OptionNames, flag
from forebay.stores.sftp_errors import Place
from forebay.stores.tree import CLOSE_WITHIN_S, Entry, Tree, TreeStore
from forebay.types import Buffer, ByteRange, FolderMeta, ObjectMeta, Posix

PORT = 22
KEEPALIVE_S = 15  # a silent peer is asked whether it lives; three questions without an answer end the connection
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"  # first: half the CPU of ChaCha20 where AES is in hardware
_LOST = (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, BrokenPipeError)
_SECOND_NS = 1_000_000_000

_OPTIONS = OptionNames(
    "SFTP",
    prefixes=("sftp", "ssh", "fs", "fsspec"),
    names={
        "sftp.user": ("username", "login"),
        "sftp.password": ("pass", "passwd"),
        "sftp.keyFile": ("keyfile", "keyfilename", "identityfile", "clientkeys", "privatekey"),
        "sftp.passphrase": ("keyfilepass", "keypassphrase"),
        "sftp.knownHosts": ("knownhostsfile", "userknownhostsfile"),
        "sftp.hostKeyCheck": ("stricthostkeychecking",),
    },
)

Result = TypeVar("Result")


class SftpOptions(NamedTuple):
    """What a mount says about its SFTP server; what it leaves out comes from ~/.ssh and the agent."""

    user: str | None = None
    password: str | None = None
    key_file: str | None = None
    passphrase: str | None = None
    known_hosts: str | None = None
    host_key_check: bool = True

    def __repr__(self) -> str:
        return f"<SftpOptions {self.user}>"


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`sftp://user@host:port/folder`; see `forebay.stores.registry`."""
    place = rest.partition("/")[0]
    if ":" in place.rpartition("@")[0]:
        raise Invalid("a password does not belong in the URL: it is shown in listings; use --option sftp.password=...")
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Invalid(f"{scheme}://{place} is no server; write sftp://user@host:port/folder") from error
    if not host or "\0" in rest:
        raise Invalid(f"the URL names no server; write {scheme}://user@host:port/folder")
    given = _OPTIONS.read(options)
    user = given.get("sftp.user")
    if parts.username and user and parts.username != user:
        raise Invalid("the URL and sftp.user name different users; leave one of them out")
    values = SftpOptions(
        user=user or parts.username,
        password=given.get("sftp.password"),
        key_file=_file("sftp.keyFile", given),
        passphrase=given.get("sftp.passphrase"),
        known_hosts=_file("sftp.knownHosts", given),
        host_key_check=flag("sftp.hostKeyCheck", given.get("sftp.hostKeyCheck"), default=True),
    )
    folder = "/" + rest[len(place) :].strip("/")
    tree = SftpTree(host, port or PORT, folder, values, deadline_s=settings.store_deadline_s)
    return Opened(TreeStore(tree, deadline_s=settings.store_deadline_s), "")


def _file(name: str, given: Mapping[str, str]) -> str | None:
    if name not in given:
        return None
    path = Path(given[name])
    if not path.is_absolute():
        raise Invalid(f"{name} must be an absolute path, not {given[name]!r}")
    return str(path)


class SftpTree(Tree):
    """A folder of an SFTP server.  See the module."""

    def __init__(self, host: str, port: int, folder: str, options: SftpOptions, *, deadline_s: float) -> None:
        shown = f"[{host}]" if ":" in host else host
        where = shown if port == PORT else f"{shown}:{port}"
        self.location = f"sftp://{f'{options.user}@' if options.user else ''}{where}{folder}"
        self.capabilities = Capabilities(folders=True, undecodable_keys=True, renames=True)
        self._place = Place(self.location, host, port, options.known_hosts)
        self._options = options
        self._folder = folder
        self._deadline_s = deadline_s
        self._loop = _Loop()
        self._connecting = asyncio.Lock()
        self._session: _Session | None = None

    # ------------------------------------------------------------------ reading

    def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `Tree.stat`."""

        async def ask(session: _Session) -> ObjectMeta | FolderMeta:
            path = self._path(key)
            attrs, real = await asyncio.gather(session.sftp.stat(path), session.sftp.realpath(path))
            session.check_inside(key, str(real))
            return self._meta(key, attrs)

        return self._ask(key, ask)

    def entries(self, key: str) -> Iterable[Entry]:
        """See `Tree.entries`."""

        async def ask(session: _Session) -> list[Entry]:
            found = [name async for name in session.sftp.scandir(self._path(key))]
            names = [(str(one.filename), one.attrs) for one in found if one.filename not in (".", "..")]
            entries = [self._entry(key, name, attrs) for name, attrs in names]
            links = (self._linked(session, key, name) for name, attrs in names if _is(stat.S_ISLNK, attrs))
            return [one for one in (*entries, *await asyncio.gather(*links)) if one is not None]

        return self._ask(key, ask)

    def _entry(self, key: str, name: str, attrs: asyncssh.SFTPAttrs) -> Entry | None:
        try:
            return Entry(name, self._meta(f"{key}/{name}".removeprefix("/"), attrs))
        except NotFound:  # a link, a device
            return None

    async def _linked(self, session: "_Session", key: str, name: str) -> Entry | None:
        path = self._path(f"{key}/{name}".removeprefix("/"))
        with suppress(asyncssh.SFTPError, FsError):
            attrs, real = await asyncio.gather(session.sftp.stat(path), session.sftp.realpath(path))
            session.check_inside(name, str(real))
            if _is(stat.S_ISREG, attrs):
                return self._entry(key, name, attrs)
        return None

    def chunks(self, key: str, span: ByteRange | None, version: str | None, chunk_bytes: int) -> Iterator[Buffer]:
        """See `Tree.chunks`: while one chunk is with the reader, the next is on its way."""

        async def begin(session: _Session) -> tuple[asyncssh.SFTPClientFile, asyncssh.SFTPAttrs]:
            path = self._path(key)
            attrs, real = await asyncio.gather(session.sftp.stat(path), session.sftp.realpath(path))
            session.check_inside(key, str(real))
            if not _is(stat.S_ISREG, attrs):
                raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
            file = await session.sftp.open(path, "rb")
            return file, await file.stat()

        file, attrs = self._ask(key, begin)
        try:
            before = self._checked(key, attrs, version)
            start, stop = span or ByteRange(0, before.size)
            if span is not None and start >= before.size:
                raise Invalid(f"{self.location}: {key!r} of {before.size} bytes has no byte {start}", path=key)
            if stop > before.size:
                raise Corrupt(f"{self.location}: {key!r} ends at {before.size}, before {stop}", path=key)
            yield from self._pieces(key, file, before, ByteRange(start, stop), chunk_bytes)
        finally:
            self._loop.spawn(_close(file))

    def _pieces(
        self, key: str, file: asyncssh.SFTPClientFile, before: ObjectMeta, span: ByteRange, chunk_bytes: int
    ) -> Iterator[Buffer]:
        async def piece(start: int) -> bytes:
            size = min(chunk_bytes, span.stop - start)
            data = cast(bytes, await file.read(size, start))
            self._checked(key, await file.stat(), before.version)  # after the bytes: they are of this version
            if len(data) != size:
                raise Corrupt(f"{self.location}: {key!r}: {len(data)} of {size} bytes came", path=key)
            return data

        ahead: Future[bytes] | None = None
        try:
            for start in range(span.start, span.stop, chunk_bytes):
                coming = ahead or self._loop.spawn(self._within(key, piece(start)))
                more = start + chunk_bytes < span.stop
                ahead = self._loop.spawn(self._within(key, piece(start + chunk_bytes))) if more else None
                yield coming.result()
        finally:
            if ahead is not None:
                ahead.cancel()

    def _checked(self, key: str, attrs: asyncssh.SFTPAttrs, version: str | None) -> ObjectMeta:
        meta = self._meta(key, attrs)
        if isinstance(meta, FolderMeta):
            raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
        if version is not None and meta.version != version:
            raise StaleVersion(f"{self.location}: {key!r} has another version by now", path=key)
        return meta

    def _meta(self, key: str, attrs: asyncssh.SFTPAttrs) -> ObjectMeta | FolderMeta:
        mtime_ns = int(attrs.mtime or 0) * _SECOND_NS + int(attrs.mtime_ns or 0)
        owned = attrs.uid is not None and attrs.gid is not None and attrs.permissions is not None
        posix = _posix(stat.S_IMODE(attrs.permissions or 0), attrs.uid or 0, attrs.gid or 0) if owned else None
        if _is(stat.S_ISDIR, attrs):
            return FolderMeta(mtime_ns, posix)
        if not _is(stat.S_ISREG, attrs):
            raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
        size = attrs.size or 0
        return ObjectMeta(key, size, mtime_ns, f"{size}-{mtime_ns}", posix)

    # ------------------------------------------------------------------ writing

    def write(self, key: str, chunks: Iterator[Buffer]) -> int:
        """See `Tree.write`."""

        async def begin(session: _Session) -> asyncssh.SFTPClientFile:
            session.check_inside(key, str(await session.sftp.realpath(self._path(key.rpartition("/")[0]))))
            return await session.sftp.open(self._path(key), "xb")

        file = self._ask(key, begin)
        written = 0
        try:
            for chunk in chunks:
                data = bytes(memoryview(chunk))
                self._loop.spawn(self._within(key, file.write(data, written))).result()
                written += len(data)
            self._loop.spawn(self._within(key, _sync(file))).result()
        finally:
            self._loop.spawn(_close(file))
        return written

    def move(self, source: str, target: str) -> None:
        """See `Tree.move`."""

        async def ask(session: _Session) -> None:
            try:
                await session.sftp.posix_rename(self._path(source), self._path(target))
            except asyncssh.SFTPOpUnsupported as error:
                message = f"{self.location}: {target!r}: this server cannot put a file in the place of another"
                raise Unsupported(message, path=target) from error

        self._ask(target, ask)

    def rename(self, source: str, target: str) -> None:
        """See `Tree.rename`."""

        async def check(session: _Session) -> None:
            for key in (source, target):
                folder = key.rpartition("/")[0]
                session.check_inside(key, str(await session.sftp.realpath(self._path(folder))))

        self._ask(target, check)
        self.move(source, target)

    def remove(self, key: str) -> None:
        """See `Tree.remove`."""
        self._ask(key, lambda session: session.sftp.remove(self._path(key)))

    def make_folder(self, key: str) -> None:
        """See `Tree.make_folder`."""

        async def ask(session: _Session) -> None:
            try:
                await session.sftp.makedirs(self._path(key), exist_ok=True)
            except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists, asyncssh.SFTPNoSuchFile) as error:
                message = f"{self.location}: {key!r}: a file stands where a folder is needed"
                raise NotADirectory(message, path=key) from error
            session.check_inside(key, str(await session.sftp.realpath(self._path(key))))

        self._ask(key, ask)

    def remove_folder(self, key: str) -> None:
        """See `Tree.remove_folder`."""

        async def ask(session: _Session) -> None:
            try:
                await session.sftp.rmdir(self._path(key))
            except (asyncssh.SFTPFailure, asyncssh.SFTPDirNotEmpty) as error:
                raise NotEmpty(f"{self.location}: {key!r} is not empty", path=key) from error

        self._ask(key, ask)

    def copy(self, source: str, target: str) -> None:
        """See `Tree.copy`: within the server, if it is OpenSSH 9 or the like."""

        async def ask(session: _Session) -> bool:
            if not session.sftp.supports_remote_copy:
                return False
            session.check_inside(source, str(await session.sftp.realpath(self._path(source))))
            async with (
                session.sftp.open(self._path(source), "rb") as reader,
                session.sftp.open(self._path(target), "xb") as writer,
            ):
                await session.sftp.remote_copy(reader, writer)
            return True

        if not self._ask(target, ask):
            super().copy(source, target)

    # ------------------------------------------------------------------ the connection

    def _path(self, key: str) -> str:
        return f"{self._folder.rstrip('/')}/{key}" if key else self._folder

    def _ask(self, key: str, call: "Callable[[_Session], Awaitable[Result]]") -> Result:
        return self._loop.spawn(self._within(key, self._call(call))).result()

    async def _call(self, call: "Callable[[_Session], Awaitable[Result]]") -> Result:
        session = await self._connected()
        try:
            return await call(session)
        except _LOST:
            session.connection.abort()  # the next call makes another one
            raise

    async def _within(self, key: str, work: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await work
        except sftp_errors.ERRORS as error:
            raise sftp_errors.translate(error, self._place, key) from error

    async def _connected(self) -> "_Session":
        async with self._connecting:
            if self._session is None or self._session.connection.is_closed():
                self._session = await self._connect()
            return self._session

    async def _connect(self) -> "_Session":
        options = self._options
        given: dict[str, Any] = {"encryption_algs": _CIPHERS, "keepalive_interval": KEEPALIVE_S}
        given["login_timeout"] = given["connect_timeout"] = self._deadline_s
        if options.user is not None:
            given["username"] = options.user
        if options.password is not None:
            given |= {"password": options.password, "client_keys": None}
        if options.key_file is not None:
            given |= {"client_keys": [options.key_file], "agent_path": None, "passphrase": options.passphrase}
        if not options.host_key_check:
            given["known_hosts"] = None
        elif options.known_hosts is not None:
            given["known_hosts"] = options.known_hosts
        connection = await asyncssh.connect(self._place.host, self._place.port, **given)
        try:
            sftp = await connection.start_sftp_client(path_errors="surrogateescape")
            root = str(await sftp.realpath(self._folder))
        except BaseException:
            connection.abort()
            raise
        return _Session(connection, sftp, root, self.location)

    def close(self) -> None:
        """See `Tree.close`."""
        session, self._session = self._session, None
        self._loop.close(session.end() if session is not None else None)


class _Session(NamedTuple):
    """A connection, and what goes over it."""

    connection: asyncssh.SSHClientConnection
    sftp: asyncssh.SFTPClient
    root: str  # the mount's folder, as the server calls it
    location: str

    def check_inside(self, key: str, real: str) -> None:
        """Raise NotFound if a path has turned out to lead elsewhere."""
        if real != self.root and not real.startswith(self.root.rstrip("/") + "/"):
            raise NotFound(f"{self.location}: {key!r} leads out of the folder by a link", path=key)

    async def end(self) -> None:
        """Close the connection."""
        self.connection.close()
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S / 2):
                await self.connection.wait_closed()
        except TimeoutError:
            self.connection.abort()


class _Loop:
    """An event loop in a thread of its own, which is started when it is first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def spawn(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Have a coroutine run there."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="sftp-loop", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Coroutine[Any, Any, None] | None) -> None:
        """Run `last`, and end what still runs."""
        if self._loop is None or self._thread is None:
            return

        async def end() -> None:
            if last is not None:
                await last
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _is(kind: Callable[[int], bool], attrs: asyncssh.SFTPAttrs) -> bool:
    return kind(attrs.permissions or 0)


@lru_cache(maxsize=1_000)
def _posix(mode: int, uid: int, gid: int) -> Posix:
    # SFTP tells numbers of another machine, and no names.  The kernel here must not refuse by them what the server
    # allows, so everything belongs to the user of the mount; whom it belongs to there is told as text.
    return Posix(mode, os.geteuid(), os.getegid(), str(uid), str(gid))


async def _sync(file: asyncssh.SFTPClientFile) -> None:
    with suppress(asyncssh.SFTPOpUnsupported):
        await file.fsync()


async def _close(file: asyncssh.SFTPClientFile) -> None:
    with suppress(asyncssh.Error, OSError):
        await file.close()
