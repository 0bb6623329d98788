"""`forebay start, stop, status, daemon, config, doctor, version`: the daemon and this installation."""

import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from forebay import __version__
from forebay.cli.doctor import Level, examine
from forebay.cli.facts import gather
from forebay.cli.output import (
    count_text,
    duration_text,
    percent,
    put,
    put_facts,
    put_json,
    put_table,
)
from forebay.cli.session import connect, find_daemon, note_unused, session_of
from forebay.cli.words import AsJson, example
from forebay.config.explain import explain
from forebay.daemon.starter import command_line, is_running
from forebay.errors import Busy, Invalid
from forebay.units import format_size

NOT_RUNNING = 3  # exit code of `status`, as of systemctl(1)
STOP_WAIT_S = 75.0  # the daemon drains running requests, each of which has a deadline
STOP_LOOK_S = 0.05  # between two looks at whether it has gone


def start(context: typer.Context) -> None:
    """Start the daemon, if none runs.  Other commands do so by themselves."""
    session = session_of(context)
    found = find_daemon(session)
    status = found[1] if found else connect(context).call("GET", "/v1/status")
    if found:
        note_unused(session, status)
    put(f"{'the daemon runs already' if found else 'started'}: pid {status['pid']}, home {status['home']}")


def stop(context: typer.Context) -> None:
    """Stop the daemon: it finishes what it does, and unmounts.  The cache stays."""
    found = find_daemon(session_of(context))
    if found is None:
        put("no daemon runs")
        return
    client, status = found
    client.call("POST", "/v1/stop", {})
    _wait_for_end(session_of(context).settings.home, status["pid"])
    put(f"stopped: pid {status['pid']}")


def _wait_for_end(home: Path, pid: int) -> None:
    for _ in range(round(STOP_WAIT_S / STOP_LOOK_S)):
        if not is_running(home):
            return
        time.sleep(STOP_LOOK_S)
    raise Busy(f"the daemon (pid {pid}) still runs after {STOP_WAIT_S:.0f} s; its log says what it waits for")


def status(context: typer.Context, as_json: AsJson = False) -> None:
    """Show whether the daemon runs, and how it is.  Exit code 3: it does not."""
    found = find_daemon(session_of(context))
    if found is None:
        if as_json:
            put_json({"running": False})
        else:
            put("no daemon runs; it starts with the first command that needs it, or with: forebay start")
        raise typer.Exit(NOT_RUNNING)
    info = found[1]
    if as_json:
        put_json({"running": True} | info)
        return
    cache = info["cache"]
    held, room = format_size(cache["used_bytes"]), format_size(cache["capacity_bytes"])
    put_facts(
        {
            "daemon": f"runs, pid {info['pid']}, up {duration_text(info['uptime_s'])}",
            "version": _version_words(info["version"]),
            "home": info["home"],
            "memory": format_size(info["rss_bytes"]),
            "mounts": _count(info["mounts"]),
            "local folders": _count(info["fuse_mounts"]),
            "cache": f"{held} of {room} ({percent(cache['used_bytes'], cache['capacity_bytes'])}), "
            f"{count_text(cache['files'])}",
        }
    )
    counters = {name: f"{value:,}" for name, value in info["counters"].items() if value}
    if counters:
        put()
        put_table([("counter", "left"), ("value", "right")], list(counters.items()))


def _count(value: int | list[object]) -> str:
    return str(value if isinstance(value, int) else len(value))


def _version_words(version: str) -> str:
    if version == __version__:
        return version
    return f"{version}, but this command is {__version__}: forebay stop && forebay start"


def daemon(context: typer.Context) -> None:
    """Run the daemon in the foreground, as a service manager wants it.  Ctrl-C ends it."""
    words = command_line(session_of(context).settings)
    sys.stdout.flush()
    os.execv(words[0], words)  # in our place: signals and exit code are the daemon's own


def config(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Only this setting, with what it means.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting, its value and where that comes from."""
    settings = explain(session_of(context).flags)
    if name is not None:
        settings = [setting for setting in settings if setting.name == name]
        if not settings:
            raise Invalid(f"there is no setting {name!r}; forebay config lists them")
    if as_json:
        put_json([asdict(setting) for setting in settings])
    elif name is not None:
        put_facts({"setting": name, "value": settings[0].value, "from": settings[0].source})
        put()
        put(settings[0].doc)
    else:
        columns = ("setting", "left"), ("value", "left"), ("from", "left")
        put_table(columns, [(setting.name, setting.value, setting.source) for setting in settings])


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Look for what keeps Forebay from working well here, and say how to mend it.  Exit code 1: there is something."""
    findings = examine(gather(session_of(context)))
    if as_json:
        put_json([{"check": f.check, "level": f.level.value, "found": f.found, "mend": f.mend} for f in findings])
    else:
        for finding in findings:
            put(f"{finding.level.value:<5} {finding.check:<12} {finding.found}")
            if finding.mend:
                put(f"{'':<18} -> {finding.mend}")
    if any(finding.level is Level.MEND for finding in findings):
        raise typer.Exit(1)


def version(as_json: AsJson = False) -> None:
    """Show the version."""
    if as_json:
        put_json({"version": __version__, "python": platform.python_version(), "kernel": platform.release()})
    else:
        put(f"forebay {__version__}")


def add_commands(app: typer.Typer) -> None:
    """Give the app the commands of this module."""
    app.command(epilog=example("forebay start"))(start)
    app.command(epilog=example("forebay stop"))(stop)
    app.command(epilog=example("forebay status --json"))(status)
    app.command(epilog=example("forebay daemon"))(daemon)
    app.command(epilog=example("forebay config", "forebay config cache_policy"))(config)
    app.command(epilog=example("forebay doctor"))(doctor)
    app.command(epilog=example("forebay version"))(version)
