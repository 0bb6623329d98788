"""Pages in memory, for bytes that the cache could not admit: bounded, and gone with the last handle of their file.

*Callers*: cached files and flights, on the loop.  *Locks*: none.  *Awaits*: none.  *Invariant*: all pages together
take at most `bytes_max`, save those that readers wait for now.
"""

from collections import OrderedDict
from collections.abc import Callable

from forebay.cache.pages import PAGE_BYTES, Residency, Run, bytes_of


class PassingPages:
    """The pages of one file that are only in memory."""

    __slots__ = ("_pool", "_wanted", "pages", "residency")

    def __init__(self, pool: "PassingPool", size: int, wanted: Callable[[int], bool]) -> None:
        self._pool = pool
        self._wanted = wanted
        self.residency = Residency(size)
        self.pages: dict[int, bytearray] = {}  # those under way too

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.residency.size

    def is_wanted(self, page: int) -> bool:
        """Does a reader wait for that page?"""
        return self._wanted(page)

    def write(self, position: int, piece: memoryview) -> int:
        """See `Pages.write`."""
        page, start = divmod(position, PAGE_BYTES)
        buffer = self.pages.get(page)
        if buffer is None or start == 0:  # the first bytes of a page: an earlier try may have left some
            buffer = self.pages[page] = bytearray(bytes_of(Run(page, page + 1), self.size))
        buffer[start : start + len(piece)] = piece
        return len(piece)

    def seal(self, page: int, checksum: int) -> None:
        """See `Pages.seal`: memory needs no checksum."""

    def landed(self, run: Run) -> None:
        """Mark pages present, and make older ones give way to them."""
        self.residency.add(run)
        for page in range(*run):
            self._pool.add(self, page)

    def drop(self, page: int) -> None:
        """Forget a page."""
        self.residency.discard(Run(page, page + 1))
        self.pages.pop(page, None)

    def read_now(self, offset: int, into: memoryview) -> int:
        """Fill `into` from `offset`; the pages must be present, and `into` must end within the file."""
        done = 0
        while done < len(into):
            page, start = divmod(offset + done, PAGE_BYTES)
            piece = memoryview(self.pages[page])[start : start + len(into) - done]
            into[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def close(self) -> None:
        """Forget every page."""
        for page in list(self.pages):
            self._pool.remove(self, page)
            self.drop(page)


class PassingPool:
    """All pages in memory, oldest first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._pages: OrderedDict[tuple[PassingPages, int], int] = OrderedDict()
        self.bytes = 0

    def add(self, pages: PassingPages, page: int) -> None:
        """A page has landed."""
        size = len(pages.pages[page])
        self._pages[pages, page] = size
        self.bytes += size
        if self.bytes > self._bytes_max:
            self._trim()

    def remove(self, pages: PassingPages, page: int) -> None:
        """A page is given back, if it is here."""
        self.bytes -= self._pages.pop((pages, page), 0)

    def _trim(self) -> None:
        for pages, page in list(self._pages):
            if self.bytes <= self._bytes_max:
                return
            if not pages.is_wanted(page):
                self.remove(pages, page)
                pages.drop(page)
