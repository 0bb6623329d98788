"""`fs mount` tries the store first: what is wrong is said precisely, with what to do, and without secrets."""

import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError, Invalid, NotFound, TimedOut, Unavailable
from forebay.stores.s3 import S3Store
from forebay.stores.s3_options import parse
from forebay.testing.certificates import make_certificate
from forebay.testing.fault_server import FaultServer, fault_server
from forebay.testing.faults import Fault, OtherBody, Refuse, Rule, Script, Stall
from forebay.testing.seaweed import SeaweedS3
from forebay.testing.store_contract import keys_of

SECRET = "notTheSecretOfThisServer"


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with fault_server() as server:
        server.objects = {"k": b"bytes"}
        yield server


async def probe(bucket: str, **options: str) -> None:
    store = S3Store(bucket, parse(options), deadline_s=2)
    try:
        await store.probe("some/prefix/")
    finally:
        await store.close()


async def refused(bucket: str, **options: str) -> FsError:
    with pytest.raises(FsError) as failed:
        await probe(bucket, **options)
    error = failed.value
    assert f"s3://{bucket}" in error.message
    assert options.get("secret_key", SECRET) not in str(error)
    return error


def keys(server: SeaweedS3, **other: str) -> dict[str, str]:
    return {"access_key": server.access_key, "secret_key": server.secret_key, "endpoint": server.endpoint} | other


async def test_a_bucket_that_can_be_read_is_fine(seaweed: SeaweedS3) -> None:
    seaweed.make_bucket("probed")
    await probe("probed", **keys(seaweed))


async def test_no_such_bucket(seaweed: SeaweedS3) -> None:
    error = await refused("not-there", **keys(seaweed))
    assert isinstance(error, NotFound)
    assert "no such bucket" in str(error)


async def test_wrong_key_id(seaweed: SeaweedS3) -> None:
    seaweed.make_bucket("probed")
    error = await refused("probed", **keys(seaweed, access_key="nobody"))
    assert isinstance(error, Denied)
    assert "does not know this key id" in str(error)


async def test_wrong_secret(seaweed: SeaweedS3) -> None:
    seaweed.make_bucket("probed")
    error = await refused("probed", **keys(seaweed, secret_key=SECRET))
    assert isinstance(error, Denied)
    assert "secret does not fit" in str(error)


async def test_keys_without_the_right_to_this_bucket(seaweed: SeaweedS3) -> None:
    seaweed.make_bucket("probed")
    error = await refused("probed", **keys(seaweed, access_key="reader", secret_key="readerreader"))
    assert isinstance(error, Denied)
    assert "may not do this" in str(error)


async def test_anonymous_access_works_where_it_is_allowed_and_is_denied_elsewhere(seaweed: SeaweedS3) -> None:
    seaweed.make_bucket("public")
    seaweed.make_bucket("probed")
    seaweed.request("PUT", "/public/k", b"for all")
    store = S3Store("public", parse({"s3.anonymous": "true", "endpoint": seaweed.endpoint}), deadline_s=5)
    assert bytes(memoryview(await store.get("k"))) == b"for all"
    assert await keys_of(store, "") == ["k"]
    await store.close()
    assert isinstance(await refused("probed", anonymous="true", endpoint=seaweed.endpoint), Denied)


async def test_nobody_listens_there() -> None:
    error = await refused("b", access_key="K", secret_key=SECRET, endpoint="http://127.0.0.1:1")
    assert isinstance(error, Unavailable)
    assert "cannot be reached: 127.0.0.1:1" in str(error)


async def test_no_such_host() -> None:
    error = await refused("b", access_key="K", secret_key=SECRET, endpoint="http://no-such-host.invalid:9000")
    assert isinstance(error, Unavailable)
    assert "no such host: no-such-host.invalid" in str(error)


async def test_a_server_that_never_answers(server: FaultServer) -> None:
    server.script = Script(Rule(Stall()))
    error = await refused("bucket", access_key="K", secret_key=SECRET, endpoint=server.endpoint)
    assert isinstance(error, TimedOut)


async def test_something_that_is_not_s3(server: FaultServer) -> None:
    server.script = Script(Rule(OtherBody(b"<html><body>It works!</body></html>")))
    error = await refused("bucket", access_key="K", secret_key=SECRET, endpoint=server.endpoint)
    assert isinstance(error, Invalid)
    assert "not S3" in str(error)


