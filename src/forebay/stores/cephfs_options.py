"""Where a CephFS is and as whom it is mounted: its URL and its options, under the names that people know them by.

mount.ceph's (`name`, `secretfile`, `fs`, `mds_namespace`), Alluxio's (`alluxio.underfs.cephfs.auth.id`) and Ceph's own
(`keyring`, `keyfile`) mean the same thing here; case, dots, dashes and underscores do not matter.
"""

import base64
import difflib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from forebay.errors import Invalid, NotFound
from forebay.stores.urls import refuse_credentials

_PREFIXES = ("alluxio", "underfs", "cephfs", "ceph")
_NAMES = {
    "user": ("user", "userid", "name", "id", "clientid", "authid"),
    "secret": ("secret", "key", "authkey"),
    "secret_file": ("secretfile", "keyfile", "authkeyfile"),
    "keyring": ("keyring", "authkeyring"),
    "fs_name": ("fsname", "fs", "clientfs", "mdsnamespace", "filesystem"),
    "conf": ("conf", "conffile", "config"),
    "monitors": ("monitors", "monhost", "monaddr"),
}
_FIELD_OF = {alias: name for name, aliases in _NAMES.items() for alias in aliases}
_WRITTEN = (
    *("cephfs.user", "cephfs.secret", "cephfs.secretFile", "cephfs.keyring", "cephfs.fsName", "cephfs.conf"),
    "cephfs.monitors",
)
_FORM = "cephfs://MONITOR[:PORT][,MONITOR...]/path, or cephfs:///path for the cluster of /etc/ceph/ceph.conf"
_MONITOR = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")
_KEY_BYTES_MIN = 12  # a Ceph key is a header of 12 bytes and the key proper, in base64
DEFAULT_CONF = Path("/etc/ceph/ceph.conf")
DEFAULT_USER = "admin"  # as ceph-fuse and Ceph's own commands have it


@dataclass(frozen=True, slots=True)
class CephFsOptions:
    """What a mount says about its CephFS.  The secret does not show in the repr."""

    path: str  # the mounted folder, from `/`, normal
    monitors: tuple[str, ...] = ()  # `host` or `host:port`; none: those of `conf`
    user: str = DEFAULT_USER  # without `client.`
    secret: str | None = field(default=None, repr=False)
    secret_file: Path | None = None  # holds the secret and nothing else
    keyring: Path | None = None
    fs_name: str | None = None  # None: the cluster's default file system
    conf: Path | None = None  # None: DEFAULT_CONF, and none at all if monitors are given

    @property
    def location(self) -> str:
        """See `Store.location`."""
        which = "".join(f"@{one}" for one in (self.fs_name, self.conf) if one is not None)
        return f"cephfs://{','.join(sorted(self.monitors))}{self.path}{which}"

    def read_secret(self) -> str | None:
        """The secret that the mount gives, from its file if it names one.

        Raises:
            NotFound, Invalid: the file is not there, cannot be read, or holds no secret.
        """
        if self.secret_file is None:
            return self.secret
        try:
            text = self.secret_file.read_text().strip()
        except FileNotFoundError as error:
            raise NotFound(f"cephfs.secretFile {self.secret_file} does not exist") from error
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"cephfs.secretFile {self.secret_file} cannot be read") from error
        if "[" in text:
            raise Invalid(f"{self.secret_file} is a keyring, not a bare secret; give it as cephfs.keyring")
        return _secret("cephfs.secretFile", text)


def parse(rest: str, options: Mapping[str, str]) -> CephFsOptions:
    """What stands after `cephfs://`, and the options of one mount.

    Raises:
        Invalid: the URL is not one, an option is not known, or options contradict each other.
    """
    place, slash, path = rest.partition("/")
    refuse_credentials(place, instead="--option cephfs.user=... --option cephfs.secret=...")
    if not slash and not place:
        raise Invalid(f"the URL names neither monitors nor a path; write {_FORM}")
    if "\0" in path:
        raise Invalid("a folder's path cannot hold a NUL byte")
    values = _values(options)
    given = [name for name in ("secret", "secret_file", "keyring") if values.get(name)]
    if len(given) > 1:
        raise Invalid("cephfs.secret, cephfs.secretFile and cephfs.keyring exclude each other; give one of them")
    in_url, in_options = _monitors(place), _monitors(values.get("monitors", "").replace("/", ","))
    if in_url and in_options and set(in_url) != set(in_options):
        raise Invalid("the monitors of the URL and those of the options differ; leave one of them out")
    secret = values.get("secret")
    return CephFsOptions(
        path=posixpath.normpath("/" + path.lstrip("/")),
        monitors=in_url or in_options,
        user=values.get("user", "").removeprefix("client.") or DEFAULT_USER,
        secret=_secret("cephfs.secret", secret) if secret else None,
        secret_file=_file("cephfs.secretFile", values.get("secret_file")),
        keyring=_file("cephfs.keyring", values.get("keyring")),
        fs_name=values.get("fs_name") or None,
        conf=_file("cephfs.conf", values.get("conf")),
    )


def _values(options: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in options.items():
        if values.setdefault(_field(name), value) != value:
            raise Invalid(f"option {name} was given twice under different names, with different values")
    return values


def _field(name: str) -> str:
    words = re.split(r"[^a-z0-9]+", name.lower())
    while len(words) > 1 and words[0] in _PREFIXES:
        del words[0]
    bare = "".join(words)
    if bare in _FIELD_OF:
        return _FIELD_OF[bare]
    near = difflib.get_close_matches(bare, _FIELD_OF, n=1, cutoff=0.6)
    written = [one for one in _WRITTEN if near and _field(one) == _FIELD_OF[near[0]]]
    hint = f"did you mean {written[0]}?" if written else f"known: {', '.join(_WRITTEN)}"
    raise Invalid(f"a CephFS mount has no option {name!r}; {hint}")


def _monitors(place: str) -> tuple[str, ...]:
    """One or more, separated by commas; by semicolons in Alluxio's URLs."""
    monitors = tuple(one for one in re.split(r"[,;]", place) if one)
    for one in monitors:
        found = _MONITOR.fullmatch(one)
        if found is None or int(found["port"] or 1) not in range(1, 65_536):
            raise Invalid(f"{one!r} is not the address of a monitor; write {_FORM}")
    return tuple(one.lower() for one in monitors)


def address_of(monitor: str) -> tuple[str, int | None]:
    """Host and port of a monitor.

    >>> address_of("mon1"), address_of("[::1]:6789")
    (('mon1', None), ('::1', 6789))
    """
    found = _MONITOR.fullmatch(monitor)
    assert found is not None, "parse() lets no other through"
    return found["host"].strip("[]"), int(found["port"]) if found["port"] else None


def _secret(name: str, text: str) -> str:
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError:
        decoded = b""
    if len(decoded) <= _KEY_BYTES_MIN:
        raise Invalid(f"{name} does not hold a Ceph secret; `ceph auth print-key client.USER` prints it")
    return text


def _file(name: str, value: str | None) -> Path | None:
    if not value:
        return None
    path = Path(value)
    if not path.is_absolute():
        raise Invalid(f"{name} must be an absolute path")  # not quoted: people put the secret itself there
    return path
