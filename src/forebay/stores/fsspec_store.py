"""Every store that fsspec knows and Forebay has no adapter for: `fsspec+PROTOCOL://...`.

It is as good as the file system's `info`: that tells the version.  A read is compared with it before and after, since
fsspec has no reads of a version; where neither an ETag nor a hash nor a time is told, a change that keeps the size is
not seen.  Nothing of fsspec's own caches is used.

*Callers*: threads of `TreeStore`.  *Locks*: one, for making the file system.  *Invariants*: bytes are given only if
`info` tells the same version before and after them.
"""

import difflib
import hashlib
import inspect
import json
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.registry import known_implementations, registry
from fsspec.spec import AbstractFileSystem

from forebay.config.settings import Settings
from forebay.errors import Corrupt, FsError, Invalid, NotADirectory, NotFound, StaleVersion
from forebay.stores import fsspec_errors
from forebay.stores.base import Capabilities, Opened
from forebay.stores.times import nanoseconds
from forebay.stores.tree import Entry, Tree, TreeStore
from forebay.stores.urls import refuse_credentials
from forebay.types import Buffer, ByteRange, FolderMeta, ObjectMeta
from forebay.units import MIB

PREFIX = "fsspec+"
SPOOLED_BYTES = 8 * MIB  # of an upload stay in memory; what is more waits on the local disk for its end
# What names a state of a file, best first, as the file systems of fsspec call it.
_VERSIONS = ("ETag", "etag", "e_tag", "sha256", "checksum", "md5", "md5Hash", "content_md5", "generation", "version_id")
_TIMES = ("mtime", "last_modified", "LastModified", "modified", "updated", "created")
_RENAMES = ("file", "local")  # whose `mv` replaces a file in one step
_READ_ONLY = ("git", "github", "data", "tar", "zip", "libarchive", "dask", "jupyter", "jlab")
_NESTED = ("simplecache", "filecache", "blockcache", "cached", "dir", "reference")
# Words in the names of options that do not say where something is; all others are part of the location.
_SECRET = ("key", "secret", "token", "pass", "cred", "sas", "sig", "auth", "user", "login")
_FORM = "fsspec+PROTOCOL://..., such as fsspec+ftp://host/folder"


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`fsspec+PROTOCOL://rest`, with the options that PROTOCOL's file system takes; see `forebay.stores.registry`."""
    protocol = scheme.removeprefix(PREFIX)
    refuse_credentials(rest.partition("/")[0], instead="--option username=... --option password=...")
    if protocol == "forebay":
        raise Invalid(
            "forebay:// is this daemon's own tree; mount the store that it comes from, or use the path as it is"
        )
    if "::" in rest or protocol in _NESTED:
        raise Invalid(f"Forebay has a cache of its own, and takes no chain of file systems; write {_FORM}")
    if "?" in rest:
        raise Invalid("a query (`?...`) does not belong in the URL: it is shown in listings, and some hold a signature")
    kind = _find_class(protocol)
    url = f"{protocol}://{rest}"
    given: dict[str, Any] = {name: _typed(kind, name, value) for name, value in options.items()}
    told = cast(dict[str, Any], kind._get_kwargs_from_urls(url))  # noqa: SLF001 - fsspec's own way to open a URL
    tree = FsspecTree(kind, scheme, url, _caches_off(kind) | told | given, options)
    return Opened(TreeStore(tree, deadline_s=settings.store_deadline_s), "")


def _find_class(protocol: str) -> type[AbstractFileSystem]:
    known = {*known_implementations, *registry}
    if protocol not in known:
        near = difflib.get_close_matches(protocol, known, n=1)
        hint = f"did you mean {PREFIX}{near[0]}://?" if near else "pip install the package that brings it"
        raise Invalid(f"fsspec knows no protocol {protocol[:20]!r}; {hint}")
    try:
        return cast(type[AbstractFileSystem], fsspec.get_filesystem_class(protocol))
    except ImportError as error:
        known_as = known_implementations.get(protocol, {})
        package = known_as.get("class", protocol).partition(".")[0]
        what_to_do = known_as.get("err", "") if package == "fsspec" else f"pip install {package}"
        raise Invalid(f"fsspec+{protocol}:// needs a package that is not installed: {what_to_do}") from error


def _caches_off(kind: type[AbstractFileSystem]) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return {"use_listings_cache": False} if takes_any or "use_listings_cache" in parameters else {}


