"""A real S3 server behind a proxy that does wrong as it is told; a disk that can be full."""

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse
from forebay.testing.fault_proxy import FaultProxy
from forebay.testing.seaweed import SeaweedS3

BUCKET = "public"  # may be read without a signature, so that the proxy can change what is asked

MakeStore = Callable[..., S3Store]


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    with SeaweedS3(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def proxy(seaweed: SeaweedS3) -> Iterator[FaultProxy]:
    with FaultProxy(seaweed.port) as proxy:
        yield proxy


@pytest.fixture
async def make_store(seaweed: SeaweedS3, proxy: FaultProxy) -> AsyncIterator[MakeStore]:
    """`make_store(deadline_s)`: the bucket through the proxy, with keys."""
    made: list[S3Store] = []

    def make(deadline_s: float) -> S3Store:
        keys = {"s3a.accessKeyId": seaweed.access_key, "s3a.secretKey": seaweed.secret_key}
        options = keys | {"s3.endpoint": proxy.endpoint, "s3.conditionalPut": "true"}
        made.append(S3Store(BUCKET, parse(options), deadline_s=deadline_s))
        return made[-1]

    yield make
    for store in made:
        await store.close()


class Disk:
    """A place for files, and how to make it refuse writes and take them again."""

    def __init__(self, folder: Path, fill: Callable[[], None], relieve: Callable[[], None]) -> None:
        self.folder, self.fill, self.relieve = folder, fill, relieve


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A file system of 4 MiB; without the right to mount one, a limit on the size of files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() == 0:
        yield from small_file_system(folder)
    else:
        yield from small_files(folder)


def small_file_system(folder: Path) -> Iterator[Disk]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "forebay-test", str(folder)], check=True)
    ballast = folder / "ballast"

    def fill() -> None:
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))

    try:
        yield Disk(folder, fill, ballast.unlink)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def small_files(folder: Path) -> Iterator[Disk]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process is killed instead of told EFBIG
    try:
        yield Disk(
            folder,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1])),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
