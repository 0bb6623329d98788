"""S3 against Ceph's object gateway, which keeps every key as it is written."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator

import pytest

from forebay.stores.base import Store
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse
from forebay.testing.ceph import Ceph
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.store_contract import StoreContract

_numbers = itertools.count()


class TestCephGatewayStore(StoreContract, FreshnessContract):
    @pytest.fixture
    def bucket(self, ceph: Ceph) -> str:
        name = f"contract-{next(_numbers)}"
        ceph.make_bucket(name)
        return name

    @pytest.fixture(autouse=True)
    def ask_server(self, ceph: Ceph, bucket: str) -> None:
        self.ask = lambda: ceph.request("GET", f"/{bucket}?uploads=")

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
    async def store(self, ceph: Ceph, bucket: str) -> AsyncIterator[Store]:
        options = {"s3a.accessKeyId": ceph.access_key, "s3a.secretKey": ceph.secret_key, "s3.endpoint": ceph.endpoint}
        store = S3Store(bucket, parse(options), deadline_s=20)
        assert not store.capabilities.conditional_put
        yield store
        await store.close()
