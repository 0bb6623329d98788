"""A large object of every store, read in ranges, nothing cached: through Forebay's adapter, and by the library alone.

Real servers on loopback, which share the machine with the client; so the two sides of one store are compared, and no
two stores.  Ranges of 8 MiB, four at a time, as the cache asks for them.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import asyncssh
import hdfs_native
import httpx
import obstore.store
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from common import Figure, Result, World, in_turns, ratio, save, say
from forebay.config.settings import Settings
from forebay.stores.base import Store
from forebay.stores.libcephfs import CephMount
from forebay.stores.registry import open_store
from forebay.testing.azurite import Azurite
from forebay.testing.ceph import Ceph
from forebay.testing.fakegcs import FakeGcs
from forebay.testing.hdfs import Hdfs
from forebay.testing.nginx import Nginx
from forebay.testing.sshd import Sshd
from forebay.testing.webdav import NginxDav
from forebay.types import ByteRange
from forebay.units import MIB

SIZE = 512 * MIB
PART_BYTES = 8 * MIB
IN_FLIGHT = 4
ROUNDS = 5
MUST = 0.85
HTTP: Any = {"client_options": {"allow_http": True}}
Read = Callable[[ByteRange], Awaitable[int]]


class Side(NamedTuple):
    """One store: how Forebay mounts it, and how its library is used alone."""

    url: str  # of the folder that holds `large`
    options: dict[str, str]
    bare: Callable[[], Awaitable[float]]  # bytes per second


async def rate(read: Read) -> float:
    """Read the whole in parts, after one that does not count; bytes per second."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(start: int) -> int:
        async with slots:
            return await read(ByteRange(start, start + PART_BYTES))

    await read(ByteRange(0, PART_BYTES))  # what is made once, such as a client, is made by now
    began = time.perf_counter()
    came = sum(await asyncio.gather(*(one(start) for start in range(0, SIZE, PART_BYTES))))
    assert came == SIZE
    return SIZE / (time.perf_counter() - began)


async def by_forebay(url: str, options: dict[str, str]) -> float:
    """The adapter's streams, as flights use them."""
    opened = open_store(url, options, settings=Settings(home=Path("/nowhere")))
    store: Store = opened.store
    key = opened.prefix + "large"
    meta = await store.head(key)

    async def stream(span: ByteRange) -> int:
        chunks = store.stream(key, span, version=meta.version, chunk_bytes=MIB)
        return sum([len(chunk) async for chunk in chunks])

    try:
        return await rate(stream)
    finally:
        await store.close()


def by_obstore(make: Callable[[], Any], key: str = "large") -> Callable[[], Awaitable[float]]:
    """obstore, with a client of its own."""

    async def bare() -> float:
        store = make()

        async def read(span: ByteRange) -> int:
            return len(await obstore.get_range_async(store, key, start=span.start, end=span.stop))

        return await rate(read)

    return bare


# ---------------------------------------------------------------- the stores


def s3(world: World, local: Path) -> Side:
    """SeaweedFS."""
    world.server.make_bucket("ranges")
    keys: Any = {"access_key_id": world.server.access_key, "secret_access_key": world.server.secret_key}

    def make() -> S3Store:
        return S3Store("ranges", endpoint=world.server.endpoint, region="us-east-1", **keys, **HTTP)

    obstore.put(make(), "large", local)
    options = {"s3a.accessKeyId": world.server.access_key, "s3a.secretKey": world.server.secret_key}
    return Side("s3://ranges", options | {"s3.endpoint": world.server.endpoint}, by_obstore(make))


def ceph(world: World) -> Ceph:
    """One cluster for its two doors."""
    cluster: Ceph = world.enter(Ceph(world.scratch / "ceph", disk_gib=4))
    return cluster


def rgw(cluster: Ceph, local: Path) -> Side:
    """Ceph's object gateway."""
    cluster.make_bucket("ranges")
    keys: Any = {"access_key_id": cluster.access_key, "secret_access_key": cluster.secret_key}

    def make() -> S3Store:
        return S3Store("ranges", endpoint=cluster.endpoint, region="us-east-1", **keys, **HTTP)

    obstore.put(make(), "large", local)
    options = {"s3a.accessKeyId": cluster.access_key, "s3a.secretKey": cluster.secret_key}
    return Side("s3://ranges", options | {"s3.endpoint": cluster.endpoint}, by_obstore(make))


def cephfs(cluster: Ceph, local: Path) -> Side:
    """CephFS; alone: libcephfs, called from threads."""
    cluster.make_folder("/ranges")
    cluster.write_file("/ranges/large", local.read_bytes())

    async def bare() -> float:
        client = CephMount("admin")  # a new one each time: nothing is in its memory
        client.configure({}, str(cluster.config))
        client.mount("/", None)

        def read(span: ByteRange) -> int:
            fd = client.open(b"/ranges/large", os.O_RDONLY)
            try:
                return sum(len(client.read(fd, MIB, at)) for at in range(*span, MIB))
            finally:
                client.close_file(fd)

        try:
            return await rate(lambda span: asyncio.to_thread(read, span))
        finally:
            await asyncio.to_thread(client.close)

    return Side(f"cephfs://{cluster.monitor}/ranges", {"cephfs.secret": cluster.secret()}, bare)


