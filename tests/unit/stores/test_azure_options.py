"""URLs and options of an Azure mount: every usual form and name, and clear words about the wrong ones."""

import base64

import pytest

from forebay.config.settings import Settings
from forebay.errors import Invalid
from forebay.stores.azure_options import EMULATOR_KEY, AzureOptions, Place, parse, parse_place
from forebay.stores.registry import open_store

KEY = base64.b64encode(b"TOPSECRET of the account").decode()
SAS = "sv=2023-11-03&sp=rl&se=2030-01-01T00:00:00Z&sig=TOP%2BSECRET%3D"
PLACE = Place("c", "acct")
WHERE = {"azure.accountName": "acct"}


def location(url: str, settings: Settings, **options: str) -> tuple[str, str]:
    store, prefix = open_store(url, {"account_key": KEY, **options}, settings=settings)
    return store.location, prefix


@pytest.fixture
def settings(tmp_path: object) -> Settings:
    return Settings(home=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "az://data@acct/a/b",
        "azure://data@acct.blob.core.windows.net/a/b/",
        "abfs://data@acct.dfs.core.windows.net/a/b",
        "abfss://data@ACCT.dfs.core.windows.net/a/b",
        "wasb://data@acct.blob.core.windows.net/a/b",
        "WASBS://data@acct.blob.core.windows.net/a/b",
    ],
)
async def test_one_place_by_all_its_urls(url: str, settings: Settings) -> None:
    assert location(url, settings) == ("az://data@acct", "a/b/")


async def test_the_account_may_come_from_an_option_instead(settings: Settings) -> None:
    for name in ("azure.accountName", "account_name", "AZURE_STORAGE_ACCOUNT", "account"):
        assert location("abfs://data/a", settings, **{name: "acct"}) == ("az://data@acct", "a/")
    assert location("az://data", settings, **{"azure.endpoint": "https://acct.blob.core.windows.net"}) == (
        "az://data@acct", "",
    )  # fmt: skip


async def test_the_location_tells_clouds_and_servers_apart(settings: Settings) -> None:
    assert location("abfss://data@acct.dfs.core.chinacloudapi.cn/", settings)[0] == (
        "az://data@https://acct.blob.core.chinacloudapi.cn"
    )
    assert location("abfss://data@acct.z42.dfs.storage.azure.net/", settings)[0] == (
        "az://data@https://acct.z42.blob.storage.azure.net"
    )
    assert location("az://data@acct", settings, **{"azure.endpoint": "http://127.0.0.1:10000/"})[0] == (
        "az://data@http://127.0.0.1:10000/acct"
    )


@pytest.mark.parametrize(
    "name",
    [
        "azure.accountKey", "account_key", "AZURE_STORAGE_KEY", "azure_storage_account_key", "fs.azure.account.key",
        "fs.azure.account.key.acct.dfs.core.windows.net", "fs.azure.account.key.acct.blob.core.windows.net",
        "spark.hadoop.fs.azure.account.key.acct.dfs.core.windows.net",
    ],
)  # fmt: skip
def test_the_key_has_many_names(name: str) -> None:
    assert parse(Place("c"), WHERE | {name: KEY}).account_key == KEY


@pytest.mark.parametrize(
    "name",
    [
        "azure.sasToken", "sas_token", "AZURE_STORAGE_SAS_TOKEN", "azure_storage_sas_key", "fs.azure.sas.fixed.token",
        "fs.azure.sas.c.acct.blob.core.windows.net", "fs.azure.sas.fixed.token.acct.dfs.core.windows.net",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "?", "https://acct.blob.core.windows.net/c?"])
def test_a_sas_token_has_many_names_and_forms(name: str, before: str) -> None:
    fields = dict(parse(Place("c"), WHERE | {name: before + SAS}).sas)
    assert (fields["sp"], fields["sig"]) == ("rl", "TOP+SECRET=")


def test_everything_else_has_many_names_too() -> None:
    assert parse(Place("c"), {"fs.azure.account.key.acct.dfs.core.windows.net": KEY}).account == "acct"
    hadoop = parse(
        PLACE,
        {
            "fs.azure.account.auth.type.acct.dfs.core.windows.net": "OAuth",
            "fs.azure.account.oauth.provider.type.acct.dfs.core.windows.net": "ClientCredsTokenProvider",
            "fs.azure.account.oauth2.client.id.acct.dfs.core.windows.net": "id",
            "fs.azure.account.oauth2.client.secret.acct.dfs.core.windows.net": "TOPSECRET",
            "fs.azure.account.oauth2.client.endpoint.acct.dfs.core.windows.net": "https://login.x.com/TENANT/oauth2/token",
        },
    )
    assert (hadoop.client_id, hadoop.client_secret) == ("id", "TOPSECRET")
    assert (hadoop.authority, hadoop.tenant_id) == ("https://login.x.com", "TENANT")
    ours = parse(PLACE, {"azure.tenantId": "T", "azure.clientId": "id", "azure.clientSecret": "TOPSECRET"})
    assert ours == parse(PLACE, {"tenant_id": "T", "client_id": "id", "client_secret": "TOPSECRET"})
    assert parse(PLACE, {"anon": "true"}).anonymous
    assert not parse(PLACE, {"azure.tls.verify": "no"}).verify
    assert parse(PLACE, {}) == AzureOptions("acct", "https://acct.blob.core.windows.net")


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=core.windows.net",
         "https://acct.blob.core.windows.net"),
        (f"AccountName=acct;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
         "https://acct.blob.core.chinacloudapi.cn"),
        (f"DefaultEndpointsProtocol=http;AccountName=acct;AccountKey={KEY};", "http://acct.blob.core.windows.net"),
        (f"AccountName=acct;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/acct;QueueEndpoint=http://q",
         "http://127.0.0.1:10000/acct"),
    ],
)  # fmt: skip
def test_a_connection_string_says_it_all(text: str, endpoint: str) -> None:
    options = parse(Place("c"), {"azure.connectionString": text})
    assert (options.account, options.account_key, options.endpoint) == ("acct", KEY, endpoint)


