"""From a store URL and a mount's options to a store.

Each adapter's module has a function `open_url(scheme, rest, options, settings)`; it is imported when a URL first asks
for it, so that nobody waits for the libraries of stores that they do not use.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Protocol, cast

from forebay.config.settings import Settings
from forebay.errors import Invalid
from forebay.stores.base import Opened

_FORMS = (
    "s3://bucket/prefix, gs://bucket/prefix, az://container@account/prefix, hdfs://namenode/folder, "
    "https://host/folder/, file:///folder"
)
_FSSPEC = "fsspec+"  # and any protocol that fsspec knows
_MODULES = {  # of `forebay.stores`, by scheme
    "s3": "s3",
    "s3a": "s3",
    "s3n": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "azure": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "wasb": "azure",
    "wasbs": "azure",
    "cephfs": "cephfs",
    "file": "local",
    "mem": "memory",
    "http": "web",
    "https": "web",
    "sftp": "sftp",
    "ssh": "sftp",
    "webdav": "webdav",
    "webdavs": "webdav",
    "dav": "webdav",
    "davs": "webdav",
    "hf": "hub",
    "hdfs": "hdfs",
}


class _Adapter(Protocol):
    def open_url(self, scheme: str, rest: str, options: Mapping[str, str], settings: Settings) -> Opened: ...


def open_store(url: str, options: Mapping[str, str], *, settings: Settings) -> Opened:
    """The store of a URL, and the prefix of keys that the URL names; nothing is asked of the store yet.

    Raises:
        Invalid: the URL or an option is wrong; the message says how to write it.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise Invalid(f"{_without_secrets(url)!r} is not the URL of a store; write {_FORMS}")
    module = "fsspec_store" if scheme.startswith(_FSSPEC) else _MODULES.get(scheme)
    if module is None:
        near = difflib.get_close_matches(scheme, _MODULES, n=1)
        known = ", ".join(f"{one}://" for one in _MODULES)
        hint = f"did you mean {near[0]}://?" if near else f"known are {known}."
        other = f"{_FSSPEC}{scheme.rpartition('+')[2][:20]}://"
        raise Invalid(f"there is no store for {scheme[:20]!r} URLs; {hint} What fsspec knows is written {other}")
    adapter = cast(_Adapter, importlib.import_module(f"forebay.stores.{module}"))
    return adapter.open_url(scheme, rest, options, settings)


def _without_secrets(url: str) -> str:
    return "***@" + url.rpartition("@")[2] if "@" in url else url
