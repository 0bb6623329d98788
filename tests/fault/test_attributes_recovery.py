"""The attributes database and kill -9: what was kept is there."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.testing.leash import leashed
from forebay.vfs.attributes_db import AttributesDb

KEYS = 50
CHILD = """
import asyncio, sys
from pathlib import Path
from forebay.types import Attributes
from forebay.vfs.attributes import KeptAttributes

async def set_one(kept, key, number):
    await kept.set("mem://s", str(key), Attributes(0o600, number, number, number), version=str(number))
    print(key, number, flush=True)

async def main():
    kept, number = KeptAttributes(Path(sys.argv[1])), 0
    while True:
        number += 1
        await asyncio.gather(*(set_one(kept, key, number) for key in range(KEYS)))

asyncio.run(main())
""".replace("KEYS", str(KEYS))


@pytest.mark.parametrize("seed", range(3))
def test_after_kill_minus_9_every_file_has_what_was_acknowledged_or_what_came_after(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "attributes.db"
    told = dict.fromkeys(range(KEYS), 0)
    lives = random.Random(seed).randrange(KEYS, 20 * KEYS)
    command = leashed([sys.executable, "-c", CHILD, str(path)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for count, line in enumerate(child.stdout):
            if count == lives:
                os.kill(child.pid, signal.SIGKILL)
            if line.endswith("\n"):
                key, number = map(int, line.split())
                told[key] = number
    db = AttributesDb(path)
    found = db.find("mem://s", [str(key) for key in range(KEYS)])
    db.close()
    assert set(found) == {str(key) for key in range(KEYS)}
    for key, number in told.items():
        kept = found[str(key)]
        assert kept.uid in (number, number + 1)
        assert kept == (0o600, kept.uid, kept.uid, kept.uid, str(kept.uid), {})