def test_a_connection_string_may_hold_a_sas_token_or_name_the_emulator() -> None:
    text = f"BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature={SAS}"
    options = parse(Place("c"), {"AZURE_STORAGE_CONNECTION_STRING": text})
    assert (options.account, dict(options.sas)["sp"]) == ("acct", "rl")
    emulator = parse(Place("c"), {"connection_string": "UseDevelopmentStorage=true"})
    assert (emulator.account_key, emulator.endpoint) == (EMULATOR_KEY, "http://127.0.0.1:10000/devstoreaccount1")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"azure.acountKey": KEY}, "did you mean azure.accountKey?"),
        ({"colour": "blue"}, "known: azure.accountName"),
        ({"azure.accountKey": "TOPSECRET!"}, "is not base64"),
        ({"azure.sasToken": "TOPSECRET"}, "is no SAS token"),
        ({"azure.accountKey": KEY, "azure.sasToken": SAS}, "azure.accountKey and azure.sasToken exclude each other"),
        ({"azure.accountKey": KEY, "azure.anonymous": "true"}, "exclude each other"),
        ({"azure.accountKey": KEY, "azure.clientId": "id"}, "exclude each other"),
        ({"azure.accountKey": KEY, "fs.azure.account.key": KEY[::-1] + "A"}, "twice"),
        ({"azure.clientSecret": "TOPSECRET"}, "add --option azure.clientId"),
        ({"azure.clientSecret": "TOPSECRET", "azure.clientId": "id"}, "add --option azure.tenantId"),
        ({"azure.accountName": "other"}, "the URL is of the account acct, and azure.accountName says other"),
        ({"fs.azure.account.key.other.dfs.core.windows.net": KEY}, "is for another account than acct"),
        ({"fs.azure.sas.d.acct.blob.core.windows.net": SAS}, "is for another container than c"),
        ({"azure.connectionString": "TOPSECRET"}, "copy it whole"),
        ({"azure.connectionString": f"AccountKey={KEY}", "key": KEY[::-1] + "A"}, "contradict each other"),
        ({"azure.endpoint": "ftp://h"}, "http://host:port"),
        ({"azure.endpoint": f"http://h?{SAS}"}, "http://host:port"),
        ({"azure.endpoint": "http://u:TOPSECRET@h"}, "no user or password"),
        ({"azure.anonymous": "maybe"}, "true or false"),
        ({"azure.tls.caFile": "ca.pem"}, "absolute path"),
    ],
)
def test_wrong_options_say_what_to_do_and_no_secret(options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(PLACE, options)
    assert says in str(refused.value)
    for secret in ("TOPSECRET", "TOP%2BSECRET", KEY):
        assert secret not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("az://", "names no container"),
        ("abfss:///prefix", "names no container"),
        ("az://Data@acct/", "is not the name of a container"),
        ("az://a--b@acct/", "is not the name of a container"),
        ("az://ab@acct/", "is not the name of a container"),
        ("az://data", "neither the URL nor an option names the account"),
        ("abfss://data@acct.example.com/", "write abfss://container@ACCOUNT.dfs.core.windows.net/prefix"),
        ("az://data@TOPSECRET@acct/", "credentials do not belong in the URL"),
        ("az://acct:TOPSECRET@data/", "credentials do not belong in the URL"),
        ("az://data@acct/a?sv=1&sig=TOPSECRET", "use --option azure.sasToken"),
        ("az://$root@a_b/", "is not the host of an account"),
    ],
)
async def test_a_wrong_url_says_how_to_write_it(url: str, says: str, settings: Settings) -> None:
    with pytest.raises(Invalid) as refused:
        open_store(url, {}, settings=settings)
    assert says in str(refused.value)
    assert "TOPSECRET" not in str(refused.value)


def test_containers_that_azure_itself_makes_have_names_too() -> None:
    for name in ("$root", "$web", "$logs"):
        assert parse_place("az", f"{name}@acct") == Place(name, "acct")


def test_secrets_do_not_show_in_the_options_repr() -> None:
    for options in ({"key": KEY}, {"sas_token": SAS}, {"tenant": "T", "clientid": "i", "clientsecret": "TOPSECRET"}):
        shown = repr(parse(PLACE, options))
        assert not any(secret in shown for secret in ("TOPSECRET", "TOP+SECRET", KEY))
