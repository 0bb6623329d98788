"""Options of a mount under all the names that people know them by.

Case, dots, dashes and underscores do not matter, nor do the words that other tools put before an option's own name.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from forebay.errors import Invalid

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

Default = TypeVar("Default", bool, None)


class OptionNames:
    """The options that one kind of store has."""

    def __init__(self, kind: str, *, prefixes: Sequence[str], names: Mapping[str, Sequence[str]]) -> None:
        """Take, by the name as it is best written (`sftp.keyFile`), its other names in lower case without signs."""
        self._kind = kind
        self._prefixes = prefixes
        self._written = {self._bare(written): written for written in names}
        self._known = {alias: written for written, aliases in names.items() for alias in aliases}
        self._known |= self._written

    def read(self, options: Mapping[str, str]) -> dict[str, str]:
        """The values that are not empty, by the best written name.

        Raises:
            Invalid: a name that is not known, or two names of one thing with different values.
        """
        values: dict[str, str] = {}
        for name, value in options.items():
            written = self._known.get(self._bare(name))
            if written is None:
                raise Invalid(f"{self._kind} mounts have no option {name!r}; {self._hint(name)}")
            if values.setdefault(written, value) != value:
                raise Invalid(f"option {name} was given twice under different names, with different values")
        return {name: value for name, value in values.items() if value}

    def _bare(self, name: str) -> str:
        words = re.split(r"[^a-z0-9]+", name.lower())
        while len(words) > 1 and words[0] in self._prefixes:
            del words[0]
        return "".join(words)

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(self._bare(name), self._known, n=1, cutoff=0.6)
        return f"did you mean {self._known[near[0]]}?" if near else f"known: {', '.join(self._written.values())}"


def flag(name: str, value: str | None, *, default: Default) -> bool | Default:
    """A value that is true or false.

    Raises:
        Invalid: it is neither.
    """
    if value is None:
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise Invalid(f"option {name} must be true or false, not {value!r}")


def absolute_path(name: str, value: str | None) -> Path | None:
    """A file of this machine; the daemon, which opens it, has another working folder than the caller.

    Raises:
        Invalid: the path is relative.
    """
    if value is None:
        return None
    path = Path(value)
    if not path.is_absolute():
        raise Invalid(f"{name} must be an absolute path, not {value!r}")
    return path
