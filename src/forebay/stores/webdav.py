"""WebDAV: Nextcloud, Apache, nginx and all that share files over HTTP, through webdav4.

Bytes are read with range requests whose answers name the version they are of, so no read needs a look before or after.
A version is the ETag; where the server's listings have none (nginx), size and time, and HTTP tells times in seconds.

*Callers*: threads of `TreeStore`.  *Locks*: none but those of the HTTP client.  *Invariants*: bytes are given only if
the answer's version and range are what was asked for.
"""

import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import webdav4.client as dav
from webdav4.multistatus import Response

from forebay.config.settings import Settings
from forebay.errors import Invalid, NotADirectory, NotEmpty, NotFound, StaleVersion, Unsupported
from forebay.stores import webdav_errors
from forebay.stores.base import Capabilities, Opened
from forebay.stores.named_options import OptionNames, flag
from forebay.stores.ranges import check_range, range_header, total_bytes
from forebay.stores.s3_listing import version_of
from forebay.stores.times import header_time_ns, nanoseconds
from forebay.stores.tree import THREADS, Entry, Tree, TreeStore
from forebay.stores.urls import refuse_credentials
from forebay.types import Buffer, ByteRange, FolderMeta, ObjectMeta

LOCK_WAITS_S = (0.01, 0.03, 0.1, 0.3)  # a folder is locked as long as one request takes; a user's lock stays

_OPTIONS = OptionNames(
    "WebDAV",
    prefixes=("webdav", "dav", "webdavs", "davs", "fsspec"),
    names={
        "webdav.user": ("username", "login"),
        "webdav.password": ("pass", "passwd"),
        "webdav.token": ("bearertoken", "accesstoken"),
        "webdav.tls.verify": ("verify", "sslverify"),
        "webdav.tls.caFile": ("cafile", "cabundle"),
    },
)


class WebdavOptions(NamedTuple):
    """What a mount says about its WebDAV server; without user and token, `~/.netrc` is asked."""

    user: str | None = None
    password: str | None = None
    token: str | None = None
    verify: bool = True  # the server's certificate
    ca_file: str | None = None

    def __repr__(self) -> str:
        return f"<WebdavOptions {self.user}>"


