"""`forebay fs mv, rm, touch, chmod, uploads, flush`: names and attributes of files, and their way to the stores."""

import posixpath
from datetime import datetime
from typing import Annotated, Any

import typer

from forebay.cli.output import (
    describe_error,
    failure_line,
    note,
    put_json,
    put_table,
    size_text,
    try_each,
)
from forebay.cli.progress import Done, Progress, open_progress
from forebay.cli.session import connect
from forebay.cli.words import AsJson, Human, Misuse, PathsArgument, each, example
from forebay.daemon.client import Client
from forebay.errors import Invalid, NotADirectory, NotFound
from forebay.modes import ModeChange

app = typer.Typer()

Recursive = Annotated[bool, typer.Option("--recursive", "-r", "-R", help="Folders too, with all below.")]


# ---------------------------------------------------------------- names


@app.command(
    epilog=example(
        "forebay fs mv /training-data/raw /training-data/old",
        "forebay fs mv /scratch/model.pt /scratch/run.log /results/",
    )
)
def mv(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="What to move, and last where to.", metavar="SOURCE... TARGET")],
    as_json: AsJson = False,
) -> None:
    """Move or rename files and folders within the tree; into the target, if that is a folder.

    A file that is there is replaced.  Between mounts, all is copied first and then removed.
    """
    if len(paths) < 2:
        raise Misuse("mv needs a source and a target")
    *sources, target = paths
    client = connect(context)
    into = _kind(client, target) == "folder"
    if not into and (len(sources) > 1 or (target.endswith("/") and _kind(client, sources[0]) != "folder")):
        raise NotADirectory(f"{target} is not a folder", path=target)
    moved: list[dict[str, Any]] = []

    def move(source: str) -> None:
        name = posixpath.basename(source.rstrip("/"))
        moved.append(_move(client, source, posixpath.join(target, name) if into else target))

    good = try_each(sources, move)
    if as_json:
        put_json(moved)
    if not good or any(one["failed"] for one in moved):
        raise typer.Exit(1)


def _kind(client: Client, path: str) -> str | None:
    try:
        kind: str = client.call("GET", "/v1/fs/stat", query={"path": path})["kind"]
    except NotFound:
        return None
    return kind


def _move(client: Client, source: str, target: str) -> dict[str, Any]:
    """Move one; what stays at its old place too is told, and returned."""
    event: dict[str, Any] = {"can_stop": False, "files_done": 0, "bytes_done": 0}
    failed: list[list[str]] = []
    with open_progress("moving") as progress:
        try:
            for event in client.stream("POST", "/v1/fs/move", {"source": source, "target": target}):
                if event["failed"]:
                    failed.append(event["failed"])
                progress.update(
                    Done(event["files_done"], event["bytes_done"], event["files_total"], event["bytes_total"])
                )
        except KeyboardInterrupt:
            progress.close()
            if event["can_stop"]:
                note(f"stopped; {source} stays where it is")
            else:
                note(f"the daemon goes on to move {source} to {target}, so that it is not left half moved")
            raise typer.Exit(130) from None
    for path, reason in failed:
        note(failure_line(path, reason))
    told = [{"path": path, "message": reason} for path, reason in failed]
    return {"source": source, "target": target, "files": event["files_done"], "failed": told}


@app.command(epilog=example("forebay fs rm -r /training-data/old"))
def rm(
    context: typer.Context,
    paths: PathsArgument,
    recursive: Recursive = False,
    force: Annotated[
        bool, typer.Option("--force", help="With -r: also what mounts show; the mounts themselves stay.")
    ] = False,
) -> None:
    """Remove files from their store.  Nothing is asked; / and mounts are refused without --force."""
    client = connect(context)
    how = {"recursive": recursive, "force": force}
    each(paths, lambda path: client.call("POST", "/v1/fs/remove", {"path": path} | how))


# ---------------------------------------------------------------- attributes


