"""The options of an HDFS mount, and what a Hadoop configuration says about the place that its URL names.

Options have the names that Hadoop and Alluxio use; keys of Hadoop's configuration are handed on as they are.
Case, dots, dashes and underscores of our own names do not matter.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from forebay.errors import Invalid
from forebay.stores.hdfs_environment import conf_dir

PORT = 8020  # of a NameNode's RPC server, hdfs-default.xml
_PREFIXES = ("alluxio.", "spark.hadoop.", "spark.")
_PASSED_ON = ("dfs.", "fs.", "hadoop.", "ipc.", "net.")
_NAMES = {
    "conf": ("hdfsconfdir", "hadoopconfdir", "underfshdfsconfiguration", "hdfsconfiguration"),
    "user": ("hdfsuser", "hadoopusername", "hdfsusername"),
    "principal": ("hdfskerberosprincipal", "kerberosprincipal"),
    "keytab": ("hdfskerberoskeytab", "kerberoskeytab"),
    "ticket_cache": ("hdfskerberoscache", "kerberoscache", "krb5ccname"),
}
_FIELD_OF = {alias: name for name, aliases in _NAMES.items() for alias in aliases}
_WRITTEN = "hdfs.conf.dir, hdfs.user, hdfs.kerberos.principal, hdfs.kerberos.keytab, hdfs.kerberos.cache, dfs.*, fs.*"
_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class HdfsOptions:
    """What a mount says about its HDFS store."""

    user: str | None = None  # without Kerberos; None: the environment's, else the system's
    principal: str | None = None  # Kerberos
    keytab: str | None = None  # path of a keytab file
    ticket_cache: str | None = None  # such as FILE:/tmp/krb5cc_0; None: the default one
    config: Mapping[str, str] = field(default_factory=dict, repr=False)  # Hadoop's keys, of files and options

    @property
    def is_kerberos(self) -> bool:
        """Does the cluster want to know who we are?"""
        return self.config.get("hadoop.security.authentication", "simple").lower() != "simple"


class Namenode(NamedTuple):
    """Where a NameNode answers."""

    name: str  # its id in the configuration; "" if the URL names it
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Place(NamedTuple):
    """A file system: one NameNode, or a name service of several."""

    authority: str  # `host:port`, or the name of the service
    namenodes: tuple[Namenode, ...]


def parse(options: Mapping[str, str]) -> HdfsOptions:
    """The options of one mount; configuration files are read.

    Raises:
        Invalid: a name that is not known, two values for one thing, or a file that cannot be read.
    """
    values: dict[str, str] = {}
    own: dict[str, str] = {}
    for name, value in options.items():
        bare = next((name[len(one) :] for one in _PREFIXES if name.startswith(one)), name)
        known = _FIELD_OF.get(re.sub(r"[^a-z0-9]+", "", bare.lower()))
        if known is not None:
            if values.setdefault(known, value) != value:
                raise Invalid(f"option {name} was given twice under different names, with different values")
        elif bare.startswith(_PASSED_ON):
            own[bare] = value
        else:
            raise Invalid(f"an HDFS mount has no option {name!r}; known: {_WRITTEN}")
    config = {**_read_config(values.get("conf")), **own}
    principal = values.get("principal") or None
    if principal is None and (values.get("keytab") or values.get("ticket_cache")):
        raise Invalid("a Kerberos keytab or cache was given without hdfs.kerberos.principal; add it")
    if principal is not None:
        config["hadoop.security.authentication"] = "kerberos"
    found = HdfsOptions(
        user=values.get("user") or None,
        principal=principal,
        keytab=_absolute("hdfs.kerberos.keytab", values.get("keytab")),
        ticket_cache=values.get("ticket_cache") or None,
        config=config,
    )
    if found.user is not None and found.is_kerberos:
        raise Invalid("hdfs.user is for clusters without Kerberos; use hdfs.kerberos.principal instead of it")
    return found


def find_place(authority: str, config: Mapping[str, str]) -> Place:
    """The NameNodes that an URL's `host`, `host:port`, name service or "" (the configuration's default) means.

    Raises:
        Invalid: it means nothing; the message says what to write.
    """
    if not authority:
        default = config.get("fs.defaultFS", config.get("fs.default.name", ""))
        scheme, _, rest = default.partition("://")
        authority = rest.partition("/")[0]
        if scheme != "hdfs" or not authority:
            raise Invalid(
                "hdfs:/// means the fs.defaultFS of a Hadoop configuration, and none was found that names HDFS; "
                "write hdfs://host:port/path, or add --option hdfs.conf.dir=/etc/hadoop/conf"
            )
    written = _AUTHORITY.fullmatch(authority)
    if written is None or not 0 < int(written[2] or PORT) < 1 << 16:
        raise Invalid(f"{authority!r} is no NameNode; write hdfs://host:port/path or hdfs://nameservice/path")
    members = config.get(f"dfs.ha.namenodes.{authority}")
    if written[2] is None and members is not None:
        return Place(authority, tuple(_members(authority, members, config)))
    port = int(written[2] or PORT)
    return Place(f"{written[1]}:{port}", (Namenode("", written[1], port),))


def _members(service: str, names: str, config: Mapping[str, str]) -> Iterator[Namenode]:
    for name in filter(None, (one.strip() for one in names.split(","))):
        address = config.get(f"dfs.namenode.rpc-address.{service}.{name}", "")
        written = _AUTHORITY.fullmatch(address.strip())
        if written is None:
            raise Invalid(f"the configuration of name service {service} has no dfs.namenode.rpc-address for {name}")
        yield Namenode(name, written[1], int(written[2] or PORT))


def _read_config(value: str | None) -> dict[str, str]:
    """What a folder of Hadoop's configuration says, or a list of its files, `:` between them; later ones win."""
    if not value:
        folder = conf_dir()
        return _read_folder(folder) if folder is not None else {}
    paths = [Path(_absolute("hdfs.conf.dir", one) or "/") for one in re.split(r"[:,]", value) if one]
    found: dict[str, str] = {}
    for path in paths:
        if path.is_dir():
            found |= _read_folder(path)
        elif path.is_file():
            found |= _read_file(path)
        else:
            raise Invalid(f"hdfs.conf.dir: {path} does not exist on this machine")
    return found


def _read_folder(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in (folder / "core-site.xml", folder / "hdfs-site.xml"):
        if path.is_file():
            found |= _read_file(path)
    return found


def _read_file(path: Path) -> dict[str, str]:
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise Invalid(f"{path} is not a Hadoop configuration: line {error.position[0]} is no XML") from error
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    pairs = ((one.findtext("name"), one.findtext("value")) for one in root.iter("property"))
    return {name.strip(): value.strip() for name, value in pairs if name and value}


def _absolute(name: str, value: str | None) -> str | None:
    if not value:
        return None
    if not value.startswith("/"):
        raise Invalid(f"{name} must be an absolute path, not {value!r}: the daemon has another working folder")
    return value
