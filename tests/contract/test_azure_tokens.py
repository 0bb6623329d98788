"""Tokens of Entra ID, from a stand-in for it, taken by Microsoft's own emulator of the store."""

import shutil
import ssl
from collections.abc import Iterator

import pytest

from forebay.errors import Denied, FsError, Unavailable
from forebay.stores.azure import AzureStore
from forebay.stores.azure_options import Place, parse
from forebay.testing.azurite import Azurite
from forebay.testing.certificates import Certificate, make_certificate
from forebay.testing.entra import Entra, entra
from forebay.testing.store_contract import keys_of

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make a certificate"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Azurite]:
    """An emulator over TLS, which takes tokens."""
    with Azurite(tmp_path_factory.mktemp("azurite"), tls=certificate) as server:
        yield server


@pytest.fixture
def tls(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.public, certificate.private)
    return context


@pytest.fixture(autouse=True)
def no_identity(monkeypatch: pytest.MonkeyPatch, certificate: Certificate) -> None:
    """Nothing in the environment that names an identity; the stand-in's certificate is trusted."""
    forget_identities(monkeypatch)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.authority))


def forget_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"):
        monkeypatch.delenv(name, raising=False)


def store_at(server: Azurite, certificate: Certificate, **more: str) -> AzureStore:
    options = {"azure.endpoint": server.endpoint, "azure.tls.caFile": str(certificate.authority), **more}
    return AzureStore("tokens", parse(Place("tokens"), options), deadline_s=20)


async def use(store: AzureStore) -> None:
    """Every way that a request can take."""
    try:
        await store.probe("")
        await store.put("a/b", b"bytes")
        assert bytes(memoryview(await store.get("a/b"))) == b"bytes"
        await store.put("odd//b", b"odd")
        assert bytes(memoryview(await store.get("odd//b"))) == b"odd"
        assert await keys_of(store, "", recursive=True) == ["a/b", "odd//b"]
    finally:
        await store.close()


@pytest.fixture(autouse=True)
def container(server: Azurite) -> None:
    server.make_container("tokens")


async def test_the_identity_of_the_machine_is_used_when_nothing_is_given(
    server: Azurite, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with entra() as stand_in:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{stand_in.url}/identity")
        monkeypatch.setenv("IDENTITY_HEADER", stand_in.header)
        await use(store_at(server, certificate))
        assert stand_in.asked == 1  # and kept


async def test_a_client_with_a_secret_is_used_by_its_usual_names(
    server: Azurite, certificate: Certificate, tls: ssl.SSLContext
) -> None:
    with entra(tls) as stand_in:
        hadoop = {
            "fs.azure.account.auth.type.devstoreaccount1.dfs.core.windows.net": "OAuth",
            "fs.azure.account.oauth.provider.type": "org.apache.hadoop.fs.azurebfs.oauth2.ClientCredsTokenProvider",
            "fs.azure.account.oauth2.client.endpoint": f"{stand_in.url}/{stand_in.tenant}/oauth2/token",
            "fs.azure.account.oauth2.client.id": stand_in.client,
            "fs.azure.account.oauth2.client.secret": stand_in.secret,
        }
        await use(store_at(server, certificate, **hadoop))
        assert stand_in.asked == 1


@pytest.mark.parametrize(
    ("client", "secret", "says"),
    [
        (Entra.client, "TOPSECRETofNobody", "the secret does not fit the client"),
        ("nobody", "TOPSECRETofNobody", "the tenant does not know this client"),
    ],
)
async def test_a_client_that_is_refused_says_why_and_tells_no_secret(
    server: Azurite,
    certificate: Certificate,
    tls: ssl.SSLContext,
    client: str,
    secret: str,
    says: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with entra(tls) as stand_in:
        error = await refused(server, certificate, stand_in, client, secret)
    assert isinstance(error, Denied)
    assert says in error.message
    assert "TOPSECRET" not in caplog.text


async def test_an_entra_that_does_not_answer_is_no_wrong_secret(
    server: Azurite, certificate: Certificate, tls: ssl.SSLContext
) -> None:
    with entra(tls) as stand_in:
        pass
    error = await refused(server, certificate, stand_in, stand_in.client, stand_in.secret)
    assert isinstance(error, Unavailable)
    assert "check network, proxy" in error.message


async def refused(server: Azurite, certificate: Certificate, stand_in: Entra, client: str, secret: str) -> FsError:
    options = {
        "azure.tokenEndpoint": stand_in.url, "azure.tenantId": stand_in.tenant,
        "azure.clientId": client, "azure.clientSecret": secret,
    }  # fmt: skip
    store = store_at(server, certificate, **options)
    with pytest.raises(FsError) as failed:
        await store.probe("")
    for call in (store.get("k"), store.head("k")):
        with pytest.raises(type(failed.value)) as by_obstore:
            await call
        assert str(by_obstore.value) == failed.value.message
    await store.close()
    assert "TOPSECRET" not in str(failed.value)
    assert failed.value.__cause__ is None
    return failed.value
