"""`forebay fuse`, also installed as `forebay-fuse`: the tree as a folder of this machine."""

import os
from typing import Annotated, Any

import typer

from forebay.cli.output import note, put, put_facts, put_json, put_table, quote_name
from forebay.cli.session import connect
from forebay.cli.words import AsJson, example
from forebay.errors import NotFound
from forebay.units import format_size

app = typer.Typer(help="The tree as a local folder, for ls, open() and every program.", no_args_is_help=True)

MountpointArgument = Annotated[str, typer.Argument(help="A local folder.", metavar="MOUNTPOINT")]


@app.command(epilog=example("forebay fuse mount /mnt/fuse /training-data"))
def mount(
    context: typer.Context,
    mountpoint: MountpointArgument,
    path: Annotated[str, typer.Argument(help="What of the tree to show there.")] = "/",
    readonly: Annotated[
        bool, typer.Option("--readonly", help="Refuse every write, and open cached files faster.")
    ] = False,
    small_files: Annotated[
        bool, typer.Option("--small-files", help="For many small files: readonly, and each opens at once.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a path of the tree at a local folder."""
    kind = "small files" if small_files else "readonly" if readonly else "writable"
    body = {"mountpoint": os.path.abspath(mountpoint), "path": path, "kind": kind}
    info = connect(context).call("POST", "/v1/fuse/mount", body)
    if as_json:
        put_json(info)
        return
    put(f"{quote_name(info['path'])} on {quote_name(info['mountpoint'])} ({_mode(info)})")
    if info["mode_reason"]:
        note(f"cached files are read through the page cache: {info['mode_reason']}")


@app.command(epilog=example("forebay fuse unmount /mnt/fuse"))
def unmount(
    context: typer.Context,
    mountpoint: MountpointArgument,
    force: Annotated[bool, typer.Option("--force", help="Even if files are open; they then fail to read.")] = False,
) -> None:
    """Take the tree away from a local folder."""
    body = {"mountpoint": os.path.abspath(mountpoint), "force": force}
    connect(context).call("POST", "/v1/fuse/unmount", body)


@app.command(epilog=example("forebay fuse stat /mnt/fuse"))
def stat(
    context: typer.Context,
    mountpoint: Annotated[str | None, typer.Argument(help="Only this one, with its counters.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the local folders with the tree, how they are read, and what was asked of them."""
    infos = connect(context).call("GET", "/v1/fuse")
    if mountpoint is not None:
        wanted = os.path.abspath(mountpoint)
        infos = [info for info in infos if info["mountpoint"] == wanted]
        if not infos:
            raise NotFound(f"Forebay is not mounted at {wanted}; forebay fuse stat lists where it is", path=wanted)
    if as_json:
        put_json(infos)
    elif mountpoint is None:
        columns = [(name, "left") for name in ("mountpoint", "path", "mode")]
        columns += [(name, "right") for name in ("open files", "nodes", "requests")]
        put_table(columns, [_row(info) for info in infos], empty="nothing is mounted; see forebay fuse mount --help")
    else:
        _put_details(infos[0])


def _row(info: dict[str, Any]) -> tuple[str, ...]:
    requests = sum(info["requests"].values())
    numbers = (f"{count:,}" for count in (info["open_files"], info["nodes"], requests))
    return (info["mountpoint"], info["path"], _mode(info), *numbers)


def _mode(info: dict[str, Any]) -> str:
    return str(info["mode"]) if info["kind"] == "writable" else f"{info['mode']}, {info['kind']}"


def _put_details(info: dict[str, Any]) -> None:
    reason = f" ({info['mode_reason']})" if info["mode_reason"] else ""
    put_facts(
        {
            "mountpoint": info["mountpoint"],
            "path": info["path"],
            "mode": _mode(info) + reason,
            "kernel protocol": info["kernel_protocol"],
            "largest read": format_size(info["max_read_bytes"]),
            "read-ahead": format_size(info["readahead_bytes"]),
            "open files": f"{info['open_files']:,}",
            "nodes": f"{info['nodes']:,}",
        }
    )
    for heading, counts in (("request", info["requests"]), ("served from", info["served_from"])):
        put()
        rows = sorted(counts.items(), key=lambda item: -item[1])
        put_table([(heading, "left"), ("count", "right")], [(_words(name), f"{count:,}") for name, count in rows])


def _words(name: str) -> str:
    return name if name.isupper() else name.replace("_", " ")
