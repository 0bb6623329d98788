from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from forebay.cache.cache import Cache
from forebay.clock import SystemClock
from forebay.config.settings import Settings
from forebay.daemon.listing import list_below, list_folder, usage
from forebay.daemon.wire import Fields, mount_info, to_bytes
from forebay.errors import Invalid, NotFound
from forebay.stores.base import Opened
from forebay.stores.memory import MemoryStore
from forebay.vfs.control import ControlDb
from forebay.vfs.entries import MountOptions
from forebay.vfs.filesystem import FileSystem

KEYS = ("plain", "folder/", "folder/in", "folder//odd", "x" * 300, "a/../b", "empty/", "//")


@pytest.fixture
async def fs(tmp_path: Path) -> AsyncIterator[FileSystem]:
    """Two stores: /odd holds keys that no file can show, /odd/inner lies in it."""
    odd, inner = MemoryStore("odd", page_keys=3), MemoryStore("inner")
    stores = {"mem://odd": odd, "mem://inner": inner}
    settings, clock = Settings(home=tmp_path), SystemClock()
    control = ControlDb(tmp_path / "control.db")
    cache = Cache(settings, clock)
    fs = FileSystem(settings, control, cache, clock, open_store=lambda url, *_, **__: Opened(stores[url], ""))
    for key in KEYS:
        await odd.put(key, b"1")
    await inner.put("deep/file", b"12345")
    await fs.mount("/odd", "mem://odd", MountOptions(freshness="immutable"))
    await fs.mount("/odd/inner", "mem://inner", MountOptions(options=(("s3.secret", "S"),)))
    await fs.mkdir("/virtual")
    yield fs
    await fs.close()
    control.close()


async def lines(batches: AsyncIterator[Any]) -> list[dict[str, Any]]:
    async with aclosing(batches):  # type: ignore[type-var]
        return [line async for batch in batches for line in batch]


async def test_a_tree_comes_with_its_folders_its_mounts_and_the_number_of_keys_that_cannot_be_shown(
    fs: FileSystem,
) -> None:
    listed = await lines(list_below(fs, "/"))
    assert [line["path"] for line in listed[:-1]] == [
        *("/odd", "/odd/empty", "/odd/folder", "/odd/folder/in", "/odd/plain"),
        *("/odd/inner", "/odd/inner/deep", "/odd/inner/deep/file"),
        "/virtual",
    ]
    assert listed[-1] == {"hidden": 4}


async def test_a_folder_comes_with_what_lies_directly_in_it(fs: FileSystem) -> None:
    listed = await lines(list_folder(fs, "/odd"))
    assert {line.get("name") for line in listed[:-1]} == {"a", "empty", "folder", "inner", "plain"}
    assert "hidden" in listed[-1]
    assert [line["kind"] for line in await lines(list_folder(fs, "/odd/plain"))] == ["file"]


async def test_usage_counts_files_and_bytes_and_what_is_cached(fs: FileSystem) -> None:
    assert (await lines(usage(fs, "/")))[-1] == {"files": 3, "bytes": 7, "cached_bytes": 0, "done": True}
    async for _ in fs.load("/odd/inner"):
        pass
    assert (await lines(usage(fs, "/")))[-1]["cached_bytes"] == 5


async def test_what_is_not_there_is_an_error_before_the_first_line(fs: FileSystem) -> None:
    for lister in (list_below, list_folder, usage):
        with pytest.raises(NotFound):
            await lines(lister(fs, "/nothing"))


async def test_a_mount_shows_no_time_to_live_where_it_has_none_and_no_secret(fs: FileSystem) -> None:
    odd, inner = (mount_info(mount, default_policy="keep") for mount in fs.mounts)
    assert (odd["ttl_s"], inner["ttl_s"], inner["options"]) == (None, 60.0, {"s3.secret": "***"})
    to_bytes([odd, inner])  # JSON knows no infinity


@pytest.mark.parametrize(
    ("fields", "take"),
    [
        ({}, "path"),
        ({"path": None}, "path"),
        ({"path": "a\0"}, "path"),
        ({"flag": "yes"}, "flag"),
        ({"whole": "1.5"}, "whole"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"texts": {"a": 1}}, "texts"),
        ({"texts": ["a"]}, "texts"),
    ],
)
def test_a_field_of_another_type_is_refused(fields: dict[str, object], take: str) -> None:
    method = getattr(Fields(fields), take)
    with pytest.raises(Invalid):
        method() if take == "path" else method(take)


async def test_a_tree_comes_with_its_empty_folders_in_order(fs: FileSystem) -> None:
    await fs.mkdir("/odd/none")
    await fs.mkdir("/odd/some")
    await fs.mkdir("/odd/some/none")
    listed = [line["path"] for line in await lines(list_below(fs, "/odd")) if "path" in line]
    assert [path for path in listed if "none" in path or "some" in path or "empty" in path] == [
        "/odd/empty", "/odd/none", "/odd/some", "/odd/some/none"
    ]  # fmt: skip
    assert len(listed) == len(set(listed))