def gcs(world: World, local: Path) -> Side:
    """fake-gcs-server."""
    server: FakeGcs = world.enter(FakeGcs(world.scratch / "fakegcs"))
    server.make_bucket("ranges")
    server.put("ranges", "large", local.read_bytes())

    def make() -> GCSStore:
        return GCSStore("ranges", config={"base_url": server.endpoint, "skip_signature": True}, **HTTP)

    return Side("gs://ranges", {"gs.endpoint": server.endpoint, "gs.anonymous": "true"}, by_obstore(make))


def azure(world: World, local: Path) -> Side:
    """Azurite."""
    server: Azurite = world.enter(Azurite(world.scratch / "azurite"))
    server.make_container("ranges")

    def make() -> AzureStore:
        config: Any = {"account_name": server.account, "account_key": server.key, "endpoint": server.endpoint}
        return AzureStore("ranges", config=config, **HTTP)

    obstore.put(make(), "large", local)
    return Side("az://ranges", server.options, by_obstore(make))


def web(world: World, local: Path) -> Side:
    """nginx."""
    server: Nginx = world.enter(Nginx(world.scratch / "nginx"))
    shutil.copy(local, server.root / "large")
    return Side(f"{server.url}/", {}, by_obstore(lambda: HTTPStore.from_url(server.url, **HTTP)))


def hdfs(world: World, local: Path) -> Side:
    """A NameNode and a DataNode; alone: the stream of hdfs-native, in threads."""
    server: Hdfs = world.enter(Hdfs(world.scratch / "hdfs"))
    client = hdfs_native.Client(server.url)
    client.mkdirs("/ranges", 0o755, True)
    with client.create("/ranges/large", hdfs_native.WriteOptions(block_size=128 * MIB)) as file:
        file.write(local.read_bytes())

    async def bare() -> float:
        def read(span: ByteRange) -> int:
            with hdfs_native.Client(server.url).read("/ranges/large") as file:
                return sum(len(chunk) for chunk in file.read_range_stream(span.start, span.size))

        return await rate(lambda span: asyncio.to_thread(read, span))

    return Side(f"{server.url}/ranges", {}, bare)


def sftp(world: World, local: Path) -> Side:
    """OpenSSH; alone: asyncssh on one connection."""
    server: Sshd = world.enter(Sshd(world.scratch / "sshd"))
    shutil.copy(local, server.root / "large")

    async def bare() -> float:
        keys: Any = {"username": server.user, "client_keys": [str(server.key_file)], "known_hosts": None}
        async with (
            asyncssh.connect("127.0.0.1", server.port, **keys) as connection,
            connection.start_sftp_client() as client,
        ):

            async def read(span: ByteRange) -> int:
                async with client.open(str(server.root / "large"), "rb") as file:
                    return len(await file.read(span.size, span.start))

            return await rate(read)

    return Side(server.url, server.options, bare)


def webdav(world: World, local: Path) -> Side:
    """nginx with WebDAV; alone: httpx in threads."""
    server: NginxDav = world.enter(NginxDav(world.scratch / "dav"))
    shutil.copy(local, server.root / "large")

    async def bare() -> float:
        with httpx.Client() as client:

            def get(span: ByteRange) -> int:
                headers = {"Range": f"bytes={span.start}-{span.stop - 1}"}
                with client.stream("GET", f"http://127.0.0.1:{server.port}/large", headers=headers) as answer:
                    return sum(len(chunk) for chunk in answer.iter_raw(MIB))

            return await rate(lambda span: asyncio.to_thread(get, span))

    return Side(server.url, server.options, bare)


def measure(world: World) -> Result:
    local = world.scratch / "ranges.bin"
    with local.open("wb") as file:
        for _ in range(SIZE // (16 * MIB)):
            file.write(os.urandom(16 * MIB))
    runs: dict[str, list[float]] = {}
    figures = []

    def compare(name: str, side: Side) -> None:
        turns = in_turns(
            ROUNDS,
            {
                f"{name}: bare": lambda: asyncio.run(side.bare()) / 1e6,
                f"{name}: forebay": lambda: asyncio.run(by_forebay(side.url, side.options)) / 1e6,
            },
        )
        runs.update(turns)
        what = f"range reads of {name}, share of the bare library"
        figures.append(Figure(what, MUST, ratio(turns, f"{name}: forebay", f"{name}: bare")))
        say(f"  {figures[-1].what}: {figures[-1].measured:.3g}")

    compare("S3", s3(world, local))
    for name, make in {"Google": gcs, "Azure": azure, "web": web, "HDFS": hdfs, "SFTP": sftp, "WebDAV": webdav}.items():
        compare(name, make(world, local))
    cluster = ceph(world)
    compare("Ceph RGW", rgw(cluster, local))
    compare("CephFS", cephfs(cluster, local))
    return Result(
        name="stores",
        how=f"one object of {SIZE // MIB} MiB on loopback, ranges of 8 MiB, {IN_FLIGHT} at a time; bare: obstore (S3, "
        "Google, Azure, web, RGW), hdfs-native, asyncssh, httpx, libcephfs; "
        f"{ROUNDS} rounds in turns",
        figures=figures,
        runs=runs,
        unit="MB/s",
        parameters={"bytes": SIZE, "part_bytes": PART_BYTES, "in_flight": IN_FLIGHT},
    )


if __name__ == "__main__":
    say("range reads of every store")
    with World() as world:
        save(measure(world))
