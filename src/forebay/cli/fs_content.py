"""`forebay fs cat, head, tail, cp, put, get, checksum`: the bytes of files."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import typer

from forebay.cli.copy import plan_copy, run_plan
from forebay.cli.output import count_text, failure_line, note, put_bytes, put_json, try_each
from forebay.cli.output import put as put_line
from forebay.cli.places import End, LocalPlace, Place, StreamPlace, TreePlace, parse_end
from forebay.cli.progress import Done, open_progress
from forebay.cli.session import connect
from forebay.cli.words import AsJson, Misuse, PathArgument, PathsArgument, each, example
from forebay.daemon.client import Client
from forebay.errors import IsADirectory
from forebay.units import MIB, format_size, parse_size

app = typer.Typer()

TAIL_STEP_BYTES = MIB  # read backwards at a time while looking for the last lines

Algorithm = Literal["md5", "sha256", "xxh3"]
Lines = Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines.")]
Bytes = Annotated[
    str | None, typer.Option("--bytes", "-c", help="How many bytes instead, such as 512 or 4KiB.", metavar="SIZE")
]


@app.command(epilog=example("forebay fs cat /training-data/labels.csv | wc -l"))
def cat(context: typer.Context, paths: PathsArgument) -> None:
    """Write files to stdout."""
    client = connect(context)
    each(paths, lambda path: _put_chunks(client.read(path)))


@app.command(epilog=example("forebay fs head -n 3 /training-data/labels.csv"))
def head(context: typer.Context, path: PathArgument, lines: Lines = 10, size: Bytes = None) -> None:
    """Write the first lines or bytes of a file to stdout."""
    client = connect(context)
    if size is not None:
        length = parse_size(size)
        _put_chunks(client.read(path, length=length) if length else ())
    elif lines:
        _put_chunks(first_lines(client.read(path), lines))


@app.command(epilog=example("forebay fs tail -c 1KiB /training-data/run.log"))
def tail(context: typer.Context, path: PathArgument, lines: Lines = 10, size: Bytes = None) -> None:
    """Write the last lines or bytes of a file to stdout."""
    client = connect(context)
    entry = client.call("GET", "/v1/fs/stat", query={"path": path})
    if entry["kind"] != "file":
        raise IsADirectory(f"{path} is a folder", path=path)
    total: int = entry["size"]
    start = max(0, total - parse_size(size)) if size is not None else tail_start(client, path, total, lines)
    if start < total:
        _put_chunks(client.read(path, offset=start))


def first_lines(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The chunks up to and with the line feed that ends line `count`."""
    for chunk in chunks:
        start = 0
        while count and (feed := chunk.find(b"\n", start)) >= 0:
            start, count = feed + 1, count - 1
        if not count:
            yield chunk[:start]
            return
        yield chunk


def tail_start(client: Client, path: str, size: int, count: int) -> int:
    """Where the last `count` lines of a file of `size` bytes begin; reads backwards, in bounded memory."""
    if not count:
        return size
    stop = size
    while stop:
        start = max(0, stop - TAIL_STEP_BYTES)
        piece = b"".join(client.read(path, offset=start, length=stop - start))
        end = len(piece)
        if stop == size and piece.endswith(b"\n"):
            end -= 1  # the feed that ends the last line begins no line
        while (feed := piece.rfind(b"\n", 0, end)) >= 0:
            count -= 1
            if not count:
                return start + feed + 1
            end = feed
        stop = start
    return 0


def _put_chunks(chunks: Iterator[bytes] | tuple[()]) -> None:
    for chunk in chunks:
        put_bytes(chunk)


@app.command(
    epilog=example(
        "forebay fs cp -r ./photos /training-data/photos",
        "forebay fs cp /training-data/labels.csv file:/tmp/labels.csv",
        "forebay fs cp *.jpg /training-data/photos/",
        "zcat log.gz | forebay fs cp - /training-data/log.txt",
    )
)
def cp(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="What to copy, and last where to.", metavar="SOURCE... TARGET")],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders too, with all below.")] = False,
) -> None:
    """Copy between the tree and the local disk, or within the tree.

    A path that starts with / is in the tree.  Local paths are relative (photos, ./photos, ../photos), begin with ~,
    or are written file:/absolute/path; - is stdin or stdout.  Otherwise the rules are those of cp.
    """
    if len(paths) < 2:
        raise Misuse("cp needs a source and a target")
    *sources, target = (parse_end(text) for text in paths)
    if len({end.where for end in sources}) > 1:
        raise Misuse("all sources must be in one place: in the tree (/path) or local (./path, file:/path)")
    if "tree" not in (sources[0].where, target.where):
        raise Misuse(
            "both sides are local, which is work for cp(1); a path of the tree starts with /, "
            "an absolute local path is written file:/path"
        )
    _copy(context, sources, target, recursive=recursive)


