"""What a shared key signs, by Microsoft's own examples (authorize-with-shared-key), and how credentials show."""

from datetime import UTC, datetime, timedelta

from forebay.stores.azure_credentials import CredentialSource, Token, string_to_sign
from forebay.stores.azure_errors import Kind
from forebay.stores.azure_options import EMULATOR_KEY, Place, parse

DATE = "Fri, 26 Jun 2015 23:39:12 GMT"
MS = {"x-ms-version": "2015-02-21", "x-ms-date": DATE}
METADATA = (
    "GET\n\n\n\n\n\n\n\n\n\n\n\n"
    f"x-ms-date:{DATE}\nx-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
)
QUERY = (("timeout", "20"), ("restype", "container"), ("comp", "metadata"))


def test_the_documented_example_of_a_get() -> None:
    assert string_to_sign("myaccount", "GET", "/mycontainer", QUERY, MS) == METADATA


def test_the_documented_example_of_a_container_that_is_made() -> None:
    text = string_to_sign(
        "myaccount", "PUT", "/mycontainer", (("restype", "container"), ("timeout", "30")), MS | {"Content-Length": "0"}
    )
    assert text == (
        "PUT\n\n\n\n\n\n\n\n\n\n\n\n"
        f"x-ms-date:{DATE}\nx-ms-version:2015-02-21\n/myaccount/mycontainer\nrestype:container\ntimeout:30"
    )


def test_every_header_has_its_line() -> None:
    headers = MS | {
        "Content-Length": "11", "Content-Type": "text/plain", "Range": "bytes=0-1", "If-Match": '"e"',
        "If-None-Match": "*", "x-ms-blob-type": "BlockBlob", "X-Ms-Meta-A": "two   words ", "Host": "not signed",
    }  # fmt: skip
    assert string_to_sign("a", "PUT", "/c/a%20b", (), headers).split("\n") == [
        "PUT", "", "", "11", "", "text/plain", "", "", '"e"', "*", "", "bytes=0-1",
        "x-ms-blob-type:BlockBlob", f"x-ms-date:{DATE}", "x-ms-meta-a:two words", "x-ms-version:2015-02-21",
        "/a/c/a%20b",
    ]  # fmt: skip


def source(**options: str) -> CredentialSource:
    return CredentialSource(parse(Place("c", "myaccount"), options), "az://c@myaccount")


async def test_the_signature_is_that_of_openssl() -> None:
    """`printf TEXT | openssl dgst -sha256 -mac HMAC -macopt hexkey:KEY -binary | base64` with the emulator's key."""
    authorization = await source(key=EMULATOR_KEY).authorization("GET", "/mycontainer", QUERY, MS)
    assert authorization == "SharedKey myaccount:1u9lui2jDxj0+fpbHjQ5m5NnastJRSYM+PSmfi8TXx4="


async def test_a_sas_token_goes_into_the_url_encoded_once_and_nothing_into_the_headers() -> None:
    credentials = source(sas_token="sv=2023-11-03&se=2030-01-01T00%3A00%3A00Z&sp=rl&sig=a%2Bb%3D")
    assert credentials.sas_query == "sv=2023-11-03&se=2030-01-01T00%3A00%3A00Z&sp=rl&sig=a%2Bb%3D"
    assert await credentials.authorization("GET", "/c", (), MS) is None
    assert source(sas_token="sp=rl&sig=a+b=").sas_query == "sp=rl&sig=a%2Bb%3D"


def test_what_is_known_of_credentials_is_no_secret() -> None:
    past, future = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))
    old = source(sas_token=f"se={past:%Y-%m-%dT%H:%M:%SZ}&sp=r&sig=TOPSECRET").access
    assert (old.kind, old.permissions, old.expired) == (Kind.SAS, "r", f"{past:%Y-%m-%dT%H:%M:%SZ}")
    assert source(sas_token=f"se={future:%Y-%m-%d}&sp=r&sig=TOPSECRET").access.expired == ""
    assert source(anon="true").access.kind is Kind.ANONYMOUS
    assert source().access.kind is Kind.TOKEN
    assert "TOPSECRET" not in repr((old, Token("TOPSECRET", past)))
