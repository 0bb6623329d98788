"""WebDAV against nginx and rclone."""

import itertools
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from contract.trees import FillBehind, opened
from forebay.errors import Corrupt, Denied, FsError, Invalid, NotFound, StaleVersion, TimedOut, Unavailable
from forebay.stores.base import FolderStore, Store
from forebay.stores.webdav import WebdavTree
from forebay.testing.fault_server import fault_server
from forebay.testing.faults import Fault, OtherBody, Refuse, Rule, Script
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.store_contract import NAMES, StoreContract, pattern
from forebay.testing.webdav import NginxDav, Rclone
from forebay.types import ByteRange
from forebay.units import MIB

_numbers = itertools.count()


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxDav]:
    with NginxDav(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    with Rclone(tmp_path_factory.mktemp("rclone")) as server:
        yield server


class WebdavContract(FillBehind, StoreContract, FolderStoreContract, FreshnessContract):
    tells_changes_within_a_second = False
    odd_keys = ()
    names_of_files_and_folders_meet = False
    empty_folders_go = False  # nothing in WebDAV removes a folder only if it is empty
    tells_modes = False

    @pytest.fixture
    def folder(self, server: NginxDav | Rclone) -> Path:
        folder = server.root / f"contract {next(_numbers)}"
        folder.mkdir()
        return folder

    @pytest.fixture
    async def store(self, server: NginxDav | Rclone, folder: Path) -> AsyncIterator[FolderStore]:
        store = opened(f"{server.url}/{folder.name}/", server.options)
        yield store
        await store.close()

    async def leftovers(self, store: Store) -> list[str]:
        return [str(file) for file in self.served.rglob(".forebay*")]


class TestNginx(WebdavContract):
    names = tuple(name for name in NAMES if not name.startswith(".."))  # its listings leave those out

    @pytest.fixture
    def server(self, nginx: NginxDav) -> NginxDav:
        return nginx


class TestRclone(WebdavContract):
    names = tuple(name for name in NAMES if name.isprintable())  # it does not find the others again

    @pytest.fixture
    def server(self, rclone: Rclone) -> Rclone:
        return rclone


async def refused(url: str, options: Mapping[str, str]) -> FsError:
    store = opened(url, options)
    try:
        with pytest.raises(FsError) as failed:
            await store.probe("")
        return failed.value
    finally:
        await store.close()


async def test_a_login_that_is_refused_says_what_to_check(rclone: Rclone, tmp_path: Path) -> None:
    for options in ({}, rclone.options | {"webdav.password": "TOPSECRET"}, {"webdav.token": "TOPSECRET"}):
        error = await refused(rclone.url, options)
        assert isinstance(error, Denied)
        assert "webdav.user" in str(error)
        assert "TOPSECRET" not in repr(error)


async def test_without_options_the_login_is_that_of_netrc(
    rclone: Rclone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {rclone.user} password {rclone.password}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    store = opened(rclone.url, {})
    await store.probe("")
    await store.close()


@pytest.mark.parametrize("fault", [Refuse(405), OtherBody(b"<html>It works!</html>"), Refuse(301)])
async def test_what_does_not_speak_webdav_is_told(fault: Fault) -> None:
    async with fault_server() as server:
        server.script = Script(Rule(fault))
        error = await refused(server.endpoint.replace("http", "webdav"), {})
    assert isinstance(error, Invalid)
    assert "does not speak WebDAV" in str(error)


async def test_a_place_that_is_not_there_is_told(nginx: NginxDav) -> None:
    error = await refused(f"webdav://127.0.0.1:{nginx.port}/no/such/folder", {})
    assert isinstance(error, NotFound)
    error = await refused(f"webdavs://127.0.0.1:{nginx.port}", {})
    assert isinstance(error, Unavailable)
    assert "TLS" in str(error)
    error = await refused("webdav://no-such-host.invalid/", {})
    assert isinstance(error, Unavailable)
    assert "no such host" in str(error)


async def test_a_range_names_its_version_in_one_request(nginx: NginxDav) -> None:
    (nginx.root / "k").write_bytes(pattern(MIB))
    store = opened(nginx.url, {})
    meta = await store.head("k")
    os.utime(nginx.root / "k", ns=(0, meta.mtime_ns + 1_000_000_000))
    for span in (ByteRange(0, 10), None):
        with pytest.raises(StaleVersion):
            await store.get("k", span, version=meta.version)
    meta = await store.head("k")
    assert bytes(memoryview(await store.get("k", ByteRange(5, 15), version=meta.version))) == pattern(MIB)[5:15]
    await store.close()


async def test_a_server_that_hangs_stops_or_comes_back(tmp_path: Path) -> None:
    with NginxDav(tmp_path) as server:
        (server.root / "a").write_bytes(b"bytes")
        store = opened(server.url, {}, deadline_s=2)
        await store.head("a")
        server.pause()
        with pytest.raises(TimedOut):
            await store.head("a")
        server.resume()
        await store.head("a")
        server.stop()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.head("a")
        server.start()
        assert bytes(memoryview(await store.get("a"))) == b"bytes"
        await store.close()


async def test_an_upload_that_a_server_keeps_a_part_of_fails_and_leaves_what_was(
    rclone: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some servers do with uploads of unknown length."""
    store = opened(f"{rclone.url}/", rclone.options)
    await store.put("whole", b"before")
    write = WebdavTree.write
    monkeypatch.setattr(WebdavTree, "write", lambda self, key, chunks: write(self, key, chunks) + 1)
    with pytest.raises(Corrupt, match="the server kept 5 of 6 bytes"):
        await store.put("whole", b"after")
    assert bytes(memoryview(await store.get("whole"))) == b"before"
    await store.delete("whole")
    await store.close()


async def test_a_folder_is_removed_only_if_it_is_empty(nginx: NginxDav) -> None:
    store = opened(nginx.url, {})
    await store.put("full/a", b"x")
    await store.delete("full/")
    assert (nginx.root / "full" / "a").read_bytes() == b"x"
    await store.delete("full/a")
    await store.delete("full/")
    assert not (nginx.root / "full").exists()
    await store.close()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("webdav://", {}, "write webdav://host:port/folder"),
        ("webdav://user:TOPSECRET@host/", {}, "--option webdav.user="),
        ("webdav://host:port/", {}, "write webdav://host:port/folder"),
        ("webdav://host/", {"webdav.user": "u", "webdav.token": "TOPSECRET"}, "exclude each other"),
        ("webdav://host/", {"webdav.password": "TOPSECRET"}, "without its user"),
        ("davs://host/", {"webdav.tls.caFile": "ca.pem"}, "absolute path"),
        ("davs://host/", {"webdav.tls.caFile": "/no/such/file"}, "/no/such/file cannot be used"),
        ("dav://host/", {"webdav.usr": "x"}, "did you mean webdav.user?"),
    ],
)
async def test_a_wrong_url_says_how_to_write_it(url: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as wrong:
        opened(url, options)
    assert says in str(wrong.value)
    assert "TOPSECRET" not in str(wrong.value)


async def test_all_names_of_a_place_are_one_location() -> None:
    assert opened("dav://Host/a b/", {}).location == opened("webdav://host/a b", {"webdav.user": "u"}).location
    assert opened("davs://host", {}).location == "webdavs://host"
