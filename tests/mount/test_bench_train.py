"""`forebay bench train` and `forebay report` on a real mount of a real store."""

import io
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from forebay.testing.daemons import RunForebay, forebay_command, wait_until
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.slowproxy import SlowProxy
from mount.conftest import Child, s3_options

PICTURES = 24
PLACES = ["store", "cold", "warm", "local"]
MountS3 = Callable[..., Path]


def picture(seed: int) -> bytes:
    data = io.BytesIO()
    Image.frombytes("RGB", (64, 48), bytes((seed * 7 + i) % 256 for i in range(64 * 48 * 3))).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="module")
def bucket(s3: SeaweedS3) -> str:
    """Pictures in two folders, and one file that is none."""
    s3.make_bucket("bench-train")
    files = {f"train/c{index % 2}/{index:02}.jpg": picture(index) for index in range(PICTURES)}
    for key, data in (files | {"words/a.txt": b"no picture"}).items():
        assert s3.request("PUT", f"/bench-train/{key}", data)[0] == 200
    return "bench-train"


@pytest.fixture
def mounted_s3(forebay: RunForebay, s3: SeaweedS3, bucket: str, mnt: Path) -> MountS3:
    """Mount the bucket at /data and / at `mnt`; give the local folder of the pictures."""

    def mount(*options: str) -> Path:
        for words in (
            ("fs", "mount", "/data", f"s3://{bucket}/", *s3_options(s3), *options),
            ("fuse", "mount", str(mnt)),
        ):
            ran = forebay(*words)
            assert ran.code == 0, ran.err
        return mnt / "data" / "train"

    return mount


def by_place(answer: Any) -> dict[str, Any]:
    assert [each["place"] for each in answer] == PLACES
    return {each["place"]: each for each in answer}


def left_over(home: Path) -> list[str]:
    """What a benchmark might leave on the cache's disk."""
    return [entry.name for entry in (home / "cache").iterdir() if "bench" in entry.name]


@pytest.mark.parametrize("by_tree", [False, True], ids=["local folder", "path of the tree"])
def test_a_folder_is_read_from_all_four_places(
    mounted_s3: MountS3, forebay: RunForebay, forebay_home: Path, by_tree: bool
) -> None:
    folder = mounted_s3()
    where = "/data/train" if by_tree else str(folder)
    found = by_place(forebay("bench", "train", where, "--batch", "5", "--json").json)
    size = sum(len(picture(index)) for index in range(PICTURES))
    for one in found.values():
        assert (one["files"], one["pictures"], one["size"]) == (PICTURES, PICTURES, size)
        assert 0 < one["stall_share"] < 1
        assert min(one["seconds"], one["read_s"], one["decode_s"]) > 0
    assert left_over(forebay_home) == []
    assert forebay("fs", "du", "/data/train", "--json").json["cached_bytes"] == size, "afterwards they are cached"


def test_each_pass_reads_from_where_it_says(mounted_s3: MountS3, forebay: RunForebay) -> None:
    mounted_s3()
    assert forebay("fs", "load", "/data/train").code == 0
    size = sum(len(picture(index)) for index in range(PICTURES))
    before = forebay("status", "--json").json["counters"]
    assert forebay("bench", "train", "/data/train", "--no-decode").code == 0
    after = forebay("status", "--json").json["counters"]
    grown = {name: after[name] - before[name] for name in after}
    assert grown["bytes_from_store"] == size, "the cold pass; the one past the cache is not counted"
    assert grown["read_from_store"] == size
    # The cold pass, the warm one, and making the copy, of which a few of the first are hits by what was fetched ahead.
    assert grown["read_from_cache"] == 2 * size
    assert grown["hits"] + grown["misses"] == 3 * PICTURES


def test_what_stays_cached_in_the_cold_pass_is_told_and_what_shows_twice_is_not(
    mounted_s3: MountS3, forebay: RunForebay, s3: SeaweedS3, bucket: str
) -> None:
    mounted_s3()
    assert forebay("fs", "mount", "/data/again", f"s3://{bucket}/train/", *s3_options(s3)).code == 0
    assert forebay("fs", "load", "/data").code == 0
    assert "not all cold" not in forebay("bench", "train", "/data", "--no-decode").err
    assert forebay("fs", "pin", "/data/train/c0/00.jpg").code == 0
    ran = forebay("bench", "train", "/data/train", "--no-decode")
    assert "forebay: 1 file pinned or open: kept in the cache, so cold is not all cold\n" in ran.err


def test_the_table_says_what_it_means(mounted_s3: MountS3, forebay: RunForebay) -> None:
    ran = forebay("bench", "train", str(mounted_s3()), "--limit", "7", "--workers", "3")
    assert ran.lines[0].split() == ["read", "from", "images/s", "MB/s", "waiting", "for", "data", "files"]
    assert [line.split()[-1] for line in ran.lines[1:5]] == ["7"] * 4
    assert re.match(r"Cached, it is read \d+\.\d times as fast as from the store, and at \d+% of the", ran.lines[6])


