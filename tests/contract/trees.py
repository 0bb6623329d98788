"""What the tests of stores that are trees have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from forebay.config.settings import Settings
from forebay.stores.base import FolderStore, Store
from forebay.stores.registry import open_store
from forebay.types import Buffer, ObjectMeta

DEADLINE_S = 20.0
MANY = ("test_a_large_listing_comes_in_pages", "test_many_folders_come_in_pages")


def opened(url: str, options: Mapping[str, str], *, deadline_s: float = DEADLINE_S) -> FolderStore:
    """The store of a URL, which names its root."""
    settings = Settings(home=Path("/nowhere"), store_deadline_s=deadline_s)
    store, prefix = open_store(url, options, settings=settings)
    assert prefix == ""
    return cast(FolderStore, store)


class FillBehind:
    """Tests of thousands of files make them in the server's folder: by the store, each would be six requests."""

    @pytest.fixture(autouse=True)
    def where(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.served = folder
        self.is_behind = request.node.name.partition("[")[0] in MANY

    async def fill(self, store: Store, key: str, data: Buffer) -> ObjectMeta:
        if not self.is_behind:
            return await store.put(key, data)
        path = self.served / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(memoryview(data)))
        return ObjectMeta(key, len(data), 0, "")
