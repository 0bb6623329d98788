"""What users see: names, tables, JSON, and error lines.

On a terminal, names and messages are made harmless (no control characters reach it); in a pipe they go out byte
for byte, so that what `ls` prints can be used as a path.  Rich is imported only where a table is drawn: it costs
50 ms.
"""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from forebay.errors import FsError
from forebay.units import format_size

Column = tuple[str, str]  # heading, "left" or "right"

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\x1b": "\\e"}


def quote_name(name: str) -> str:
    r"""The name in the form that bash reads back, if it holds anything a terminal should not get.

    >>> quote_name("a b"), quote_name("a\nb"), quote_name("\udcff")
    ('a b', "$'a\\nb'", "$'\\xff'")
    """
    if name.isprintable():
        return name
    return f"$'{''.join(_escape(char) for char in name)}'"


def _escape(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def harmless(text: str) -> str:
    r"""The text without control characters, line feeds apart.

    >>> harmless("no \x1b[31mfile\nhere")
    'no \\e[31mfile\nhere'
    """
    return "\n".join(
        "".join(char if char.isprintable() else _escape(char) for char in line) for line in text.split("\n")
    )


def put(line: str = "") -> None:
    """Write one line to stdout; undecodable names come out as the bytes they are."""
    put_bytes(line.encode("utf-8", "surrogateescape") + b"\n")


def put_sentence(text: str) -> None:
    """Write a line of prose: on a terminal it is broken between words, in a pipe never."""
    if not sys.stdout.isatty():
        put(text)
        return
    width = shutil.get_terminal_size().columns
    for line in textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False):
        put(line)


def put_bytes(data: bytes | memoryview) -> None:
    """Write raw bytes to stdout."""
    sys.stdout.buffer.write(data)


def put_name(name: str, *, before: str = "") -> None:
    """Write a line that ends in a name: quoted on a terminal, raw in a pipe."""
    put(before + (quote_name(name) if sys.stdout.isatty() else name))


def note(message: str) -> None:
    """Tell the user something beside the result: one line on stderr."""
    sys.stdout.flush()
    sys.stderr.write(f"forebay: {harmless(message)}\n")
    sys.stderr.flush()


def put_json(value: object) -> None:
    """Write one JSON document; undecodable names stay readable for `os.fsencode` as surrogate escapes."""
    put(json.dumps(value, indent=2))


def put_json_list(values: Iterable[object]) -> None:
    """Write a JSON array item by item: a long listing needs no memory."""
    put("[")
    waiting = None  # held back until it is known whether a comma follows
    for value in values:
        if waiting is not None:
            put(waiting + ",")
        waiting = "  " + json.dumps(value)
    if waiting is not None:
        put(waiting)
    put("]")


def put_table(columns: Sequence[Column], rows: Iterable[Sequence[str]], *, empty: str = "") -> None:
    """Write a table; if there is no row, the line `empty` on stderr instead.

    A pipe gets the same columns, never folded, cut or coloured.
    """
    lines = [[quote_name(cell) for cell in row] for row in rows]
    if not lines:
        if empty:
            note(empty)
        return
    if sys.stdout.isatty():
        _put_rich_table(columns, lines)
        return
    widths = [max(map(len, column)) for column in zip([name for name, _ in columns], *lines, strict=True)]
    for line in ([name for name, _ in columns], *lines):
        cells = [
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(line, widths, columns, strict=True)
        ]
        put("  ".join(cells).rstrip())


def _put_rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    sys.stdout.flush()  # what went to its buffer comes first
    Console(markup=False, emoji=False, highlight=False).print(table)


def put_facts(facts: Mapping[str, object]) -> None:
    """Write `name  value` lines; a value of None is left out."""
    shown = {name: quote_name(str(value)) for name, value in facts.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        put(f"{name:<{width}}  {value}")


def size_text(size: int | None, *, human: bool) -> str:
    """Bytes as a number or for people; `-` if there is nothing to say."""
    if size is None:
        return "-"
    return format_size(size) if human else str(size)


def percent(part: int | None, whole: int) -> str:
    """How much of it, rounded down: 100% means all.

    >>> percent(999, 1000), percent(0, 0), percent(None, 5)
    ('99%', '100%', '-')
    """
    if part is None:
        return "-"
    return f"{min(part, whole) * 100 // whole if whole else 100}%"


def count_text(count: int, noun: str = "file") -> str:
    """A number with its noun.

    >>> count_text(1), count_text(1200)
    ('1 file', '1,200 files')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def time_text(time_ns: int) -> str:
    """A local time as `ls -l` of a recent file in ISO style; `-` if the store does not say."""
    return f"{datetime.fromtimestamp(time_ns / 1e9).astimezone():%Y-%m-%d %H:%M}" if time_ns else "-"


def duration_text(seconds: float) -> str:
    """A duration for people.

    >>> duration_text(4.26), duration_text(192), duration_text(3_600), duration_text(7_500), duration_text(200_000)
    ('4.3 s', '3 min 12 s', '1 h', '2 h 5 min', '2 d 7 h')
    """
    for size, unit, part, part_unit in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = int(seconds % size // part)
            return f"{seconds // size:.0f} {unit}" + (f" {rest} {part_unit}" if rest else "")
    return f"{seconds:.1f} s"


def describe_error(error: OSError) -> str:
    """One line for a failure, ours or the operating system's."""
    if isinstance(error, FsError) or error.strerror is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror


def failure_line(path: str, reason: str) -> str:
    """A failure with its path, which the reason may name already."""
    return reason if path in reason else f"{path}: {reason}"


def try_each(items: Iterable[str], act: Callable[[str], object]) -> bool:
    """Do it for each item, going on after a failure; False if any failed."""
    good = True
    for item in items:
        try:
            act(item)
        except BrokenPipeError:
            raise
        except OSError as error:
            note(describe_error(error))
            good = False
    return good
