"""What is wrong with an Azure mount is said precisely when it is tried, with what to do, and without secrets."""

import base64
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from forebay.errors import Denied, FsError, Invalid, NotFound, Throttled, TimedOut, Unavailable
from forebay.stores.azure import AzureStore
from forebay.stores.azure_options import Place, parse
from forebay.testing.azurite import Azurite
from forebay.testing.certificates import make_certificate
from forebay.testing.fault_server import FaultServer, fault_server
from forebay.testing.faults import Fault, OtherBody, Refuse, Rule, Script, Stall
from forebay.testing.store_contract import keys_of

SECRET = base64.b64encode(b"not the key of this account").decode()
ACCOUNT = "someaccount"


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with fault_server() as server:
        server.objects = {f"{ACCOUNT}/probed/k": b"bytes"}
        yield server


@pytest.fixture
def probed(azurite: Azurite) -> Azurite:
    azurite.make_container("probed")
    return azurite


@asynccontextmanager
async def store_at(container: str, options: dict[str, str]) -> AsyncIterator[AzureStore]:
    store = AzureStore(container, parse(Place(container), options), deadline_s=2)
    try:
        yield store
    finally:
        await store.close()


async def probe(container: str, options: dict[str, str]) -> None:
    async with store_at(container, options) as store:
        await store.probe("some/prefix/")


async def refused(container: str, options: dict[str, str]) -> FsError:
    with pytest.raises(FsError) as failed:
        await probe(container, options)
    error = failed.value
    assert f"az://{container}@" in error.message
    for secret in (SECRET, "sig=", options.get("azure.sasToken", SECRET)):
        assert secret not in str(error)
        assert secret not in repr(error.__cause__)
    return error


def at(server: FaultServer | Azurite, **more: str) -> dict[str, str]:
    """The options of a mount of that server, by a wrong key unless there are others."""
    account = server.account if isinstance(server, Azurite) else ACCOUNT
    return {"azure.accountName": account, "azure.accountKey": SECRET, "azure.endpoint": server.endpoint} | more


def by_sas(server: FaultServer | Azurite, token: str) -> dict[str, str]:
    return {name: value for name, value in at(server).items() if name != "azure.accountKey"} | {"azure.sasToken": token}


async def test_a_container_that_can_be_read_is_fine(probed: Azurite) -> None:
    await probe("probed", probed.options)


async def test_no_such_container(azurite: Azurite) -> None:
    error = await refused("not-there", azurite.options)
    assert isinstance(error, NotFound)
    assert "no such container" in str(error)


async def test_no_such_account() -> None:
    error = await refused("probed", {"azure.accountName": "nobody", "azure.endpointSuffix": "invalid", "key": SECRET})
    assert isinstance(error, Unavailable)
    assert "no such host: nobody.blob.invalid; check the account's name and DNS" in str(error)


async def test_a_wrong_key(probed: Azurite) -> None:
    error = await refused("probed", at(probed))
    assert isinstance(error, Denied)
    assert "the account key does not fit the account; check azure.accountKey" in str(error)


async def test_a_sas_token_that_is_right(probed: Azurite) -> None:
    await probe("probed", by_sas(probed, probed.sas("rl")))


async def test_a_sas_token_that_has_expired(probed: Azurite) -> None:
    error = await refused("probed", by_sas(probed, probed.sas("rl", ends_in=timedelta(hours=-1))))
    assert isinstance(error, Denied)
    assert "the SAS token expired at 20" in str(error)


async def test_a_sas_token_that_may_not_list(probed: Azurite) -> None:
    error = await refused("probed", by_sas(probed, probed.sas("r")))
    assert isinstance(error, Denied)
    assert "it has sp=r, reading takes r and l" in str(error)


async def test_a_sas_token_for_blobs_alone(probed: Azurite) -> None:
    error = await refused("probed", by_sas(probed, probed.sas("rl", types="o")))
    assert isinstance(error, Denied)
    assert "srt=co" in str(error)


async def test_a_sas_token_with_a_wrong_signature(probed: Azurite) -> None:
    error = await refused("probed", by_sas(probed, probed.sas("rl")[:-8] + "AAAA%3D"))
    assert isinstance(error, Denied)
    assert "the SAS token's signature or time is wrong" in str(error)


async def test_anonymous_access_works_where_it_is_allowed_and_is_denied_elsewhere(probed: Azurite) -> None:
    probed.make_container("open", public=True)
    probed.put("open", "k", b"for all")
    anonymous = {"azure.endpoint": probed.endpoint, "azure.anonymous": "true"}
    async with store_at("open", anonymous) as store:
        assert bytes(memoryview(await store.get("k"))) == b"for all"
        assert await keys_of(store, "") == ["k"]
    assert isinstance(await refused("probed", anonymous), Denied | NotFound)


