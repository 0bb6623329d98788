"""A store that goes down and comes back, behind a real mount: what is promised reads on, all else is a right error."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.testing.daemons import RunForebay, wait_until
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import Rule, Script, Stall
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.store_contract import pattern
from forebay.units import MIB
from mount.conftest import Child, Reader

BUCKET = "down"
FILES = {"one": b"one" * 33_000, "two": b"two" * 33_000, "large": pattern(24 * MIB)}
READ = "sys.stdout.buffer.write(open(argv[1], 'rb').read())"
FAIL = """
try: open(argv[1], 'rb').read()
except OSError as error: print(errno.errorcode[error.errno])
"""
BOTH_MODES = pytest.mark.parametrize("freshness", ["immutable", "ttl"])

Mounted = Callable[..., Path]


@pytest.fixture
def proxy(s3: SeaweedS3) -> Iterator[FaultProxy]:
    """The way to the store, which a test can stop, start again, and make silent."""
    with FaultProxy(s3.port) as proxy:
        yield proxy


@pytest.fixture
def deadline_s() -> str:
    """How long a request to the store may take; tests whose store is silent for ever say less."""
    return "60"


@pytest.fixture
def mounted_far(
    s3: SeaweedS3,
    proxy: FaultProxy,
    forebay: RunForebay,
    mnt: Path,
    monkeypatch: pytest.MonkeyPatch,
    deadline_s: str,
) -> Mounted:
    """`FILES` in a bucket behind the proxy, mounted as the words say."""
    monkeypatch.setenv("FOREBAY_STORE_DEADLINE_S", deadline_s)
    monkeypatch.setenv("FOREBAY_PREFETCH", "false")  # what a test has not read is not here
    s3.make_bucket(BUCKET)
    for name, data in FILES.items():
        assert s3.request("PUT", f"/{BUCKET}/{name}", data)[0] == 200

    def mount(*words: str) -> Path:
        keys = {"s3a.accessKeyId": s3.access_key, "s3a.secretKey": s3.secret_key, "s3.endpoint": proxy.endpoint}
        options = [word for pair in keys.items() for word in ("--option", "=".join(pair))]
        for ran in (
            forebay("fs", "mount", "/far", f"s3://{BUCKET}/", *options, *words),
            forebay("fuse", "mount", str(mnt), "/far"),
        ):
            assert ran.code == 0, ran.err
        return mnt

    return mount


@BOTH_MODES
def test_what_is_cached_reads_while_the_store_is_down_and_the_rest_when_it_is_back(
    mounted_far: Mounted, proxy: FaultProxy, child: Child, freshness: str
) -> None:
    far = mounted_far("--freshness", freshness)
    assert child("print(*sorted(os.listdir(argv[1])))", far).stdout == b"large one two\n"
    assert child(READ, far / "one").stdout == FILES["one"]
    proxy.stop()
    assert child(READ, far / "one").stdout == FILES["one"]
    assert child(FAIL, far / "two").stdout == b"EIO\n"
    assert child("print(*sorted(os.listdir(argv[1])))", far).stdout == b"large one two\n"
    proxy.start()
    assert child(READ, far / "two").stdout == FILES["two"]


@BOTH_MODES
@pytest.mark.parametrize("deadline_s", ["2"])
def test_a_store_that_falls_silent_is_a_timeout_and_then_reads_again(
    mounted_far: Mounted, proxy: FaultProxy, child: Child, freshness: str
) -> None:
    far = mounted_far("--freshness", freshness)
    assert child(READ, far / "one").stdout == FILES["one"]
    proxy.script = Script(Rule(Stall()))
    assert child(READ, far / "one").stdout == FILES["one"]
    assert child(FAIL, far / "two").stdout == b"ETIMEDOUT\n"
    proxy.script = Script()
    assert child(READ, far / "two").stdout == FILES["two"]


def test_a_name_that_is_no_longer_believed_is_an_error_and_not_an_absence(
    mounted_far: Mounted, proxy: FaultProxy, child: Child
) -> None:
    far = mounted_far("--ttl", "100ms")
    assert child(READ, far / "one").stdout == FILES["one"]
    proxy.stop()
    assert child(f"import time; time.sleep(0.2)\n{FAIL}", far / "one").stdout == b"EIO\n"
    proxy.start()
    assert child(READ, far / "one").stdout == FILES["one"]


@BOTH_MODES
def test_of_a_file_that_is_half_here_that_half_reads(
    mounted_far: Mounted, proxy: FaultProxy, freshness: str, child: Child
) -> None:
    """And the same open file reads on when the store is back."""
    far = mounted_far("--freshness", freshness)
    code = """
import errno
def read(place):
    try: print(os.pread(file, 5, place * 1048576).hex(), flush=True)
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
file = os.open(argv[1], os.O_RDONLY)
for line in sys.stdin: read(int(line))
"""
    first, last = (FILES["large"][place * MIB :][:5].hex() for place in (0, 23))
    with Reader(code, far / "large") as reader:
        assert reader.ask("0") == first
        proxy.stop()
        assert reader.ask("0") == first
        assert reader.ask("23") == "EIO"
        proxy.start()
        wait_until(lambda: reader.ask("23") == last, "the file reads on")  # what failed late fails again for a moment
