"""`fs mount` of HDFS tries it first: what is wrong is said precisely, with what to do; and name services are found."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.errors import FsError, Invalid, NotADirectory, NotFound, TimedOut, Unavailable
from forebay.stores.base import Store
from forebay.stores.registry import open_store
from forebay.testing.hdfs import Hdfs, write_properties
from forebay.testing.store_contract import keys_of

DEADLINE_S = 3
SERVICE = "warehouse"
Configure = Callable[..., str]


@pytest.fixture(autouse=True)
def _no_hadoop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_CONF_DIR", "HADOOP_HOME", "HADOOP_USER_NAME"):
        monkeypatch.delenv(name, raising=False)


@contextlib.asynccontextmanager
async def opened(url: str, **options: str) -> AsyncIterator[Store]:
    store, _ = open_store(url, options, settings=Settings(home=Path("/"), store_deadline_s=DEADLINE_S))
    try:
        yield store
    finally:
        await store.close()


async def refused(url: str, **options: str) -> FsError:
    with pytest.raises(FsError) as failed:
        async with opened(url, **options) as store:
            await store.probe("")
    return failed.value


# ---------------------------------------------------------------------- what may be wrong


async def test_a_folder_that_can_be_read_is_fine(hdfs: Hdfs) -> None:
    hdfs.web("PUT", "/probed", "MKDIRS")
    for path in ("/probed", "/probed/", "//probed", "", "/"):
        async with opened(hdfs.url + path) as store:
            await store.probe("")


async def test_no_such_folder(hdfs: Hdfs) -> None:
    error = await refused(f"{hdfs.url}/no/such/folder")
    assert isinstance(error, NotFound)
    assert f"{hdfs.url}/no/such/folder does not exist" in error.message


async def test_a_file_is_no_folder(hdfs: Hdfs) -> None:
    async with opened(hdfs.url) as store:
        await store.put("probed-file", b"x")
    error = await refused(f"{hdfs.url}/probed-file")
    assert isinstance(error, NotADirectory)
    assert "is a file, not a folder" in error.message


async def test_nobody_listens_there() -> None:
    error = await refused("hdfs://127.0.0.1:1/data")
    assert isinstance(error, Unavailable)
    assert "hdfs://127.0.0.1:1/data: cannot be reached: connection refused by 127.0.0.1:1; check the port" in str(error)


async def test_the_usual_port_is_8020() -> None:
    assert "connection refused by localhost:8020" in str(await refused("hdfs://localhost/data"))


async def test_no_such_host() -> None:
    error = await refused("hdfs://no-such-host.invalid:8020/")
    assert isinstance(error, Unavailable)
    assert "no such host: no-such-host.invalid" in str(error)


async def test_the_port_of_the_web_pages_is_not_that_of_the_namenode(hdfs: Hdfs) -> None:
    error = await refused(f"hdfs://127.0.0.1:{hdfs.web_port}/")
    assert isinstance(error, Unavailable)
    assert f"ended by 127.0.0.1:{hdfs.web_port}; is that the RPC port of a NameNode" in str(error)


async def test_a_server_that_never_answers_is_given_up_within_the_deadline(silent: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        error = await refused(f"hdfs://127.0.0.1:{silent}/")
    assert isinstance(error, TimedOut)
    assert "HDFS did not answer within" in error.message


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("hdfs://alice@host/x", {}, "hdfs.user"),
        ("hdfs://host:0/x", {}, "write hdfs://host:port/path"),
        ("hdfs://a b/x", {}, "write hdfs://host:port/path"),
        ("hdfs://host/a/../b", {}, "names no folder"),
        ("hdfs:///x", {}, "hdfs.conf.dir"),
        ("hdfs://host/x", {"hdfs.colour": "red"}, "no option 'hdfs.colour'"),
        ("hdfs://host/x", {"hadoop.security.key.provider.path": "x"}, "hadoop.*, dfs.* and fs.*"),
        ("hdfs://host/x", {"hdfs.user": "a", "HADOOP_USER_NAME": "b"}, "twice"),
        ("hdfs://host/x", {"hdfs.conf.dir": "/no/such/dir"}, "/no/such/dir does not exist"),
        ("hdfs://host/x", {"hdfs.conf.dir": "etc"}, "absolute"),
        ("hdfs://host/x", {"hdfs.kerberos.keytab": "/etc/krb5.keytab"}, "hdfs.kerberos.principal"),
        ("hdfs://host/x", {"hdfs.kerberos.principal": "a@B", "hdfs.user": "a"}, "without Kerberos"),
    ],
)
async def test_urls_and_options_that_mean_nothing_say_what_to_write(
    url: str, options: dict[str, str], said: str
) -> None:
    error = await refused(url, **options)
    assert isinstance(error, Invalid)
    assert said in error.message


# ---------------------------------------------------------------------- name services


@pytest.fixture
def configure(tmp_path: Path, hdfs: Hdfs) -> Configure:
    """Write a configuration folder of a name service whose NameNodes answer at these ports."""

    def write(*ports: int) -> str:
        names = [f"nn{number}" for number, _ in enumerate(ports)]
        folder = tmp_path / "conf"
        folder.mkdir(exist_ok=True)
        write_properties(folder / "core-site.xml", {"fs.defaultFS": f"hdfs://{SERVICE}"})
        addresses = {
            f"dfs.namenode.rpc-address.{SERVICE}.{name}": f"127.0.0.1:{port}"
            for name, port in zip(names, ports, strict=True)
        }
        members = {"dfs.nameservices": SERVICE, f"dfs.ha.namenodes.{SERVICE}": ",".join(names)}
        write_properties(folder / "hdfs-site.xml", members | addresses)
        return str(folder)

    return write


@pytest.fixture
async def service_folder(hdfs: Hdfs) -> str:
    """A folder with the object `k`."""
    async with opened(hdfs.url) as store:
        await store.put("service/k", b"bytes")
    return "/service"


async def check_reads(url: str, **options: str) -> None:
    async with opened(url, **options) as store:
        assert store.location == f"hdfs://{SERVICE}/service"
        assert await keys_of(store, "") == ["k"]
        assert bytes(memoryview(await store.get("k"))) == b"bytes"
        await store.put("again", b"x")
        await store.delete("again")


async def test_a_name_service_is_found_in_the_configuration_however_it_is_named(
    hdfs: Hdfs, configure: Configure, service_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = configure(hdfs.port, 1)
    files = f"{folder}/core-site.xml:{folder}/hdfs-site.xml"
    for url in (f"hdfs://{SERVICE}/service", "hdfs:///service"):
        await check_reads(url, **{"hdfs.conf.dir": folder})
        await check_reads(url, **{"alluxio.underfs.hdfs.configuration": files})
        monkeypatch.setenv("HADOOP_CONF_DIR", folder)
        await check_reads(url)
        monkeypatch.delenv("HADOOP_CONF_DIR")


async def test_its_members_may_be_given_as_options(hdfs: Hdfs, service_folder: str) -> None:
    address = {f"dfs.namenode.rpc-address.{SERVICE}.a": f"127.0.0.1:{hdfs.port}"}
    await check_reads(f"hdfs://{SERVICE}/service", **{f"dfs.ha.namenodes.{SERVICE}": "a"}, **address)


async def test_a_namenode_that_is_away_does_not_matter(hdfs: Hdfs, configure: Configure, service_folder: str) -> None:
    for ports in ((1, hdfs.port), (hdfs.port, 1)):
        await check_reads(f"hdfs://{SERVICE}/service", **{"hdfs.conf.dir": configure(*ports)})


async def test_a_namenode_that_hangs_costs_one_deadline_and_then_the_other_is_asked(
    hdfs: Hdfs, configure: Configure, service_folder: str, silent: int
) -> None:
    async with opened(f"hdfs://{SERVICE}/service", **{"hdfs.conf.dir": configure(silent, hdfs.port)}) as store:
        with pytest.raises(TimedOut):
            await store.head("k")
        assert bytes(memoryview(await store.get("k"))) == b"bytes"


async def test_all_namenodes_away_are_named_with_what_is_wrong(configure: Configure) -> None:
    error = await refused(
        f"hdfs://{SERVICE}/", **{"hdfs.conf.dir": configure(1, 2), "dfs.client.failover.max.attempts": "1"}
    )
    assert isinstance(error, Unavailable)
    assert "connection refused by 127.0.0.1:1" in error.message
    assert "connection refused by 127.0.0.1:2" in error.message


@pytest.fixture(scope="module")
def standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    with Hdfs(tmp_path_factory.mktemp("standby"), standby=True) as server:
        yield server


async def test_a_standby_is_passed_over_in_a_name_service(
    hdfs: Hdfs, standby: Hdfs, configure: Configure, service_folder: str
) -> None:
    await check_reads(f"hdfs://{SERVICE}/service", **{"hdfs.conf.dir": configure(standby.port, hdfs.port)})


async def test_a_standby_alone_says_what_it_is_and_what_to_mount(standby: Hdfs) -> None:
    error = await refused(f"{standby.url}/")
    assert isinstance(error, Unavailable)
    assert "is a standby" in error.message
    assert "hdfs.conf.dir" in error.message
