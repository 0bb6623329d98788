"""S3 against a real server."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from forebay.stores.base import Store
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import S3Options, parse
from forebay.testing.attributes_contract import AttributesContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.parts_contract import PartsContract
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.store_contract import StoreContract

_numbers = itertools.count()


def options_for(server: SeaweedS3) -> S3Options:
    return parse(
        {
            "s3a.accessKeyID": server.access_key,
            "s3a.secretKey": server.secret_key,
            "s3.endpoint": server.endpoint,
            "s3.conditionalPut": "true",
        }
    )


class TestS3Store(StoreContract, PartsContract, FreshnessContract):
    in_key_order = False  # SeaweedFS keeps keys in folders
    odd_keys = ()  # and its keys are paths
    missing_keys = ("nothing", "there", "there/is/not", "no/such/folder/key")  # a folder `there/` answers

    @pytest.fixture
    def bucket(self, seaweed: SeaweedS3) -> Iterator[str]:
        name = f"contract-{next(_numbers)}"
        seaweed.make_bucket(name)
        yield name
        seaweed.remove_bucket(name)

    @pytest.fixture(autouse=True)
    def ask_server(self, seaweed: SeaweedS3, bucket: str) -> None:
        self.ask = lambda: seaweed.request("GET", f"/{bucket}?uploads=")

    async def leftovers(self, store: Store) -> list[str]:
        status, answer = await asyncio.to_thread(self.ask)
        assert status == 200
        return re.findall("<UploadId>(.*?)</UploadId>", answer.decode())

    async def test_the_server_shows_an_upload_while_it_runs(self, store: Store) -> None:
        """Else the test of what a failed one leaves behind would prove nothing."""
        seen: list[str] = []

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            seen.extend(await self.leftovers(store))

        await store.put_stream("k", chunks())
        assert len(seen) == 1
        assert await self.leftovers(store) == []

    @pytest.fixture
    async def store(self, seaweed: SeaweedS3, bucket: str) -> AsyncIterator[Store]:
        store = S3Store(bucket, options_for(seaweed), deadline_s=20)
        yield store
        await store.close()


class TestS3StoreWithAttributes(AttributesContract):
    folders_have_attributes = False  # SeaweedFS makes a folder of it
    owner = (12_345, 54_321)

    @pytest.fixture
    async def store(self, seaweed: SeaweedS3) -> AsyncIterator[S3Store]:
        bucket = f"attributes-{next(_numbers)}"
        seaweed.make_bucket(bucket)
        store = S3Store(bucket, replace(options_for(seaweed), attributes=True), deadline_s=20)
        yield store
        await store.close()
        seaweed.remove_bucket(bucket)
