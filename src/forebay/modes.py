"""Permission bits as chmod(1) writes them: `640`, `u+x`, `go-w`, `a=rX`.  Pure."""

import re
from dataclasses import dataclass

from forebay.errors import Invalid

MODE_MAX = 0o7777  # S_IMODE, with set-user-ID, set-group-ID and sticky
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}
_SPECIAL = {"u": {"s": 0o4000}, "g": {"s": 0o2000}, "o": {"t": 0o1000}}
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=][rwxXst]*)+)")
_STEP = re.compile(r"([-+=])([rwxXst]*)")


@dataclass(frozen=True, slots=True)
class ModeChange:
    """What is to become of modes."""

    fixed: int | None  # the new mode itself, if it was written as a number
    steps: tuple[tuple[str, str, str], ...] = ()  # who of "ugo", "+", "-" or "=", and what of "rwxXst"

    @classmethod
    def parse(cls, text: str) -> "ModeChange":
        """From the words of chmod(1); where nobody is named, all are meant, but only the owner for `w` (umask 022).

        Raises:
            Invalid: it is none.
        """
        if re.fullmatch(r"[0-7]{1,5}", text) and int(text, 8) <= MODE_MAX:
            return cls(int(text, 8))
        steps: list[tuple[str, str, str]] = []
        for clause in text.split(","):
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                raise Invalid(f"{text!r} is no mode; write one as 640, u+x, go-w or a=rX")
            who = match[1].replace("a", "ugo")
            for sign, what in _STEP.findall(match[2]):
                steps.append((who or "ugo", sign, what if who else what.replace("w", "")))
                if not who and "w" in what:
                    steps.append(("u", sign.replace("=", "+"), "w"))
        return cls(None, tuple(steps))

    def apply(self, mode: int, *, is_folder: bool) -> int:
        """The permission bits that `mode` becomes.

        >>> oct(ModeChange.parse("u+x,go-w").apply(0o664, is_folder=False))
        '0o744'
        >>> oct(ModeChange.parse("a=rX").apply(0o640, is_folder=True))
        '0o555'
        """
        if self.fixed is not None:
            return self.fixed
        for who, sign, what in self.steps:
            may_run = is_folder or bool(mode & 0o111)
            for one in set(who):
                own = 0o7 << _SHIFTS[one] | sum(_SPECIAL[one].values())
                bits = _bits_of(one, what, may_run=may_run)
                kept = mode & ~own if sign == "=" else mode
                mode = kept & ~bits if sign == "-" else kept | bits
        return mode


def _bits_of(who: str, what: str, *, may_run: bool) -> int:
    found = 0
    for char in what.replace("X", "x" if may_run else ""):
        found |= _SPECIAL[who].get(char, 0) | _BITS.get(char, 0) << _SHIFTS[who]
    return found
