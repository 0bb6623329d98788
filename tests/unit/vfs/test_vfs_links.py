"""Symbolic links as programs follow them: within the tree, and nowhere else."""

from pathlib import Path

import pytest

from forebay.errors import Invalid, LinkLoop, NotFound
from forebay.stores.posix import posix_of
from forebay.testing.rig import Rig
from forebay.vfs.entries import FileEntry
from forebay.vfs.links import LINKS_MAX, Links

OWNER = posix_of(0o777, 0, 0)


async def begin(rig: Rig, links: dict[str, str]) -> Links:
    """A mount at /data/in with `sub/file`, and links in it; its folder shows at /mnt."""
    await rig.put("s", "sub/file", b"bytes")
    await rig.mount("/data/in", "s")
    for path, target in links.items():
        await rig.fs.changes.symlink(f"/data/in/{path}", target, OWNER)
    rig.fs.local_folders = lambda: [("/mnt", "/data/in"), ("/", "/elsewhere")]
    return rig.fs.links


@pytest.mark.parametrize(
    ("links", "path"),
    [
        ({}, "sub/file"),
        ({"l": "sub/file"}, "l"),
        ({"l": "./sub//file"}, "l"),
        ({"sub/l": "file"}, "sub/l"),
        ({"sub/l": "../../in/sub/file"}, "sub/l"),
        ({"l": "sub"}, "l/file"),
        ({"l": "sub", "k": "l/file"}, "k"),
        ({"l": "k", "k": "sub"}, "l/file"),
        ({"l": "/mnt/sub/file"}, "l"),
        ({"l": "/mnt"}, "l/l/sub/file"),
        ({"l": "../../../../data/in/sub/file"}, "l"),
    ],
)
async def test_links_are_followed_wherever_they_stand_on_a_path(
    tmp_path: Path, links: dict[str, str], path: str
) -> None:
    async with Rig(tmp_path) as rig:
        found = await (await begin(rig, links)).find(f"/data/in/{path}")
        assert isinstance(found, FileEntry)
        assert found.path == "/data/in/sub/file"


@pytest.mark.parametrize(
    ("links", "path", "error"),
    [
        ({"l": "l"}, "l", LinkLoop),
        ({"l": "k/x", "k": "l"}, "k", LinkLoop),
        ({"l": "missing"}, "l", NotFound),
        ({"l": "missing/../sub/file"}, "l", NotFound),
        ({"l": "/etc/hostname"}, "l", NotFound),
        ({"l": "sub"}, "l/missing", NotFound),
        ({"l": "sub/file"}, "l/file", NotFound),
        ({"l": "a\0b"}, "l", Invalid),
    ],
)
async def test_what_leads_nowhere_is_told(
    tmp_path: Path, links: dict[str, str], path: str, error: type[Exception]
) -> None:
    async with Rig(tmp_path) as rig:
        with pytest.raises(error):
            await (await begin(rig, links)).find(f"/data/in/{path}")


@pytest.mark.parametrize(("more", "is_loop"), [(0, False), (1, True)])
async def test_as_many_links_are_followed_as_linux_follows(tmp_path: Path, more: int, is_loop: bool) -> None:
    async with Rig(tmp_path) as rig:
        count = LINKS_MAX + more
        targets = {f"l{number}": f"l{number + 1}" for number in range(count - 1)} | {f"l{count - 1}": "sub/file"}
        links = await begin(rig, targets)
        if not is_loop:
            assert (await links.find("/data/in/l0")).path == "/data/in/sub/file"
            return
        with pytest.raises(LinkLoop):
            await links.find("/data/in/l0")


async def test_a_name_that_is_changed_is_not_followed_itself_but_what_stands_above_it_is(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        links = await begin(rig, {"l": "sub", "k": "sub/file"})
        for path, place in {"k": "k", "l/new": "sub/new", "new": "new", "l/a/b": "sub/a/b", "no/new": "no/new"}.items():
            assert await links.place(f"/data/in/{path}", last=False) == f"/data/in/{place}"
        for path, place in {"k": "sub/file", "l/new": "sub/new", "new": "new"}.items():
            assert await links.place(f"/data/in/{path}") == f"/data/in/{place}"
        assert await links.place("/", last=False) == "/"


async def test_a_link_is_read_as_it_was_made(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        links = await begin(rig, {"l": "../sub", "sub/k": "file"})
        assert [await links.read(f"/data/in/{path}") for path in ("l", "sub/k")] == ["../sub", "file"]
        with pytest.raises(Invalid, match="no symbolic link"):
            await links.read("/data/in/sub/file")


async def test_a_path_without_links_costs_one_question_as_before(tmp_path: Path) -> None:
    async with Rig(tmp_path, ttl_s=0.0) as rig:
        links = await begin(rig, {})
        await rig.fs.stat("/data/in/sub/file")
        before = rig.fs.metadata.store_requests
        await rig.fs.stat("/data/in/sub/file")
        alone = rig.fs.metadata.store_requests - before
        await links.find("/data/in/sub/file")
        assert rig.fs.metadata.store_requests - before == 2 * alone
