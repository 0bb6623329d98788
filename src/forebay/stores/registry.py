"""From a store URL and a mount's options to a store.

The only module that knows every adapter.  URL forms: `s3://bucket/prefix` (also `s3a`, `s3n`),
`file:///absolute/folder`, `mem://name/prefix`.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from forebay.config.settings import Settings
from forebay.errors import Invalid
from forebay.stores import s3_options
from forebay.stores.base import Store
from forebay.stores.local import LocalStore
from forebay.stores.memory import MemoryStore
from forebay.stores.s3 import S3Store

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")  # wider than Amazon's rule: other servers take more
_FORMS = "s3://bucket/prefix, file:///folder, mem://name"


class Opened(NamedTuple):
    """What a URL means."""

    store: Store
    prefix: str  # of keys; "" or ends in "/"


def open_store(url: str, options: Mapping[str, str], *, settings: Settings) -> Opened:
    """The store of a URL, and the prefix of keys that the URL names; nothing is asked of the store yet.

    Raises:
        Invalid: the URL or an option is wrong; the message says how to write it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise Invalid(f"{_without_secrets(url)!r} is not the URL of a store; write {_FORMS}")
    opener = _OPENERS.get(scheme.lower())
    if opener is None:
        near = difflib.get_close_matches(scheme.lower(), _OPENERS, n=1)
        hint = f"did you mean {near[0]}://?" if near else f"known are {', '.join(f'{one}://' for one in _OPENERS)}"
        raise Invalid(f"there is no store for {scheme[:20]!r} URLs; {hint}")
    return opener(rest, options, settings)


def _without_secrets(url: str) -> str:
    return "***@" + url.rpartition("@")[2] if "@" in url else url


def _open_s3(rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    bucket, _, prefix = rest.partition("/")
    if "@" in bucket:
        raise Invalid(
            "credentials do not belong in the URL: it is shown in listings; "
            "use --option s3a.accessKeyId=... --option s3a.secretKey=..."
        )
    if not bucket:
        raise Invalid("the URL names no bucket; write s3://bucket or s3://bucket/prefix")
    if _BUCKET.fullmatch(bucket) is None:
        raise Invalid(f"{bucket!r} is not a bucket name; write s3://bucket/prefix, and the server as s3.endpoint")
    store = S3Store(bucket, s3_options.parse(options), deadline_s=settings.store_deadline_s)
    return Opened(store, _folder(prefix))


def _open_file(rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    _refuse_options("file", options)
    if not rest.startswith("/"):
        raise Invalid(f"file://{rest} is not absolute; write file:///absolute/folder (three slashes)")
    if "\0" in rest:
        raise Invalid("a folder's path cannot hold a NUL byte")
    return Opened(LocalStore(Path(rest)), "")


def _open_memory(rest: str, options: Mapping[str, str], settings: Settings) -> Opened:
    _refuse_options("mem", options)
    name, _, prefix = rest.partition("/")
    if not name or "@" in name:
        raise Invalid("a store in memory needs a plain name; write mem://name")
    return Opened(MemoryStore(name), _folder(prefix))


def _refuse_options(scheme: str, options: Mapping[str, str]) -> None:
    if options:
        raise Invalid(f"{scheme}:// takes no options, and {next(iter(options))!r} was given")


def _folder(prefix: str) -> str:
    return prefix if prefix == "" or prefix.endswith("/") else prefix + "/"


_OPENERS: dict[str, Callable[[str, Mapping[str, str], Settings], Opened]] = {
    "s3": _open_s3,
    "s3a": _open_s3,
    "s3n": _open_s3,
    "file": _open_file,
    "mem": _open_memory,
}
