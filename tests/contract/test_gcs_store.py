"""Google Cloud Storage against an emulator; what it cannot show is in tests/fault/test_gcs_faults.py."""

import gzip
import itertools
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from forebay.stores.base import Store
from forebay.stores.gcs import GcsStore
from forebay.stores.gcs_options import parse
from forebay.testing.fakegcs import FakeGcs
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.store_contract import StoreContract
from forebay.types import ByteRange

_numbers = itertools.count()


class TestGcsStore(StoreContract, FreshnessContract):
    odd_keys = ("a//b", "a/../b", "/a", "./a", "a/.", "a/b//", "..", "new\nline/")
    streams_have_conditions = False  # the emulator does not heed them; tests/fault/test_gcs_faults.py
    folders_are_paged = False  # the emulator's page is 1,000 objects and every folder

    @pytest.fixture
    async def store(self, fakegcs: FakeGcs) -> AsyncIterator[Store]:
        bucket = f"contract-{next(_numbers)}"
        fakegcs.make_bucket(bucket)
        options = parse({"gs.anonymous": "true", "gs.endpoint": fakegcs.endpoint})
        store = GcsStore(bucket, options, deadline_s=20)
        yield store
        await store.close()


async def test_an_object_that_is_stored_compressed_comes_as_it_is_stored(fakegcs: FakeGcs) -> None:
    """Its size in listings is that of the stored bytes, so these are what a file must have."""
    stored = gzip.compress(b"text " * 1_000)
    fakegcs.make_bucket("compressed")
    for key in ("k", "odd//k"):
        place = f"/upload/storage/v1/b/compressed/o?uploadType=media&contentEncoding=gzip&name={quote(key, safe='')}"
        assert fakegcs.request("POST", place, stored)[0] == 200
        assert fakegcs.request("GET", f"/compressed/{key}")[1] == b"text " * 1_000, "the server decompresses"
    options = parse({"gs.anonymous": "true", "gs.endpoint": fakegcs.endpoint})
    store = GcsStore("compressed", options, deadline_s=20)
    for key in ("k", "odd//k"):
        meta = await store.head(key)
        assert meta.size == len(stored)
        assert bytes(memoryview(await store.get(key, version=meta.version))) == stored
        assert bytes(memoryview(await store.get(key, ByteRange(5, 20), version=meta.version))) == stored[5:20]
    await store.close()
