"""Azure Blob Storage against Microsoft's own emulator."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from forebay.errors import Busy, Invalid, NotFound
from forebay.stores import azure
from forebay.stores.azure import AzureStore
from forebay.stores.azure_options import Place, parse
from forebay.stores.base import Store
from forebay.testing.azurite import Azurite
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.store_contract import NAMES, StoreContract, chunks_of, keys_of, pages_of, pattern, put_many
from forebay.types import ByteRange
from forebay.units import MIB

_numbers = itertools.count()


@pytest.fixture
def container(azurite: Azurite) -> str:
    name = f"contract-{next(_numbers)}"
    azurite.make_container(name)
    return name


@pytest.fixture
async def store(azurite: Azurite, container: str) -> AsyncIterator[AzureStore]:
    store = AzureStore(container, parse(Place(container), azurite.options), deadline_s=20)
    yield store
    await store.close()


class TestAzureStore(StoreContract, FreshnessContract):
    in_key_order = False  # Azure orders by UTF-16; see below
    odd_keys = ("a//b", "/a", "a/b//")
    names = tuple(name for name in NAMES if not name.endswith("."))  # Azure drops the dots at the end of each part

    @pytest.fixture(autouse=True)
    def ask_server(self, azurite: Azurite, container: str) -> None:
        self.ask = lambda: azurite.request(
            "GET", f"/{container}", (("comp", "list"), ("include", "uncommittedblobs"), ("restype", "container"))
        )

    async def test_keys_come_in_the_order_of_utf_16(self, store: Store) -> None:
        keys = ["a-/x", "a-", "a", "a/b", "a/b-", "a0", "ab", "B", "\u00e9", "z", "\U0001f600", "\uff5a"]
        await put_many(lambda key: store.put(key, b"x"), keys)
        assert await listed(store, recursive=True) == sorted(keys, key=lambda key: key.encode("utf-16-be"))

    async def test_a_failed_upload_leaves_blocks_that_nobody_sees(self, store: Store) -> None:
        await store.put("kept", b"before")

        async def chunks() -> AsyncIterator[bytes]:
            yield pattern(9 * MIB)
            while b"<Name>new</Name>" not in (await asyncio.to_thread(self.ask))[1]:
                await asyncio.sleep(0.01)  # until a block has landed, so that there is something to see
            raise ConnectionResetError("the writer is gone")

        with pytest.raises(ConnectionResetError):
            await store.put_stream("new", chunks())
        with pytest.raises(ConnectionResetError):
            await store.put_stream("kept", chunks())
        assert await keys_of(store, "", recursive=True) == ["kept"]
        with pytest.raises(NotFound):
            await store.head("new")
        assert bytes(memoryview(await store.get("kept"))) == b"before"
        assert (await store.put_stream("new", chunks_of(b"x"))).size == 1


async def listed(store: Store, prefix: str = "", *, recursive: bool = False) -> list[str]:
    """Keys of objects as the pages have them."""
    return [meta.key for page in await pages_of(store, prefix, recursive=recursive) for meta in page.objects]


async def test_two_uploads_of_one_key_at_once_do_not_mix(store: AzureStore) -> None:
    bodies = [bytes([number]) * (9 * MIB) for number in (1, 2)]
    await asyncio.gather(
        *(store.put_stream("k", chunks_of(body)) for body in bodies), return_exceptions=True
    )  # the blocks of one may be gone with the commit of the other
    assert bytes(memoryview(await store.get("k"))) in bodies


async def test_a_put_that_meets_a_lease_says_so(store: AzureStore, azurite: Azurite, container: str) -> None:
    await store.put("k", b"x")
    headers = (("x-ms-lease-action", "acquire"), ("x-ms-lease-duration", "15"))
    assert azurite.request("PUT", f"/{container}/k", (("comp", "lease"),), headers)[0] == 201
    for call in (store.put("k", b"y"), store.delete("k")):
        with pytest.raises(Busy, match="is leased by somebody else"):
            await call


@pytest.mark.parametrize("key", ["a.", "a./b", "a/..", "../a", ".", "a/./b"])
async def test_a_name_that_azure_would_change_is_not_asked_for(store: AzureStore, key: str) -> None:
    await store.put("a", b"x")  # which Azure, unlike its emulator, would answer with
    for call in (
        store.head(key),
        store.get(key),
        anext(store.stream(key, ByteRange(0, 1), version="1", chunk_bytes=1)),
    ):
        with pytest.raises(NotFound, match="no blob can have that name"):
            await call
    for put in (store.put(key, b"x"), store.put_stream(key, chunks_of(b"x")), store.copy("a", key)):
        with pytest.raises(Invalid):
            await put
    await store.delete(key)
    assert await keys_of(store, "", recursive=True) == ["a"]


class TestFoldersOfHadoop:
    """Empty blobs that stand for folders, as Hadoop, blobfuse and AzCopy make them."""

    @pytest.fixture(autouse=True)
    def folders(self, azurite: Azurite, container: str) -> None:
        for key in ("d", "d/empty", "d/full"):
            azurite.put(container, key, b"", hdi_isfolder="true")
        for key in ("d/full/x", "d/full-", "d/zero"):
            azurite.put(container, key, b"" if key == "d/zero" else b"x")

    async def test_they_show_as_folders_and_once(self, store: AzureStore) -> None:
        assert await keys_of(store, "") == ["d/"]
        assert await keys_of(store, "d/") == ["d/empty/", "d/full-", "d/full/", "d/zero"]
        assert await keys_of(store, "d/full/") == ["d/full/x"]

    async def test_they_show_once_even_if_their_keys_come_pages_later(
        self, store: AzureStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(azure, "PAGE_KEYS", 1)
        pages = await pages_of(store, "d/")
        assert len(pages) > 2
        assert [folder for page in pages for folder in page.folders] == ["d/empty/", "d/full/"]

    async def test_a_recursive_listing_has_them_as_empty_objects_whose_key_ends_in_a_slash(
        self, store: AzureStore
    ) -> None:
        assert await listed(store, recursive=True) == [
            "d/", "d/empty/", "d/full/", "d/full-", "d/full/x", "d/zero",
        ]  # fmt: skip

    async def test_an_empty_one_lists_itself_so_that_it_is_known_to_be_there(self, store: AzureStore) -> None:
        assert await keys_of(store, "d/empty/") == ["d/empty/"]
        assert await keys_of(store, "d/empty/", recursive=True) == ["d/empty/"]
        assert await keys_of(store, "d/zero/") == []

    async def test_they_are_no_objects(self, store: AzureStore) -> None:
        for key in ("d", "d/empty", "d/full"):
            with pytest.raises(NotFound):
                await store.head(key)
            with pytest.raises(NotFound):
                await store.get(key)
        assert (await store.head("d/empty/")).size == 0
        assert (await store.head("d/zero")).size == 0
        assert len(await store.get("d/zero")) == 0

    async def test_an_empty_one_can_be_removed(self, store: AzureStore) -> None:
        await store.delete("d/empty/")
        await store.delete("d/zero/")  # a file is not meant
        assert await keys_of(store, "d/") == ["d/full-", "d/full/", "d/zero"]


class TestWithSas:
    """The whole way with a SAS token: bytes, listings, odd keys, uploads, copies."""

    @pytest.fixture
    async def store(self, azurite: Azurite, container: str) -> AsyncIterator[AzureStore]:
        options = {"azure.endpoint": azurite.endpoint, "azure.sasToken": "?" + azurite.sas("rlcwd")}
        store = AzureStore(container, parse(Place(container), options), deadline_s=20)
        yield store
        await store.close()

    fill = StoreContract.fill
    test_bytes = StoreContract.test_a_range_is_exactly_its_bytes
    test_odd_keys = StoreContract.test_keys_that_no_path_can_say_come_whole
    test_pages = StoreContract.test_a_folder_shows_its_objects_and_each_folder_once
    test_upload = StoreContract.test_a_stream_of_unknown_size_is_stored_whole
    test_copy = StoreContract.test_copy_has_the_same_bytes
    test_stale = StoreContract.test_get_of_an_older_version_is_stale
    odd_keys = ("a//b", "a/b//")
