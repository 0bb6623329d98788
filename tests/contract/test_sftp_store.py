"""SFTP against OpenSSH's own server."""

import asyncio
import itertools
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from contract.trees import DEADLINE_S, FillBehind, opened
from forebay.errors import (
    Denied,
    FsError,
    Invalid,
    IsADirectory,
    NotADirectory,
    NotFound,
    StaleVersion,
    TimedOut,
    Unavailable,
)
from forebay.stores.base import FolderStore, RenamingStore, Store
from forebay.testing.daemons import wait_until
from forebay.testing.folder_store_contract import FolderStoreContract
from forebay.testing.freshness_contract import FreshnessContract
from forebay.testing.renaming_contract import RenamingContract
from forebay.testing.sshd import Sshd
from forebay.testing.store_contract import StoreContract, keys_of, pattern
from forebay.testing.webdav import Rclone
from forebay.types import ByteRange, Posix
from forebay.units import MIB

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def folder(server: Sshd) -> Path:
    folder = server.root / f"contract-{next(_numbers)}"
    folder.mkdir()
    return folder


@pytest.fixture
async def store(server: Sshd, folder: Path) -> AsyncIterator[FolderStore]:
    store = opened(f"{server.url}/{folder.name}", server.options)
    yield store
    await store.close()


class TestSftpStore(FillBehind, StoreContract, FolderStoreContract, RenamingContract, FreshnessContract):
    tells_changes_within_a_second = False
    odd_keys = ()
    names_of_files_and_folders_meet = False
    empty_folders_go = False

    async def leftovers(self, store: Store) -> list[str]:
        return [str(file) for file in self.served.rglob(".forebay*")]


async def refused(url: str, options: Mapping[str, str], *, deadline_s: float = DEADLINE_S) -> FsError:
    store = opened(url, options, deadline_s=deadline_s)
    try:
        with pytest.raises(FsError) as failed:
            await store.probe("")
        return failed.value
    finally:
        await store.close()


