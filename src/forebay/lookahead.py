"""Tells the daemon what a program will read next, so that it is here by then.

    for path in Lookahead(paths):   # the same paths in the same order, announced before they are reached
        train(read(path))

The order read is never changed, and whatever fails here, the program goes on: it reads as if nothing had been
announced, after one warning that says why.  Paths outside Forebay are passed on and not announced.

*Callers*: one thread of one process; a copy in a forked or spawned process announces an order of its own, or none.
*Awaits*: the daemon, some milliseconds for a thousand paths.  *On crash*: the daemon forgets the order.
"""

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from forebay import paths
from forebay.errors import FsError
from forebay.frontends.fuse.mountinfo import parse_mountinfo

T = TypeVar("T")
Name = str | os.PathLike[str]  # a path below a local folder of Forebay, or a URL `forebay://...`
Files = Name | Iterable[Name]

AHEAD = 1_000_000
"""Samples announced beyond the one that is read: about 50 MB here and 20 MB in the daemon, when there are so many."""
STEP = 1_000  # samples told at a time: some milliseconds
BURST = 10_000  # samples told as fast as can be, when an order begins
PACE = 32
"""Samples told for each that is handed out, after that.  At full speed a million of them hold up a loader's first
batches for seconds; so they hold up nobody, and are told when a 32nd of them has been read."""
HANDED_OUT = 8  # samples: how far it is, is told no oftener; few, since one may be a file of 100 MB

MOUNTINFO = Path("/proc/self/mountinfo")


class Job(Protocol):
    """An announced order, as `forebay.FileSystem().job(name)` gives it."""

    def announce(self, paths: Sequence[str]) -> None:
        """These will be read next, after what was announced before."""
        ...

    def advance(self, count: int) -> None:
        """The next `count` of the order have been handed out."""
        ...

    def close(self) -> None:
        """There will be no more."""
        ...


class Daemon(Protocol):
    """What announces: `forebay.FileSystem`."""

    def virtual(self, local_path: str) -> str:
        """The virtual path of a local one."""
        ...

    def job(self, name: str) -> Job:
        """Begin an order."""
        ...


def connect() -> Daemon:
    """The daemon of this program's home."""
    from forebay.client.default import default_filesystem  # not before there is something to tell

    return default_filesystem()


