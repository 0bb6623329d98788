"""Child processes that die with their parent, however it ends.

A child is started through a tiny launcher that asks the kernel for SIGKILL on its parent's death (prctl(2),
PR_SET_PDEATHSIG) and then becomes the program.  No `preexec_fn`: that is not safe in a process with threads.
The "parent" is the starting *thread*: start children from a thread that outlives them, such as the main one.
"""

import os
import sys

_LAUNCHER = """\
import ctypes, os, signal, sys
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG) failed")
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone already")
os.execvp(sys.argv[2], sys.argv[2:])
"""


def leashed(command: list[str]) -> list[str]:
    """The command line that runs `command` as a child which dies with this process."""
    return [sys.executable, "-ISc", _LAUNCHER, str(os.getpid()), *command]
