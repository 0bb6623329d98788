"""What a program announces over a real mount: fetched within bounds, each byte once, and forgotten with the program."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.daemon.client import Client
from forebay.testing.daemons import RunForebay, wait_until
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.seaweed import SeaweedS3
from mount.conftest import Child, Reader, s3_options

COUNT, ANNOUNCED, FILE = 240, 160, 64 << 10
WINDOW = 2 << 20
OVER = 2  # files: the one that does not fit into what is left, and one more that was asked for at the same time

TRAIN = """
from forebay.lookahead import Lookahead
for path in Lookahead([f"{argv[1]}/{number}" for number in argv[2:]]):
    sys.stdin.readline()
    print(len(open(path, "rb").read()), flush=True)
"""
READ = "for path in argv[1:]: open(path, 'rb').read()"

Fetched = Callable[[], list[int]]


@pytest.fixture
def fetched(
    s3: SeaweedS3, forebay: RunForebay, forebay_home: Path, mnt: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fetched]:
    """240 files of one folder at `mnt`, and the numbers of those that the store was asked for, in that order."""
    s3.make_bucket("announced")
    for number in range(COUNT):
        assert s3.request("PUT", f"/announced/{number}", bytes([number]) * FILE)[0] == 200
    monkeypatch.setenv("FOREBAY_READAHEAD_BYTES", str(WINDOW))
    with FaultProxy(s3.port) as proxy:
        options = [word.replace(s3.endpoint, proxy.endpoint) for word in s3_options(s3)]
        assert forebay("fs", "mount", "/data", "s3://announced/", *options).code == 0
        assert forebay("fuse", "mount", str(mnt), "/data").code == 0

        def asked() -> list[int]:
            seen = [request.target for request in list(proxy.seen) if request.method == "GET"]
            return [int(found[1]) for target in seen if (found := re.match(r"/announced/(\d+)", target))]

        yield asked


def test_a_window_is_bounded_and_a_killed_trainers_is_forgotten(
    fetched: Fetched, mnt: Path, forebay_home: Path, child: Child, forebay: RunForebay
) -> None:
    client = Client(forebay_home / "daemon.sock")
    order = random.Random(1).sample(range(COUNT), ANNOUNCED)
    *others, last = (number for number in range(COUNT) if number not in order)
    asked_for = others[:4]  # where no order is known, two who wait in a folder have the rest of it fetched

    def is_quiet() -> bool:
        return not any(store["requests"] for store in client.call("GET", "/v1/activity")["stores"])

    with Reader(TRAIN, mnt, *map(str, order)) as trainer:
        for done in range(1, 21):
            assert trainer.ask("next") == str(FILE)
            assert len(fetched()) <= done + WINDOW // FILE + OVER
        child(READ, *(mnt / str(number) for number in asked_for))
        wait_until(lambda: len(fetched()) > 24 and is_quiet(), "the daemon is ahead, and has stopped there")
        assert set(fetched()) - set(order) == set(asked_for), "nobody asked for any other"
        trainer.process.kill()
        trainer.process.wait()
        log = forebay_home / "daemon.log"
        wait_until(lambda: '"job.closed"' in log.read_text(), "the job ends with its program")
    before = fetched()
    child(READ, mnt / str(order[0]))  # cached, and announced: it used to move the window on
    child(READ, mnt / str(last))
    wait_until(is_quiet, "nothing is fetched any more")
    assert fetched() == [*before, last]
    assert Counter(fetched()).most_common(1)[0][1] == 1, "each once"
    assert forebay("status", "--json").json["counters"]["bytes_from_store"] == len(fetched()) * FILE
    cached = forebay("fs", "du", "/data", "--json").json["cached_bytes"]
    assert cached == len(fetched()) * FILE, "what was fetched ahead is kept"