@app.command(epilog=example("forebay fs put photos labels.csv /training-data/"))
def put(
    context: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(help="Local files and folders, and last where to.", metavar="LOCAL... TARGET")
    ],
) -> None:
    """Copy local files and folders into the tree, by the rules of cp -r; - is stdin."""
    if len(paths) < 2:
        raise Misuse("put needs what to copy and where to: forebay fs put photos /training-data/")
    *sources, target = paths
    _copy(context, [_local_end(path) for path in sources], _tree_end(target), recursive=True)


@app.command(epilog=example("forebay fs get /training-data/labels.csv /training-data/photos ."))
def get(
    context: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(help="Paths of the tree, and last where to on this disk.", metavar="SOURCE... LOCAL")
    ],
) -> None:
    """Copy files and folders of the tree to the local disk, by the rules of cp -r; - is stdout."""
    if len(paths) < 2:
        raise Misuse("get needs what to copy and where to: forebay fs get /training-data/photos .")
    *sources, target = paths
    _copy(context, [_tree_end(path) for path in sources], _local_end(target), recursive=True)


def _local_end(text: str) -> End:
    """A path that can only be local."""
    if text == "-":
        return End("stream", text)
    return End("local", os.path.expanduser(text.removeprefix("file:")))


def _tree_end(text: str) -> End:
    """A path that can only be of the tree."""
    if not text.startswith("/"):
        raise Misuse(f"{text!r} is no path of the tree, which starts with /")
    return End("tree", text)


def _copy(context: typer.Context, sources: Sequence[End], target: End, *, recursive: bool) -> None:
    where = sources[0].where
    if len({end.where for end in sources}) > 1:
        raise Misuse("- (stdin) cannot be copied along with files")
    places: dict[str, Place] = {
        "tree": TreePlace(connect(context)), "local": LocalPlace(), "stream": StreamPlace()
    }  # fmt: skip
    source_paths = [end.path for end in sources]
    plan = plan_copy(places[where], source_paths, places[target.where], target.path, recursive=recursive)
    with open_progress("copying") as progress:
        done = run_plan(plan, places[where], places[target.where], progress)
        seconds = progress.elapsed_s
    for path, reason in plan.failed:
        note(failure_line(path, reason))
    if recursive:
        failures = f"; {len(plan.failed):,} failed" if plan.failed else ""
        note(f"{count_text(done.files)}, {format_size(done.size)} copied in {seconds:.1f} s{failures}")
    if plan.failed:
        raise typer.Exit(1)


@app.command(epilog=example("forebay fs checksum --algorithm sha256 /training-data/labels.csv"))
def checksum(
    context: typer.Context,
    paths: PathsArgument,
    algorithm: Annotated[Algorithm, typer.Option(help="What to compute; xxh3 is that of 64 bits.")] = "md5",
    as_json: AsJson = False,
) -> None:
    """Compute the checksums of files, of their bytes as Forebay reads them; printed as md5sum(1) does."""
    client = connect(context)
    found: list[dict[str, str]] = []
    done = Done(0, 0)
    with open_progress("reading") as progress:

        def compute(path: str) -> None:
            nonlocal done
            digest = _hasher(algorithm)
            for chunk in client.read(path):
                digest.update(chunk)
                done = Done(done.files, done.size + len(chunk))
                progress.update(done)
            done = Done(done.files + 1, done.size)
            found.append({"path": path, "algorithm": algorithm, "checksum": digest.hexdigest()})
            if not as_json:
                progress.close()
                put_line(_sum_line(digest.hexdigest(), path))

        good = try_each(paths, compute)
    if as_json:
        put_json(found)
    if not good:
        raise typer.Exit(1)


def _hasher(algorithm: Algorithm) -> Any:  # noqa: ANN401 - what hashlib makes, or of its kind
    if algorithm == "xxh3":
        import xxhash  # of use to this command alone

        return xxhash.xxh3_64()
    return hashlib.new(algorithm, usedforsecurity=False)


def _sum_line(checksum: str, path: str) -> str:
    r"""One line of md5sum(1), which `md5sum --check` reads: in odd names, `\` and line feeds are escaped.

    >>> _sum_line("d41d", "/a b"), _sum_line("d41d", "/a\nb")
    ('d41d  /a b', '\\d41d  /a\\nb')
    """
    if not set(path) & {"\\", "\n", "\r"}:
        return f"{checksum}  {path}"
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"\\{checksum}  {escaped}"
