"""What Hadoop's programs take from their environment: the configuration's folder, and who they are.

hdfs-native takes the user of a cluster without Kerberos from the variable HADOOP_USER_NAME and from nowhere else,
each time that it connects.  So a process is one HDFS user at a time, and who wants to be another must wait.

*Callers*: the loop.  *Locks*: none; the environment is set while no store with another user is open.
"""

import os
import pwd
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from forebay.errors import Busy

USER = "HADOOP_USER_NAME"
_claims: Counter[str] = Counter()  # open stores, by the user that they are
_own_user = os.environ.get(USER)  # before anyone claimed to be somebody


def conf_dir(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of Hadoop's configuration, as Hadoop finds it; None if no variable names one that is there."""
    for name, below in (("HADOOP_CONF_DIR", ""), ("HADOOP_HOME", "etc/hadoop")):
        if (folder := environment.get(name)) and Path(folder, below).is_dir():
            return Path(folder, below)
    return None


def claim_user(wanted: str | None) -> str:
    """Be `wanted` for HDFS, or who the environment says, until `release_user` is told of it; the user's name.

    Raises:
        Busy: an open store is another user.
    """
    user = wanted or _own_user or _system_user()
    other = next((one for one in _claims if one != user), None)
    if other is not None:
        raise Busy(
            f"this daemon is the HDFS user {other!r} already, and cannot be {user!r} at the same time: "
            f"mount as {other!r}, unmount what is mounted so, or use a daemon with another home (FOREBAY_HOME)"
        )
    _claims[user] += 1
    os.environ[USER] = user
    return user


def release_user(user: str) -> None:
    """Take one claim back."""
    _claims[user] -= 1
    if _claims[user] <= 0:
        del _claims[user]


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "unknown"  # as hdfs-native calls it
