"""Where a program's daemon is: the home, its socket, and the daemon itself, which is started if none runs."""

import os
import secrets
import socket
from pathlib import Path

from forebay.daemon.client import connect
from forebay.daemon.home import local_socket_path
from forebay.errors import Unavailable


class Place:
    """The daemon of one home; None means that of the environment and `forebay.toml`, as for the command line."""

    def __init__(self, home: "str | os.PathLike[str] | None" = None) -> None:
        from forebay.config.load import load  # not before a program opens something: it costs 15 ms

        self._settings = load({} if home is None else {"home": os.fspath(home)})
        self.home: Path = self._settings.home

    def connect(self) -> socket.socket:
        """A connection to the daemon.

        Raises:
            Unavailable: it ended, and does not start; the message says why.
            FsError: as the daemon says at its start.
        """
        path = local_socket_path(self.home)
        try:
            return connect(path)
        except Unavailable:
            from forebay.daemon.starter import ensure_daemon  # most programs find a daemon that runs

            ensure_daemon(self._settings)
        try:
            return connect(path)
        except Unavailable as error:
            message = f"the daemon of {self.home} answers no programs: is it another version? forebay stop, then again"
            raise Unavailable(message, path=str(path)) from error


def new_session() -> str:
    """A token that tells the daemon which connections are of one process."""
    return secrets.token_hex(16)
