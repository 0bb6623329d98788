"""`fs mount` tries the cluster first: what is wrong is said precisely, with what to do, and without secrets."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError, Invalid, NotADirectory, NotFound, Unavailable, Unsupported
from forebay.stores import libcephfs
from forebay.stores.cephfs import CephFsStore
from forebay.stores.cephfs_options import parse
from forebay.testing.ceph import Ceph

OTHER_SECRET = "AQBHPQhmAAAAABAAL8V+8f3Kk4FvkM1nBq0qPw=="  # of no user


async def probe(place: str, deadline_s: float = 10, **options: str) -> None:
    store = CephFsStore(
        parse(place, {f"cephfs.{name}": value for name, value in options.items()}), deadline_s=deadline_s
    )
    try:
        await store.probe("some/prefix/")
    finally:
        await store.close()


async def refused(place: str, deadline_s: float = 10, **options: str) -> FsError:
    with pytest.raises(FsError) as failed:
        await probe(place, deadline_s, **options)
    error = failed.value
    assert f"cephfs://{place}" in error.message
    assert options.get("secret", OTHER_SECRET) not in str(error)
    return error


@pytest.fixture(scope="module")
def secret(ceph: Ceph) -> str:
    return ceph.secret()


@pytest.fixture
def silent() -> Iterator[str]:
    """A place where connections are taken and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def web() -> Iterator[str]:
    """A place where something answers that is not Ceph."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            wire, _ = server.accept()
            with wire:
                wire.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


async def test_each_way_to_say_who_mounts(ceph: Ceph, secret: str, tmp_path: Path) -> None:
    bare, keyring = tmp_path / "secret", tmp_path / "keyring"
    bare.write_text(secret + "\n")
    keyring.write_text(f"[client.admin]\nkey = {secret}\n")
    await probe(f"{ceph.monitor}/", secret=secret)
    await probe(f"{ceph.monitor}/", secretFile=str(bare))
    await probe(f"{ceph.monitor}/", keyring=str(keyring))
    await probe(f"{ceph.monitor}/", secret=secret, fsName=ceph.fs_name)
    await probe("/", conf=str(ceph.config))  # monitors and keyring are its own


async def test_a_monitor_of_the_older_protocol_and_one_that_is_away_among_others(ceph: Ceph, secret: str) -> None:
    await probe(f"{ceph.old_monitor}/", secret=secret)
    await probe(f"127.0.0.1:1,{ceph.monitor}/", secret=secret)


async def test_nobody_listens_there(secret: str) -> None:
    error = await refused("127.0.0.1:1/", secret=secret)
    assert isinstance(error, Unavailable)
    assert "no monitor can be reached: 127.0.0.1:1 (connection refused)" in str(error)


async def test_no_such_host(secret: str) -> None:
    error = await refused("no-such-host.invalid/", secret=secret)
    assert isinstance(error, Unavailable)
    assert "no-such-host.invalid:3300 (no such host)" in str(error)


async def test_something_that_is_not_a_monitor(web: str, secret: str) -> None:
    error = await refused(f"{web}/", secret=secret)
    assert isinstance(error, Unavailable)
    assert "not a monitor of Ceph" in str(error)


async def test_something_that_never_answers(silent: str, secret: str) -> None:
    error = await refused(f"{silent}/", deadline_s=2, secret=secret)
    assert isinstance(error, Unavailable)
    assert f"{silent} (no answer)" in str(error)


@pytest.mark.parametrize("old", [False, True])
async def test_a_wrong_secret(ceph: Ceph, old: bool) -> None:
    error = await refused(f"{ceph.old_monitor if old else ceph.monitor}/", secret=OTHER_SECRET)
    assert isinstance(error, Denied)
    assert "the cluster refuses client.admin" in str(error)
    assert "its key is wrong" in str(error)


async def test_no_such_user(ceph: Ceph, secret: str) -> None:
    error = await refused(f"{ceph.monitor}/", user="nobody", secret=secret)
    assert isinstance(error, Denied)
    assert "client.nobody: there is no such user" in str(error)


@pytest.mark.skipif(Path("/etc/ceph/ceph.client.nobody.keyring").exists(), reason="this machine has a key of nobody")
async def test_no_key_at_all(ceph: Ceph) -> None:
    error = await refused(f"{ceph.monitor}/", user="nobody")
    assert isinstance(error, Denied)
    assert "no key of client.nobody was given, nor found in /etc/ceph/ceph.client.nobody.keyring" in str(error)
    assert "cephfs.secretFile" in str(error)


async def test_no_such_file_system(ceph: Ceph, secret: str) -> None:
    for path in ("/", "/folder"):
        error = await refused(f"{ceph.monitor}{path}", secret=secret, fsName="other")
        assert isinstance(error, NotFound)
        assert "no file system 'other'; `ceph fs ls`" in str(error)


async def test_no_such_folder_and_a_file_in_its_place(ceph: Ceph, secret: str) -> None:
    error = await refused(f"{ceph.monitor}/not/there", secret=secret)
    assert isinstance(error, NotFound)
    assert "no such folder: /not/there" in str(error)
    ceph.write_file("/file", b"x")
    error = await refused(f"{ceph.monitor}/file", secret=secret)
    assert isinstance(error, NotADirectory)
    assert "is a file, not a folder" in str(error)


async def test_a_user_of_one_folder_mounts_that_folder_and_no_other(ceph: Ceph) -> None:
    ceph.make_folder("/mine")
    ceph.make_folder("/yours")
    grants = {"mon": "allow r", "mds": "allow rw path=/mine", "osd": "allow rw tag cephfs data=*"}
    mine = ceph.add_user("restricted", **grants)
    await probe(f"{ceph.monitor}/mine", user="restricted", secret=mine)
    error = await refused(f"{ceph.monitor}/yours", user="restricted", secret=mine)
    assert isinstance(error, Denied)
    assert "it may not mount /yours" in str(error)


async def test_a_user_without_any_right_to_the_file_system(ceph: Ceph) -> None:
    secret = ceph.add_user("rightless", mon="allow r")
    error = await refused(f"{ceph.monitor}/", user="rightless", secret=secret)
    assert isinstance(error, Denied)


async def test_files_that_are_named_and_not_there(ceph: Ceph, secret: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"cephfs.secretFile .*/none does not exist"):
        await probe(f"{ceph.monitor}/", secretFile=str(tmp_path / "none"))
    with pytest.raises(NotFound, match=r"cephfs.keyring .*/none does not exist"):
        await probe(f"{ceph.monitor}/", keyring=str(tmp_path / "none"))
    with pytest.raises(NotFound, match=r"check cephfs.conf"):
        await probe(f"{ceph.monitor}/", secret=secret, conf=str(tmp_path / "none"))
    keyring = tmp_path / "keyring"
    keyring.write_text("[client.admin]\n")
    with pytest.raises(Invalid, match=r"give it as cephfs.keyring"):
        await probe(f"{ceph.monitor}/", secretFile=str(keyring))


@pytest.mark.skipif(Path("/etc/ceph/ceph.conf").exists(), reason="this machine has a cluster of its own")
async def test_no_monitors_and_no_configuration() -> None:
    error = await refused("/folder")
    assert isinstance(error, NotFound)
    assert "write cephfs://MONITOR:PORT/path" in str(error)


async def test_without_the_library_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    libcephfs._library.cache_clear()
    monkeypatch.setattr(libcephfs, "SONAME", "libcephfs-of-nobody.so.2")
    with pytest.raises(Unsupported, match="apt-get install libcephfs2"):
        await probe("127.0.0.1:1/")
    libcephfs._library.cache_clear()
