"""Options and URLs of mounts of web servers: every usual name, and clear words about the wrong ones."""

from base64 import b64decode
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.errors import Invalid
from forebay.stores.registry import open_store
from forebay.stores.web import WebStore
from forebay.stores.web_options import WebOptions, parse

SECRET = "TOPSECRET"
SETTINGS = Settings(home=Path("/nowhere"))


@pytest.mark.parametrize(
    ("user", "password"), [("http.user", "http.password"), ("https.username", "https.passwd"), ("user", "PASSWORD")]
)
def test_credentials_have_many_names_and_are_hidden(user: str, password: str) -> None:
    options = parse({user: "m\u00e9", password: SECRET + ":"})
    kind, _, said = (options.authorization or "").partition(" ")
    assert (kind, b64decode(said).decode()) == ("Basic", f"m\u00e9:{SECRET}:")
    assert said not in repr(options)
    for token in ("http.token", "bearer_token", "http.access-token"):
        assert parse({token: SECRET}).authorization == f"Bearer {SECRET}"


def test_everything_else() -> None:
    assert parse({}) == WebOptions()
    assert parse({"http.index": "none", "http.tls.verify": "no"}) == WebOptions(index="none", verify=False)
    assert parse({"https.tls.caFile": "/ca.pem"}).ca_file == Path("/ca.pem")
    headers = parse({"http.header.X-Api.Key": f" {SECRET} ", "fs.http.headers.accept": "text/html"}).headers
    assert headers == (("X-Api.Key", SECRET), ("accept", "text/html"))
    assert SECRET not in repr(parse({"http.header.X": SECRET}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"http.passwrd": SECRET}, "did you mean http.password?"),
        ({"s3.endpoint": "x"}, "known: http.user, http.password"),
        ({"user": "u", "http.username": "v"}, "twice"),
        ({"http.password": SECRET}, "without its user"),
        ({"http.user": "a:b", "http.password": SECRET}, "colon"),
        ({"http.user": "a", "http.password": SECRET, "http.token": SECRET}, "exclude each other"),
        ({"http.token": SECRET, "http.header.authorization": SECRET}, "excludes"),
        ({"http.token": SECRET + "\nX: y"}, "no header can hold"),
        ({"http.header.X": SECRET + "\r\nY: z"}, "no header can hold"),
        ({"http.header.X Y": SECRET}, "is not the name of a header"),
        ({"http.header.": SECRET}, "is not the name of a header"),
        ({"http.header.Range": "bytes=0-"}, "set by Forebay itself"),
        ({"http.header.If-Match": "x"}, "set by Forebay itself"),
        ({"http.index": "maybe"}, "must be auto, links or none"),
        ({"http.tls.verify": "maybe"}, "true or false"),
        ({"http.tls.caFile": "ca.pem"}, "absolute"),
    ],
)
def test_wrong_options_are_told_clearly_and_without_secrets(options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as failed:
        parse(options)
    assert says in str(failed.value)
    assert SECRET not in str(failed.value)


@pytest.mark.parametrize(
    ("url", "location", "prefix", "may_be_file"),
    [
        ("https://host", "https://host", "", None),
        ("HTTPS://Host:443/", "https://host", "", None),
        ("http://host:8080/a/b%20c/", "http://host:8080", "a/b c/", None),
        ("http://host/a/train.tar", "http://host", "a/train.tar/", "a/train.tar"),
        ("http://[::1]:80/a%2541", "http://[::1]", "a%41/", "a%41"),
        ("http://host//a/", "http://host", "/a/", None),
        ("https://b\u00fccher.example/x/", "https://xn--bcher-kva.example", "x/", None),
    ],
)
async def test_a_url_is_a_server_and_a_prefix(url: str, location: str, prefix: str, may_be_file: str | None) -> None:
    store, found = open_store(url, {}, settings=SETTINGS)
    assert isinstance(store, WebStore)
    assert (store.location, found, store.may_be_file) == (location, prefix, may_be_file)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"https://me:{SECRET}@host/x/", "--option http.user=... --option http.password=..."),
        (f"https://{SECRET}@host", "credentials do not belong in the URL"),
        (f"https://host/x?sig={SECRET}", "takes no query and no fragment"),
        (f"https://host?sig={SECRET}", "takes no query and no fragment"),
        (f"https://me:{SECRET}@host?x", "credentials do not belong in the URL"),
        (f"https://host/x#{SECRET}", "takes no query and no fragment"),
        ("https:///x/", "names no server; write https://host/folder/"),
        ("http://", "names no server"),
        ("http://host:port/", "names no server"),
        ("http://ho st/", "names no server"),
        ("http://[::1/", "names no server"),
        ("http://host/a/../b/", "no name, such as '..'"),
        ("http://host/a/%2e%2E/b/", "no name, such as '..'"),
        ("http://host/a%00/", "no name"),
    ],
)
def test_urls_that_cannot_be_are_told_clearly_and_without_secrets(url: str, says: str) -> None:
    with pytest.raises(Invalid) as failed:
        open_store(url, {}, settings=SETTINGS)
    assert says in str(failed.value)
    assert SECRET not in str(failed.value)