async def test_an_unknown_host_key_is_refused_with_the_way_to_accept_it(server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text("")
    options = server.options | {"sftp.knownHosts": str(tmp_path / "known_hosts")}
    error = await refused(server.url, options)
    assert isinstance(error, Denied)
    assert f"ssh-keyscan -p {server.port} 127.0.0.1 >> {tmp_path}/known_hosts" in str(error)
    for more in ({"sftp.hostKeyCheck": "false"}, {"sftp.knownHosts": str(server.known_hosts)}):
        store = opened(server.url, options | more)
        await store.probe("")
        await store.close()


async def test_a_host_key_that_has_changed_is_refused(server: Sshd, tmp_path: Path) -> None:
    key = Path(f"{server.key_file}.pub").read_text().split()[1]  # any other key
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{server.port} ssh-ed25519 {key}\n")
    error = await refused(server.url, server.options | {"sftp.knownHosts": str(tmp_path / "known_hosts")})
    assert isinstance(error, Denied)
    assert "not the one that is there" in str(error)


async def test_a_login_that_is_refused_says_what_to_check(server: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True, timeout=30)
    error = await refused(server.url, server.options | {"sftp.keyFile": str(tmp_path / "other")})
    assert isinstance(error, Denied)
    assert "sftp.keyFile" in str(error)
    error = await refused(server.url, server.options | {"sftp.keyFile": str(tmp_path / "missing")})
    assert isinstance(error, Invalid)
    (tmp_path / "broken").write_text("no key")
    error = await refused(server.url, server.options | {"sftp.keyFile": str(tmp_path / "broken")})
    assert isinstance(error, Invalid)


async def test_a_password_logs_in_and_shows_nowhere(tmp_path: Path) -> None:
    with Rclone(tmp_path, "sftp") as rclone:
        (rclone.root / "a").write_bytes(b"bytes")
        options = rclone.options | {"sftp.hostKeyCheck": "false"}
        store = opened(rclone.url + "/", options)
        assert await keys_of(store, "") == ["a"]
        assert bytes(memoryview(await store.get("a"))) == b"bytes"
        await store.close()
        error = await refused(rclone.url + "/", options | {"sftp.password": "TOPSECRET"})
        assert isinstance(error, Denied)
        assert "TOPSECRET" not in repr(error)


async def test_links_that_lead_out_are_refused_and_not_listed(store: FolderStore, folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"outside")
    (folder / "file").symlink_to(outside / "secret")
    (folder / "folder").symlink_to(outside)
    (folder / "real").write_bytes(b"inside")
    (folder / "link").symlink_to("real")
    assert await keys_of(store, "") == ["link", "real"]
    assert bytes(memoryview(await store.get("link"))) == b"inside"
    for key in ("file", "folder/secret"):
        with pytest.raises(NotFound):
            await store.head(key)
        with pytest.raises(NotFound):
            await store.get(key)
    with pytest.raises(NotFound):
        await store.put("folder/new", b"x")
    keeper = cast("RenamingStore", store)
    for source, target in (("real", "folder/new"), ("folder/secret", "new")):
        with pytest.raises(NotFound):
            await keeper.rename(source, target)
    assert [file.name for file in outside.iterdir()] == ["secret"]


async def test_a_file_that_grows_while_it_is_read_is_stale(store: FolderStore, folder: Path) -> None:
    (folder / "k").write_bytes(pattern(8 * MIB))
    meta = await store.head("k")
    chunks = store.stream("k", ByteRange(0, 8 * MIB), version=meta.version, chunk_bytes=MIB)
    assert bytes(memoryview(await anext(chunks))) == pattern(MIB)
    with (folder / "k").open("ab") as file:
        file.write(b"more")
    with pytest.raises(StaleVersion):
        [chunk async for chunk in chunks]


async def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(store: FolderStore, folder: Path) -> None:
    (folder / "k").write_bytes(pattern(4 * MIB))
    meta = await store.head("k")
    chunks = store.stream("k", ByteRange(0, 4 * MIB), version=meta.version, chunk_bytes=MIB)
    first = bytes(memoryview(await anext(chunks)))
    (folder / "new").write_bytes(b"another")
    (folder / "new").rename(folder / "k")
    assert first + b"".join([bytes(memoryview(chunk)) async for chunk in chunks]) == pattern(4 * MIB)
    with pytest.raises(StaleVersion):
        await store.get("k", version=meta.version)


async def test_an_upload_that_is_given_up_leaves_nothing(store: FolderStore, folder: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"begun"
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    putting = asyncio.ensure_future(store.put_stream("k", chunks()))
    await begun.wait()
    assert [path.name[:14] for path in folder.iterdir()] == [".forebay-part-"]
    assert await keys_of(store, "", recursive=True) == []
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await asyncio.to_thread(wait_until, lambda: not any(folder.iterdir()), "what was begun is removed")


async def test_a_file_cannot_stand_where_a_folder_is_and_the_other_way_round(store: FolderStore) -> None:
    await store.put("a/b", b"x")
    with pytest.raises(IsADirectory):
        await store.put("a", b"x")
    with pytest.raises(NotADirectory):
        await store.put("a/b/c", b"x")
    assert await keys_of(store, "", recursive=True) == ["a/b"]


async def test_modes_are_the_server_s_and_its_owners_are_told_as_text(store: FolderStore, folder: Path) -> None:
    (folder / "k").write_bytes(b"x")
    (folder / "k").chmod(0o640)
    found = (folder / "k").stat()
    us = (os.geteuid(), os.getegid())  # else the kernel would refuse what the server allows
    assert (await store.head("k")).posix == Posix(0o640, *us, str(found.st_uid), str(found.st_gid))


async def test_a_server_that_hangs_stops_or_comes_back(tmp_path: Path) -> None:
    with Sshd(tmp_path) as server:
        (server.root / "a").write_bytes(b"bytes")
        store = opened(server.url, server.options, deadline_s=2)
        await store.head("a")
        server.pause()
        with pytest.raises(TimedOut):
            await store.head("a")
        server.resume()
        await store.head("a")
        server.stop()
        with pytest.raises(Unavailable, match="refuses connections"):
            await store.head("a")
        server.start()
        assert bytes(memoryview(await store.get("a"))) == b"bytes"
        await store.close()


async def test_a_folder_that_has_gone_is_a_store_that_is_away_not_an_empty_one(
    store: FolderStore, folder: Path
) -> None:
    await store.put("a", b"x")
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(Unavailable, match="has gone"):
        await store.head("a")
    with pytest.raises(Unavailable):
        await anext(store.list(""))


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("sftp://", {}, "names no server"),
        ("sftp://user:TOPSECRET@host/", {}, "--option sftp.password="),
        ("sftp://host:port/", {}, "sftp://user@host:port/folder"),
        ("sftp://one@host/", {"sftp.user": "two"}, "different users"),
        ("sftp://host/", {"sftp.keyFile": "id"}, "absolute path"),
        ("sftp://host/", {"sftp.paswd": "x"}, "did you mean sftp.password?"),
        ("sftp://host/", {"sftp.hostKeyCheck": "perhaps"}, "true or false"),
    ],
)
async def test_a_wrong_url_says_how_to_write_it(url: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as wrong:
        opened(url, options)
    assert says in str(wrong.value)
    assert "TOPSECRET" not in str(wrong.value)


async def test_the_location_has_the_user_and_the_port_only_where_they_matter() -> None:
    assert opened("ssh://me@Host:22/data/", {"sftp.password": "x"}).location == "sftp://me@host/data"
    assert opened("sftp://host:2222", {}).location == "sftp://host:2222/"
    assert "TOPSECRET" not in repr(opened("sftp://host/a", {"sftp.password": "TOPSECRET"}))
