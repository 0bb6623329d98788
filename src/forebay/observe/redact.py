"""Secrets out of texts: the last fence before a line reaches a log, an error or a listing.

Code never logs a secret on purpose, but a library's message may repeat what it was given.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import quote

HIDDEN = "***"
SECRET_CHARS_MIN = 4  # replacing shorter ones would garble every text and hide nothing

# Last words of option names whose values anybody may see; all others are taken for secrets.
_HARMLESS = (
    "endpoint",
    "region",
    "pathstyle",
    "virtualhostedstyle",
    "anonymous",
    "skipsignature",
    "timeout",
    "connecttimeout",
    "allowhttp",
    "verify",
    "cabundle",
    "cafile",
    "googleapplicationcredentials",
    "requesterpays",
    "account",
    "accountname",
    "container",
    "project",
    "userproject",
    # of CephFS, in the words of mount.ceph and of Alluxio
    *("user", "fsname", "fs", "mdsnamespace", "namespace", "conf", "keyring", "secretfile", "keyfile"),
    "index",
    "knownhosts",
    "hostkeycheck",
)


def is_harmless(name: str) -> bool:
    """May the value of a mount option of that name be shown?

    >>> is_harmless("s3.endpoint"), is_harmless("s3a.path-style"), is_harmless("s3a.secretKey"), is_harmless("x")
    (True, True, False, False)
    >>> is_harmless("http.index"), is_harmless("http.header.region")
    (True, False)
    """
    if ".header." in name.lower():  # of every request; what they are called says nothing
        return False
    last = name.rpartition(".")[2].lower()
    return "".join(char for char in last if char.isalnum()) in _HARMLESS


def hide_options(options: Mapping[str, str]) -> dict[str, str]:
    """Mount options as they may be shown: an endpoint and its like open, all else hidden.

    >>> hide_options({"s3.region": "eu", "s3a.secretKey": "S", "s3.endpoint": "http://u:p@h"})
    {'s3.region': 'eu', 's3a.secretKey': '***', 's3.endpoint': '***'}
    """
    return {
        name: value if is_harmless(name) and "@" not in value and "?" not in value else HIDDEN
        for name, value in options.items()
    }


class Redactor:
    """Knows the secrets of the mounts, and takes them out of texts."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def learn(self, options: Iterable[tuple[str, str]]) -> None:
        """Note the secrets among the options of a mount, as they are and as a URL would hold them."""
        for name, value in options:
            if not is_harmless(name) and len(value) >= SECRET_CHARS_MIN and value.lower() not in ("true", "false"):
                self._secrets |= {value, quote(value), quote(value, safe="")}

    def clean(self, text: str) -> str:
        """The text without any secret that is known."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text