TOKEN = {"azure.tenantId": "t", "azure.clientId": "c", "azure.clientSecret": SECRET}
ANSWERS: list[tuple[Fault, type[FsError], str]] = [
    (Refuse(403, code="AuthorizationFailure"), Denied, "network rules refuse this machine"),
    (Refuse(403, code="KeyBasedAuthenticationNotPermitted"), Denied, "takes neither keys nor their SAS tokens"),
    (Refuse(403, code="AccountIsDisabled"), Denied, "the account is disabled"),
    (Refuse(409, code="PublicAccessNotPermitted"), Denied, "allows no anonymous access"),
    (Refuse(401, code="NoAuthenticationInformation"), Denied, "the container is not public"),
    (Refuse(401, code="InvalidAuthenticationInfo"), Denied, "az login"),
    (Refuse(403), Denied, "the account key may not do this"),
    (Refuse(400, code="OutOfRangeInput"), Invalid, "does not take this name"),
    (Refuse(409, code="ContainerBeingDeleted"), Unavailable, "is being deleted"),
    (Refuse(503, code="ServerBusy", headers=(("Retry-After", "9"),)), Throttled, "asks for fewer requests"),
    (Refuse(429, headers=(("Retry-After", "9"),)), Throttled, "asks for fewer requests"),
    (Refuse(500, code="OperationTimedOut", headers=(("Retry-After", "9"),)), Unavailable, "the store failed"),
]


@pytest.mark.parametrize(("fault", "kind", "says"), ANSWERS, ids=lambda each: getattr(each, "code", None))
async def test_what_azure_says_is_told_with_what_to_do(
    server: FaultServer, fault: Fault, kind: type[FsError], says: str
) -> None:
    server.script = Script(Rule(fault))
    error = await refused("probed", at(server))
    assert isinstance(error, kind)
    assert says in str(error)


async def test_an_error_without_a_body_is_told_by_its_header(server: FaultServer) -> None:
    server.script = Script(Rule(Refuse(404, headers=(("x-ms-error-code", "ContainerNotFound"),))))
    async with store_at("probed", at(server)) as store:
        with pytest.raises(NotFound, match="no such container"):
            await store.head("odd//key")


async def test_a_wrong_clock_is_not_taken_for_a_wrong_key(server: FaultServer) -> None:
    server.script = Script(
        Rule(Refuse(403, code="AuthenticationFailed", headers=(("Date", "Tue, 03 Jun 2025 10:00:00 GMT"),)))
    )
    error = await refused("probed", at(server))
    assert isinstance(error, Denied)
    assert "this machine's clock is wrong" in str(error)


async def test_nobody_listens_there() -> None:
    error = await refused("probed", {"account": ACCOUNT, "key": SECRET, "azure.endpoint": "http://127.0.0.1:1"})
    assert isinstance(error, Unavailable)
    assert "cannot be reached: 127.0.0.1:1" in str(error)
    assert "check azure.endpoint" in str(error)


async def test_a_server_that_never_answers(server: FaultServer) -> None:
    server.script = Script(Rule(Stall()))
    assert isinstance(await refused("probed", at(server)), TimedOut)


async def test_something_that_is_not_azure(server: FaultServer) -> None:
    server.objects[f"{ACCOUNT}/probed"] = b""
    server.script = Script(Rule(OtherBody(b"<html><body>It works!</body></html>")))
    error = await refused("probed", at(server))
    assert isinstance(error, Invalid)
    assert "not Azure" in str(error)


async def test_tls_at_a_server_without_it(server: FaultServer) -> None:
    error = await refused("probed", at(server) | {"azure.endpoint": server.endpoint.replace("http:", "https:")})
    assert isinstance(error, Unavailable)
    assert "TLS" in str(error)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command to make a certificate")
async def test_a_certificate_that_is_not_trusted_and_the_options_that_mend_it(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.public, certificate.private)
    async with fault_server(tls=context) as server:
        server.objects = {f"{ACCOUNT}/probed/k": b"bytes"}
        error = await refused("probed", at(server))
        assert isinstance(error, Unavailable)
        assert "is not trusted" in str(error)
        assert "azure.tls.caFile" in str(error)
        for more in ({"azure.tls.caFile": str(certificate.authority)}, {"azure.tls.verify": "false"}):
            async with store_at("probed", at(server) | more) as store:
                assert bytes(memoryview(await store.get("k"))) == b"bytes"
                assert (await store.head("k")).size == 5


async def test_the_environment_does_not_mix_into_a_mount_s_own_credentials(
    probed: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AZURE_STORAGE_ACCOUNT_NAME": "another", "AZURE_STORAGE_ACCOUNT_KEY": SECRET,
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1", "AZURE_ENDPOINT": "http://127.0.0.1:1",
        "AZURE_STORAGE_USE_EMULATOR": "true", "AZURE_SKIP_SIGNATURE": "true", "AZURE_STORAGE_SAS_KEY": "sv=1&sig=2",
        "AZURE_CONTAINER_NAME": "another", "AZURE_STORAGE_TOKEN": "another",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    probed.put("probed", "k", b"bytes")
    for options in (probed.options, by_sas(probed, probed.sas("rl"))):
        async with store_at("probed", options) as store:
            await store.probe("")
            assert bytes(memoryview(await store.get("k"))) == b"bytes"


async def test_nothing_is_below_a_file_though_adls_refuses_to_list_there(server: FaultServer) -> None:
    """An account with a hierarchical namespace answers with an error where others list nothing."""
    async with store_at("probed", at(server)) as store:
        server.script = Script(Rule(Refuse(409, code="PathConflict"), target="comp=list"))
        assert await keys_of(store, "k/") == []
        with pytest.raises(Invalid, match="409 PathConflict"):
            await keys_of(store, "nothing/")
