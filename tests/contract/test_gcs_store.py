"""Google Cloud Storage against an emulator; what it cannot show is in tests/fault/test_gcs_faults.py."""

import itertools
from collections.abc import AsyncIterator

import pytest

from forebay.stores.base import Store
from forebay.stores.gcs import GcsStore
from forebay.stores.gcs_options import parse
from forebay.testing.fakegcs import FakeGcs
from forebay.testing.store_contract import StoreContract

_numbers = itertools.count()


class TestGcsStore(StoreContract):
    odd_keys = ("a//b", "a/../b", "/a", "./a", "a/.", "a/b//", "..", "new\nline/")
    folders_are_paged = False  # the emulator's page is 1,000 objects and every folder

    @pytest.fixture
    async def store(self, fakegcs: FakeGcs) -> AsyncIterator[Store]:
        bucket = f"contract-{next(_numbers)}"
        fakegcs.make_bucket(bucket)
        options = parse({"gs.anonymous": "true", "gs.endpoint": fakegcs.endpoint})
        store = GcsStore(bucket, options, deadline_s=20)
        yield store
        await store.close()
