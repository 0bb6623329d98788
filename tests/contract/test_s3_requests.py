"""What a file costs that programs write as `rsync` and editors do, in requests to a real S3 server and in commits."""

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.stores.base import Store
from forebay.stores.posix import posix_of
from forebay.stores.registry import open_store
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.faults import Request
from forebay.testing.rig import Rig
from forebay.testing.seaweed import SeaweedS3
from forebay.types import Attributes
from forebay.vfs.entries import MountOptions

_numbers = itertools.count()
MINE = posix_of(0o600, os.getuid(), os.getgid())


class S3Rig(Rig):
    """A rig with the mount /s of a bucket; what it asks is counted on the way."""

    proxy: FaultProxy

    def _open_store(self, url: str, options: Mapping[str, str], *, settings: Settings) -> tuple[Store, str]:
        return open_store(url, options, settings=settings)

    async def mount_s3(self, bucket: str, server: SeaweedS3) -> None:
        keys = {"s3a.accessKeyID": server.access_key, "s3a.secretKey": server.secret_key}
        options = keys | {"s3.endpoint": self.proxy.endpoint}
        await self.fs.mount("/s", f"s3://{bucket}", MountOptions(options=tuple(options.items())))
        await self.names("/s")
        self.proxy.seen.clear()

    def asked(self) -> dict[str, int]:
        """What was asked since the last time, by what it does."""
        seen = [*self.proxy.seen]
        self.proxy.seen.clear()
        return dict(Counter(map(_kind, seen)))

    async def save(self, path: str, data: bytes) -> None:
        opened = await self.fs.changes.create(path, MINE, exclusive=True)
        opened.draft.content.write(0, data)
        try:
            await self.fs.uploader.flush(opened.draft)
        finally:
            opened.close()


def _kind(request: Request) -> str:
    if "x-amz-copy-source" in request.headers:
        return "COPY"
    return "LIST" if "list-type" in request.target else request.method


@pytest.fixture
def bucket(seaweed: SeaweedS3) -> Iterator[str]:
    bucket = f"requests-{next(_numbers)}"
    seaweed.make_bucket(bucket)
    yield bucket
    seaweed.remove_bucket(bucket)


@pytest.fixture
async def rig(seaweed: SeaweedS3, bucket: str, tmp_path: Path) -> AsyncIterator[S3Rig]:
    with FaultProxy(seaweed.port) as proxy:
        async with S3Rig(tmp_path) as rig:
            rig.proxy = proxy
            await rig.mount_s3(bucket, seaweed)
            yield rig


async def test_a_folder_is_made_by_one_request(rig: S3Rig) -> None:
    await rig.fs.mkdir("/s/a")
    await rig.fs.mkdir("/s/a/b")
    assert rig.asked() == {"PUT": 2}


async def test_a_new_file_is_one_put_and_one_look_where_the_server_checks_no_condition(rig: S3Rig) -> None:
    await rig.fs.mkdir("/s/a")
    rig.asked()
    await rig.save("/s/a/f", b"content")
    assert rig.asked() == {"HEAD": 1, "PUT": 1}


@pytest.mark.parametrize("is_settled", [False, True])
async def test_modes_and_times_that_are_kept_here_cost_the_store_nothing(rig: S3Rig, is_settled: bool) -> None:
    await rig.save("/s/f", b"content")
    while is_settled and rig.fs.drafts.find("/s/f") is not None:
        await asyncio.sleep(0.01)
    rig.asked()
    await rig.fs.changes.set_attributes("/s/f", Attributes(mtime_ns=7))
    await rig.fs.changes.set_attributes("/s/f", Attributes(mode=0o640))
    while rig.fs.drafts.find("/s/f") is not None:
        await asyncio.sleep(0.01)
    assert rig.asked() == {}
    entry = await rig.stat_file("/s/f")
    assert (entry.mtime_ns, entry.posix and entry.posix.mode) == (7, 0o640)


async def test_a_small_file_is_renamed_by_a_copy_and_a_removal_and_a_look_at_each_place(rig: S3Rig) -> None:
    await rig.save("/s/.f.tmp", b"content")
    await rig.fs.changes.set_attributes("/s/.f.tmp", Attributes(mode=0o640, mtime_ns=7))
    rig.asked()
    commits: list[str] = []
    rig.control._db.set_trace_callback(lambda said: commits.append(said) if said == "COMMIT" else None)
    await rig.fs.changes.rename("/s/.f.tmp", "/s/f")
    assert rig.asked() == {"COPY": 1, "DELETE": 1, "HEAD": 2}  # is it taken; is the source what was copied
    assert len(commits) == 3  # it begins; there is no way back; it has ended
    entry = await rig.stat_file("/s/f")
    assert (entry.mtime_ns, entry.posix and entry.posix.mode) == (7, 0o640)
    rig.fs.metadata.forget("/s")
    assert await rig.stat_file("/s/f") == entry
    assert await rig.names("/s") == ["f"]
    assert await rig.read("/s/f") == b"content"
