"""The entry points: one app, and one boundary where every failure becomes a line on stderr and an exit code.

0: done.  1: failed, or something needs mending.  2: the command is wrong.  3: `status`, and no daemon runs.
130: Ctrl-C.
"""

import inspect
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from forebay import __version__
from forebay.cli import bench, fs, fs_change, fs_content, fuse, report, service, top
from forebay.cli.output import describe_error, note, put
from forebay.cli.session import Session, session_of
from forebay.cli.words import Misuse


def _show_version(wanted: bool) -> None:
    if wanted:
        put(f"forebay {__version__}")
        raise typer.Exit


def _set_up(
    context: typer.Context,
    home: Annotated[
        str | None, typer.Option(help="Where the daemon keeps its state and socket.", metavar="FOLDER")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A setting for this run, repeatable.", metavar="NAME=VALUE")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where in the code a failure arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    session = session_of(context)
    session.debug = debug
    if home is not None:
        session.flags["home"] = home
    for pair in setting or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise Misuse(f"{pair!r}: write --set NAME=VALUE, for example --set cache_policy=lru")
        session.flags[name] = value


def build_app() -> typer.Typer:
    """The app `forebay`."""
    app = typer.Typer(
        help="One folder over S3 and other stores, cached on local disk and read at the kernel's speed.",
        epilog="[dim]Begin with:[/dim] forebay fs mount --help",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        callback=_set_up,
    )
    fs_app = typer.Typer(
        help="The tree: mounts, listings, file content, what is cached and what waits for its upload.",
        no_args_is_help=True,
    )
    for part in (fs, fs_content, fs_change):
        fs_app.registered_commands += part.app.registered_commands
    app.add_typer(fs_app, name="fs")
    app.add_typer(fuse.app, name="fuse")
    app.add_typer(bench.app, name="bench")
    top.add_command(app)
    report.add_command(app)
    service.add_commands(app)
    for one in (app, fs_app, fuse.app, bench.app):
        _join_lines(one)
    return app


def _join_lines(app: typer.Typer) -> None:
    """Let the terminal break the help of commands: Typer keeps the lines of all paragraphs but the first."""
    for command in app.registered_commands:
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command.callback) or "")


def build_fuse_app() -> typer.Typer:
    """The app `forebay-fuse`: `forebay fuse` under a name of its own."""
    app = typer.Typer(
        help=fuse.app.info.help,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        callback=_set_up,
    )
    app.registered_commands = fuse.app.registered_commands
    _join_lines(app)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """The console script `forebay`: returns the exit code.  `arguments` of None means those of the process."""
    return _run(build_app(), "forebay", arguments)


def run_fuse(arguments: Sequence[str] | None = None) -> int:
    """The console script `forebay-fuse`: returns the exit code."""
    return _run(build_fuse_app(), "forebay-fuse", arguments)


def _run(app: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    session = Session()
    try:
        args = None if arguments is None else list(arguments)
        code = get_command(app).main(args, prog_name=name, standalone_mode=False, obj=session)
        sys.stdout.flush()
    except BrokenPipeError:
        return _quieten_stdout()
    except SystemExit as exit_:  # completion ends so; and Typer, when the reader of stdout has gone
        code = exit_.code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the outermost boundary
        return _explain(error, name, session)
    return code if isinstance(code, int) else 0


def _explain(error: Exception, name: str, session: Session) -> int:
    """Say what went wrong in one line; the exit code."""
    if session.debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, OSError):
        note(describe_error(error))
        return 1
    words = getattr(error, "format_message", None)  # Typer's own errors; their base has no public name
    if words is not None:
        context = getattr(error, "ctx", None)
        if message := words():
            note(f"{message}\nTry: {context.command_path if context else name} --help")
        return 2
    note(f"unexpected {type(error).__name__}: {error}; details are in {_save_trace(error)}")
    return 1


def _save_trace(error: Exception) -> str:
    import tempfile  # imports of 20 ms that only this path needs
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="forebay-error-", suffix=".txt", delete=False) as file:
        file.writelines(traceback.format_exception(error))
    return file.name


def _quieten_stdout() -> int:
    """Nobody reads stdout any more: let the interpreter's own last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
