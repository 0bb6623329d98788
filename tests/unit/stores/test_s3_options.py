"""Options of an S3 mount: every usual name, and clear words about the wrong ones."""

import pytest

from forebay.errors import Invalid
from forebay.stores.s3_options import S3Options, parse

SECRET = "ABCDEFSECRET"


@pytest.mark.parametrize(
    ("key_name", "secret_name"),
    [
        ("s3a.accessKeyID", "s3a.secretKey"),
        ("s3a.accessKeyId", "s3a.secretKey"),
        ("aws.accessKeyId", "aws.secretKey"),
        ("aws.accessKeyId", "aws.secretAccessKey"),
        ("fs.s3a.access.key", "fs.s3a.secret.key"),
        ("spark.hadoop.fs.s3a.access.key", "spark.hadoop.fs.s3a.secret.key"),
        ("access_key_id", "secret_access_key"),
        ("aws_access_key_id", "aws_secret_access_key"),
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("s3.access-key", "S3.SECRET-KEY"),
        ("access_key", "secret_key"),
    ],
)
def test_keys_have_many_names(key_name: str, secret_name: str) -> None:
    options = parse({key_name: "ID", secret_name: SECRET})
    assert (options.access_key_id, options.secret_access_key) == ("ID", SECRET)


def test_everything_else_has_many_names_too() -> None:
    keys = {"access_key": "ID", "secret_key": SECRET}
    assert parse(keys | {"fs.s3a.session.token": "T"}).session_token == "T"
    assert parse(keys | {"aws_session_token": "T"}).session_token == "T"
    assert parse({"s3.endpoint": "http://h:1"}).endpoint == "http://h:1"
    assert parse({"AWS_ENDPOINT_URL_S3": "http://h:1"}).endpoint == "http://h:1"
    assert parse({"fs.s3a.endpoint.region": "eu-west-1"}).region == "eu-west-1"
    assert parse({"region": "eu-west-1"}).region == "eu-west-1"
    assert parse({"fs.s3a.path.style.access": "true"}).path_style is True
    assert parse({"s3.pathStyle": "false"}).path_style is False
    assert parse({"virtual_hosted_style_request": "true"}).path_style is False
    assert parse({"s3.anonymous": "true"}).anonymous
    assert parse({"skip_signature": "TRUE"}).anonymous
    assert parse({"s3.profile": "work"}).profile == "work"
    assert parse({"s3.requesterPays": "yes"}).requester_pays
    assert not parse({"s3.tls.verify": "no"}).verify
    assert parse({}) == S3Options()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("http://Host", "http://host"),
        ("http://host:80", "http://host"),
        ("https://host:443/base/", "https://host/base"),
        ("host:9000", "https://host:9000"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("", None),
    ],
)
def test_an_endpoint_has_one_form(written: str, meant: str | None) -> None:
    assert parse({"s3.endpoint": written}).endpoint == meant


def test_without_a_scheme_the_endpoint_goes_by_the_ssl_option() -> None:
    assert parse({"fs.s3a.endpoint": "h:1", "fs.s3a.connection.ssl.enabled": "false"}).endpoint == "http://h:1"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"s3a.accesKeyID": "ID"}, "did you mean s3a.accessKeyId?"),
        ({"s3.endpiont": "http://h"}, "did you mean s3.endpoint?"),
        ({"s3.reigon": "x"}, "did you mean s3.region?"),
        ({"colour": "blue"}, "known: s3a.accessKeyId"),
        ({"access_key": "ID"}, "add --option s3a.secretKey"),
        ({"secret_key": SECRET}, "add --option s3a.accessKeyId"),
        ({"session_token": SECRET}, "without its key id"),
        ({"access_key": "ID", "aws.accessKeyId": "OTHER", "secret_key": SECRET}, "twice"),
        ({"access_key": "ID", "secret_key": SECRET, "s3.anonymous": "true"}, "exclude each other"),
        ({"access_key": "ID", "secret_key": SECRET, "s3.profile": "work"}, "exclude each other"),
        ({"s3.anonymous": "maybe"}, "true or false"),
        ({"s3.endpoint": "ftp://h"}, "http://host:port"),
        ({"s3.endpoint": "http://"}, "http://host:port"),
        ({"s3.endpoint": "http://h:port"}, "http://127.0.0.1:9000"),
        ({"s3.endpoint": f"http://ID:{SECRET}@h"}, "no user or password"),
        ({"s3.tls.caFile": "ca.pem"}, "absolute path"),
    ],
)
def test_wrong_options_say_what_to_do_and_no_secret(options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(options)
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)


def test_secrets_do_not_show_in_the_options_repr() -> None:
    assert SECRET not in repr(parse({"access_key": "ID", "secret_key": SECRET, "session_token": SECRET}))
