"""URLs of stores."""

import subprocess
import sys
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.errors import Invalid
from forebay.stores.gcs import GcsStore
from forebay.stores.local import LocalStore
from forebay.stores.memory import MemoryStore
from forebay.stores.registry import open_store
from forebay.stores.s3 import S3Store

SETTINGS = Settings(home=Path("/nowhere"))
KEYS = {"s3a.accessKeyID": "K", "s3a.secretKey": "S"}


@pytest.mark.parametrize("scheme", ["s3", "s3a", "s3n", "S3"])
async def test_s3_by_all_its_names(scheme: str) -> None:
    store, prefix = open_store(f"{scheme}://bucket/a/b", KEYS, settings=SETTINGS)
    assert isinstance(store, S3Store)
    assert (store.location, prefix) == ("s3://bucket", "a/b/")


@pytest.mark.parametrize(
    ("url", "prefix"), [("s3://b", ""), ("s3://b/", ""), ("s3://b/p/", "p/"), ("s3://b//p", "/p/")]
)
async def test_a_prefix_is_empty_or_ends_in_a_slash(url: str, prefix: str) -> None:
    assert open_store(url, KEYS, settings=SETTINGS).prefix == prefix


async def test_the_location_tells_servers_apart_and_holds_no_secret() -> None:
    store, _ = open_store("s3://b", KEYS | {"s3.endpoint": "http://H:9000/"}, settings=SETTINGS)
    assert store.location == "s3://b@http://h:9000"


@pytest.mark.parametrize("scheme", ["gs", "gcs", "GS"])
async def test_google_cloud_storage_by_all_its_names(scheme: str) -> None:
    store, prefix = open_store(f"{scheme}://my-bucket.example/a/b", {"gs.anonymous": "true"}, settings=SETTINGS)
    assert isinstance(store, GcsStore)
    assert (store.location, prefix) == ("gs://my-bucket.example", "a/b/")


async def test_a_folder(tmp_path: Path) -> None:
    store, prefix = open_store(f"file://{tmp_path}", {}, settings=SETTINGS)
    assert isinstance(store, LocalStore)
    assert (store.location, prefix) == (f"file://{tmp_path}", "")
    await store.close()


async def test_memory() -> None:
    store, prefix = open_store("mem://name/p", {}, settings=SETTINGS)
    assert isinstance(store, MemoryStore)
    assert (store.location, prefix) == ("mem://name", "p/")


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("bucket/prefix", {}, "write s3://bucket/prefix"),
        ("quobyte://volume", {}, "there is no store for 'quobyte' URLs; known are s3://"),
        ("fiel:///x", {}, "did you mean file://?"),
        ("s3://", KEYS, "names no bucket"),
        ("s3:///prefix", KEYS, "names no bucket"),
        ("s3://host:9000/bucket", KEYS, "s3.endpoint"),
        ("s3://K:TOPSECRET@bucket/p", {}, "--option s3a.accessKeyId"),
        ("K:TOPSECRET@bucket", {}, "write s3://bucket/prefix"),
        ("s3://bucket", {"s3.endpont": "x"}, "did you mean s3.endpoint?"),
        ("gs://", {}, "names no bucket"),
        ("gs://host:9000/bucket", {}, "gs.endpoint"),
        ("gs://me:TOPSECRET@bucket/p", {}, "--option gs.keyFile"),
        ("gs://bucket", {"gs.endpont": "x"}, "did you mean gs.endpoint?"),
        ("file://folder", {}, "three slashes"),
        ("file:///tmp", {"s3.region": "x"}, "takes no options"),
        ("mem://", {}, "mem://name"),
        ("mem://x", {"a": "b"}, "takes no options"),
        ("sfpt://host/", {}, "did you mean sftp://?"),
        ("fspec+ftp://host/", {}, "fsspec+ftp://"),
        ("github://org:repo@/", {}, "fsspec+github://"),
        ("fsspec+ftpp://host/", {}, "did you mean fsspec+ftp://?"),
    ],
)
async def test_a_wrong_url_says_how_to_write_it(url: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        open_store(url, options, settings=SETTINGS)
    assert says in str(refused.value)
    assert "TOPSECRET" not in str(refused.value)


def test_the_libraries_of_stores_that_nobody_uses_are_not_loaded() -> None:
    heavy = {"asyncssh", "webdav4", "httpx", "huggingface_hub", "fsspec", "obstore", "botocore"}
    code = f"import sys, forebay.daemon.main, forebay.stores.registry; print({heavy!r} & {{*sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert ran.stdout == b"set()\n"