REGION = (("x-amz-bucket-region", "eu-central-1"),)
MALFORMED = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"
WRONG_REGION = [
    Refuse(301, code="PermanentRedirect", headers=REGION),
    Refuse(400, body=MALFORMED),
    Refuse(400, code="AuthorizationHeaderMalformed", headers=REGION),
]


@pytest.mark.parametrize("fault", WRONG_REGION)
async def test_wrong_region_names_the_right_one(server: FaultServer, fault: Fault) -> None:
    server.script = Script(Rule(fault))
    error = await refused("bucket", access_key="K", secret_key=SECRET, endpoint=server.endpoint, region="us-west-2")
    assert isinstance(error, Invalid)
    assert "s3.region=eu-central-1" in str(error)


@pytest.mark.parametrize("fault", WRONG_REGION)
async def test_without_a_region_the_bucket_s_own_is_taken(server: FaultServer, fault: Fault) -> None:
    store = S3Store(
        "bucket", parse({"access_key": "K", "secret_key": SECRET, "endpoint": server.endpoint}), deadline_s=5
    )
    server.faults.append(fault)
    await store.probe("")
    assert "eu-central-1" in repr(server.seen[-1])
    await store.close()


async def test_a_read_finds_the_bucket_s_region_too(server: FaultServer) -> None:
    store = S3Store(
        "bucket", parse({"access_key": "K", "secret_key": SECRET, "endpoint": server.endpoint}), deadline_s=5
    )
    moved = Refuse(301, headers=REGION)
    server.faults.extend([moved, moved])  # the read, and the question where the bucket is
    assert bytes(memoryview(await store.get("k"))) == b"bytes"
    assert "eu-central-1" in repr(server.seen[-1])
    await store.close()


async def test_tls_at_a_server_without_it(server: FaultServer) -> None:
    endpoint = server.endpoint.replace("http:", "https:")
    error = await refused("bucket", access_key="K", secret_key=SECRET, endpoint=endpoint)
    assert isinstance(error, Unavailable)
    assert "TLS" in str(error)
    assert "http://" in str(error)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
async def test_a_certificate_that_is_not_trusted_and_the_options_that_mend_it(tmp_path: Path) -> None:
    authority, certificate, private = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    async with fault_server(tls=context) as server:
        server.objects = {"k": b"bytes"}
        options = {"access_key": "K", "secret_key": SECRET, "endpoint": server.endpoint}
        error = await refused("bucket", **options)
        assert isinstance(error, Unavailable)
        assert "is not trusted" in str(error)
        assert "s3.tls.caFile" in str(error)
        store = S3Store("bucket", parse(options), deadline_s=5)
        with pytest.raises(Unavailable, match="not trusted"):
            await store.get("k")  # by obstore
        await store.close()
        for more in ({"s3.tls.caFile": str(authority)}, {"s3.tls.verify": "false"}):
            store = S3Store("bucket", parse(options | more), deadline_s=5)
            await store.probe("")
            assert bytes(memoryview(await store.get("k"))) == b"bytes"
            await store.close()
        error = await refused("bucket", **options, cafile=str(tmp_path / "missing.pem"))
        assert isinstance(error, Invalid)
        assert "missing.pem" in str(error)


async def test_the_usual_aws_chain_is_used_when_no_keys_are_given(
    seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seaweed.make_bucket("probed")
    no_aws(monkeypatch, tmp_path)
    error = await refused("probed", endpoint=seaweed.endpoint)
    assert isinstance(error, Denied)
    assert "no credentials were given" in str(error)
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id = {seaweed.access_key}\naws_secret_access_key = {seaweed.secret_key}\n"
    )
    await probe("probed", endpoint=seaweed.endpoint, profile="work")
    error = await refused("probed", endpoint=seaweed.endpoint, profile="play")
    assert isinstance(error, Invalid)
    assert "'play'" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
    await probe("probed", endpoint=seaweed.endpoint)


async def test_the_environment_does_not_mix_into_a_mount_s_own_keys(
    seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seaweed.make_bucket("probed")
    seaweed.request("PUT", "/probed/k", b"bytes")
    no_aws(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "someone-else-s")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    store = S3Store("probed", parse(keys(seaweed)), deadline_s=5)
    await store.probe("")
    assert bytes(memoryview(await store.get("k"))) == b"bytes"
    await store.close()


def no_aws(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing in the environment that names credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
