"""A life that a failpoint ends: a coroutine of a test module, run by a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from forebay import failpoints
from forebay.testing.leash import leashed


def ended(
    module: str, life: str, home: Path, data: Path, *words: object, failpoint: str
) -> "subprocess.CompletedProcess[str]":
    """How a process ends that lives `life(home, data, *words)` of a module beside this one, and comes to that point."""
    more = "".join(f", {word!r}" for word in words)
    code = (
        f"import asyncio, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from pathlib import Path\n"
        f"from fault.{module} import {life}\n"
        f"asyncio.run({life}(Path(sys.argv[1]), Path(sys.argv[2]){more}))"
    )
    return subprocess.run(
        leashed([sys.executable, "-c", code, str(home), str(data)]),
        env={**os.environ, failpoints.VARIABLE: failpoint},
        capture_output=True,
        text=True,
        check=False,
    )
