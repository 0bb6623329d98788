"""Libraries that speak fsspec read real data by `forebay://`, and write where that is natural, as users call them."""

import asyncio
import io
import json
import tarfile
from pathlib import Path

import fsspec
import numpy
import pandas
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from forebay.client.spec import ForebayFileSystem
from forebay.errors import Unsupported
from forebay.testing.daemons import RunForebay, wait_until

ROWS = 1_000


@pytest.fixture
def spec(forebay: RunForebay, mounted: Path) -> ForebayFileSystem:
    """The file system of FOREBAY_HOME, as a library makes it."""
    ForebayFileSystem.clear_instance_cache()  # of the home of another test
    made: ForebayFileSystem = fsspec.filesystem("forebay")
    return made


@pytest.fixture
def table() -> pyarrow.Table:
    return pyarrow.table({"number": range(ROWS), "word": [f"word {n % 7}" for n in range(ROWS)]})


@pytest.fixture
def parquet(mounted: Path, table: pyarrow.Table) -> str:
    """A data set of four files; its virtual path."""
    folder = mounted / "table"
    folder.mkdir()
    for part in range(4):
        pyarrow.parquet.write_table(table.slice(part * ROWS // 4, ROWS // 4), folder / f"part{part}.parquet")
    return "/data/in/table"


def test_pandas_reads_and_writes(spec: ForebayFileSystem, parquet: str, mounted: Path) -> None:
    frame = pandas.read_parquet(f"forebay:/{parquet}/part0.parquet")
    assert list(frame["number"]) == list(range(ROWS // 4))
    frame.to_csv("forebay://data/in/out.csv", index=False)
    frame.to_parquet("forebay://data/in/out.parquet")
    assert (mounted / "out.csv").read_text().splitlines()[:2] == ["number,word", "0,word 0"]
    assert pandas.read_csv("forebay://data/in/out.csv").equals(frame)
    assert pandas.read_parquet("forebay://data/in/out.parquet").equals(frame)


def test_pyarrow_scans_a_data_set_and_writes_one(
    spec: ForebayFileSystem, parquet: str, table: pyarrow.Table, mounted: Path
) -> None:
    found = pyarrow.dataset.dataset(parquet, filesystem=spec, format="parquet")
    assert found.to_table().sort_by("number").equals(table)
    assert found.count_rows(filter=pyarrow.dataset.field("word") == "word 3") == len(range(3, ROWS, 7))
    pyarrow.dataset.write_dataset(
        table, "/data/in/written", filesystem=spec, format="parquet", partitioning=["word"], partitioning_flavor="hive"
    )
    again = pyarrow.dataset.dataset(mounted / "written", format="parquet", partitioning="hive")
    assert again.count_rows() == ROWS


def test_datasets_of_hugging_face_load_and_stream(spec: ForebayFileSystem, parquet: str, tmp_path: Path) -> None:
    import datasets

    files = {"train": [f"forebay:/{parquet}/part{part}.parquet" for part in range(4)]}
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert sorted(loaded["number"]) == list(range(ROWS))
    streamed = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    assert [row["number"] for row in streamed.take(3)] == [0, 1, 2]


def test_zarr_reads_and_writes_chunks(spec: ForebayFileSystem, mounted: Path) -> None:
    import zarr

    values = numpy.arange(10_000).reshape(100, 100)
    array = zarr.open_array("forebay://data/in/array.zarr", mode="w", shape=(100, 100), chunks=(10, 100), dtype="i8")
    array[:] = values
    assert (mounted / "array.zarr" / "zarr.json").exists()
    again = zarr.open_array("forebay://data/in/array.zarr", mode="r")
    assert numpy.array_equal(again[:], values)
    assert numpy.array_equal(again[35:37, 5], values[35:37, 5])


def test_webdataset_reads_shards(spec: ForebayFileSystem, mounted: Path) -> None:
    import webdataset

    with tarfile.open(mounted / "shard.tar", "w") as shard:
        for number in range(20):
            for suffix, data in (("txt", b"sample %d" % number), ("json", json.dumps({"n": number}).encode())):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    webdataset.gopen_schemes["forebay"] = lambda url, mode, _: fsspec.open(url, mode).open()
    samples = list(webdataset.WebDataset("forebay://data/in/shard.tar", shardshuffle=False).decode())
    assert [(sample["txt"], sample["json"]["n"]) for sample in samples] == [(f"sample {n}", n) for n in range(20)]


def _has_descriptor(spec: ForebayFileSystem, path: str) -> bool:
    with spec.open(path) as file:
        try:
            return bool(file.fileno() >= 0)
        except io.UnsupportedOperation:
            return False


def test_safetensors_and_torch_read_checkpoints(spec: ForebayFileSystem, mounted: Path) -> None:
    import safetensors.torch
    import torch

    tensors = {"weight": torch.arange(100_000).reshape(100, 1000), "bias": torch.ones(7)}
    safetensors.torch.save_file(tensors, mounted / "model.safetensors")
    read = safetensors.torch.load(spec.cat_file("/data/in/model.safetensors"))
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    wait_until(lambda: _has_descriptor(spec, "/data/in/model.safetensors"), "it is cached")
    file = spec.open("/data/in/model.safetensors")  # it is mapped, and not copied
    with file, safetensors.safe_open(f"/proc/self/fd/{file.fileno()}", "pt") as mapped:
        assert torch.equal(mapped.get_slice("weight")[3:5], tensors["weight"][3:5])
    with fsspec.open("forebay://data/in/model.pt", "wb") as out:
        torch.save(tensors, out)
    with fsspec.open("forebay://data/in/model.pt", "rb") as file:
        again = torch.load(file)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert torch.equal(torch.load(mounted / "model.pt")["weight"], tensors["weight"])


def test_duckdb_queries_and_copies(spec: ForebayFileSystem, parquet: str, mounted: Path) -> None:
    import duckdb

    with duckdb.connect() as database:
        database.register_filesystem(spec)
        count = database.execute(f"select count(*), max(number) from 'forebay:/{parquet}/part1.parquet'").fetchone()
        assert count == (ROWS // 4, ROWS // 2 - 1)
        total = database.execute(f"select sum(number) from read_parquet('forebay:/{parquet}/*.parquet')").fetchone()
        assert total == (ROWS * (ROWS - 1) // 2,)
        database.execute("copy (select 42 as answer) to 'forebay://data/in/answer.csv'")
    assert (mounted / "answer.csv").read_text().split() == ["answer", "42"]


# ---------------------------------------------------------------- what no suite asks


def test_cat_takes_many_files_at_a_time_and_tells_of_those_that_fail(
    spec: ForebayFileSystem, parquet: str, mounted: Path
) -> None:
    expected = {f"{parquet}/{path.name}": path.read_bytes() for path in (mounted / "table").iterdir()}
    assert spec.cat(f"{parquet}/*.parquet") == expected
    assert spec.cat(parquet, recursive=True) == expected
    assert spec.cat("forebay://data/in/a.txt") == b"hello\n"
    found = spec.cat(["/data/in/a.txt", "/data/in/none"], on_error="return")
    assert found["/data/in/a.txt"] == b"hello\n"
    assert isinstance(found["/data/in/none"], FileNotFoundError)
    with pytest.raises(FileNotFoundError):
        spec.cat(["/data/in/a.txt", "/data/in/none"])
    assert spec.cat(["/data/in/a.txt", "/data/in/none"], on_error="omit") == {"/data/in/a.txt": b"hello\n"}


def test_ranges_count_from_both_ends(spec: ForebayFileSystem) -> None:
    path = "/data/in/a.txt"  # hello
    assert spec.cat_ranges([path] * 5, [0, 1, -3, None, 4], [2, None, None, -1, 99]) == [
        b"he",
        b"ello\n",
        b"lo\n",
        b"hello",
        b"o\n",
    ]
    assert spec.cat_file(path, 1, 3) == b"el"
    (missing,) = spec.cat_ranges(["/data/in/none"], 0, 1)
    assert isinstance(missing, FileNotFoundError)


def test_find_glob_walk_and_du_agree_with_the_folder(spec: ForebayFileSystem, parquet: str, mounted: Path) -> None:
    files = sorted(f"/data/in/{path.relative_to(mounted)}" for path in mounted.rglob("*") if path.is_file())
    sizes = {path: (mounted / path.removeprefix("/data/in/")).stat().st_size for path in files}
    assert spec.find("forebay://data/in") == files
    assert {name: info["size"] for name, info in spec.find("/", detail=True).items()} == sizes
    assert spec.find("/data", withdirs=True, maxdepth=2) == [
        "/data",
        *sorted(["/data/in", *spec.ls("/data/in", detail=False)]),
    ]
    assert spec.glob("/data/in/**/*.parquet") == [path for path in files if path.endswith("parquet")]
    assert spec.du("/data") == sum(sizes.values())
    assert next((where, sorted(folders)) for where, folders, _ in spec.walk("/data/in")) == (
        "/data/in",
        ["sub", "table"],
    )
    assert spec.modified("/data/in/a.txt").timestamp() == pytest.approx((mounted / "a.txt").stat().st_mtime, abs=1e-3)
    assert spec.isdir("/data/in/sub")
    assert spec.isfile("/data/in/a.txt")
    before = spec.ukey("/data/in/a.txt")
    spec.pipe("/data/in/a.txt", b"other")
    assert spec.ukey("/data/in/a.txt") != before


def test_a_mount_of_forebay_inside_forebay_is_refused(forebay: RunForebay, mounted: Path) -> None:
    ran = forebay("fs", "mount", "/again", "fsspec+forebay://data/in")
    assert ran.code != 0
    assert "this daemon's own tree" in ran.err


def test_what_a_transaction_writes_is_there_when_it_ends_and_not_before(
    spec: ForebayFileSystem, mounted: Path, tmp_path: Path
) -> None:
    (tmp_path / "local").write_bytes(b"put")
    spec.pipe("/data/in/log", b"1")
    with spec.transaction:
        with spec.open("/data/in/a.txt", "wb") as file:
            file.write(b"new")
        with spec.open("/data/in/text", "w", encoding="latin-1") as text:
            text.write("f\xfcr")
        with spec.open("/data/in/log", "ab") as file:
            file.write(b"2")
        still_open = spec.open("/data/in/made/open", "w+b")
        still_open.write(b"xy")
        assert (still_open.seek(0), still_open.read()) == (0, b"xy")
        spec.pipe("/data/in/piped", b"piped")
        spec.put(str(tmp_path / "local"), "/data/in/put")
        assert spec.cat("/data/in/a.txt") == b"hello\n"
        assert not any(map(spec.exists, ["/data/in/text", "/data/in/made", "/data/in/piped", "/data/in/put"]))
    written = {"a.txt": b"new", "text": b"f\xfcr", "log": b"12", "made/open": b"xy", "piped": b"piped", "put": b"put"}
    assert {name: (mounted / name).read_bytes() for name in written} == written
    spec.pipe("/data/in/after", b"at once")
    assert (mounted / "after").read_bytes() == b"at once"


def test_a_transaction_that_fails_leaves_everything_as_it_was(spec: ForebayFileSystem, mounted: Path) -> None:
    def write_and_fail() -> None:
        spec.pipe("/data/in/a.txt", b"new")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), spec.transaction:
        write_and_fail()
    with pytest.raises(Unsupported, match="within a transaction"), spec.transaction:
        spec.open("/data/in/a.txt", "r+b")
    assert (mounted / "a.txt").read_bytes() == b"hello\n"
    spec.start_transaction()
    spec.pipe("/data/in/x", b"x", mode="create")
    (mounted / "x").write_bytes(b"by another")
    spec.invalidate_cache("/data/in/x")
    with pytest.raises(FileExistsError):
        spec.end_transaction()
    assert (mounted / "x").read_bytes() == b"by another"


def test_a_file_may_be_committed_by_hand(spec: ForebayFileSystem, mounted: Path) -> None:
    kept, dropped = (spec.open(f"/data/in/{name}", "wb", autocommit=False) for name in ("kept", "dropped"))
    for file in (kept, dropped):
        file.write(b"bytes")
        file.close()
    kept.commit()
    dropped.discard()
    assert (mounted / "kept").read_bytes() == b"bytes"
    assert not (mounted / "dropped").exists()
    with spec.open("/data/in/kept", "rb", autocommit=False) as file:
        assert file.read() == b"bytes"


async def test_who_wants_coroutines_wraps_it(spec: ForebayFileSystem, mounted: Path) -> None:
    blocking = fsspec.filesystem("forebay", home=str(spec.forebay.home), asynchronous=True)
    assert not blocking.async_impl
    waiting = AsyncFileSystemWrapper(blocking, asynchronous=True)
    await waiting._pipe_file("/data/in/new", b"0123")
    assert await asyncio.gather(*(waiting._cat_file("/data/in/new", 1, 3) for _ in range(8))) == [b"12"] * 8
    assert (await waiting._info("/data/in/new"))["size"] == 4