class Announcer(Generic[T]):
    """One order, as far as it has been told; falls silent at the first failure."""

    def __init__(self, files: Callable[[T], Files]) -> None:
        self._files = files
        self._pid = os.getpid()
        self._daemon: Daemon | None = None
        self._job: Job | None = None
        self._folders: dict[str, str | None] = {}  # where the tree has a folder; None: nowhere
        self._handed_out = 0  # and not told yet
        self._is_silent = False

    def find(self, item: T) -> list[str]:
        """The virtual paths of an item's files, as far as they lie in Forebay.

        Raises:
            TypeError: what was said to be its files is no path.
        """
        if self._is_silent:
            return []
        files = self._files(item)
        names = [files] if isinstance(files, str | os.PathLike) else files
        try:
            return [path for name in names if (path := self._virtual(os.fspath(name)))]
        except FsError as error:
            self._fall_silent(str(error))
            return []
        except TypeError as error:  # the program's mistake, and not for it to find out by reading slowly
            way = "files= of Lookahead or LookaheadPipe, paths= of LookaheadSampler"
            raise TypeError(
                f"{files!r} is neither a path nor several; say where a sample's files are: {way}"
            ) from error

    def announce(self, found: list[str]) -> None:
        """Tell what comes next."""
        if self._is_silent or self._pid != os.getpid():
            return
        try:
            if self._job is None:
                if not found:
                    self._miss()
                    return
                self._job = self._ask().job(f"{Path(sys.argv[0]).name or 'python'} {self._pid}")
            if found:
                self._job.announce(found)
        except FsError as error:
            self._fall_silent(str(error))

    def hand_out(self, count: int, *, at_most: int = HANDED_OUT - 1) -> None:
        """So many more of what was told have been handed out; told when more than `at_most` are untold."""
        self._handed_out += count
        if self._handed_out <= at_most or self._job is None or self._pid != os.getpid():
            return
        try:
            self._job.advance(self._handed_out)
            self._handed_out = 0
        except FsError as error:
            self._fall_silent(str(error))

    def close(self) -> None:
        """Have the daemon forget the order; in the process that began it."""
        job, self._job = self._job, None
        self._is_silent = True
        if job is not None and self._pid == os.getpid():
            job.close()

    # ------------------------------------------------------------------

    def _virtual(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._virtual_folder(folder)
        above = self._folders[folder]
        return None if above is None else f"{above}/{name}"

    def _virtual_folder(self, folder: str) -> str | None:
        if folder.startswith("forebay:/"):
            return folder
        real = os.path.realpath(folder)
        shown = parse_mountinfo(MOUNTINFO.read_text())  # who has none needs no daemon
        if not any(paths.is_within(real, mount.mountpoint) for mount in shown):
            return None
        return self._ask().virtual(real).rstrip("/")

    def _ask(self) -> Daemon:
        if self._daemon is None:
            self._daemon = connect()
        return self._daemon

    def _miss(self) -> None:
        """None of the first files lies in Forebay."""
        if self._folders and not any(self._folders.values()):
            folder = os.path.realpath(next(iter(self._folders)))
            self._fall_silent(f"{folder} is in no local folder of Forebay; mount one: forebay fuse mount FOLDER PATH")

    def _fall_silent(self, reason: str) -> None:
        self.close()
        message = f"Forebay is not told what comes next, so nothing is fetched ahead of reading it: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)


class Window(Generic[T]):
    """Items on their way from their source to who reads them: announced, not handed out yet."""

    def __init__(self, announcer: Announcer[T], ahead: int) -> None:
        self._announcer = announcer
        self._ahead = ahead
        self._items: deque[T] = deque()
        self._counts: deque[int] = deque()  # of each item: how many files were announced
        self._next: deque[int] = deque()  # the same of the following pass, as far as it was announced in this one
        self._samples = 0  # announced and not handed out; an item without files counts as one
        self._credit = BURST  # so many more may be announced before the next is handed out

    def walk(self, items: Iterable[T], following: Callable[[], Iterable[T]] = tuple) -> Iterator[T]:
        """The items, in their order.

        Args:
            items: one pass over the data.
            following: the pass after it, as far as that is certain; asked for when all of this one is announced,
                and only announced: the next `walk` yields it.
        """
        source, after = iter(items), None
        known, self._next = self._next, deque()
        is_whole = False
        while True:
            may_tell = self._samples < self._ahead and self._credit > 0
            if not is_whole and (may_tell or not self._items or known):
                is_whole = not self._draw(source, known)
            elif is_whole and may_tell:
                after = iter(following()) if after is None else after
                self._draw_after(after)
            if not self._items:
                break
            count = self._counts.popleft()
            self._samples -= max(1, count)
            self._credit = min(self._credit + PACE, BURST)
            self._announcer.hand_out(count)
            yield self._items.popleft()
        self._announcer.hand_out(0, at_most=0)

    def close(self) -> None:
        """What was announced and not handed out will not be read."""
        self._announcer.close()

    def _draw(self, source: Iterator[T], known: deque[int]) -> bool:
        """Take some more items and announce them; False: there are no more."""
        drawn, told = 0, list[str]()
        for item in islice(source, STEP):
            drawn += 1
            self._items.append(item)
            if known:
                self._counts.append(known.popleft())
                continue
            self._counts.append(self._tell(item, told))
            if len(told) >= STEP:
                break
        self._announcer.announce(told)
        return drawn > 0

    def _draw_after(self, source: Iterator[T]) -> None:
        """Announce some more items of the following pass."""
        told: list[str] = []
        for item in islice(source, STEP):
            self._next.append(self._tell(item, told))
            if len(told) >= STEP:
                break
        if told:
            self._announcer.announce(told)

    def _tell(self, item: T, told: list[str]) -> int:
        found = self._announcer.find(item)
        told += found
        self._samples += max(1, len(found))
        self._credit -= max(1, len(found))
        return len(found)


def as_files(item: Files) -> Files:
    """An item that is a path, or several."""
    return item


class Lookahead(Generic[T]):
    """The items of an iterable in their order, whose files are announced before they are reached.

    Every pass over it is an order of its own, which ends with the pass.  It may be pickled, forked and copied.

    Args:
        items: what to go through; once, or as often as it can be.
        files: from an item to its path, or paths; without it the items are paths.  A path lies below a local folder
            of Forebay, or is a URL `forebay://...`; others are not announced.
        ahead: samples announced beyond the one that is read, at most.
    """

    def __init__(self, items: Iterable[T], files: Callable[[T], Files] | None = None, *, ahead: int = AHEAD) -> None:
        self._items = items
        self._files: Callable[[T], Files] = files or as_files  # type: ignore[assignment]
        self._ahead = ahead

    def __iter__(self) -> Iterator[T]:
        window = Window(Announcer(self._files), self._ahead)
        try:
            yield from window.walk(self._items)
        finally:
            window.close()

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # as long as its items are, if they have a length
