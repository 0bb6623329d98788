"""`forebay top`: what goes on at each mount, as it goes on."""

import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli.output import Column, count_text, percent, put, put_facts, put_json, put_table, quote_name
from forebay.cli.session import connect
from forebay.cli.words import AsJson, Misuse, example
from forebay.units import format_size, parse_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY_MIN_S = 0.1
WIDE = 120  # columns of a terminal from which on everything is shown


@dataclass(frozen=True, slots=True)
class MountView:
    """What went on at one mount between two looks; rates are per second, sizes bytes."""

    path: str
    hit_share: float | None  # of the files opened; None: none was
    opens: float
    from_cache: float
    from_store: float
    from_memory: float
    fetched: float
    stalled_share: float  # of the time, at least one reader waited for the store
    readers_waiting: int
    prefetching: int
    open_files: int
    cached_bytes: int
    uploads: int


@dataclass(frozen=True, slots=True)
class View:
    """What went on between two looks."""

    seconds: float
    mounts: tuple[MountView, ...]
    requests: int  # to all stores, under way
    readers_queued: int
    ahead_queued: int
    cache_used_bytes: int
    cache_capacity_bytes: int
    cache_files: int
    files_evicted: float  # per second
    files_evicted_ever: int
    memory_bytes: int


def view(before: dict[str, Any], after: dict[str, Any]) -> View:
    """The difference of two answers of `/v1/activity`."""
    seconds = max(after["at_s"] - before["at_s"], 1e-6)
    earlier = {mount["path"]: mount for mount in before["mounts"]}
    cache, stores = after["cache"], after["stores"]
    return View(
        seconds=seconds,
        mounts=tuple(_mount_view(earlier.get(mount["path"], {}), mount, seconds) for mount in after["mounts"]),
        requests=sum(store["requests"] for store in stores),
        readers_queued=sum(store["readers_waiting"] for store in stores),
        ahead_queued=sum(store["background_waiting"] for store in stores),
        cache_used_bytes=cache["used_bytes"],
        cache_capacity_bytes=cache["capacity_bytes"],
        cache_files=cache["files"],
        files_evicted=(cache["files_evicted"] - before["cache"]["files_evicted"]) / seconds,
        files_evicted_ever=cache["files_evicted"],
        memory_bytes=after["rss_bytes"],
    )


def _mount_view(before: dict[str, Any], after: dict[str, Any], seconds: float) -> MountView:
    def grown(name: str) -> float:
        # A mount that was taken away and made again begins at 0.
        return float(after[name] - before.get(name, 0)) if after[name] >= before.get(name, 0) else float(after[name])

    hits, misses = grown("hits"), grown("misses")
    return MountView(
        path=after["path"],
        hit_share=hits / (hits + misses) if hits + misses else None,
        opens=(hits + misses) / seconds,
        from_cache=grown("read_from_cache") / seconds,
        from_store=grown("read_from_store") / seconds,
        from_memory=grown("read_from_memory") / seconds,
        fetched=grown("bytes_from_store") / seconds,
        stalled_share=min(grown("stalled_s") / seconds, 1.0),
        **{name: after[name] for name in ("readers_waiting", "prefetching", "open_files", "cached_bytes", "uploads")},
    )


def _facts(seen: View) -> dict[str, str]:
    used, room = seen.cache_used_bytes, seen.cache_capacity_bytes
    return {
        "cache": f"{format_size(used)} of {format_size(room)} ({percent(used, room)}), {count_text(seen.cache_files)}",
        "evicted": f"{seen.files_evicted:,.0f} files/s, {seen.files_evicted_ever:,} in all",
        "requests": f"{seen.requests:,} under way; {seen.readers_queued:,} of readers and {seen.ahead_queued:,} "
        "ahead of them wait",
        "memory": format_size(seen.memory_bytes),
    }


_COLUMNS = ("mount", "hits", "cache/s", "store/s", "waited", "ahead", "open")
_MORE_COLUMNS = ("memory/s", "fetched/s", "opens/s", "waiting", "cached", "uploads")


