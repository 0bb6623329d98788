"""Jobs that read at the same time, each a program: epoch by epoch, and what each epoch has fetched."""

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise

from forebay.testing.leash import leashed

Program = subprocess.Popen[str]


def fetched_by_epoch(commands: Sequence[list[str]], epochs: int, fetched_bytes: Callable[[], int]) -> list[int]:
    """Let all jobs read an epoch at the same time, `epochs` times; the bytes that came from the store in each.

    Args:
        commands: programs that say `ready`, and `done` after each epoch, of which they read one for each line they
            get: such as `bench/announced_reader.py`.
        fetched_bytes: how many came from the store so far.

    Raises:
        RuntimeError: a job failed.
    """
    with ExitStack() as ends:
        jobs = [_started(command, ends) for command in commands]
        _all_say(jobs, "ready")
        counts = [fetched_bytes()]
        for _ in range(epochs):
            for job in jobs:
                assert job.stdin is not None
                job.stdin.write("\n")
                job.stdin.flush()
            _all_say(jobs, "done")
            counts.append(fetched_bytes())
    return [after - before for before, after in pairwise(counts)]


def _started(command: list[str], ends: ExitStack) -> Program:
    job = subprocess.Popen(leashed(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    ends.callback(job.communicate)
    ends.callback(job.kill)
    return job


def _all_say(jobs: Sequence[Program], word: str) -> None:
    for job in jobs:
        assert job.stdout is not None
        if job.stdout.readline().strip() != word:
            raise RuntimeError("a job failed")
