"""The Hugging Face Hub, by its real client, against a stand-in of its API."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from contract.trees import opened
from forebay.errors import Denied, FsError, Invalid, NotFound, ReadOnly, StaleVersion, Unavailable
from forebay.stores.base import FolderStore, Store
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.hub import HubServer, Repository
from forebay.testing.store_contract import ReadingContract, keys_of, pattern
from forebay.types import Buffer, ByteRange, ObjectMeta

_numbers = itertools.count()


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(page_entries=700) as hub:
        yield hub


@pytest.fixture
def name(hub: HubServer) -> str:
    name = f"datasets/org/contract-{next(_numbers)}"
    hub.repositories[name] = Repository({".gitattributes": b""})
    return name


@pytest.fixture
def repository(hub: HubServer, name: str) -> Repository:
    return hub.repositories[name]


@pytest.fixture
async def store(hub: HubServer, name: str, repository: Repository) -> AsyncIterator[FolderStore]:
    repository.files.clear()
    store = opened(f"hf://{name}", hub.options)
    yield store
    await store.close()


class TestHubStore(ReadingContract, FolderStoreContract, FreshnessContract):
    odd_keys = ()
    names_of_files_and_folders_meet = False
    tells_modes = False
    tells_times_of_folders = False

    @pytest.fixture(autouse=True)
    def where(self, repository: Repository) -> None:
        self.repository = repository

    async def drop(self, store: Store, key: str) -> None:
        del self.repository.files[key]

    async def fill(self, store: Store, key: str, data: Buffer) -> ObjectMeta:
        self.repository.put(key, bytes(memoryview(data)))
        if len(self.repository.files) > 100:
            return ObjectMeta(key, len(data), 0, "")
        return await store.head(key)


async def refused(url: str, options: dict[str, str]) -> FsError:
    store = opened(url, options)
    try:
        with pytest.raises(FsError) as failed:
            await store.probe("")
        return failed.value
    finally:
        await store.close()


async def test_a_large_file_comes_from_where_the_hub_sends_it_and_the_token_does_not_go_there(
    hub: HubServer, store: FolderStore, repository: Repository
) -> None:
    repository.put("train/0.parquet", pattern(100_000))
    meta = await store.head("train/0.parquet")
    hub.requests.clear()
    got = await store.get("train/0.parquet", ByteRange(5, 50_000), version=meta.version)
    assert bytes(memoryview(got)) == pattern(100_000)[5:50_000]
    assert [request.split("/")[1] for request in hub.requests] == ["datasets", "cdn"], "no look before or after"


async def test_a_branch_that_moves_is_stale_for_small_and_large_files(
    store: FolderStore, repository: Repository
) -> None:
    for size in (100, 10_000):
        repository.put("k", pattern(size))
        meta = await store.head("k")
        repository.put("k", bytes(size))
        with pytest.raises(StaleVersion):
            await store.get("k", ByteRange(0, 10), version=meta.version)


async def test_a_file_that_stays_the_same_is_the_same_version_in_the_next_commit(
    store: FolderStore, repository: Repository
) -> None:
    repository.put("k", b"same")
    before = await store.head("k")
    repository.put("other", b"new")
    assert await store.head("k") == before


async def test_a_commit_is_a_revision(hub: HubServer, name: str, repository: Repository) -> None:
    repository.put("folder/a", b"x")
    store = opened(f"hf://{name}@{repository.commit}/folder", hub.options)
    assert await keys_of(store, "") == ["a"]
    assert bytes(memoryview(await store.get("a"))) == b"x"
    await store.close()


@pytest.mark.parametrize(
    ("url", "repo"),
    [
        ("hf://org/a-model", "models/org/a-model"),
        ("hf://models/org/a-model", "models/org/a-model"),
        ("hf://spaces/org/a-space", "spaces/org/a-space"),
    ],
)
async def test_models_and_spaces(hub: HubServer, url: str, repo: str) -> None:
    hub.repositories[repo] = Repository({"config.json": b"{}"})
    store = opened(url, hub.options)
    assert await keys_of(store, "") == ["config.json"]
    assert bytes(memoryview(await store.get("config.json"))) == b"{}"
    assert store.location == f"hf://{repo}@main@{hub.endpoint}"
    await store.close()


async def test_what_is_missing_is_told(hub: HubServer, name: str) -> None:
    error = await refused("hf://datasets/org/nothing", hub.options)
    assert isinstance(error, NotFound)
    assert "no such repository" in str(error)
    error = await refused(f"hf://{name}@v9", hub.options)
    assert isinstance(error, NotFound)
    assert "no such revision" in str(error)
    error = await refused(f"hf://{name}/no/such/folder", hub.options)
    assert isinstance(error, NotFound)


async def test_private_and_gated_repositories_and_wrong_tokens_are_told(hub: HubServer, name: str) -> None:
    open_to_all = {"hf.endpoint": hub.endpoint, "hf.anonymous": "true"}
    hub.repositories[name].private = True
    error = await refused(f"hf://{name}", open_to_all)
    assert isinstance(error, NotFound)
    assert "If it is private: --option hf.token" in str(error)
    error = await refused(f"hf://{name}", {"hf.endpoint": hub.endpoint, "hf.token": "hf_TOPSECRET"})
    assert isinstance(error, Denied)
    assert "the token is wrong" in str(error)
    assert "TOPSECRET" not in repr(error)
    hub.repositories["datasets/org/gated"] = Repository({"a": b"x"}, gated=True)
    store = opened("hf://datasets/org/gated", open_to_all)
    with pytest.raises(Denied, match="the repository is gated"):
        await store.get("a")
    await store.close()


async def test_the_token_of_the_environment_is_used(hub: HubServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[name].private = True
    monkeypatch.setenv("HF_TOKEN", hub.token)
    store = opened(f"hf://{name}", {"hf.endpoint": hub.endpoint})
    await store.probe("")
    await store.close()


async def test_nothing_is_written(store: FolderStore) -> None:
    assert not store.capabilities.writable
    with pytest.raises(ReadOnly, match="only reads there"):
        await store.put("k", b"x")
    with pytest.raises(ReadOnly):
        await store.delete("k")


async def test_a_failure_that_passes_is_not_seen(hub: HubServer, store: FolderStore, repository: Repository) -> None:
    repository.put("k", b"bytes")
    hub.fails = 1
    assert (await store.head("k")).size == 5
    hub.fails = 1
    assert bytes(memoryview(await store.get("k"))) == b"bytes"


async def test_a_hub_that_is_away_is_told() -> None:
    error = await refused("hf://datasets/org/name", {"hf.endpoint": "http://127.0.0.1:1", "hf.anonymous": "true"})
    assert isinstance(error, Unavailable)
    assert "http://127.0.0.1:1 cannot be reached" in str(error)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("hf://", {}, "hf://datasets/ORG/NAME"),
        ("hf://datasets", {}, "hf://datasets/ORG/NAME"),
        ("hf://buckets/org/name", {}, "no buckets"),
        ("hf://user:TOPSECRET@datasets/org/name", {}, "hf://datasets/ORG/NAME"),
        ("hf://org/name", {"hf.token": "TOPSECRET", "hf.anonymous": "true"}, "exclude each other"),
        ("hf://org/name", {"hf.endpoint": "https://u:TOPSECRET@hub"}, "without a user"),
        ("hf://org/name", {"hf.tokn": "x"}, "did you mean hf.token?"),
    ],
)
async def test_a_wrong_url_says_how_to_write_it(url: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as wrong:
        opened(url, options)
    assert says in str(wrong.value)
    assert "TOPSECRET" not in str(wrong.value)


async def test_a_repository_that_has_gone_is_a_store_that_is_away_not_an_empty_one(
    hub: HubServer, name: str, store: FolderStore, repository: Repository
) -> None:
    repository.put("k", b"x")
    hub.requests.clear()
    with pytest.raises(NotFound):
        await store.head("nothing")
    assert len(hub.requests) == 1, "an absence costs one request"
    del hub.repositories[name]
    for key in ("k", "nothing"):
        with pytest.raises(Unavailable, match="no such repository"):
            await store.head(key)
