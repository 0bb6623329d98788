"""What programs have open: handles that outlive one connection of theirs, but not the last.

A program (one process) may have several connections, one for each of its threads; a file that one of them opened is
read through any.  When the last ends, so does all that was open: the cache may evict it again.

*Callers*: the server, on the loop; plain methods.  *Invariants*: a handle is closed exactly once; no two ever have one
number, not even of two daemons, so a program that kept one too long is refused, and never reads another file.
"""

import itertools
import secrets
from collections.abc import Iterator

from forebay.errors import Invalid
from forebay.vfs.drafts import AnyFile, OpenDraft

_NUMBER_BITS = 62


class Session:
    """See the module."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.links = 0
        self._files: dict[int, AnyFile] = {}
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._files)

    def add(self, file: AnyFile) -> int:
        """The handle of a file that was opened."""
        handle = next(self._numbers)
        self._files[handle] = file
        return handle

    def file(self, handle: object) -> AnyFile:
        """What a handle is open on.

        Raises:
            Invalid: it is none of this session.
        """
        found = self._files.get(handle) if isinstance(handle, int) else None
        if found is None:
            raise Invalid("the daemon knows no such handle: it was restarted, or the program's connections ended")
        return found

    def draft(self, handle: object) -> OpenDraft:
        """What a handle writes.

        Raises:
            Invalid: it is open for reading only, or not at all.
        """
        found = self.file(handle)
        if not isinstance(found, OpenDraft) or not found.is_writer:
            raise Invalid("the file is not open for writing")
        return found

    def close(self, handle: object) -> None:
        """One handle less; one that is not open is ignored."""
        found = self._files.pop(handle, None) if isinstance(handle, int) else None
        if found is not None:
            found.close()

    def end(self) -> None:
        """Close all that is open."""
        for handle in list(self._files):
            self.close(handle)


class Sessions:
    """Sessions by the token that the program chose."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._numbers = itertools.count(secrets.randbits(_NUMBER_BITS))

    def join(self, token: str) -> Session:
        """One more connection of a session, which is made if need be."""
        session = self._sessions.setdefault(token, Session(self._numbers))
        session.links += 1
        return session

    def leave(self, token: str) -> None:
        """One less."""
        session = self._sessions[token]
        session.links -= 1
        if not session.links:
            del self._sessions[token]
            session.end()

    @property
    def handles(self) -> int:
        """How many files programs have open by handle."""
        return sum(map(len, self._sessions.values()))
