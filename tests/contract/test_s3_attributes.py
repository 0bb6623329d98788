"""Modes, owners and times that other tools keep with S3 objects are read, and those that we keep are read by them."""

import itertools
import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from forebay.errors import Invalid, StaleVersion, Unsupported
from forebay.stores.http_calls import Request
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.store_contract import pattern
from forebay.testing.webdav import rclone_program
from forebay.types import Attributes
from forebay.units import MIB

TIME_NS = 1_234_567_890_123_456_789
RCLONE_WITHIN_S = 30

_numbers = itertools.count()


@pytest.fixture
def bucket(seaweed: SeaweedS3) -> str:
    name = f"attributed-{next(_numbers)}"
    seaweed.make_bucket(name)
    return name


def options_for(server: SeaweedS3) -> dict[str, str]:
    return {"access_key": server.access_key, "secret_key": server.secret_key, "endpoint": server.endpoint}


@pytest.fixture
async def store(seaweed: SeaweedS3, bucket: str) -> AsyncIterator[S3Store]:
    options = options_for(seaweed) | {"s3.attributes": "true", "s3.conditionalPut": "true"}
    store = S3Store(bucket, parse(options), deadline_s=20)
    yield store
    await store.close()


async def headers_of(store: S3Store, key: str) -> Mapping[str, str]:
    return (await store._http.calls.call(Request("HEAD", key))).headers