@app.command(epilog=example("forebay fs touch --time 2026-01-31T12:00 /training-data/done"))
def touch(
    context: typer.Context,
    paths: PathsArgument,
    time: Annotated[
        str | None, typer.Option(help="This time instead of now, such as 2026-01-31T12:00 or …Z.", metavar="TIME")
    ] = None,
) -> None:
    """Make empty files, or set the time of what is there."""
    mtime_ns = None if time is None else _parse_time(time)
    client = connect(context)
    each(paths, lambda path: client.call("POST", "/v1/fs/touch", {"path": path, "mtime_ns": mtime_ns}))


def _parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time; local where it names no zone."""
    try:
        moment = datetime.fromisoformat(text).astimezone()
        return round(moment.timestamp() * 1_000_000) * 1_000
    except (ValueError, OverflowError) as error:
        raise Misuse(f"--time {text}: write it as 2026-01-31T12:00, or 2026-01-31T12:00Z") from error


@app.command(
    epilog=example("forebay fs chmod 640 /training-data/key", "forebay fs chmod -R u+rwX,go-w /training-data/raw"),
    context_settings={"ignore_unknown_options": True},  # a mode such as -w
)
def chmod(
    context: typer.Context,
    mode: Annotated[str, typer.Argument(help="As for chmod(1): 640, u+x, go-w, a=rX.", metavar="MODE")],
    paths: PathsArgument,
    recursive: Recursive = False,
) -> None:
    """Change the permission bits of files and folders."""
    try:
        ModeChange.parse(mode)
    except Invalid as error:
        raise Misuse(describe_error(error)) from error
    client = connect(context)
    failures = 0
    with open_progress("changing") as progress:

        def change(path: str) -> None:
            nonlocal failures
            body = {"path": path, "mode": mode, "recursive": recursive}
            for event in client.stream("POST", "/v1/fs/chmod", body):
                if event["failed"]:
                    failures += 1
                    note(failure_line(*event["failed"]))
                progress.update(Done(event["files_done"], 0))

        good = try_each(paths, change)
    if failures or not good:
        raise typer.Exit(1)


# ---------------------------------------------------------------- on their way to the stores


@app.command(epilog=example("forebay fs uploads -h"))
def uploads(context: typer.Context, human: Human = False, as_json: AsJson = False) -> None:
    """List what is not in its store yet, in the order of sending; what is to go from there; and new conflicts."""
    infos = connect(context).call("GET", "/v1/fs/uploads")
    if as_json:
        put_json(infos)
        return
    columns = [("state", "left"), ("size", "right"), ("path", "left"), ("why", "left")]
    rows = [(info["state"], size_text(info["size"], human=human), info["path"], info["error"]) for info in infos]
    put_table(columns, rows, empty="nothing waits for its upload")


@app.command(epilog=example("forebay fs flush /training-data"))
def flush(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="A path of the tree; default: all of it.", metavar="PATH")] = "/",
    as_json: AsJson = False,
) -> None:
    """Wait until the stores have all that was written below a path, and no more than that; what fails is listed."""
    client = connect(context)
    event: dict[str, Any] = {"failed": []}
    with open_progress("uploading") as progress:
        totals = [0, 0]
        for event in client.stream("POST", "/v1/fs/flush", {"path": path}):
            _show_left(progress, event, totals)
    if as_json:
        put_json({"path": path, "failed": event["failed"]})
    for failed in event["failed"]:
        note(failure_line(failed["path"], failed["error"]))
    if event["failed"]:
        raise typer.Exit(1)


def _show_left(progress: Progress, event: dict[str, Any], totals: list[int]) -> None:
    """Tell progress from what is left; the most that was seen counts as all."""
    left = event["files_left"], event["bytes_left"]
    totals[:] = [max(pair) for pair in zip(totals, left, strict=True)]
    files, size = totals
    progress.update(Done(files - left[0], size - left[1], files, size))
