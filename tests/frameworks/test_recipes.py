"""Every block of docs/FRAMEWORKS.md, run as it stands but for the places of its folders."""

import re
from pathlib import Path
from typing import Any

import pytest

from frameworks.conftest import HERE, Script, World

pytestmark = pytest.mark.timeout(600)

PAGE = HERE.parent.parent / "docs" / "FRAMEWORKS.md"


def recipes() -> list[Any]:
    """Each block, by the heading above it."""
    found, heading, times = [], "", 0
    for part in re.split(r"^(#+ .+)$", PAGE.read_text(), flags=re.MULTILINE):
        if part.startswith("#"):
            heading, times = part.lstrip("# "), 0
            continue
        for block in re.findall(r"^```python\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL):
            times += 1
            found.append(pytest.param(block, id=f"{heading} {times}" if times > 1 else heading))
    return found


@pytest.fixture(scope="module")
def kept(world: World) -> Path:
    world.bucket("recipes")
    return world.mount("recipes", "--write-mode", "back")


@pytest.mark.parametrize("block", recipes())
def test_a_recipe_does_what_it_says(block: str, data: Path, kept: Path, script: Script) -> None:
    code = block.replace("/mnt/fuse/data", str(data)).replace("/mnt/fuse/runs", str(kept))
    assert "/mnt/fuse" not in code, "the page says where everything lies"
    printed = script(code).split()
    expected = " ".join(re.findall(r"# -> (.+)$", block, flags=re.MULTILINE)).split()
    assert printed[-len(expected) :] == expected
    assert expected, "a recipe shows what it prints"
