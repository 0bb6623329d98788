"""`python -m forebay.daemon`: what `forebay daemon` and the starter exec.

    python -m forebay.daemon [--detach] [--ready-fd N] [--NAME VALUE]...

Names are those of the settings.  With `--detach` the process forks before anything else is imported, and its first
part ends: the daemon belongs to nobody, and nothing of it has ever seen a fork.
"""

import os
import sys


def _detach(words: list[str]) -> bool:
    if "--detach" not in words:
        return False
    words.remove("--detach")
    if os.fork():
        os._exit(0)
    return True


def _main() -> int:
    words = sys.argv[1:]
    is_detached = _detach(words)
    from forebay.daemon.main import run  # after the fork, see the module

    return run(words, is_detached=is_detached)


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed.  The interpreter's own end is not waited for: threads of the store clients that are
    # still ending have been seen to abort it (4 of 20 times).
    os._exit(code)