def open_url(scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    """`webdavs://host:port/folder`; see `forebay.stores.registry`."""
    place = rest.partition("/")[0]
    refuse_credentials(place, instead="--option webdav.user=... --option webdav.password=...")
    secure = scheme.endswith("s")
    try:
        parts = urlsplit(f"//{place}")
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError as error:
        raise Invalid(f"{scheme}://{place} is no server; write {scheme}://host:port/folder") from error
    given = _OPTIONS.read(options)
    values = WebdavOptions(
        user=given.get("webdav.user"),
        password=given.get("webdav.password"),
        token=given.get("webdav.token"),
        verify=flag("webdav.tls.verify", given.get("webdav.tls.verify"), default=True),
        ca_file=given.get("webdav.tls.caFile"),
    )
    if values.token and values.user:
        raise Invalid("webdav.user and webdav.token exclude each other; leave one of them out")
    if values.password and not values.user:
        raise Invalid("a password was given without its user; add --option webdav.user=...")
    tree = WebdavTree(secure, place.lower(), rest[len(place) :], values, deadline_s=settings.store_deadline_s)
    return Opened(TreeStore(tree, deadline_s=settings.store_deadline_s), "")


class WebdavTree(Tree):
    """A folder of a WebDAV server.  See the module."""

    def __init__(self, secure: bool, place: str, folder: str, options: WebdavOptions, *, deadline_s: float) -> None:
        folder = folder.strip("/")
        self.location = f"{'webdavs' if secure else 'webdav'}://{place}/{folder}".rstrip("/")
        self.capabilities = Capabilities(folders=True)
        self._place = webdav_errors.Place(self.location, place, secure)
        self._folder = folder
        settings: dict[str, Any] = {
            "timeout": deadline_s,
            "auth": _auth(options, place),
            "limits": httpx.Limits(max_connections=THREADS, max_keepalive_connections=THREADS),
        }
        if options.token:
            settings["headers"] = {"Authorization": f"Bearer {options.token}"}
        if secure:
            settings["verify"] = _trust(options)
        self._client = dav.Client(f"{'https' if secure else 'http'}://{place}/", **settings)

    # ------------------------------------------------------------------ reading

    def stat(self, key: str) -> ObjectMeta | FolderMeta:
        """See `Tree.stat`."""
        with self._translated(key):
            found = self._find(key, depth="0")
            return self._meta(key, found[0])

    def entries(self, key: str) -> Iterable[Entry]:
        """See `Tree.entries`."""
        with self._translated(key):
            found = self._find(key, depth="1")
            itself = "/" + f"{self._folder}/{key}".strip("/")
            entries = []
            for response in found:
                if response.path_norm == itself:
                    if not response.properties.collection:
                        raise NotADirectory(f"{self.location}: {key!r} is a file, not a folder", path=key)
                    continue
                name = response.path_norm.rpartition("/")[2]
                entries.append(Entry(name, self._meta(f"{key}/{name}".removeprefix("/"), response)))
            return entries

    def _find(self, key: str, *, depth: str) -> list[Response]:
        answer = self._client.propfind(self._path(key), headers={"Depth": depth}, follow_redirects=True)
        if not answer.responses:
            raise NotFound(f"{self.location}: no such file: {key!r}", path=key)
        return list(answer.responses.values())

    def _meta(self, key: str, response: Response) -> ObjectMeta | FolderMeta:
        said = response.properties
        mtime_ns = 0 if said.modified is None else nanoseconds(said.modified)
        if said.collection:
            return FolderMeta(mtime_ns)
        if said.content_length is None:
            raise Unsupported(f"{self.location}: {key!r}: the server does not say its size", path=key)
        return ObjectMeta(key, said.content_length, mtime_ns, version_of(said.etag, said.content_length, mtime_ns))

    def chunks(self, key: str, span: ByteRange | None, version: str | None, chunk_bytes: int) -> Iterator[Buffer]:
        """See `Tree.chunks`: one request."""
        if version is None:
            version = self._file(key).version  # for a folder, some servers send a page that lists it
        url = self._client.join_url(self._path(key))
        with (
            self._translated(key),
            self._client.http.stream("GET", url, headers=range_header(span), follow_redirects=True) as response,
        ):
            status, headers = response.status_code, response.headers
            if not response.is_success:
                if self._file(key).version != version:
                    raise self._stale(key)
                raise webdav_errors.refused(status, self._place, key)
            total = total_bytes(self.location, key, status, headers)
            if version not in _versions(headers, total):
                raise self._stale(key)
            check_range(self.location, key, status, headers, span, total)
            yield from response.iter_raw(chunk_bytes)

    def _file(self, key: str) -> ObjectMeta:
        meta = self.stat(key)
        if isinstance(meta, FolderMeta):
            raise NotFound(f"{self.location}: {key!r} is a folder", path=key)
        return meta

    def _stale(self, key: str) -> StaleVersion:
        return StaleVersion(f"{self.location}: {key!r} has another version by now", path=key)

    # ------------------------------------------------------------------ writing

    def write(self, key: str, chunks: Iterator[Buffer]) -> int:
        """See `Tree.write`: one PUT, with its length if there is one chunk only."""
        written = 0

        def counted() -> Iterator[bytes]:
            nonlocal written
            for chunk in chunks:
                written += len(chunk)
                yield bytes(memoryview(chunk))

        pieces = counted()
        first = next(pieces, b"")
        second = next(pieces, None)
        content = first if second is None else chain((first, second), pieces)
        with self._translated(key):
            self._client.request("PUT", self._path(key), content=content)
        return written

    def move(self, source: str, target: str) -> None:
        """See `Tree.move`."""
        with self._translated(target):
            self._client.move(self._path(source), self._path(target), overwrite=True)

    def remove(self, key: str) -> None:
        """See `Tree.remove`."""
        with self._translated(key):
            self._client.remove(self._path(key))

    def make_folder(self, key: str) -> None:
        """See `Tree.make_folder`."""
        names = key.split("/")
        with self._translated(key):
            for depth in range(1, len(names) + 1):
                self._make_one("/".join(names[:depth]))
            if isinstance(self.stat(key), ObjectMeta):
                raise NotADirectory(f"{self.location}: {key!r}: a file stands where a folder is needed", path=key)

    def _make_one(self, key: str) -> None:
        """Make a folder, whose parent is there, unless it is there; the caller finds out if a file is.

        Of two that make it at once, servers in Go tell the second that it is locked: a moment later it is there.
        """
        for wait_s in (*LOCK_WAITS_S, None):
            try:
                self._client.mkdir(self._path(key))
            except (dav.ResourceAlreadyExists, dav.ResourceConflict):
                return
            except dav.HTTPError as error:
                if error.status_code != HTTPStatus.LOCKED or wait_s is None:
                    raise
                time.sleep(wait_s)
            else:
                return

    def remove_folder(self, key: str) -> None:
        """See `Tree.remove_folder`; DELETE takes all that is in a folder, so it is looked into right before."""
        with self._translated(key):
            if self.entries(key):
                raise NotEmpty(f"{self.location}: {key!r} is not empty", path=key)
            self._client.request("DELETE", self._path(key), add_trailing_slash=True)

    def copy(self, source: str, target: str) -> None:
        """See `Tree.copy`."""
        with self._translated(source):
            self._client.copy(self._path(source), self._path(target), overwrite=True)

    # ------------------------------------------------------------------ the connection

    def _path(self, key: str) -> str:
        """A key as the client takes it: escaped, for it leaves escapes as they are and would take `%41` for one."""
        return quote(f"{self._folder}/{key}".strip("/"))

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn the library's errors into ours."""
        try:
            yield
        except webdav_errors.ERRORS as error:
            raise webdav_errors.translate(error, self._place, key) from None

    def close(self) -> None:
        """See `Tree.close`."""
        self._client.http.close()


def _versions(headers: Mapping[str, str], size: int) -> tuple[str, str]:
    mtime_ns = header_time_ns(headers.get("Last-Modified"))
    return version_of(headers.get("ETag"), size, mtime_ns), version_of(None, size, mtime_ns)


def _auth(options: WebdavOptions, place: str) -> httpx.Auth | None:
    if options.user:
        return httpx.BasicAuth(options.user, options.password or "")
    if options.token:
        return None
    try:
        return httpx.NetRCAuth()
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError) as error:  # a NetrcParseError is a SyntaxError
        raise Invalid(f"~/.netrc cannot be read; mend it, or give webdav.user for {place}") from error


def _trust(options: WebdavOptions) -> ssl.SSLContext | bool:
    if not options.verify:
        return False
    if options.ca_file is not None and not Path(options.ca_file).is_absolute():
        raise Invalid(f"webdav.tls.caFile must be an absolute path, not {options.ca_file!r}")
    try:
        trust = ssl.create_default_context()
        if options.ca_file is not None:
            trust.load_verify_locations(options.ca_file)
    except OSError as error:
        raise Invalid(f"webdav.tls.caFile {options.ca_file} cannot be used: {type(error).__name__}") from error
    return trust
