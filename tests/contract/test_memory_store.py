"""The verified fake passes what the real stores pass."""

import pytest

from forebay.stores.base import Store
from forebay.stores.memory import MemoryStore
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.parts_contract import PartsContract
from forebay.testing.store_contract import StoreContract


class TestMemoryStore(StoreContract, PartsContract, FreshnessContract):
    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore("contract")
