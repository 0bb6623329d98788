"""`fs mount` tries the bucket first: what is wrong is said precisely, with what to do, and without secrets.

What needs words that the emulator does not say is in tests/fault/test_gcs_faults.py, what concerns credentials in
tests/unit/stores/test_gcs_credentials.py.
"""

import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import FsError, Invalid, NotFound, TimedOut, Unavailable
from forebay.stores.gcs import GcsStore
from forebay.stores.gcs_options import parse
from forebay.testing.certificates import make_certificate
from forebay.testing.fakegcs import FakeGcs
from forebay.testing.fault_server import fault_server
from forebay.testing.faults import Rule, Script, Stall
from forebay.testing.scripted_http import Answer, Seen, scripted_http

TOKEN = "ya29.TOPSECRET"
LISTING = {"kind": "storage#objects"}


async def probe(bucket: str, endpoint: str, **more: str) -> None:
    options = {"gs.endpoint": endpoint} | ({} if more else {"gs.token": TOKEN}) | more
    store = GcsStore(bucket, parse(options), deadline_s=2)
    try:
        await store.probe("some/prefix/")
    finally:
        await store.close()


async def refused(bucket: str, endpoint: str, **more: str) -> FsError:
    with pytest.raises(FsError) as failed:
        await probe(bucket, endpoint, **more)
    error = failed.value
    assert f"gs://{bucket}" in error.message
    assert TOKEN not in str(error)
    return error


async def test_a_bucket_that_can_be_read_is_fine(fakegcs: FakeGcs) -> None:
    fakegcs.make_bucket("probed")
    await probe("probed", fakegcs.endpoint)
    await probe("probed", fakegcs.endpoint, anonymous="true")


async def test_no_such_bucket(fakegcs: FakeGcs) -> None:
    error = await refused("not-there", fakegcs.endpoint)
    assert isinstance(error, NotFound)
    assert "no such bucket" in str(error)


async def test_nobody_listens_there() -> None:
    error = await refused("bucket", "http://127.0.0.1:1")
    assert isinstance(error, Unavailable)
    assert "cannot be reached: 127.0.0.1:1" in str(error)
    assert "check gs.endpoint" in str(error)


async def test_no_such_host() -> None:
    error = await refused("bucket", "http://no-such-host.invalid:9000")
    assert isinstance(error, Unavailable)
    assert "no such host: no-such-host.invalid" in str(error)


async def test_a_server_that_never_answers() -> None:
    async with fault_server() as server:
        server.script = Script(Rule(Stall()))
        assert isinstance(await refused("bucket", server.endpoint), TimedOut)


async def test_something_that_is_not_google_cloud_storage() -> None:
    bodies: list[Any] = [b"<html>It works!</html>", {"hello": "world"}, []]
    for body in bodies:
        async with scripted_http() as server:
            server.always = Answer(200, body)
            error = await refused("bucket", server.endpoint)
            assert isinstance(error, Invalid)
            assert "check gs.endpoint" in str(error)


async def test_tls_at_a_server_without_it(fakegcs: FakeGcs) -> None:
    error = await refused("bucket", fakegcs.endpoint.replace("http:", "https:"))
    assert isinstance(error, Unavailable)
    assert "TLS" in str(error)
    assert "http://" in str(error)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
async def test_a_certificate_that_is_not_trusted_and_the_options_that_mend_it(tmp_path: Path) -> None:
    authority, certificate, private = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    media = {"ETag": '"e"', "Last-Modified": "Tue, 03 Jun 2025 10:00:00 GMT", "x-goog-generation": "7"}

    def answer(seen: Seen) -> Answer:
        return Answer(200, LISTING) if seen.path.startswith("/storage/") else Answer(200, b"bytes", media)

    async with scripted_http(context) as server:
        server.always = answer
        error = await refused("bucket", server.endpoint)
        assert isinstance(error, Unavailable)
        assert "is not trusted" in str(error)
        assert "gs.tls.caFile" in str(error)
        for more in ({"gs.tls.caFile": str(authority)}, {"gs.tls.verify": "false"}):
            options = {"gs.endpoint": server.endpoint, "gs.anonymous": "true"} | more
            store = GcsStore("bucket", parse(options), deadline_s=5)
            await store.probe("")
            assert bytes(memoryview(await store.get("k"))) == b"bytes"  # by obstore
            await store.close()
        error = await refused("bucket", server.endpoint, cafile=str(tmp_path / "missing.pem"), token=TOKEN)
        assert isinstance(error, Invalid)
        assert "missing.pem" in str(error)


@pytest.mark.parametrize("name", ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BASE_URL"])
async def test_the_environment_does_not_mix_into_a_mount_s_own_options(
    fakegcs: FakeGcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    fakegcs.make_bucket("probed")
    fakegcs.put("probed", "k", b"bytes")
    damaged = tmp_path / "damaged.json"
    damaged.write_text(json.dumps({"type": "nobody knows"}))
    monkeypatch.setenv(name, str(damaged))
    for options in ({"gs.anonymous": "true"}, {"gs.token": TOKEN}):
        store = GcsStore("probed", parse(options | {"gs.endpoint": fakegcs.endpoint}), deadline_s=5)
        assert bytes(memoryview(await store.get("k"))) == b"bytes"
        await store.close()


async def test_what_confuses_obstore_all_the_same_is_named(fakegcs: FakeGcs, monkeypatch: pytest.MonkeyPatch) -> None:
    fakegcs.make_bucket("probed")
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "/some/key.json")
    store = GcsStore("probed", parse({"gs.anonymous": "true", "gs.endpoint": fakegcs.endpoint}), deadline_s=5)
    with pytest.raises(Invalid, match="GOOGLE_SERVICE_ACCOUNT in the daemon's environment confuses obstore; unset it"):
        await store.get("k")
    await store.close()
