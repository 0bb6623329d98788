"""S3 against Ceph's object gateway, which keeps every key as it is written."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator

import pytest

from forebay.errors import NotFound
from forebay.stores.base import Store
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse
from forebay.testing.attributes_contract import AttributesContract
from forebay.testing.ceph import Ceph
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.parts_contract import PartsContract
from forebay.testing.store_contract import StoreContract
from forebay.types import Attributes

_numbers = itertools.count()


def options_of(server: Ceph) -> dict[str, str]:
    return {"s3a.accessKeyId": server.access_key, "s3a.secretKey": server.secret_key, "s3.endpoint": server.endpoint}


class TestCephGatewayStore(StoreContract, PartsContract, FreshnessContract):
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

    async def test_an_upload_to_a_bucket_that_is_not_there_is_not_found(self, ceph: Ceph) -> None:
        store = S3Store("not-there", parse(options_of(ceph)), deadline_s=20)
        with pytest.raises(NotFound, match="no such bucket"):
            await store.upload("k")
        await store.close()

    @pytest.fixture
    async def store(self, ceph: Ceph, bucket: str) -> AsyncIterator[Store]:
        store = S3Store(bucket, parse(options_of(ceph)), deadline_s=20)
        assert not store.capabilities.conditional_put
        yield store
        await store.close()


class TestCephGatewayStoreWithAttributes(AttributesContract):
    owner = (12_345, 54_321)

    @pytest.fixture
    async def store(self, ceph: Ceph) -> AsyncIterator[S3Store]:
        bucket = f"attributes-{next(_numbers)}"
        ceph.make_bucket(bucket)
        store = S3Store(bucket, parse(options_of(ceph) | {"s3.attributes": "true"}), deadline_s=20)
        yield store
        await store.close()

    async def test_a_folder_that_was_no_object_becomes_one_that_keeps_them(self, store: S3Store) -> None:
        await store.put("d/k", b"x")
        asked = Attributes(mode=0o710, mtime_ns=1_234_567_890_123_456_789)
        await store.set_attributes("d/", asked)
        self.assert_kept(await store.head("d/"), asked)
