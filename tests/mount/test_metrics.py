"""The numbers that Prometheus gets are those of what was read, on a real mount of a real store."""

import re
import socket
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from forebay.config.settings import Settings
from forebay.stores.registry import open_store
from forebay.testing.daemons import RunForebay, wait_until
from forebay.testing.ports import free_ports
from forebay.testing.seaweed import SeaweedS3
from forebay.units import MIB
from mount.conftest import Child, s3_options

READ = "for path in sorted(os.scandir(argv[1]), key=lambda entry: entry.name): open(path, 'rb').read()"
MOUNT = "/train set"

Scrape = Callable[[], dict[str, float]]


def fetch(port: int) -> list[Metric]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return list(text_string_to_metric_families(answer.read().decode()))


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, forebay_home: Path) -> int:
    (port,) = free_ports(1)
    monkeypatch.setenv("FOREBAY_METRICS_PORT", str(port))
    monkeypatch.setenv("FOREBAY_PREFETCH", "false")
    return port


@pytest.fixture
def scrape(port: int) -> Scrape:
    """The samples of the mount, each under its name and the value of its other label if it has one."""

    def look() -> dict[str, float]:
        found: dict[str, float] = defaultdict(float)
        for family in fetch(port):
            for sample in family.samples:
                if sample.labels.get("mount", MOUNT) == MOUNT:
                    others = [value for name, value in sample.labels.items() if name != "mount"]
                    found[" ".join([sample.name, *others])] = sample.value
        return found

    return look


@pytest.fixture
async def pictures(s3: SeaweedS3, tmp_path: Path, forebay: RunForebay, port: int, mnt: Path) -> Path:
    """Ten files of 1 MiB in a bucket, and where they show."""
    s3.make_bucket("metrics")
    known = {"s3.endpoint": s3.endpoint, "s3a.accessKeyID": s3.access_key, "s3a.secretKey": s3.secret_key}
    store, _ = open_store("s3://metrics/", known, settings=Settings(home=tmp_path))
    for index in range(10):
        await store.put(f"{index}.jpg", bytes([index]) * MIB)
    await store.close()
    for words in (("fs", "mount", MOUNT, "s3://metrics/", *s3_options(s3)), ("fuse", "mount", str(mnt), MOUNT)):
        ran = forebay(*words)
        assert ran.code == 0, ran.err
    return mnt


def all_landed(scrape: Scrape) -> None:
    """Wait until what was read is on the disk, too: its last bytes are given to the reader before that."""
    wait_until(lambda: scrape()["forebay_fetch_seconds_count"] == 10, "ten files have landed")


def test_ten_files_read_cold_and_then_warm(pictures: Path, scrape: Scrape, child: Child, forebay: RunForebay) -> None:
    child(READ, pictures)
    all_landed(scrape)
    cold = scrape()
    assert (cold["forebay_opens_total hit"], cold["forebay_opens_total miss"]) == (0, 10)
    assert cold["forebay_fetched_bytes_total"] == cold["forebay_read_bytes_total store"] == 10 * MIB
    assert cold["forebay_read_bytes_total cache"] == 0
    assert cold["forebay_read_wait_seconds_count store"] >= 10
    assert cold["forebay_stall_seconds_total"] >= cold["forebay_stalled_time_seconds_total"] > 0
    assert cold["forebay_read_wait_seconds_sum store"] <= cold["forebay_stall_seconds_total"], (
        "names are waited for too"
    )
    assert cold["forebay_opened_bytes"] == cold["forebay_cached_bytes"] == 10 * MIB

    child(READ, pictures)
    warm = scrape()
    assert (warm["forebay_opens_total hit"], warm["forebay_opens_total miss"]) == (10, 10)
    assert warm["forebay_read_bytes_total cache"] == 10 * MIB
    assert warm["forebay_fetched_bytes_total"] == warm["forebay_read_bytes_total store"] == 10 * MIB
    assert warm["forebay_stall_seconds_total"] == cold["forebay_stall_seconds_total"], "nobody waited any more"
    assert warm["forebay_opened_bytes"] == 10 * MIB, "the same files"


def test_what_was_loaded_before_is_read_from_the_cache(
    pictures: Path, scrape: Scrape, child: Child, forebay: RunForebay
) -> None:
    assert forebay("fs", "load", MOUNT).code == 0
    child(READ, pictures)
    found = scrape()
    assert found["forebay_fetched_bytes_total"] == found["forebay_read_bytes_total cache"] == 10 * MIB
    assert found["forebay_read_bytes_total store"] == 0
    assert found["forebay_opens_total hit"] == 10


def test_who_reads_by_the_command_line_counts_as_a_reader(pictures: Path, scrape: Scrape, forebay: RunForebay) -> None:
    for _ in range(2):
        assert len(forebay("fs", "cat", f"{MOUNT}/3.jpg").out) == MIB
    found = scrape()
    assert (found["forebay_read_bytes_total store"], found["forebay_read_bytes_total cache"]) == (MIB, MIB)
    assert (found["forebay_opens_total hit"], found["forebay_opens_total miss"]) == (1, 1)


def test_the_names_are_as_prometheus_wants_them(pictures: Path, port: int, child: Child) -> None:
    child(READ, pictures)
    families = fetch(port)
    assert len({family.name for family in families}) == len(families) > 20
    for family in families:
        assert re.fullmatch(r"(forebay|process)_[a-z]+(_[a-z]+)*", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket")), "those endings are added"
        assert not re.search(r"_(ms|milliseconds|minutes|kb|kib|mib|mb|gb)(_|$)", family.name), "base units only"
        assert not re.search(r"counter|gauge|histogram", family.name), "a name does not say its type"
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
            if family.type == "histogram":
                assert family.name.endswith("_seconds")
            assert set(sample.labels) <= {"mount", "source", "result", "store", "reason", "folder", "le", "version"}


def test_a_histogram_grows_to_its_count(pictures: Path, port: int, scrape: Scrape, child: Child) -> None:
    child(READ, pictures)
    all_landed(scrape)
    (times,) = (family for family in fetch(port) if family.name == "forebay_fetch_seconds")
    buckets = [sample for sample in times.samples if sample.name.endswith("_bucket")]
    counts = [sample.value for sample in buckets]
    assert counts == sorted(counts)
    assert buckets[-1].labels["le"] == "+Inf"
    assert counts[-1] == next(sample.value for sample in times.samples if sample.name.endswith("_count")) == 10


def test_only_this_machine_is_answered_and_only_when_asked_for(
    forebay: RunForebay, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBAY_METRICS_PORT", "0")
    assert forebay("start").code == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_that_is_taken_stops_the_start_and_names_the_setting(forebay: RunForebay, port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        ran = forebay("start")
    assert ran.code == 1
    assert f"port {port} of 127.0.0.1, for metrics, is in use by another program" in ran.err
    assert "`metrics_port`" in ran.err
    assert forebay("start").code == 0, "nothing was left behind"
