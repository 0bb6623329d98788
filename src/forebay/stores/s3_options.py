"""The options of an S3 mount, under all the names that people know them by.

Hadoop's (`fs.s3a.access.key`), Alluxio's (`s3a.accessKeyId`, `aws.secretKey`), boto's and obstore's
(`aws_access_key_id`) mean the same thing here; case, dots, dashes and underscores do not matter.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from forebay.errors import Invalid
from forebay.stores.named_options import absolute_path
from forebay.stores.urls import endpoint

_PREFIXES = ("spark", "hadoop", "fs", "s3a", "s3n", "s3", "aws")
_NAMES = {
    "access_key_id": ("accesskeyid", "accesskey", "keyid", "userid"),
    "secret_access_key": ("secretaccesskey", "secretkey", "secret"),
    "session_token": ("sessiontoken", "token", "securitytoken"),
    "endpoint": ("endpoint", "endpointurl", "endpointurls3"),
    "region": ("region", "defaultregion", "endpointregion", "regionname"),
    "path_style": ("pathstyle", "pathstyleaccess", "forcepathstyle", "usepathstyle", "addressingstyle"),
    "virtual_hosted": ("virtualhosted", "virtualhostedstyle", "virtualhostedstylerequest"),
    "anonymous": ("anonymous", "anon", "skipsignature", "nosignrequest", "public"),
    "profile": ("profile", "profilename"),
    "verify": ("verify", "tlsverify", "sslverify", "verifyssl"),
    "ca_file": ("cafile", "tlscafile", "cabundle", "tlsca", "sslcafile"),
    "ssl": ("connectionsslenabled", "ssl", "usessl"),
    "requester_pays": ("requesterpays", "requesterpaysenabled", "requestpayer"),
    "conditional_put": ("conditionalput",),
    "attributes": ("attributes", "keepattributes", "posixattributes", "posix", "metadata"),
}
_FIELD_OF = {alias: name for name, aliases in _NAMES.items() for alias in aliases}
_WRITTEN = (
    *("s3a.accessKeyId", "s3a.secretKey", "s3.sessionToken", "s3.endpoint", "s3.region", "s3.pathStyle"),
    *("s3.anonymous", "s3.profile", "s3.tls.verify", "s3.tls.caFile", "s3.requesterPays", "s3.conditionalPut"),
    "s3.attributes",
)
_TRUE, _FALSE = ("true", "yes", "on", "1", "path", "requester"), ("false", "no", "off", "0", "virtual", "auto")

Default = TypeVar("Default", bool, None)


@dataclass(frozen=True, slots=True)
class S3Options:
    """What a mount says about its S3 store.  Secrets do not show in the repr."""

    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None  # of ~/.aws/config; only without keys of its own
    anonymous: bool = False  # requests are not signed
    endpoint: str | None = None  # `http://host:port`, canonical; None: Amazon itself
    region: str | None = None  # None: the AWS configuration's, or what the bucket answers
    path_style: bool | None = None  # None: with an endpoint, yes; at Amazon, only for bucket names with dots
    verify: bool = True  # the server's certificate is checked
    ca_file: Path | None = None  # more roots to trust, PEM
    requester_pays: bool = False
    conditional_put: bool | None = None  # the server honours If-Match and If-None-Match on PUT; None: only Amazon
    attributes: bool = False  # modes, owners and times are kept as metadata of objects, as s3fs keeps them


def parse(options: Mapping[str, str]) -> S3Options:
    """The options of one mount.

    Raises:
        Invalid: a name that is not known, two names of one thing with different values, or values that
            contradict each other.
    """
    values: dict[str, str] = {}
    for name, value in options.items():
        known = _field(name)
        if values.setdefault(known, value) != value:
            raise Invalid(f"option {name} was given twice under different names, with different values")
    anonymous = _flag("anonymous", values.get("anonymous"), default=False)
    _check_credentials(values, anonymous=anonymous)
    path_style = _flag("path_style", values.get("path_style"), default=None)
    if "virtual_hosted" in values:
        path_style = not _flag("virtual_hosted", values["virtual_hosted"], default=False)
    return S3Options(
        access_key_id=values.get("access_key_id"),
        secret_access_key=values.get("secret_access_key"),
        session_token=values.get("session_token") or None,
        profile=values.get("profile") or None,
        anonymous=anonymous,
        endpoint=endpoint(
            "s3.endpoint",
            values.get("endpoint"),
            instead="s3a.accessKeyId and s3a.secretKey",
            scheme="https" if _flag("ssl", values.get("ssl"), default=True) else "http",
        ),
        region=values.get("region") or None,
        path_style=path_style,
        verify=_flag("verify", values.get("verify"), default=True),
        ca_file=absolute_path("s3.tls.caFile", values.get("ca_file") or None),
        requester_pays=_flag("requester_pays", values.get("requester_pays"), default=False),
        conditional_put=_flag("conditional_put", values.get("conditional_put"), default=None),
        attributes=_flag("attributes", values.get("attributes"), default=False),
    )


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
    raise Invalid(f"an S3 mount has no option {name!r}; {hint}")


def _check_credentials(values: Mapping[str, str], *, anonymous: bool) -> None:
    has_id, has_secret = bool(values.get("access_key_id")), bool(values.get("secret_access_key"))
    if has_id and not has_secret:
        raise Invalid("a key id was given without its secret; add --option s3a.secretKey=...")
    if has_secret and not has_id:
        raise Invalid("a secret was given without its key id; add --option s3a.accessKeyId=...")
    if values.get("session_token") and not has_id:
        raise Invalid("a session token was given without its key id and secret; add those options")
    if anonymous and (has_id or values.get("profile")):
        raise Invalid("s3.anonymous=true and credentials exclude each other; leave one of them out")
    if has_id and values.get("profile"):
        raise Invalid("a key id and s3.profile exclude each other; leave one of them out")


def _flag(name: str, value: str | None, *, default: Default) -> bool | Default:
    if value is None or value == "":
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise Invalid(f"option {name} must be true or false, not {value!r}")
