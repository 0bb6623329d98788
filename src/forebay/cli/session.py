"""What one run of the command line carries: its settings, and the way to the daemon.

Every command that needs the daemon calls `connect`, which starts one if none runs.  The commands that only look
(`status`, `stop`, `doctor`) call `find_daemon`.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import typer

from forebay.cli.output import note
from forebay.config.load import load, to_flags
from forebay.config.settings import Settings
from forebay.daemon.client import Client
from forebay.daemon.home import socket_path
from forebay.daemon.starter import ensure_daemon
from forebay.errors import Unavailable

STATUS_WAIT_S = 15.0  # a daemon that lives answers this in milliseconds


@dataclass
class Session:
    """The flags before the command, and what follows from them."""

    flags: dict[str, str] = field(default_factory=dict)  # settings by name, as text; they outrank all else
    debug: bool = False

    @cached_property
    def settings(self) -> Settings:
        """The settings of this run; raises Invalid if a file, a variable or a flag is wrong."""
        return load(self.flags)

    @property
    def socket(self) -> str:
        """Where the daemon listens."""
        return str(socket_path(self.settings.home))


def session_of(context: typer.Context) -> Session:
    """The session that `forebay.cli.main` put into the context."""
    return context.ensure_object(Session)


def connect(context: typer.Context) -> Client:
    """A client of the running daemon, which is started if need be."""
    session = session_of(context)
    client = ensure_daemon(session.settings)
    if session.flags.keys() - {"home"}:
        note_unused(session, client.call("GET", "/v1/status", timeout_s=STATUS_WAIT_S))
    return client


def note_unused(session: Session, status: dict[str, Any]) -> None:
    """Say which flags a daemon that ran already does not follow: settings are read when it starts."""
    asked = to_flags(session.settings)
    runs_with = asked | status.get("settings", {})  # a daemon of an older version may not know them all
    unused = [name for name in session.flags if name != "home" and asked[name] != runs_with[name]]
    if unused:
        note(
            f"--set {', '.join(unused)}: no effect on the daemon that runs already; "
            "forebay stop first, and give the setting to the command that starts it again"
        )


def find_daemon(session: Session) -> tuple[Client, dict[str, Any]] | None:
    """A client of the running daemon and its status; None if none runs.  Starts nothing."""
    client = Client(socket_path(session.settings.home))
    try:
        return client, client.call("GET", "/v1/status", timeout_s=STATUS_WAIT_S)
    except Unavailable:
        return None
