"""How far long work is: a bar on a terminal, a line every few seconds elsewhere; always on stderr.

Nothing appears for work that is done at once, and Rich, which costs 50 ms, is imported when a bar appears.
"""

import sys
from types import TracebackType
from typing import Any, NamedTuple, Self

from forebay.cli.output import count_text, note
from forebay.clock import Clock, SystemClock
from forebay.units import format_size


class Done(NamedTuple):
    """How much is done; a total of None is not known (yet)."""

    files: int
    size: int  # bytes
    files_total: int | None = None
    size_total: int | None = None

    @property
    def counts_bytes(self) -> bool:
        """Is it told in bytes?  Some work is one of files alone."""
        return self.size > 0 or self.size_total is not None


class Progress:
    """The state of one piece of work, shown now and then; leave it as a context manager."""

    first_s = 0.5  # work shorter than this shows nothing
    every_s = 0.1  # between two pictures

    def __init__(self, verb: str, clock: Clock) -> None:
        self.verb, self._clock = verb, clock
        self._started = clock.monotonic()
        self._due = self._started + self.first_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the begin, never quite 0."""
        return max(self._clock.monotonic() - self._started, 1e-6)

    def update(self, done: Done) -> None:
        """Tell the state; cheap enough to call for every file."""
        now = self._clock.monotonic()
        if now >= self._due:
            self._due = now + self.every_s
            self.show(done)

    def show(self, done: Done) -> None:
        """Draw it."""
        raise NotImplementedError

    def close(self) -> None:
        """Take away what was drawn."""


class LineProgress(Progress):
    """Plain lines for logs."""

    first_s = every_s = 5.0

    def show(self, done: Done) -> None:
        """See `Progress.show`."""
        of_files = "" if done.files_total is None else f" of {done.files_total:,}"
        if not done.counts_bytes:
            note(f"{self.verb}: {done.files:,}{of_files} files, {done.files / self.elapsed_s:,.0f}/s")
            return
        of_size = "" if done.size_total is None else f" of {format_size(done.size_total)}"
        rate = format_size(done.size / self.elapsed_s)
        note(f"{self.verb}: {done.files:,}{of_files} files, {format_size(done.size)}{of_size}, {rate}/s")


class BarProgress(Progress):
    """A bar with files, bytes, rate and time left."""

    def __init__(self, verb: str, clock: Clock) -> None:
        super().__init__(verb, clock)
        self._bar: Any = None  # a Rich progress, made when first shown
        self._task: Any = None

    def show(self, done: Done) -> None:
        """See `Progress.show`."""
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        if self._bar is None:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                transient=True,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.verb, total=None, text="")
        files = count_text(done.files) if done.files_total is None else f"{done.files:,}/{done.files_total:,} files"
        if done.counts_bytes:
            text = f"{files}  {format_size(done.size)}  {format_size(done.size / self.elapsed_s)}/s"
            self._bar.update(self._task, completed=done.size, total=done.size_total, text=text)
        else:
            text = f"{files}  {done.files / self.elapsed_s:,.0f}/s"
            self._bar.update(self._task, completed=done.files, total=done.files_total, text=text)

    def close(self) -> None:
        """See `Progress.close`."""
        if self._bar is not None:
            self._bar.stop()


def open_progress(verb: str, clock: Clock | None = None) -> Progress:
    """The form that suits stderr; `verb` says what is going on, such as `loading`."""
    kind = BarProgress if sys.stderr.isatty() else LineProgress
    return kind(verb, clock or SystemClock())
