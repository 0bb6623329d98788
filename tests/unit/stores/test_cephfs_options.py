"""URLs and options of a CephFS mount: every usual name, and clear words about the wrong ones."""

from pathlib import Path

import pytest

from forebay.errors import Invalid
from forebay.stores.cephfs_options import CephFsOptions, parse

SECRET = "AQBHPQhmAAAAABAAL8V+8f3Kk4FvkM1nBq0qPw=="


@pytest.mark.parametrize(
    ("rest", "monitors", "path"),
    [
        ("mon1/data", ("mon1",), "/data"),
        ("mon1:6789,Mon2:3300/a/b/", ("mon1:6789", "mon2:3300"), "/a/b"),
        ("10.0.0.1;10.0.0.2/", ("10.0.0.1", "10.0.0.2"), "/"),
        ("[fd00::1]:3300/x", ("[fd00::1]:3300",), "/x"),
        ("mon1", ("mon1",), "/"),
        ("/data", (), "/data"),
        ("///data//x/", (), "/data/x"),
        ("/a/../../b", (), "/b"),
    ],
)
def test_a_url_names_monitors_and_a_path(rest: str, monitors: tuple[str, ...], path: str) -> None:
    options = parse(rest, {})
    assert (options.monitors, options.path) == (monitors, path)


@pytest.mark.parametrize("name", ["cephfs.user", "name", "id", "CEPHFS_USER", "alluxio.underfs.cephfs.auth.id"])
def test_the_user_has_many_names(name: str) -> None:
    assert parse("m/", {name: "bob"}).user == parse("m/", {name: "client.bob"}).user == "bob"


@pytest.mark.parametrize("name", ["cephfs.secret", "secret", "key", "alluxio.underfs.cephfs.auth.key"])
def test_the_secret_has_many_names_and_is_not_shown(name: str) -> None:
    options = parse("m/", {name: SECRET})
    assert options.secret == SECRET
    assert SECRET not in repr(options)
    assert SECRET not in options.location


def test_everything_else_has_many_names_too() -> None:
    for name in ("cephfs.secretFile", "secretfile", "keyfile", "alluxio.underfs.cephfs.auth.keyfile"):
        assert parse("m/", {name: "/etc/ceph/s"}).secret_file == Path("/etc/ceph/s")
    for name in ("cephfs.keyring", "keyring", "alluxio.underfs.cephfs.auth.keyring"):
        assert parse("m/", {name: "/etc/ceph/k"}).keyring == Path("/etc/ceph/k")
    for name in ("cephfs.fsName", "cephfs.fs-name", "fs", "mds_namespace", "alluxio.underfs.cephfs.mds.namespace"):
        assert parse("m/", {name: "second"}).fs_name == "second"
    for name in ("cephfs.conf", "conf", "alluxio.underfs.cephfs.conf.file"):
        assert parse("m/", {name: "/etc/ceph/c.conf"}).conf == Path("/etc/ceph/c.conf")
    for name in ("cephfs.monitors", "mon_host", "alluxio.underfs.cephfs.mon.host"):
        assert parse("/data", {name: "m1:6789,m2"}).monitors == ("m1:6789", "m2")
    assert parse("/data", {"mon_addr": "10.0.0.1:6789/10.0.0.2"}).monitors == ("10.0.0.1:6789", "10.0.0.2")
    assert parse("/", {}) == CephFsOptions(path="/")


def test_the_location_tells_places_apart_and_the_order_of_monitors_does_not() -> None:
    assert parse("b,a/x", {}).location == parse("a,b/x/", {"cephfs.user": "bob"}).location == "cephfs://a,b/x"
    assert parse("/x", {"cephfs.fsName": "second"}).location == "cephfs:///x@second"
    assert parse("/x", {"cephfs.conf": "/c"}).location == "cephfs:///x@/c"


@pytest.mark.parametrize(
    ("rest", "options", "says"),
    [
        ("", {}, "write cephfs://MONITOR"),
        ("admin:TOPSECRET@mon/x", {}, "--option cephfs.user"),
        ("mon:x/", {}, "is not the address of a monitor"),
        ("mon:70000/", {}, "is not the address of a monitor"),
        ("a b/", {}, "is not the address of a monitor"),
        ("m/", {"cephfs.usr": "x"}, "did you mean cephfs.user?"),
        ("m/", {"cephfs.colour": "x"}, "known: cephfs.user"),
        ("m/", {"cephfs.secret": SECRET, "cephfs.keyring": "/k"}, "exclude each other"),
        ("m/", {"cephfs.secret": "TOPSECRET"}, "ceph auth print-key"),
        ("m/", {"cephfs.secretFile": "TOPSECRET"}, "must be an absolute path"),
        ("m/", {"name": "a", "cephfs.user": "b"}, "given twice"),
        ("m/", {"mon_host": "n"}, "leave one of them out"),
    ],
)
def test_what_is_wrong_is_said(rest: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(rest, options)
    assert says in str(refused.value)
    assert "TOPSECRET" not in str(refused.value)
