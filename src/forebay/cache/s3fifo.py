"""S3-FIFO: a policy for files of which some are read much more often than others.  Pure.

Three queues, after Yang et al., "FIFO queues are all you need for cache eviction" (SOSP 2023).  A new file waits in a
small queue, a tenth of all; only if it is read twice there it moves to the main one, so that a scan of a whole data
set does not drive out what is read every day.  A file that left the small queue not long ago is known by its name,
and goes to the main queue when it comes back.
"""

from collections import deque

SMALL_SHARE = 10  # the small queue is a tenth
READS_MAX = 3  # more reads than that count as so many


class S3Fifo:
    """The order in which the files of one data set leave.  Files go by their ids."""

    def __init__(self) -> None:
        self._names: dict[int, int] = {}  # of each file that is cached, a hash of its name
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._in_small: set[int] = set()
        self._reads: dict[int, int] = {}  # of those read again since they came, or were looked at
        self._ghosts: dict[int, None] = {}  # hashes of names that left the small queue

    def __len__(self) -> int:
        return len(self._names)

    def add(self, file_id: int, name: int) -> None:
        """A file is cached; `name` is a hash of its name."""
        self._names[file_id] = name
        if name in self._ghosts:
            del self._ghosts[name]
            self._main.append(file_id)
        else:
            self._small.append(file_id)
            self._in_small.add(file_id)

    def keep(self, file_id: int, name: int) -> None:
        """A file that was cached before this queue was made, or that could not be deleted, gets in line once more."""
        self._names[file_id] = name
        self._main.append(file_id)

    def read(self, file_id: int) -> None:
        """A file was opened again."""
        if file_id in self._names:
            self._reads[file_id] = min(READS_MAX, self._reads.get(file_id, 0) + 1)

    def remove(self, file_id: int) -> None:
        """A file is not cached any more."""
        self._names.pop(file_id, None)
        self._reads.pop(file_id, None)
        self._in_small.discard(file_id)

    def pop(self) -> int | None:
        """The file that must leave; None if there is none."""
        while self._names:
            if len(self._in_small) >= max(1, len(self._names) // SMALL_SHARE):
                found = self._pop_small()
            else:
                found = self._pop_main() if self._main else self._pop_small()
            if found is not None:
                return found
            if not self._small and not self._main:
                return None
        return None

    def _pop_small(self) -> int | None:
        while self._small:
            file_id = self._small.popleft()
            if file_id not in self._in_small:
                continue
            self._in_small.discard(file_id)
            if self._reads.pop(file_id, 0) > 1:
                self._main.append(file_id)
                return None
            name = self._names.pop(file_id)
            self._ghosts[name] = None
            if len(self._ghosts) > len(self._names):
                del self._ghosts[next(iter(self._ghosts))]
            return file_id
        return None

    def _pop_main(self) -> int | None:
        while self._main:
            file_id = self._main.popleft()
            if file_id not in self._names:
                continue
            reads = self._reads.pop(file_id, 0)
            if not reads:
                del self._names[file_id]
                return file_id
            if reads > 1:
                self._reads[file_id] = reads - 1
            self._main.append(file_id)
        return None
