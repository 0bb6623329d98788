"""Options of a Google Cloud Storage mount: every usual name, and clear words about the wrong ones."""

import json
from pathlib import Path

import pytest

from forebay.errors import Invalid
from forebay.stores.gcs_options import GcsOptions, parse

SECRET = "ya29.TOPSECRET"
KEY = json.dumps({"type": "service_account", "private_key": SECRET})


@pytest.mark.parametrize(
    "name",
    [
        "gs.keyFile",
        "gcs.key_file",
        "fs.gcs.credential.path",
        "google.cloud.auth.service.account.json.keyfile",
        "spark.hadoop.google.cloud.auth.service.account.json.keyfile",
        "fs.gs.auth.service.account.json.keyfile",
        "google_application_credentials",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "google_service_account",
        "service_account_file",
    ],
)
def test_a_key_file_has_many_names(name: str) -> None:
    assert parse({name: "/keys/k.json"}).key_file == Path("/keys/k.json")


def test_everything_else_has_many_names_too() -> None:
    for name in ("gs.key", "google_service_account_key", "service_account_credentials"):
        assert parse({name: KEY}).key == json.loads(KEY)
    for name in ("gs.token", "bearer_token", "access_token"):
        assert parse({name: SECRET}).token == SECRET
    for name in ("gs.anonymous", "anon", "google_skip_signature", "google.cloud.auth.null.enable"):
        assert parse({name: "true"}).anonymous
    for name in ("gs.endpoint", "endpoint_url", "google_base_url", "fs.gs.storage.root.url"):
        assert parse({name: "http://H:80/"}).endpoint == "http://h"
    for name in ("gs.userProject", "fs.gs.requester.pays.project.id"):
        assert parse({name: "p"}).user_project == "p"
    assert not parse({"gs.tls.verify": "no"}).verify
    assert parse({"gs.tls.caFile": "/ca.pem"}).ca_file == Path("/ca.pem")
    assert parse({}) == GcsOptions()


def test_what_is_not_anonymous_may_have_credentials() -> None:
    assert parse({"gs.anonymous": "false", "gs.token": SECRET}).token == SECRET


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gs.keyfiel": "/k"}, "did you mean gs.keyFile?"),
        ({"colour": "blue"}, "known: gs.keyFile, gs.key, gs.token"),
        ({"gs.keyFile": "k.json"}, "absolute path"),
        ({"gs.key": SECRET}, "gs.key is not the JSON of a Google credential"),
        ({"gs.key": json.dumps({"private_key": SECRET})}, "gcloud iam service-accounts keys create"),
        ({"gs.key": json.dumps([SECRET])}, "not the JSON"),
        ({"gs.keyFile": "/k", "gs.token": SECRET}, "exclude each other"),
        ({"gs.key": KEY, "gs.anonymous": "true"}, "exclude each other"),
        ({"gs.token": SECRET, "access_token": "other"}, "twice"),
        ({"gs.anonymous": "maybe"}, "true or false"),
        ({"gs.endpoint": "ftp://h"}, "http://host:port"),
        ({"gs.endpoint": f"http://me:{SECRET}@h"}, "no user or password"),
        ({"gs.tls.caFile": "ca.pem"}, "absolute path"),
        ({"fs.gcs.accessKeyId": "GOOG1E"}, "s3.endpoint=https://storage.googleapis.com"),
        ({"gs.secretKey": SECRET}, "HMAC keys are for the S3 interface"),
    ],
)
def test_wrong_options_say_what_to_do_and_no_secret(options: dict[str, str], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(options)
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)


def test_secrets_do_not_show_in_the_options_repr() -> None:
    assert SECRET not in repr(parse({"gs.token": SECRET}))
    assert SECRET not in repr(parse({"gs.key": KEY}))
