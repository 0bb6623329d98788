"""Web servers, against real ones: nginx with both of its indexes, Apache, and Python's, which knows no ranges."""

import gzip
import itertools
import os
import shutil
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from forebay.errors import NotFound, ReadOnly
from forebay.stores.base import Store
from forebay.stores.web import WebStore
from forebay.stores.web_options import WebOptions
from forebay.testing.apache import Apache
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.nginx import Nginx
from forebay.testing.python_http import PythonHttp
from forebay.testing.store_contract import NAMES, ReadingContract, keys_of, pages_of
from forebay.types import Buffer, ByteRange, ObjectMeta
from forebay.units import MIB

Server = Nginx | Apache | PythonHttp

_seconds = itertools.count(1_600_000_000)


def write(root: Path, key: str, data: Buffer) -> None:
    """Make a file of its own second: the versions of a web server do not tell more apart."""
    path = os.path.join(os.fsencode(root), os.fsencode(key))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(memoryview(data))
    second = next(_seconds)
    os.utime(path, (second, second))


class WebContract(ReadingContract, FolderStoreContract, FreshnessContract):
    tells_changes_within_a_second = False
    odd_keys = ()
    names_of_files_and_folders_meet = False
    tells_modes = False
    tells_times_of_folders = False

    @pytest.fixture
    def server(self) -> Server:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def root(self, server: Server) -> Iterator[Path]:
        self.served = server.root
        yield server.root
        for path in server.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @pytest.fixture
    async def store(self, server: Server) -> AsyncIterator[Store]:
        store = WebStore(server.url, WebOptions(), deadline_s=20)
        yield store
        await store.close()

    async def drop(self, store: Store, key: str) -> None:
        path = self.served / key
        path.unlink()
        while path.parent != self.served and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()

    async def fill(self, store: Store, key: str, data: Buffer) -> ObjectMeta:
        write(self.served, key, data)
        return await store.head(key)

    async def test_probe_of_a_store_that_answers_is_silent(self, store: Store) -> None:
        await store.probe("")
        write(self.served, "folder/file", b"x")
        await store.probe("folder/")
        with pytest.raises(NotFound, match="there is no such folder; check the URL"):
            await store.probe("no/such/prefix/")

    async def test_an_empty_folder_is_an_empty_object_whose_key_ends_in_a_slash(self, store: Store) -> None:
        (self.served / "a/b").mkdir(parents=True)
        assert await keys_of(store, "a/") == ["a/b/"]
        assert await keys_of(store, "a/b/") == ["a/b/"]
        assert await keys_of(store, "a/", recursive=True) == ["a/b/"]
        assert (await store.head("a/b/")).size == 0
        assert len(await store.get("a/b/")) == 0
        with pytest.raises(NotFound):
            await store.head("a/b")

    async def test_nothing_can_be_written(self, store: Store) -> None:
        assert not store.capabilities.writable
        for call in (store.put("k", b"x"), store.delete("k"), store.copy("a", "b")):
            with pytest.raises(ReadOnly, match="web servers are read-only"):
                await call


class OfFewFiles(WebContract):
    """Pages are the adapter's own, and shown with nginx: thousands of files would only take their time."""

    test_a_large_listing_comes_in_pages = None  # type: ignore[assignment]
    test_many_folders_come_in_pages = None  # type: ignore[assignment]


class TestNginxWithHtml(WebContract):
    @pytest.fixture
    def server(self, nginx: Nginx) -> Nginx:
        return nginx

    async def test_any_name_that_a_file_can_have_is_a_key(self, store: Store) -> None:
        for key in NAMES:
            meta = await self.fill(store, "odd/" + key, key.encode())
            assert bytes(memoryview(await store.get("odd/" + key))) == key.encode()
            assert bytes(memoryview(await store.get("odd/" + key, version=meta.version))) == key.encode()
        listed = [key for key in NAMES if not key.startswith(".")]  # nginx shows no others, by name only
        assert sorted(await keys_of(store, "odd/")) == sorted("odd/" + key for key in listed)


class TestNginxWithJson(OfFewFiles, TestNginxWithHtml):
    @pytest.fixture
    def server(self, nginx_json: Nginx) -> Nginx:
        return nginx_json

    async def test_a_folder_of_many_files_costs_one_more_request_a_page(self, server: Nginx, store: Store) -> None:
        for number in range(1_500):
            write(server.root, f"many/{number:04}", b"x" * (number % 7))
        before = len(server.requests())
        [first, second] = await pages_of(store, "many/")
        assert len(server.requests()) - before == 3
        for listed in (first.objects[0], first.objects[999], second.objects[0], second.objects[499]):
            assert listed == await store.head(listed.key)


class TestApache(OfFewFiles):
    @pytest.fixture
    def server(self, apache: Apache) -> Apache:
        return apache

    async def test_a_compressed_file_is_its_bytes_though_the_server_calls_them_an_encoding(self, store: Store) -> None:
        data = gzip.compress(b"what is in it")
        meta = await self.fill(store, "data.gz", data)
        assert meta.size == len(data)
        for version in (None, meta.version):
            assert bytes(memoryview(await store.get("data.gz", version=version))) == data


class TestPythonHttpServer(OfFewFiles):
    @pytest.fixture
    def server(self, python_http: PythonHttp) -> PythonHttp:
        return python_http

    async def test_names_that_are_not_utf_8_are_kept(self, store: Store) -> None:
        """This server spells them wrong in its index, and in its URLs."""
        write(self.served, "f/\udcff\udcfe", b"bytes")
        [key] = await keys_of(store, "f/")
        assert bytes(memoryview(await store.get(key))) == b"bytes"
        with pytest.raises(NotFound):
            await store.head("f/\udcff\udcfe")

    async def test_the_end_of_a_large_file_is_found_in_bounded_memory(self, store: Store) -> None:
        with (self.served / "sparse").open("wb") as file:
            file.truncate(200 * MIB)
            file.seek(150 * MIB)
            file.write(b"here")
        meta = await store.head("sparse")
        tracemalloc.start()
        try:
            got = await store.get("sparse", ByteRange(150 * MIB - 1, 150 * MIB + 5), version=meta.version)
            assert bytes(memoryview(got)) == b"\0here\0"
            chunks = store.stream("sparse", ByteRange(150 * MIB, 160 * MIB), version=meta.version, chunk_bytes=MIB)
            sizes = [len(chunk) async for chunk in chunks]
            assert sum(sizes) == 10 * MIB
            assert max(sizes) <= MIB
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
        finally:
            tracemalloc.stop()
