"""Stores by way of fsspec: its local file system, which moves files into place, and its memory, which does not."""

import itertools
import threading
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from contract.trees import FillBehind, opened
from forebay.errors import (
    Denied,
    FsError,
    Invalid,
    NotFound,
    ReadOnly,
    StaleVersion,
    TimedOut,
    Unavailable,
    Unsupported,
)
from forebay.stores.base import FolderStore, Store
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.store_contract import StoreContract, keys_of

_numbers = itertools.count()


class FsspecContract(StoreContract, FolderStoreContract, FreshnessContract):
    odd_keys = ()
    names_of_files_and_folders_meet = False
    empty_folders_go = False
    tells_modes = False
    tells_times_of_folders = False


class TestLocal(FillBehind, FsspecContract):
    tells_times_of_folders = True

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    async def store(self, folder: Path) -> AsyncIterator[FolderStore]:
        store = opened(f"fsspec+file://{folder}", {})
        yield store
        await store.close()

    async def leftovers(self, store: Store) -> list[str]:
        return [str(file) for file in self.served.rglob(".forebay*")]


class TestMemory(FsspecContract):
    @pytest.fixture
    async def store(self) -> AsyncIterator[FolderStore]:
        name = f"contract-{next(_numbers)}"
        MemoryFileSystem.pseudo_dirs.append(f"/{name}")
        store = opened(f"fsspec+memory://{name}", {})
        yield store
        await store.close()


class HangingFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    protocol = "hanging"
    released = threading.Event()

    def info(self, path: str, **kwargs: Any) -> Any:
        self.released.wait()
        return super().info(path, **kwargs)


async def test_a_file_system_that_hangs_is_an_error_within_the_deadline() -> None:
    fsspec.register_implementation("hanging", HangingFileSystem, clobber=True)
    store = opened("fsspec+hanging://x", {}, deadline_s=0.2)
    with pytest.raises(TimedOut, match=r"no answer within 0\.2 s"):
        await store.head("a")
    HangingFileSystem.released.set()
    await store.close()


async def test_a_change_while_a_file_is_read_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(f"fsspec+file://{tmp_path}", {})
    meta = await store.put("a", b"one")
    read = LocalFileSystem.open

    def change_and_read(self: Any, path: str, *words: Any, **named: Any) -> Any:
        (tmp_path / "a").write_bytes(b"another")
        return read(self, path, *words, **named)

    monkeypatch.setattr(LocalFileSystem, "open", change_and_read)
    with pytest.raises(StaleVersion):
        await store.get("a", version=meta.version)
    await store.close()


class ListedFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Remembers what it was made with."""

    protocol = "listed"
    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, port: int = 1, check: bool = False, extra: Any = None, **named: Any) -> None:
        self.made.append({"port": port, "check": check, "extra": extra} | named)
        super().__init__()


async def test_options_are_passed_on_as_the_file_system_takes_them_and_its_caches_are_off() -> None:
    fsspec.register_implementation("listed", ListedFileSystem, clobber=True)
    options = {"port": "22", "check": "true", "extra": '{"a": [1]}', "password": "0123"}
    for _ in range(2):
        store = opened("fsspec+listed://x", options)
        await store.put("a", b"")
        await store.close()
    expected = {"port": 22, "check": True, "extra": {"a": [1]}, "password": "0123", "use_listings_cache": False}
    assert [made.items() >= expected.items() for made in ListedFileSystem.made] == [True, True], ListedFileSystem.made


async def test_a_location_tells_places_apart_and_not_credentials() -> None:
    fsspec.register_implementation("listed", ListedFileSystem, clobber=True)
    places = [{"host": "a", "password": "one"}, {"host": "a", "password": "two"}, {"host": "b", "password": "one"}]
    one, other, elsewhere = [opened("fsspec+listed://x", place).location for place in places]
    assert one == other != elsewhere


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("fsspec+nothing://x", "no protocol 'nothing'"),
        ("fsspec+memry://x", "did you mean fsspec+memory://?"),
        ("fsspec+oss://bucket", "pip install ossfs"),
        ("fsspec+simplecache://x", "Forebay has a cache of its own"),
        ("fsspec+zip://a::s3://b", "no chain"),
        ("fsspec+https://host/a?signature=TOPSECRET", "a query"),
        ("fsspec+ftp://user:TOPSECRET@host/", "--option username="),
    ],
)
async def test_a_wrong_url_says_what_to_do(url: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        opened(url, {})
    assert says in str(refused.value)
    assert "TOPSECRET" not in str(refused.value)


class DemandingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    protocol = "demanding"

    def __init__(self, *, host: str) -> None:
        super().__init__()


async def test_options_that_do_not_fit_are_told_by_name_and_not_by_value() -> None:
    fsspec.register_implementation("demanding", DemandingFileSystem, clobber=True)
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "none given"),
        ({"host": "a", "colour": "TOPSECRET"}, "host, colour"),
    ]
    for options, told in cases:
        store = opened("fsspec+demanding://x", options)
        with pytest.raises(Invalid, match=f"cannot open it with these options: {told};") as refused:
            await store.probe("")
        assert "TOPSECRET" not in str(refused.value)
        await store.close()


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    protocol = "failing"
    error: Exception

    def info(self, path: str, **kwargs: Any) -> Any:
        raise self.error


class HttpLikeError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("GET https://user:TOPSECRET@host")
        self.status = status


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpLikeError(401), Denied),
        (HttpLikeError(403), Denied),
        (HttpLikeError(404), NotFound),
        (HttpLikeError(502), Unavailable),
        (PermissionError("TOPSECRET"), Denied),
        (ConnectionResetError("TOPSECRET"), Unavailable),
        (NotImplementedError("TOPSECRET"), Unsupported),
        (KeyError("TOPSECRET"), FsError),
    ],
)
async def test_whatever_a_file_system_raises_is_of_a_known_kind_and_tells_no_secret(
    error: Exception, kind: type[FsError]
) -> None:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    FailingFileSystem.error = error
    store = opened("fsspec+failing://x", {})
    with pytest.raises(FsError) as failed:
        await store.probe("")
    assert type(failed.value) is kind
    assert "fsspec+failing://x" in str(failed.value)
    assert "TOPSECRET" not in repr(failed.value)
    await store.close()


async def test_a_file_system_that_only_reads_refuses_writes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/file", b"bytes")
    store = opened("fsspec+zip://", {"fo": str(tmp_path / "a.zip")})
    assert not store.capabilities.writable
    assert await keys_of(store, "", recursive=True) == ["folder/file"]
    assert bytes(memoryview(await store.get("folder/file"))) == b"bytes"
    with pytest.raises(ReadOnly, match="only reads there"):
        await store.put("new", b"x")
    with pytest.raises(ReadOnly):
        await store.delete("folder/file")
    await store.close()
