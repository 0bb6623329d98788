"""The store that fails by script passes uploads on, and fails them when it is told to."""

import pytest

from forebay.errors import Unavailable
from forebay.stores.base import Store
from forebay.stores.memory import MemoryStore
from forebay.testing.faulty_store import FaultyStore
from forebay.testing.parts_contract import PartsContract


class TestFaultyStoreThatDoesNotFail(PartsContract):
    @pytest.fixture
    def store(self) -> Store:
        return FaultyStore(MemoryStore("faulty"))


async def test_each_call_of_an_upload_may_fail() -> None:
    store = FaultyStore(MemoryStore("faulty"), [Unavailable("begin"), None, Unavailable("send"), None])
    with pytest.raises(Unavailable, match="begin"):
        await store.upload("k")
    upload = await store.upload("k")
    with pytest.raises(Unavailable, match="send"):
        await upload.send(1, b"x")
    await upload.send(1, b"x")
    store.script.append(Unavailable("complete"))
    with pytest.raises(Unavailable, match="complete"):
        await upload.complete()
    assert (await upload.complete()).size == 1
