"""A real S3 server behind a proxy that does wrong as it is told."""

from collections.abc import AsyncIterator, Callable, Iterator

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
