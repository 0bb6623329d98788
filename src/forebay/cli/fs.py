"""`forebay fs`, but for what reads and writes files: the tree and its mounts, and what of it is cached."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

import typer

from forebay.cli.options import parse_options
from forebay.cli.output import (
    count_text,
    failure_line,
    harmless,
    note,
    percent,
    put,
    put_facts,
    put_json,
    put_json_list,
    put_name,
    put_table,
    quote_name,
    size_text,
    time_text,
)
from forebay.cli.progress import Done, open_progress
from forebay.cli.session import connect
from forebay.cli.words import AsJson, Human, Misuse, PathArgument, PathsArgument, each, example
from forebay.paths import normalize, relative
from forebay.units import format_duration, format_size, parse_duration, parse_size

app = typer.Typer()

Freshness = Literal["immutable", "ttl", "always"]
Policy = Literal["keep", "lru", "s3fifo"]
WriteMode = Literal["through", "back", "lazy"]
StoreOptions = Annotated[
    list[str] | None,
    typer.Option(
        help="Store option KEY=VALUE, repeatable. As VALUE, env:NAME takes it from the environment and "
        "file:PATH from a file: other users see neither in ps.",
        metavar="KEY=VALUE",
    ),
]
OptionFile = Annotated[str | None, typer.Option(help="File of KEY=VALUE lines; # begins a comment.", metavar="FILE")]
Quota = Annotated[
    str | None, typer.Option(help="The most that it may hold in the cache; 0 takes that away.", metavar="SIZE")
]
CacheTtl = Annotated[
    str | None,
    typer.Option(
        help="Free what nobody has read for so long; in the cache only. 0 takes that away.", metavar="DURATION"
    ),
]
SharedPrefix = Annotated[
    bool,
    typer.Option(
        "--shared-prefix",
        help="Show every object whose key begins with the URL's path, also within a name; names are what follows.",
    ),
]
Update = Annotated[
    bool,
    typer.Option(
        "--update",
        help="Change a mount that is there, without unmounting: what is not given stays; KEY= removes an option.",
    ),
]


# ---------------------------------------------------------------- folders and mounts


@app.command(epilog=example("forebay fs mkdir -p /training-data/raw"))
def mkdir(
    context: typer.Context,
    paths: PathsArgument,
    parents: Annotated[
        bool, typer.Option("--parents", "-p", help="Make missing parents too; an existing folder is no error.")
    ] = False,
) -> None:
    """Make folders, in which stores can be mounted."""
    client = connect(context)
    each(paths, lambda path: client.call("POST", "/v1/fs/mkdir", {"path": path, "parents": parents}))


@app.command(epilog=example("forebay fs rmdir /training-data/raw"))
def rmdir(context: typer.Context, paths: PathsArgument) -> None:
    """Remove empty folders."""
    client = connect(context)
    each(paths, lambda path: client.call("POST", "/v1/fs/rmdir", {"path": path}))


@app.command(
    epilog=example(
        "forebay fs mount /training-data/imagenet s3://bucket/train --option s3.region=eu-central-1",
        "forebay fs mount /data s3://bucket --option s3a.accessKeyID=env:KEY_ID --option s3a.secretKey=file:~/key",
        "forebay fs mount /fixed s3://bucket/v1 --freshness immutable --readonly",
        "forebay fs mount --update /data --option s3a.secretKey=file:~/new-key --ttl 5m",
        "forebay fs mount /archive s3://bucket/archive --quota 100GiB --cache-ttl 7d",
    )
)
def mount(
    context: typer.Context,
    path: Annotated[str | None, typer.Argument(help="Where in the tree; missing folders are not made.")] = None,
    url: Annotated[str | None, typer.Argument(help="What to show there, such as s3://bucket/prefix.")] = None,
    option: StoreOptions = None,
    option_file: OptionFile = None,
    readonly: Annotated[bool | None, typer.Option("--readonly/--writable", help="Take no writes.")] = None,
    write_mode: Annotated[
        WriteMode | None,
        typer.Option(
            help="What close and fsync wait for: the store (through, the default), the local disk (back), or close for "
            "nothing and fsync for the disk (lazy)."
        ),
    ] = None,
    freshness: Annotated[
        Freshness | None,
        typer.Option(help="When to ask the store again: never, after the --ttl (the default), or at each open."),
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(help="How long names and versions are believed.", metavar="DURATION")
    ] = None,
    policy: Annotated[
        Policy | None, typer.Option(help="What leaves a full cache: only idle data sets (keep), or also lru or s3fifo.")
    ] = None,
    quota: Quota = None,
    cache_ttl: CacheTtl = None,
    shared_prefix: SharedPrefix = False,
    update: Update = False,
    as_json: AsJson = False,
) -> None:
    """Show a store at a path of the tree; without arguments, list the mounts."""
    if path is None and not update:
        _put_mounts(connect(context).call("GET", "/v1/fs/mounts"), as_json=as_json)
        return
    if update and (path is None or url is not None or shared_prefix):
        raise Misuse("--update takes a mount's path and what to change: forebay fs mount --update /data --ttl 5m")
    if path is None or "://" in path or (url is None and not update):
        raise Misuse("write the path, then the URL: forebay fs mount /data s3://bucket/prefix")
    if ttl is not None and freshness not in (None, "ttl"):
        raise Misuse(f"--ttl means nothing with --freshness {freshness}")
    body = {
        "path": path,
        "options": parse_options(option or (), option_file, os.environ),
        "readonly": readonly,
        "freshness": freshness,
        "ttl_s": None if ttl is None else parse_duration(ttl),
        "policy": policy,
        "quota_bytes": None if quota is None else parse_size(quota),
        "cache_ttl_s": None if cache_ttl is None else parse_duration(cache_ttl),
        "write_mode": write_mode,
    }
    if update:
        info = connect(context).call("POST", "/v1/fs/update-mount", body)
    else:
        body |= {"url": url, "readonly": bool(readonly), "shared_prefix": shared_prefix}
        info = connect(context).call("POST", "/v1/fs/mount", body)
    if as_json:
        put_json(info)
    else:
        put(f"{harmless(info['url'])} on {quote_name(info['path'])} ({_mount_words(info)})")


@app.command(epilog=example("forebay fs unmount /training-data/imagenet"))
def unmount(context: typer.Context, path: PathArgument) -> None:
    """Take a mount out of the tree; the store keeps its objects."""
    connect(context).call("POST", "/v1/fs/unmount", {"path": path})


@app.command(epilog=example("forebay fs mounts --json"))
def mounts(context: typer.Context, as_json: AsJson = False) -> None:
    """List the mounts."""
    _put_mounts(connect(context).call("GET", "/v1/fs/mounts"), as_json=as_json)


def _put_mounts(infos: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        put_json(infos)
        return
    columns = [("path", "left"), ("store", "left"), ("how", "left"), ("options", "left")]
    rows = [
        (info["path"], info["url"], _mount_words(info), " ".join(f"{k}={v}" for k, v in info["options"].items()))
        for info in infos
    ]
    put_table(columns, rows, empty="nothing is mounted; see forebay fs mount --help")


def _mount_words(info: dict[str, Any]) -> str:
    """How a mount works, in the words of its options."""
    fresh = info["freshness"]
    words = ["readonly"] if info["readonly"] else [f"write-{info['write_mode']}"]
    words.append(f"ttl {info['ttl_s']:g}s" if fresh == "ttl" and info["ttl_s"] is not None else fresh)
    if info["policy"]:
        words.append(info["policy"])
    if info["quota_bytes"] is not None:
        words.append(f"quota {format_size(info['quota_bytes'])}")
    if info["cache_ttl_s"] is not None:
        words.append(f"cache-ttl {format_duration(info['cache_ttl_s'])}")
    return ", ".join(words)


# ---------------------------------------------------------------- looking


@app.command(epilog=example("forebay fs ls -lh /training-data/imagenet"))
def ls(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="A folder or a file.")] = "/",
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Kind, size, how much is cached, time of change, name.")
    ] = False,
    human: Human = False,
    recursive: Annotated[bool, typer.Option("--recursive", "-R", help="All below, as relative paths.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a folder."""
    query: dict[str, str | int] = {"path": path, "recursive": int(recursive)}
    hidden = Hidden()
    entries = hidden.strain(connect(context).stream("GET", "/v1/fs/list", query=query))
    if as_json:
        put_json_list(entries)
    else:
        folder = normalize(path)
        for entry in entries:
            name = (relative(entry["path"], folder) if recursive else "") or entry["name"]
            put_name(name, before=_long_line(entry, human=human) if long else "")
    if hidden.count:
        note(
            f"{count_text(hidden.count, 'key')} of the store cannot be shown as files "
            "(such as names with // or longer than 255 bytes)"
        )