def _row(mount: MountView) -> list[str]:
    return [
        quote_name(mount.path),
        "-" if mount.hit_share is None else percent(int(mount.hit_share * 10_000), 10_000),
        format_size(mount.from_cache),
        format_size(mount.from_store),
        percent(int(mount.stalled_share * 10_000), 10_000),
        f"{mount.prefetching:,}",
        f"{mount.open_files:,}",
    ]


def _more(mount: MountView) -> list[str]:
    return [
        format_size(mount.from_memory),
        format_size(mount.fetched),
        f"{mount.opens:,.0f}",
        f"{mount.readers_waiting:,}",
        format_size(mount.cached_bytes),
        f"{mount.uploads:,}",
    ]


def _end_of(name: str, width: int) -> str:
    """A path as it fits: its end, since the beginnings of many are the same.

    >>> _end_of("/training-data/imagenet", 12), _end_of("/data", 12)
    ('…ta/imagenet', '/data')
    """
    return name if len(name) <= width or width < 2 else "…" + name[1 - width :]


def draw(seen: View, width: int) -> "RenderableType":
    """What a terminal of that many columns shows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    is_wide = width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    heads = [*_COLUMNS, *(_MORE_COLUMNS if is_wide else ())]
    rows = [_row(mount) + (_more(mount) if is_wide else []) for mount in seen.mounts]
    table.add_column(heads[0], no_wrap=True, overflow="ellipsis", ratio=1)
    for name in heads[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    rest = sum(max(map(len, column)) + 2 for column in list(zip(heads, *rows, strict=True))[1:])
    for mount, (name, *cells) in zip(seen.mounts, rows, strict=True):
        style = "" if mount.readers_waiting == 0 else "yellow"
        table.add_row(*map(Text, (_end_of(name, width - rest), *cells)), style=style)
    facts = [Text(f"{name:<9} {value}", no_wrap=True, overflow="ellipsis") for name, value in _facts(seen).items()]
    bottom = Text("q ends" if seen.mounts else "nothing is mounted; see forebay fs mount --help", style="dim")
    return Group(*facts, Text(), table, Text(), bottom)


def top(
    context: typer.Context,
    every: Annotated[str, typer.Option(help="How often to look.", metavar="DURATION")] = "1s",
    as_json: AsJson = False,
) -> None:
    """Show what goes on: hits, bytes from cache and store, waiting, work ahead, open files.  q ends it.

    In a pipe, and with --json, it shows one such time and ends.
    """
    every_s = parse_duration(every)
    if every_s < EVERY_MIN_S:
        raise Misuse(f"--every {every}: at least {EVERY_MIN_S:g}s")
    client = connect(context)

    def look() -> dict[str, Any]:
        found: dict[str, Any] = client.call("GET", "/v1/activity")
        return found

    before = look()
    if sys.stdout.isatty() and not as_json:
        _watch(before, look, every_s)
        return
    time.sleep(every_s)
    seen = view(before, look())
    if as_json:
        put_json(asdict(seen))
        return
    put_facts(_facts(seen))
    put()
    columns: list[Column] = [("mount", "left")]
    columns += [(name, "right") for name in (*_COLUMNS[1:], *_MORE_COLUMNS)]
    put_table(columns, [_row(mount) + _more(mount) for mount in seen.mounts], empty="nothing is mounted")


def _watch(before: dict[str, Any], look: Any, every_s: float) -> None:  # noqa: ANN401 - as in `top`
    """Draw again and again, until q or Ctrl-C."""
    from rich.console import Console
    from rich.live import Live

    console = Console(markup=False, emoji=False, highlight=False)
    with _keys() as wait_for_key, Live(console=console, screen=True, auto_refresh=False) as live:
        after = before
        while True:
            live.update(draw(view(before, after), console.width), refresh=True)
            try:
                if wait_for_key(every_s) in ("q", "Q", "\x03"):
                    return
            except KeyboardInterrupt:
                return
            before, after = after, look()


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds for a key, and returns it, or "" if none came."""
    if not sys.stdin.isatty():

        def sleep(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield sleep
        return
    import termios
    import tty

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield wait
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def add_command(app: typer.Typer) -> None:
    """Give the app the command of this module."""
    app.command(epilog=example("forebay top", "forebay top --json"))(top)