def test_files_that_are_no_pictures_are_read_all_the_same(mounted_s3: MountS3, forebay: RunForebay) -> None:
    mounted_s3()
    ran = forebay("bench", "train", "/data/words")
    assert ran.lines[0].split()[2] == "files/s"
    found = by_place(forebay("bench", "train", "/data/words", "--json").json)
    assert {(one["files"], one["pictures"]) for one in found.values()} == {(1, 0)}


def test_an_empty_folder_is_no_data(mounted_s3: MountS3, forebay: RunForebay) -> None:
    mounted_s3()
    assert forebay("fs", "mkdir", "/data/empty").code == 0
    ran = forebay("bench", "train", "/data/empty")
    assert (ran.code, ran.err) == (1, "forebay: /data/empty holds no files to read\n")


def test_a_store_that_is_gone_ends_the_bench_with_its_reason(
    mounted: Callable[..., Path], forebay: RunForebay, folder: Path, forebay_home: Path
) -> None:
    (folder / "a").write_bytes(b"x" * 1000)
    mnt = mounted()
    folder.rename(folder.parent / "elsewhere")
    ran = forebay("bench", "train", str(mnt), "--no-decode")
    assert ran.code == 1
    assert re.fullmatch(r"forebay: .+\n", ran.err)
    assert left_over(forebay_home) == []


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_ctrl_c_leaves_neither_processes_nor_files(
    s3: SeaweedS3, bucket: str, mnt: Path, forebay: RunForebay, forebay_home: Path
) -> None:
    with SlowProxy(s3.port, rtt_ms=300, mbps=0) as proxy:
        options = [word.replace(s3.endpoint, proxy.endpoint) for word in s3_options(s3)]
        assert forebay("fs", "mount", "/data", f"s3://{bucket}/", *options).code == 0
        assert forebay("fuse", "mount", str(mnt)).code == 0
        command = forebay_command("bench", "train", "/data/train", "--workers", "3")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as bench:
            wait_until(lambda: len(children(bench.pid)) == 3, "the workers are there")
            workers = children(bench.pid)
            bench.send_signal(signal.SIGINT)
            out, err = bench.communicate(timeout=30)
        assert (bench.returncode, out) == (130, b"")
        assert re.fullmatch(rb"forebay: reading from the store, past the cache, for .*\n", err)
        wait_until(
            lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "the workers end with their stdin"
        )
        assert left_over(forebay_home) == []


def test_workers_end_with_who_started_them(mounted_s3: MountS3, forebay_home: Path) -> None:
    mounted_s3()
    command = forebay_command("bench", "train", "/data/train", "--workers", "3")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        wait_until(lambda: len(children(bench.pid)) == 3, "the workers are there")
        workers = children(bench.pid)
        bench.kill()
    wait_until(lambda: not [pid for pid in workers if os.path.exists(f"/proc/{pid}")], "the workers end")


# ---------------------------------------------------------------- report

READ = """
for folder, _, names in os.walk(argv[1]):
    for name in names:
        open(os.path.join(folder, name), 'rb').read()
"""


def test_the_report_of_a_slow_store_says_that_data_is_the_bottleneck(
    s3: SeaweedS3, bucket: str, mnt: Path, forebay: RunForebay, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBAY_PREFETCH", "false")
    size = sum(len(picture(index)) for index in range(PICTURES))
    with SlowProxy(s3.port, rtt_ms=150, mbps=0) as proxy:
        options = [word.replace(s3.endpoint, proxy.endpoint) for word in s3_options(s3)]
        assert forebay("fs", "mount", "/data", f"s3://{bucket}/", *options).code == 0
        assert forebay("fuse", "mount", str(mnt)).code == 0
        assert forebay("report").lines == ["nothing was read in the last 10 min"]
        child(READ, mnt / "data" / "train")
        (cold,) = forebay("report", "--json").json
        assert (cold["read"], cold["cache_share"]) == (size, 0)
        assert (cold["hits"], cold["misses"]) == (0, PICTURES)
        assert cold["stretches"][-1]["name"] == "store-bound"
        assert cold["is_data_bound"]
        assert "Data is the bottleneck" in forebay("report", "--mount", "/data/train").out.decode()
        child(READ, mnt / "data" / "train")
        (warm,) = forebay("report", "--json").json
        assert (warm["read"], warm["cache_share"], warm["opened_files"]) == (2 * size, 0.5, PICTURES)
        assert warm["opened_bytes"] == warm["cached_bytes"] == size
    ran = forebay("report", "--mount", "/nowhere")
    assert (ran.code, ran.err) == (1, "forebay: /nowhere is in no mount; forebay fs mounts lists them\n")


def test_top_shows_the_mount(mounted_s3: MountS3, forebay: RunForebay) -> None:
    mounted_s3()
    (shown,) = forebay("top", "--json").json["mounts"]
    assert (shown["path"], shown["open_files"]) == ("/data", 0)
    table = forebay("top").lines
    assert any(line.startswith("/data ") for line in table)
