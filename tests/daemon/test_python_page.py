"""Every block of docs/PYTHON.md, and that of the README, run as it stands against a real daemon."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas
import pytest
import torch
import zarr

from forebay.testing.daemons import RunForebay
from forebay.testing.leash import leashed

ROOT = Path(__file__).resolve().parents[2]
RUN_WITHIN_S = 200.0

# What the blocks take for granted: the libraries, and names of the program that they stand in.
BEFORE = """
import ast, asyncio, inspect, sys
import datasets, duckdb, forebay, fsspec, pandas, pyarrow.dataset, torch, webdataset, zarr

paths = paths_of_the_epoch = [f"/training-data/imagenet/{number}.jpg" for number in range(300)]
model, line, decode = torch.ones(3), b"a line", bytes
names = dict(globals())


def run(block):
    code = compile(block, "the page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)


for block in sys.argv[1:]:
    run(block)
"""
AFTER = {
    "README.md": """
assert names["data"] == b"a,b\\n1,2\\n" and len(names["batch"]) == 300 and len(names["frame"]) == 10
""",
    "docs/PYTHON.md": """
batch = names["batch"]
assert [len(data) for data in batch] == list(range(300))
images = names["Images"]()
images.paths = paths
assert images.__getitems__([3, 1]) == [batch[3], batch[1]]
images.paths = ["/training-data/imagenet/none"]
try: images.__getitems__([0])
except FileNotFoundError: pass
else: raise AssertionError("it does not raise what could not be read")
assert forebay.read("/training-data/runs/log") == b"a line"
assert torch.equal(names["model"], torch.ones(3))
opened = webdataset.gopen("forebay://training-data/imagenet/labels.csv")
assert opened.read() == b"a,b\\n1,2\\n"
""",
}


def blocks(page: str) -> list[str]:
    """The Python of a page: indented blocks that are no shell commands."""
    text = (ROOT / page).read_text()
    found = re.findall(r"(?:^    .*\n(?:^\n(?=    ))?)+", text, flags=re.MULTILINE)
    return [textwrap.dedent(block) for block in found if "forebay." in block or "forebay://" in block]


def test_the_pages_have_the_blocks_that_are_run() -> None:
    assert len(blocks("docs/PYTHON.md")) == 6
    assert sum("import forebay\n" in block for block in blocks("README.md")) == 1


@pytest.fixture
def training_data(forebay: RunForebay, forebay_home: Path) -> Path:
    """What the pages read, in a folder that is mounted at /training-data."""
    folder = forebay_home.parent / "training-data"
    for name in ("imagenet", "runs", "table"):
        (folder / name).mkdir(parents=True)
    (folder / "imagenet" / "labels.csv").write_bytes(b"a,b\n1,2\n")
    for number in range(300):
        (folder / "imagenet" / f"{number}.jpg").write_bytes(bytes(number))
    torch.save(torch.ones(3), folder / "runs" / "model.pt")
    for part in range(2):
        pandas.DataFrame({"number": range(10)}).to_parquet(folder / "table" / f"part{part}.parquet")
    zarr.open_array(str(folder / "array.zarr"), mode="w", shape=(100,), dtype="i4")[:] = 7
    assert forebay("fs", "mount", "/training-data", f"file://{folder}").code == 0
    return folder


@pytest.mark.parametrize("page", AFTER)
def test_a_page_does_what_it_says(page: str, training_data: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BEFORE + AFTER[page])
    found = [block for block in blocks(page) if page != "README.md" or "import forebay\n" in block]
    environ = os.environ | {"HF_HOME": str(tmp_path / "hf")}
    command = leashed([sys.executable, str(script), *found])
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=RUN_WITHIN_S, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
