"""Renames in a real S3 server, which has none: folder by folder, with what is kept of them."""

import itertools
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.clock import SystemClock
from forebay.config.settings import Settings
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.store_contract import keys_of, put_many
from forebay.types import Attributes
from forebay.vfs.attributed import AttributedStore
from forebay.vfs.attributes import KeptAttributes
from forebay.vfs.control import ControlDb
from forebay.vfs.entries import Mount, MountOptions
from forebay.vfs.metadata import Metadata
from forebay.vfs.renames import Renames

_numbers = itertools.count()


@pytest.fixture
async def store(seaweed: SeaweedS3, tmp_path: Path) -> AsyncIterator[AttributedStore]:
    bucket = f"renames-{next(_numbers)}"
    seaweed.make_bucket(bucket)
    keys = {"s3a.accessKeyID": seaweed.access_key, "s3a.secretKey": seaweed.secret_key}
    inner = S3Store(bucket, parse(keys | {"s3.endpoint": seaweed.endpoint}), deadline_s=20)
    kept = KeptAttributes(tmp_path / "attributes.db")
    yield AttributedStore(inner, kept)
    await inner.close()
    await kept.close()
    seaweed.remove_bucket(bucket)


@pytest.fixture
async def renames(tmp_path: Path) -> AsyncIterator[Renames]:
    control, metadata = ControlDb(tmp_path / "control.db"), Metadata(Settings(home=tmp_path), SystemClock())
    yield Renames(control, metadata)
    assert control.renames() == []
    await metadata.close()
    control.close()


async def test_a_folder_of_more_than_a_page_with_all_kinds_of_things_in_it(
    store: AttributedStore, renames: Renames
) -> None:
    mount = Mount(path="/m", url="s3://b", store=store, prefix="", settings=MountOptions(), ttl_s=60.0)
    many = [f"d/{number:04}" for number in range(1_100)]
    await put_many(lambda name: store.put(f"a/{name}", name.encode()), many)
    for name, attributes in {
        "": Attributes(mode=0o700),
        "empty/": Attributes(mode=0o711, mtime_ns=7),
        "link": Attributes(mode=stat.S_IFLNK | 0o777),
        "odd + %41 \u00fc": Attributes(mode=0o600, mtime_ns=9),
    }.items():
        await store.put(f"a/{name}", b"" if name.endswith("/") or not name else b"d/0000", attributes=attributes)
    await store.set_attributes("a/d/", Attributes(mode=0o750))
    await store.put("ab/beside", b"x")
    told: list[tuple[int, int]] = []

    await renames.rename(mount, "a", "new/b", is_folder=True, progress=lambda *counts: told.append(counts))

    found = await keys_of(store, "", recursive=True)
    files = [*many, "link", "odd + %41 \u00fc"]
    assert [key for key in found if not key.endswith("/")] == sorted(
        ["ab/beside", *(f"new/b/{name}" for name in files)]
    )
    assert {"new/b/", "new/b/empty/"} <= set(found)
    assert not any(key.startswith("a/") for key in found)
    assert told[-1][0] == told[-1][1] >= len(many) + 4
    assert bytes(memoryview(await store.get("new/b/d/1099"))) == b"d/1099"
    [page] = [page async for page in store.list("new/b/")]
    modes = {meta.key: meta.posix and meta.posix.mode for meta in page.objects}
    modes |= {key: meta.posix and meta.posix.mode for key, meta in page.folder_metas.items()}
    assert modes == {
        "new/b/": 0o700,
        "new/b/d/": 0o750,
        "new/b/empty/": 0o711,
        "new/b/link": stat.S_IFLNK | 0o777,
        "new/b/odd + %41 \u00fc": 0o600,
    }
    assert (await store.head("new/b/odd + %41 \u00fc")).mtime_ns == 9


async def test_a_file_over_another(store: AttributedStore, renames: Renames) -> None:
    mount = Mount(path="/m", url="s3://b", store=store, prefix="", settings=MountOptions(), ttl_s=60.0)
    await store.put("a", b"new", attributes=Attributes(mode=0o600, mtime_ns=9))
    await store.put("b", b"old", attributes=Attributes(mode=0o640, mtime_ns=8))
    await renames.rename(mount, "a", "b", is_folder=False)
    meta = await store.head("b")
    assert (meta.posix and meta.posix.mode, meta.mtime_ns) == (0o600, 9)
    assert bytes(memoryview(await store.get("b"))) == b"new"
    assert await keys_of(store, "", recursive=True) == ["b"]