def _typed(kind: type[AbstractFileSystem], name: str, value: str) -> object:
    """An option's value as the constructor takes it: of its default's type, or JSON if it looks so, else as it is."""
    parameter = inspect.signature(kind.__init__).parameters.get(name)
    default = parameter.default if parameter is not None else None
    if isinstance(default, bool) or value.lower() in ("true", "false"):
        return value.lower() in ("true", "yes", "on", "1")
    try:
        if isinstance(default, int | float):
            return type(default)(value)
        return json.loads(value) if value[:1] in ("{", "[") else value
    except ValueError:
        raise Invalid(f"option {name} is not a number, or not JSON, as fsspec needs it") from None


class FsspecTree(Tree):
    """A folder of a file system of fsspec.  See the module."""

    def __init__(
        self,
        kind: type[AbstractFileSystem],
        scheme: str,
        url: str,
        arguments: Mapping[str, Any],
        options: Mapping[str, str],
    ) -> None:
        protocol, _, rest = url.partition("://")
        self._kind = kind
        self._arguments = arguments
        self._option_names = ", ".join(options) or "none given"
        self._root = cast(str, kind._strip_protocol(url)).rstrip("/")  # noqa: SLF001 - fsspec's own way to open a URL
        self.location = f"{scheme}://{rest.rstrip('/')}{_told_apart(options)}"
        self.renames = protocol in _RENAMES
        self.capabilities = Capabilities(
            writable=_writes(kind), conditional_get=False, folders=True, undecodable_keys=self.renames
        )
        self._making = threading.Lock()
        self._made: AbstractFileSystem | None = None

    @property
    def _fs(self) -> AbstractFileSystem:
        """The file system, made when it is first used: some connect as they are made."""
        with self._making:
            if self._made is None:
                try:
                    self._made = self._kind(**self._arguments, skip_instance_cache=True)
                except TypeError as error:
                    message = f"{self.location}: fsspec cannot open it with these options: {self._option_names}"
                    raise Invalid(f"{message}; its documentation names those that it takes") from error
            return self._made

    # ------------------------------------------------------------------ reading

    def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `Tree.stat`."""
        try:
            with self._translated(key):
                self._fs.invalidate_cache()
                return self._meta(key, self._fs.info(self._path(key)))
        except NotADirectory as error:
            raise NotFound(f"{self.location}: no such file: {key!r}", path=key) from error

    def entries(self, key: str) -> Iterable[Entry]:
        """See `Tree.entries`."""
        path = self._path(key)
        with self._translated(key):
            self._fs.invalidate_cache()
            found = self._fs.ls(path, detail=True)
        entries = []
        for info in found:
            whole = str(info["name"]).rstrip("/")
            if whole.strip("/") == path.strip("/"):  # the folder itself, or a file in its place
                if info["type"] == "file" and not info["name"].endswith("/"):
                    raise NotADirectory(f"{self.location}: {key!r} is a file, not a folder", path=key)
                continue
            name = whole.rpartition("/")[2]
            if info["type"] in ("file", "directory"):
                entries.append(Entry(name, self._meta(f"{key}/{name}".removeprefix("/"), info)))
        return entries

    def _meta(self, key: str, info: Mapping[str, Any]) -> ObjectMeta | FolderMeta:
        times = [info[name] for name in _TIMES if info.get(name)]
        mtime_ns = _nanoseconds(times[0]) if times else 0
        if info["type"] == "directory":
            return FolderMeta(mtime_ns)
        if info["type"] != "file":
            raise NotFound(f"{self.location}: {key!r} is not a file", path=key)
        if info.get("size") is None:
            raise Corrupt(f"{self.location}: {key!r}: fsspec does not tell its size", path=key)
        size = int(info["size"])
        states = [str(info[name]) for name in _VERSIONS if info.get(name)]
        version = states[0].removeprefix("W/").strip('"') if states else f"{size}-{mtime_ns}"
        if not states and info.get("ino"):
            version += f"-{info['ino']}"  # a file that takes another's place is another one
        return ObjectMeta(key, size, mtime_ns, version)

    def chunks(self, key: str, span: ByteRange | None, version: str | None, chunk_bytes: int) -> Iterator[Buffer]:
        """See `Tree.chunks`: a request for each, and one before and after it."""
        before = self._expect(key, version)
        start, stop = span or ByteRange(0, before.size)
        if span is not None and start >= before.size:
            raise Invalid(f"{self.location}: {key!r} of {before.size} bytes has no byte {start}", path=key)
        if stop > before.size:
            raise Corrupt(f"{self.location}: {key!r} ends at {before.size}, before {stop}", path=key)
        while start < stop:
            more = min(start + chunk_bytes, stop)
            with self._translated(key):
                data = self._read(self._path(key), start, more)
            self._expect(key, before.version)
            if len(data) != more - start:
                raise Corrupt(f"{self.location}: {key!r}: {len(data)} of {more - start} bytes came", path=key)
            yield data
            start = more

    def _expect(self, key: str, version: str | None) -> ObjectMeta:
        meta = self.stat(key)
        if isinstance(meta, FolderMeta):
            raise NotFound(f"{self.location}: {key!r} is a folder", path=key)
        if version is not None and meta.version != version:
            raise StaleVersion(f"{self.location}: {key!r} has another version by now", path=key)
        return meta

    def _read(self, path: str, start: int, stop: int) -> bytes:
        if self._kind.cat_file is not AbstractFileSystem.cat_file:
            return cast(bytes, self._fs.cat_file(path, start=start, end=stop))
        with self._fs.open(path, "rb", cache_type="none") as file:
            file.seek(start)
            return cast(bytes, file.read(stop - start))

    # ------------------------------------------------------------------ writing

    def write(self, key: str, chunks: Iterator[Buffer]) -> int:
        """See `Tree.write`: in one call once all is here, since an `open` file is stored even if it breaks off."""
        path = self._path(key)
        with tempfile.SpooledTemporaryFile(SPOOLED_BYTES) as spool:
            for chunk in chunks:
                spool.write(memoryview(chunk))
            size = spool.tell()
            spool.seek(0)
            with self._translated(key):
                if size <= SPOOLED_BYTES:
                    self._fs.pipe_file(path, spool.read())
                else:
                    spool.rollover()
                    self._fs.put_file(f"/proc/self/fd/{spool.fileno()}", path)
        return size

    def move(self, source: str, target: str) -> None:
        """See `Tree.move`."""
        with self._translated(target):
            self._fs.mv(self._path(source), self._path(target))

    def remove(self, key: str) -> None:
        """See `Tree.remove`."""
        with self._translated(key):
            self._fs.rm_file(self._path(key))

    def make_folder(self, key: str) -> None:
        """See `Tree.make_folder`."""
        with self._translated(key):
            self._fs.makedirs(self._path(key), exist_ok=True)

    def remove_folder(self, key: str) -> None:
        """See `Tree.remove_folder`."""
        with self._translated(key):
            self._fs.rmdir(self._path(key))

    def copy(self, source: str, target: str) -> None:
        """See `Tree.copy`."""
        with self._translated(source):
            self._fs.cp_file(self._path(source), self._path(target))

    def _path(self, key: str) -> str:
        if self._root:
            return f"{self._root}/{key}" if key else self._root
        return f"{self._kind.root_marker}{key}"

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn what a plug-in raises into ours."""
        try:
            yield
        except FsError:
            raise
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            raise fsspec_errors.translate(error, self.location, key) from None


def _writes(kind: type[AbstractFileSystem]) -> bool:
    """Does the file system have a way to store a file?"""
    if issubclass(kind, AsyncFileSystem):
        return kind._pipe_file is not AsyncFileSystem._pipe_file  # noqa: SLF001 - fsspec has no other way to tell
    names = (kind.protocol,) if isinstance(kind.protocol, str) else kind.protocol
    return not set(names) & set(_READ_ONLY)


def _nanoseconds(moment: object) -> int:
    if isinstance(moment, datetime):
        return nanoseconds(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    if isinstance(moment, int | float):
        return int(moment * 1_000_000) * 1_000
    if isinstance(moment, str):
        try:
            return _nanoseconds(datetime.fromisoformat(moment))
        except ValueError:
            return 0
    return 0


def _told_apart(options: Mapping[str, str]) -> str:
    """A mark of the options that say where something is (endpoint, host, bucket), so that places do not mix."""
    open_ones = sorted(item for item in options.items() if not any(word in item[0].lower() for word in _SECRET))
    return f"#{hashlib.sha256(json.dumps(open_ones).encode()).hexdigest()[:16]}" if open_ones else ""