async def put_raw(store: S3Store, key: str, **headers: str) -> None:
    """Make an object as another tool does."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    await store._http.calls.call(Request("PUT", key, headers=named, body=b"bytes"))


def rclone(server: SeaweedS3, *args: str) -> str:
    remote = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ACCESS_KEY_ID": server.access_key,
        "SECRET_ACCESS_KEY": server.secret_key,
        "ENDPOINT": server.endpoint,
        "FORCE_PATH_STYLE": "true",
    }
    done = subprocess.run(
        [rclone_program(), "--config", "/dev/null", *args],
        env=os.environ | {f"RCLONE_CONFIG_IT_{name}": value for name, value in remote.items()},
        capture_output=True,
        timeout=RCLONE_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def test_what_rclone_keeps_of_a_file_is_read(
    seaweed: SeaweedS3, store: S3Store, bucket: str, tmp_path: Path
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"bytes")
    file.chmod(0o640)
    os.utime(file, ns=(0, TIME_NS))
    rclone(seaweed, "copyto", str(file), f"it:{bucket}/plain")
    rclone(seaweed, "copyto", "--metadata", str(file), f"it:{bucket}/whole")
    plain, whole = await store.head("plain"), await store.head("whole")
    assert (plain.mtime_ns, plain.posix) == (TIME_NS, None)
    assert whole.mtime_ns == TIME_NS
    assert whole.posix is not None
    assert (whole.posix.mode, whole.posix.uid, whole.posix.gid) == (0o640, os.getuid(), os.getgid())


async def test_the_time_that_we_keep_is_read_by_rclone(seaweed: SeaweedS3, store: S3Store, bucket: str) -> None:
    await store.put("k", b"bytes", attributes=Attributes(mtime_ns=TIME_NS))
    [told] = json.loads(rclone(seaweed, "lsjson", f"it:{bucket}"))
    assert told["ModTime"] == "2009-02-13T23:31:30.123456789Z"


async def test_the_headers_are_those_of_s3fs(store: S3Store) -> None:
    """As s3fs 1.90 wrote and read them when it was tried."""
    link = Attributes(stat.S_IFLNK | 0o777, 12, 34, TIME_NS)
    await store.put("k", b"../some/where", attributes=link)
    told = {name.lower(): value for name, value in (await headers_of(store, "k")).items()}
    assert {name: told[f"x-amz-meta-{name}"] for name in ("mode", "uid", "gid", "mtime")} == {
        "mode": "41471",
        "uid": "12",
        "gid": "34",
        "mtime": "1234567890.123456789",
    }
    await put_raw(store, "s3fs", x_amz_meta_mode="33184", x_amz_meta_uid="1000", x_amz_meta_mtime="1500000000")
    meta = await store.head("s3fs")
    assert meta.mtime_ns == 1_500_000_000_000_000_000
    assert meta.posix is not None
    assert (meta.posix.mode, meta.posix.uid, meta.posix.gid) == (0o640, 1_000, os.getegid())


@pytest.mark.parametrize("mode", ["rw-r--r--", "-1", "99999999999", "\u0663", ""])
async def test_metadata_that_means_nothing_is_no_attribute(store: S3Store, mode: str) -> None:
    await put_raw(
        store, "k", x_amz_meta_mode=mode.encode().decode("latin-1"), x_amz_meta_uid="me", x_amz_meta_mtime="x"
    )
    meta = await store.head("k")
    assert meta.posix is None
    assert meta.mtime_ns > TIME_NS  # the store's own


async def test_other_metadata_of_an_object_stays_when_its_attributes_change(store: S3Store) -> None:
    await put_raw(store, "k", content_type="text/x-special", cache_control="no-cache", x_amz_meta_colour="red & blue")
    before = await store.head("k")
    await store.set_attributes("k", Attributes(mode=0o600))
    told = await headers_of(store, "k")
    assert [told[name] for name in ("Content-Type", "Cache-Control", "x-amz-meta-colour", "x-amz-meta-mode")] == [
        *("text/x-special", "no-cache", "red & blue"),
        str(stat.S_IFREG | 0o600),
    ]
    after = await store.head("k")
    assert after.version == before.version
    assert bytes(memoryview(await store.get("k", version=after.version))) == b"bytes"


async def test_attributes_go_with_a_copy(store: S3Store) -> None:
    await store.put("k", b"bytes", attributes=Attributes(0o600, 12, 34, TIME_NS))
    copy = await store.copy("k", "copy")
    assert copy.mtime_ns == TIME_NS
    assert copy.posix == (await store.head("k")).posix


async def test_an_object_that_was_uploaded_in_parts_has_another_version_afterwards(store: S3Store) -> None:
    upload = await store.upload("k", attributes=Attributes(mtime_ns=TIME_NS))
    await upload.send(1, pattern(6 * MIB))
    await upload.send(2, b"end")
    await upload.complete()
    await store.set_attributes("k", Attributes(mode=0o600))
    after = await store.head("k")
    assert after.mtime_ns == TIME_NS
    assert bytes(memoryview(await store.get("k", version=after.version))) == pattern(6 * MIB) + b"end"


async def test_an_object_that_changes_meanwhile_is_not_put_back(
    store: S3Store, seaweed: SeaweedS3, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("k", b"old")
    send_if = store._http.send_if

    async def late(*args: object, **more: object) -> object:
        assert seaweed.request("PUT", f"/{bucket}/k", b"another's")[0] == 200
        return await send_if(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(store._http, "send_if", late)
    with pytest.raises(StaleVersion):
        await store.set_attributes("k", Attributes(mode=0o600))
    assert seaweed.request("GET", f"/{bucket}/k")[1] == b"another's"


async def test_without_the_option_attributes_are_neither_kept_nor_read(seaweed: SeaweedS3, bucket: str) -> None:
    store = S3Store(bucket, parse(options_for(seaweed)), deadline_s=20)
    assert not store.capabilities.attributes
    await store.put("k", b"bytes", attributes=Attributes(0o600, 12, 34, TIME_NS))
    assert "x-amz-meta-mode" not in await headers_of(store, "k")
    await put_raw(store, "k", x_amz_meta_mode="33184")
    assert (await store.head("k")).posix is None
    with pytest.raises(Unsupported, match=r"s3\.attributes=true"):
        await store.set_attributes("k", Attributes(mode=0o600))
    await store.close()


@pytest.mark.parametrize("name", ["s3.attributes", "fs.s3a.keep-attributes", "s3.posix"])
def test_the_option_has_other_names(name: str) -> None:
    assert parse({name: "true"}).attributes
    assert not parse({name: "false"}).attributes
    with pytest.raises(Invalid, match="true or false"):
        parse({name: "rwx"})
