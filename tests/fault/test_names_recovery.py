"""The names database and kill -9: what a later process finds is never wrong, at most less."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forebay.clock import SystemClock
from forebay.vfs.names_db import NamesDb

FOLDERS, ENTRIES = 5, 700
CHILD = """
import asyncio, sys
from pathlib import Path
from forebay.clock import SystemClock
from forebay.stores.memory import MemoryStore
from forebay.vfs.blocks import Row, make_block
from forebay.vfs.entries import Mount, MountOptions
from forebay.vfs.listing import Listing, Moment
from forebay.vfs.names import Names

async def main():
    clock = SystemClock()
    names = Names(Path(sys.argv[1]), clock, in_memory_max=10_000)
    mount = Mount(path="/m", url="mem://s", store=MemoryStore("s"), prefix="", settings=MountOptions(), ttl_s=60.0)
    turn = 0
    while True:
        turn += 1
        for folder in range(FOLDERS):
            listing = Listing(f"/m/{folder}", mount, f"{folder}/", began=Moment(clock.monotonic(), turn))
            for part in range(3):
                listing.add_rows([Row(f"{part}-{index}", turn, turn, str(turn)) for index in range(ENTRIES)])
            listing.finish()
            names.save(listing)
        if turn % 3 == 0:
            await names.forget(f"/m/{turn % FOLDERS}")
            print(turn % FOLDERS, turn, flush=True)

asyncio.run(main())
""".replace("FOLDERS", str(FOLDERS)).replace("ENTRIES", str(ENTRIES))


@pytest.mark.parametrize("seed", range(4))
def test_after_kill_minus_9_a_folder_is_whole_and_what_was_forgotten_stays_so(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "names.db"
    forgotten = dict.fromkeys(range(FOLDERS), 0)  # the last turn that may not come back, by folder
    lives = random.Random(seed).randrange(3, 12)
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(lives):
            folder, turn = map(int, child.stdout.readline().split())
            forgotten[folder] = turn
        os.kill(child.pid, signal.SIGKILL)
        for line in child.stdout:
            folder, turn = map(int, line.split())
            forgotten[folder] = turn
    with capture_logs() as logs:
        db = NamesDb(path, SystemClock(), Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    assert logs == []  # it is as it was, and not thrown away
    found = 0
    for folder, last in forgotten.items():
        kept = db.find(f"/m/{folder}", f"mem://s\0{folder}/")
        if kept is None:
            continue
        found += 1
        rows = [row for block in db.blocks(kept.id, 0, len(kept.stubs)) for row in block.rows()]
        assert [row.name for row in rows] == [f"{part}-{index}" for part in range(3) for index in range(ENTRIES)]
        assert len({(row.size, row.mtime_ns, row.version) for row in rows}) == 1
        assert rows[0].size > last
    assert found
    db.close()