class Hidden:
    """Takes the closing `{"hidden": n}` line out of a listing."""

    count = 0

    def strain(self, lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The entries; `count` holds once they are through."""
        for line in lines:
            if "hidden" in line:
                self.count = line["hidden"]
            else:
                yield line


def _long_line(entry: dict[str, Any], *, human: bool) -> str:
    is_file = entry["kind"] == "file"
    size = size_text(entry["size"] if is_file else None, human=human)
    cached = percent(entry["cached_bytes"], entry["size"]) if is_file else "-"
    pin = "p" if entry["pinned"] else " "
    return f"{entry['kind']:<6}{pin} {size:>{10 if human else 14}} {cached:>5}  {time_text(entry['mtime_ns']):<16}  "


@app.command(epilog=example("forebay fs stat /training-data/imagenet/n01440764/1.jpg"))
def stat(context: typer.Context, paths: PathsArgument, as_json: AsJson = False) -> None:
    """Show what is known of a path."""
    client = connect(context)

    def show(path: str) -> None:
        entry = client.call("GET", "/v1/fs/stat", query={"path": path})
        if as_json:
            put_json(entry)
            return
        is_file = entry["kind"] == "file"
        facts = {
            "path": entry["path"],
            "kind": entry["kind"],
            "size": f"{entry['size']} ({format_size(entry['size'])})" if is_file else None,
            "cached": percent(entry["cached_bytes"], entry["size"]) if is_file else None,
            "modified": time_text(entry["mtime_ns"]),
            "version": entry["version"],
            "pinned": "yes" if entry["pinned"] else "no",
            "mode": None if entry["mode"] is None else f"{entry['mode']:04o}",
            "owner": entry["owner"],
            "group": entry["group"],
            "url": entry["url"],
        }
        put_facts(facts)

    each(paths, show)


@app.command(epilog=example("forebay fs location /training-data/imagenet/n01440764/1.jpg"))
def location(context: typer.Context, path: PathArgument, as_json: AsJson = False) -> None:
    """Show where a file's bytes are: its object in the store, and its cache file."""
    found = connect(context).call("GET", "/v1/fs/location", query={"path": path})
    if as_json:
        put_json(found)
        return
    found["cached_bytes"] = f"{found['cached_bytes']} ({percent(found['cached_bytes'], found['size'])})"
    put_facts({name.replace("_", " "): value for name, value in found.items()})


@app.command(epilog=example("forebay fs du -h /training-data"))
def du(context: typer.Context, path: PathArgument, human: Human = False, as_json: AsJson = False) -> None:
    """Count the files below a path, their bytes, and how many of those are cached."""
    usage: dict[str, Any] = {"files": 0, "bytes": 0, "cached_bytes": 0}
    with open_progress("counting") as progress:
        for usage in connect(context).stream("GET", "/v1/fs/usage", query={"path": path}):
            progress.update(Done(usage["files"], usage["bytes"]))
    if as_json:
        put_json({"path": path} | {name: usage[name] for name in ("files", "bytes", "cached_bytes")})
        return
    size, cached = (size_text(usage[name], human=human) for name in ("bytes", "cached_bytes"))
    row = (size, cached, percent(usage["cached_bytes"], usage["bytes"]), str(usage["files"]), path)
    columns = ("size", "right"), ("cached", "right"), ("%", "right"), ("files", "right"), ("path", "left")
    put_table(columns, [row])


@app.command(epilog=example("forebay fs df -h"))
def df(context: typer.Context, human: Human = False, as_json: AsJson = False) -> None:
    """Show the cache folders: what they may hold, hold, and what their disks have left; and what waits for upload."""
    client = connect(context)
    infos = client.call("GET", "/v1/fs/df")
    if as_json:
        put_json(infos)
        return
    names = ("capacity_bytes", "used_bytes", "disk_free_bytes", "reserve_bytes")
    columns = [("cache folder", "left")]
    columns += [(name, "right") for name in ("size", "used", "use%", "disk free", "reserve", "files")]
    rows = []
    for info in infos:
        capacity, used, free_bytes, reserve = (size_text(info[name], human=human) for name in names)
        share = percent(info["used_bytes"], info["capacity_bytes"])
        rows.append((info["directory"], capacity, used, share, free_bytes, reserve, str(info["files"])))
    put_table(columns, rows, empty="there is no cache folder")
    infos = client.call("GET", "/v1/fs/uploads")
    waiting = [info["size"] for info in infos if info["state"] not in ("removing", "conflict")]
    if waiting:
        note(f"{count_text(len(waiting))}, {format_size(sum(waiting))} not in the stores yet: forebay fs uploads")


# ---------------------------------------------------------------- the cache


@app.command(
    epilog=example("forebay fs load /training-data/imagenet", "forebay fs load --metadata /training-data/imagenet")
)
def load(
    context: typer.Context,
    path: PathArgument,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Only names, sizes and versions: a walk then asks the store nothing.")
    ] = False,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Files (or folders) at a time; default: as many as help.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read everything below a path into the cache.  Run it again to go on after a stop or a failure."""
    words = _NAMES if metadata else _FILES
    client = connect(context)
    event: dict[str, Any] = dict.fromkeys(words.totals)
    failed: list[list[str]] = []
    with open_progress(words.verb) as progress:
        try:
            body = {"path": path, "parallel": parallel, "metadata": metadata}
            for event in client.stream("POST", "/v1/fs/load", body):
                if event["failed"]:
                    failed.append(event["failed"])
                progress.update(words.done(event))
        except KeyboardInterrupt:
            progress.close()
            note(f"stopped; what is loaded stays ({words.amount(event)}): run the same command to go on")
            raise typer.Exit(130) from None
        seconds = progress.elapsed_s
    for name, message in failed:
        note(failure_line(name, message))
    if as_json:
        totals = {name: event[name] for name in words.totals} | {"seconds": round(seconds, 3)}
        put_json({"path": path} | totals | {"failed": [dict(path=name, message=why) for name, why in failed]})
    else:
        tail = f"; {len(failed):,} failed" if failed else ""
        put(f"{words.amount(event)} {words.end} in {seconds:.1f} s ({words.rate(event, seconds)}/s){tail}")
    if failed:
        raise typer.Exit(1)


class _Loading(NamedTuple):
    """How a kind of load is told."""

    verb: str  # what is going on
    end: str  # what has been done
    totals: tuple[str, ...]  # the fields of an event that say how far it is
    done: Callable[[dict[str, Any]], Done]
    amount: Callable[[dict[str, Any]], str]
    rate: Callable[[dict[str, Any], float], str]  # per second


def _file_amount(event: dict[str, Any]) -> str:
    return f"{count_text(event['files_done'] or 0)}, {format_size(event['bytes_done'] or 0)}"


def _name_amount(event: dict[str, Any]) -> str:
    return f"{count_text(event['files'] or 0)} in {count_text(event['folders_done'] or 0, 'folder')}"


_FILES = _Loading(
    verb="loading",
    end="loaded",
    totals=("files_done", "files_total", "bytes_done", "bytes_total"),
    done=lambda e: Done(e["files_done"], e["bytes_done"], e["files_total"], e["bytes_total"]),
    amount=_file_amount,
    rate=lambda e, seconds: format_size(e["bytes_done"] / seconds),
)
_NAMES = _Loading(
    verb="listing",
    end="known",
    totals=("folders_done", "folders_found", "files", "bytes"),
    done=lambda e: Done(e["files"], e["bytes"]),
    amount=_name_amount,
    rate=lambda e, seconds: count_text(round(e["files"] / seconds)),
)


@app.command(epilog=example("forebay fs free /training-data/imagenet"))
def free(context: typer.Context, path: PathArgument, as_json: AsJson = False) -> None:
    """Drop what is cached below a path; pinned files stay."""
    freed = connect(context).call("POST", "/v1/fs/free", {"path": path})
    if as_json:
        put_json(freed)
    else:
        put(f"{count_text(freed['files'])}, {format_size(freed['bytes'])} freed")


@app.command(epilog=example("forebay fs pin /training-data/imagenet"))
def pin(context: typer.Context, path: PathArgument) -> None:
    """Keep everything below a path in the cache, once it is there."""
    connect(context).call("POST", "/v1/fs/pin", {"path": path})


@app.command(epilog=example("forebay fs unpin /training-data/imagenet"))
def unpin(context: typer.Context, path: PathArgument) -> None:
    """Let the cache drop again what is below a path."""
    connect(context).call("POST", "/v1/fs/unpin", {"path": path})


@app.command(epilog=example("forebay fs refresh /training-data/imagenet"))
def refresh(context: typer.Context, path: PathArgument) -> None:
    """Forget what is known of names and versions below a path: the store is asked again."""
    connect(context).call("POST", "/v1/fs/refresh", {"path": path})
