"""Options of an HDFS mount under their names, and places found in a Hadoop configuration."""

from pathlib import Path

import pytest

from forebay.errors import Invalid
from forebay.stores.hdfs_environment import conf_dir
from forebay.stores.hdfs_options import Namenode, Place, find_place, parse
from forebay.testing.hdfs import write_properties


@pytest.fixture(autouse=True)
def _no_hadoop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_CONF_DIR", "HADOOP_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["hdfs.user", "hadoop.user.name", "HADOOP_USER_NAME", "hdfs_user", "spark.hdfs.user"])
def test_a_user_has_many_names(name: str) -> None:
    assert parse({name: "alice"}).user == "alice"


@pytest.mark.parametrize("name", ["dfs.replication", "spark.hadoop.dfs.replication"])
def test_keys_of_hadoop_are_handed_on(name: str) -> None:
    assert parse({name: "2"}).config == {"dfs.replication": "2"}


def test_a_principal_asks_for_kerberos() -> None:
    options = parse({"hdfs.kerberos.principal": "a@B", "hdfs.kerberos.keytab": "/k", "hdfs.kerberos.cache": "FILE:/c"})
    assert options.is_kerberos
    assert (options.principal, options.keytab, options.ticket_cache) == ("a@B", "/k", "FILE:/c")


@pytest.mark.parametrize("name", ["hdfs.conf.dir", "hadoop.conf.dir", "alluxio.underfs.hdfs.configuration"])
def test_options_win_over_files_and_later_files_over_earlier_ones(name: str, tmp_path: Path) -> None:
    write_properties(tmp_path / "core-site.xml", {"fs.defaultFS": "hdfs://a", "dfs.one": "core", "dfs.two": "core"})
    write_properties(tmp_path / "hdfs-site.xml", {"dfs.one": "hdfs", "dfs.three": "hdfs"})
    config = parse({name: str(tmp_path), "dfs.three": "option"}).config
    assert config == {"fs.defaultFS": "hdfs://a", "dfs.one": "hdfs", "dfs.two": "core", "dfs.three": "option"}


def test_a_file_that_is_no_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "core-site.xml").write_text("<configuration>\n<property>")
    with pytest.raises(Invalid, match=r"core-site.xml is not a Hadoop configuration: line 2"):
        parse({"hdfs.conf.dir": str(tmp_path)})


def test_the_environment_names_the_configuration_as_for_hadoop(tmp_path: Path) -> None:
    (tmp_path / "etc/hadoop").mkdir(parents=True)
    assert conf_dir({}) is None
    assert conf_dir({"HADOOP_CONF_DIR": "/no/such/dir"}) is None
    assert conf_dir({"HADOOP_HOME": str(tmp_path)}) == tmp_path / "etc/hadoop"
    assert conf_dir({"HADOOP_HOME": "/x", "HADOOP_CONF_DIR": str(tmp_path)}) == tmp_path


def test_places() -> None:
    service = {
        "fs.defaultFS": "hdfs://pair/",
        "dfs.ha.namenodes.pair": "a, b",
        "dfs.namenode.rpc-address.pair.a": "h1:9000",
        "dfs.namenode.rpc-address.pair.b": "h2",
    }
    pair = Place("pair", (Namenode("a", "h1", 9000), Namenode("b", "h2", 8020)))
    assert find_place("pair", service) == find_place("", service) == pair
    assert find_place("nn", {}) == Place("nn:8020", (Namenode("", "nn", 8020),))
    assert find_place("pair:1", service) == Place("pair:1", (Namenode("", "pair", 1),))
    with pytest.raises(Invalid, match=r"no dfs.namenode.rpc-address for b"):
        find_place("pair", service | {"dfs.namenode.rpc-address.pair.b": ""})
