"""How fast an idle processor of a virtual machine wakes: Linux's default, where a host has switched it off.

An idle processor of a virtual machine that halts takes 25 us to wake, one that polls for a while takes 2.  Linux polls
for 200 us by default (drivers/cpuidle/governors/haltpoll.c); some hosts set it to 0.  A reader that waits for the
daemon, and every client that waits for a server, is woken up once or twice for each file, so this one setting moves
all figures here by a factor of up to three.  The benches run with the kernel's default, and say what they found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTING = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
DEFAULT_NS = 200_000


def idle_poll_ns() -> int | None:
    """What the setting is now; None where there is none, as on bare metal."""
    return int(SETTING.read_text()) if SETTING.exists() else None


@contextmanager
def kernel_default() -> Iterator[None]:
    """Linux's own default, if it was switched off and we may; put back at the end."""
    if idle_poll_ns() != 0:
        yield
        return
    try:
        SETTING.write_text(str(DEFAULT_NS))
    except OSError:
        yield  # not root: measured as it is, and the record says so
        return
    try:
        yield
    finally:
        SETTING.write_text("0")
