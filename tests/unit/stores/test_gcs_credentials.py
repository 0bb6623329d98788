"""Tokens: by a service account's key, of the metadata server, renewed in time, and clear words when there are none."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from forebay.errors import Denied, FsError, Invalid, TimedOut, Unavailable
from forebay.stores import gcs_google_auth
from forebay.stores.gcs import GcsStore
from forebay.stores.gcs_credentials import TokenSource
from forebay.stores.gcs_options import parse
from forebay.testing.fault_server import fault_server
from forebay.testing.faults import Rule, Script, Stall
from forebay.testing.scripted_http import Answer, ScriptedHttp, Seen, scripted_http

ACCOUNT = "reader@project.iam.gserviceaccount.com"
_SECOND = timedelta(seconds=1)
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
OBJECT = {"name": "k", "size": "10", "timeCreated": "2025-06-03T10:00:00.123Z", "generation": "7"}


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedHttp]:
    async with scripted_http() as server:
        yield server


@pytest.fixture
def key(rsa_key: rsa.RSAPrivateKey, server: ScriptedHttp) -> dict[str, str]:
    """A service account's key, as Google gives it, whose token server is ours."""
    private = rsa_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "client_email": ACCOUNT,
        "private_key_id": "1",
        "private_key": private.decode(),
        "token_uri": f"{server.endpoint}/token",
    }


def grant(token: str, seconds: float = 3600) -> Answer:
    body = {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}
    return Answer(200, body, {"Content-Type": "application/json"})


def refuse(error: str, description: str) -> Answer:
    return Answer(400, {"error": error, "error_description": description}, {"Content-Type": "application/json"})


def source(**options: str) -> TokenSource:
    return TokenSource(parse(options), "gs://bucket", deadline_s=15)


async def fails(tokens: TokenSource, *secrets: str) -> FsError:
    with pytest.raises(FsError) as failed:
        await tokens.token()
    assert "gs://bucket" in str(failed.value)
    for secret in secrets:
        assert secret not in str(failed.value)
        assert secret not in repr(failed.value.__cause__)
    return failed.value


# ------------------------------------------------------------------ a service account's key


@pytest.mark.parametrize("way", ["gs.key", "gs.keyFile"])
async def test_a_key_is_exchanged_for_a_token(
    server: ScriptedHttp, key: dict[str, str], rsa_key: rsa.RSAPrivateKey, tmp_path: Path, way: str
) -> None:
    (tmp_path / "key.json").write_text(json.dumps(key))
    tokens = source(**{way: json.dumps(key) if way == "gs.key" else str(tmp_path / "key.json")})
    server.answers.append(grant("T1"))
    assert await tokens.token() == "T1"
    assert await tokens.token() == "T1", "asked for once"
    assert tokens.who == ACCOUNT
    [asked] = server.seen
    [assertion] = parse_qs(asked.body.decode())["assertion"]
    public = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    claims = jwt.decode(assertion, certs=public)
    assert (claims["iss"], claims["scope"], claims["aud"]) == (ACCOUNT, SCOPE, "https://oauth2.googleapis.com/token")


async def test_a_token_is_renewed_before_it_expires_and_the_file_is_read_again(
    server: ScriptedHttp, key: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key))
    tokens = source(**{"gs.keyFile": str(path)})
    server.answers.extend([grant("T1", seconds=0.2), grant("T2")])
    assert await tokens.token() == "T1"
    path.write_text(json.dumps(key | {"client_email": "other@project.iam.gserviceaccount.com"}))
    while await tokens.token() == "T1":
        await asyncio.sleep(0.02)
    assert await tokens.token() == "T2"
    assert tokens.who == "other@project.iam.gserviceaccount.com"
    assert len(server.seen) == 2


async def test_a_token_is_renewed_well_before_its_end(server: ScriptedHttp, key: dict[str, str]) -> None:
    tokens = source(**{"gs.key": json.dumps(key)})
    server.answers.append(grant("T1", seconds=3_600))
    expires_at = (await tokens.for_obstore())["expires_at"]
    assert tokens._renew_at == expires_at - timedelta(seconds=225)


async def test_those_who_wait_at_the_same_time_share_one_question(server: ScriptedHttp, key: dict[str, str]) -> None:
    tokens = source(**{"gs.key": json.dumps(key)})
    server.answers.append(grant("T1"))
    assert set(await asyncio.gather(*(tokens.token() for _ in range(20)))) == {"T1"}
    assert len(server.seen) == 1


async def test_those_who_wait_for_a_question_that_fails_get_its_failure(
    server: ScriptedHttp, key: dict[str, str]
) -> None:
    tokens = source(**{"gs.key": json.dumps(key)})
    server.always = refuse("invalid_grant", "Invalid JWT Signature.")
    ends = await asyncio.gather(*(tokens.token() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(end, Denied) for end in ends)
    assert len(server.seen) == 1
    server.always = grant("T1")
    assert await tokens.token() == "T1", "the next who comes asks again"


async def test_a_token_is_used_to_its_end_while_its_server_is_away(server: ScriptedHttp, key: dict[str, str]) -> None:
    tokens = source(**{"gs.key": json.dumps(key)})
    server.answers.append(grant("T1", seconds=1_000))
    assert await tokens.token() == "T1"
    tokens._renew_at = tokens._came_at  # as if 775 seconds had passed
    server.always = Answer(503)
    assert await tokens.token() == "T1"
    asked = len(server.seen)
    assert await tokens.token() == "T1"
    assert len(server.seen) == asked, "not asked again at once"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (refuse("invalid_grant", "Invalid JWT Signature."), "the key was deleted"),
        (refuse("invalid_grant", "Invalid grant: account not found"), "there is no such account"),
        (refuse("invalid_grant", "Invalid JWT: Token must be a short-lived token"), "clock is wrong"),
        (refuse("invalid_grant", "Token has been expired or revoked."), "gcloud auth application-default login"),
        (refuse("unauthorized_client", "Client is SECRETWORD unauthorized."), "check these credentials"),
    ],
)
async def test_a_key_that_is_refused_says_whose_and_why(
    server: ScriptedHttp, key: dict[str, str], answer: Answer, says: str
) -> None:
    server.always = answer
    error = await fails(source(**{"gs.key": json.dumps(key)}), key["private_key"], "SECRETWORD")
    assert isinstance(error, Denied)
    assert ACCOUNT in str(error)
    assert says in str(error)
    assert f"({answer.body['error']})" in str(error)


async def test_a_token_server_that_nobody_reaches_is_unavailable(key: dict[str, str]) -> None:
    key["token_uri"] = "http://127.0.0.1:1/token"
    error = await fails(source(**{"gs.key": json.dumps(key)}))
    assert isinstance(error, Unavailable)
    assert "token server cannot be reached" in str(error)


async def test_a_token_server_that_never_answers_is_a_timeout(key: dict[str, str]) -> None:
    async with fault_server() as server:
        server.script = Script(Rule(Stall()))
        key["token_uri"] = f"{server.endpoint}/token"
        tokens = TokenSource(parse({"gs.key": json.dumps(key)}), "gs://bucket", deadline_s=0.3)
        error = await fails(tokens)
        assert isinstance(error, TimedOut)
        assert "no token" in str(error)


async def test_a_ca_file_that_cannot_be_read_says_so(key: dict[str, str], server: ScriptedHttp) -> None:
    key["token_uri"] = server.endpoint.replace("http:", "https:")
    error = await fails(source(**{"gs.key": json.dumps(key), "gs.tls.caFile": "/no/such/ca.pem"}))
    assert isinstance(error, Invalid)
    assert "gs.tls.caFile /no/such/ca.pem" in str(error)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"private_key": "-----BEGIN PRIVATE KEY-----\nSECRETWORD\n-----END PRIVATE KEY-----\n"}, "damaged"),
        ({"client_email": None}, "damaged or incomplete"),
        ({"type": "SECRETWORD"}, "known are service_account, authorized_user"),
    ],
)
async def test_a_key_that_cannot_be_used_says_so(
    key: dict[str, str], tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({name: value for name, value in (key | change).items() if value is not None}))
    error = await fails(source(**{"gs.keyFile": str(path)}), key["private_key"], "SECRETWORD")
    assert isinstance(error, Invalid)
    assert says in str(error)
    assert str(path) in str(error)


@pytest.mark.parametrize("content", [None, b"", b"SECRETWORD", b'{"private_key": "SECRETWORD"}'])
async def test_a_file_that_is_no_key_says_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.json"
    if content is not None:
        path.write_bytes(content)
    error = await fails(source(**{"gs.keyFile": str(path)}), "SECRETWORD")
    assert isinstance(error, Invalid)
    assert str(path) in str(error)
    assert ("No such file" if content is None else "gcloud iam service-accounts keys create") in str(error)


# ------------------------------------------------------------------ other credentials


def external_account(server: ScriptedHttp, tmp_path: Path) -> dict[str, Any]:
    """The settings of workload identity federation, as on other clouds and in Kubernetes."""
    (tmp_path / "subject").write_text("OWN")
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{server.endpoint}/sts",
        "credential_source": {"file": str(tmp_path / "subject")},
    }


async def test_an_external_account_s_own_token_is_exchanged(server: ScriptedHttp, tmp_path: Path) -> None:
    server.always = grant("T1")
    assert await source(**{"gs.key": json.dumps(external_account(server, tmp_path))}).token() == "T1"
    asked = parse_qs(server.seen[-1].body.decode())
    assert (asked["subject_token"], asked["scope"]) == (["OWN"], [SCOPE])


LOGIN = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "R"}
IMPERSONATED = {
    "type": "impersonated_service_account",
    "service_account_impersonation_url": f"https://iamcredentials.googleapis.com/v1/-/{ACCOUNT}:generateAccessToken",
    "source_credentials": LOGIN,
}


def test_a_user_s_login_and_the_account_that_it_stands_for_can_be_read() -> None:
    """No further, for their tokens are given by Google alone, whatever the file says."""
    assert gcs_google_auth._credentials(LOGIN, "gs.key").refresh_token == "R"
    assert gcs_google_auth._credentials(IMPERSONATED, "gs.key").service_account_email == ACCOUNT


async def test_a_fixed_token_is_sent_as_it_is_and_anonymous_access_sends_none() -> None:
    assert await source(**{"gs.token": "T"}).token() == "T"
    assert await source(**{"gs.anonymous": "true"}).token() is None


# ------------------------------------------------------------------ tokens in use


async def test_a_token_that_the_store_refuses_is_renewed_once(server: ScriptedHttp, key: dict[str, str]) -> None:
    """For reads through obstore and for all else."""
    given: list[str] = []

    def answer(seen: Seen) -> Answer:
        if seen.path == "/token":
            given.append(f"T{len(given) + 1}")
            return grant(given[-1])
        if seen.headers["authorization"] != "Bearer T2":
            return Answer(401)
        return Answer(200, OBJECT) if seen.path.startswith("/storage/") else whole

    whole = Answer(
        200, b"0123456789", {"ETag": '"e"', "Last-Modified": "Tue, 03 Jun 2025 10:00:00 GMT", "x-goog-generation": "7"}
    )
    server.always = answer
    for call in ("head", "get"):
        given.clear()
        store = GcsStore("bucket", parse({"gs.key": json.dumps(key), "gs.endpoint": server.endpoint}), deadline_s=5)
        await store._http.tokens.token()
        store._http.tokens._came_at -= 3600 * _SECOND  # it was good for an hour, and then taken back
        await getattr(store, call)("k")
        assert given == ["T1", "T2"]
        await store.close()


async def test_a_fresh_token_that_is_refused_is_not_asked_for_again(server: ScriptedHttp, key: dict[str, str]) -> None:
    server.always = lambda seen: grant("T") if seen.path == "/token" else Answer(401)
    for call in ("head", "get"):
        server.seen.clear()
        store = GcsStore("bucket", parse({"gs.key": json.dumps(key), "gs.endpoint": server.endpoint}), deadline_s=5)
        with pytest.raises(Denied, match=f"does not know the token of {ACCOUNT}"):
            await getattr(store, call)("k")
        assert [seen.path for seen in server.seen if seen.path == "/token"] == ["/token"]
        await store.close()


async def test_a_read_tells_why_there_is_no_token(server: ScriptedHttp, key: dict[str, str]) -> None:
    server.always = refuse("invalid_grant", "Invalid JWT Signature.")
    store = GcsStore("bucket", parse({"gs.key": json.dumps(key), "gs.endpoint": server.endpoint}), deadline_s=5)
    with pytest.raises(Denied, match="the key was deleted"):
        await store.get("k")
    await store.close()


# ------------------------------------------------------------------ Application Default Credentials, in a child

_CHILD = """
import asyncio, sys
from forebay.errors import FsError
from forebay.stores.gcs_credentials import TokenSource
from forebay.stores.gcs_options import parse

async def main():
    tokens = TokenSource(parse({}), "gs://bucket", deadline_s=60)
    try:
        print(await tokens.token(), tokens.who)
    except FsError as error:
        print(type(error).__name__, error)

asyncio.run(main())
"""


async def default_token(tmp_path: Path, **environment: str) -> str:
    """What a process of its own gets, with nothing of this machine's credentials."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    own = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"), "NO_PROXY": "*"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CHILD, stdout=asyncio.subprocess.PIPE, env=kept | own | environment
    )
    out, _ = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 0
    return out.decode().strip()


def metadata(seen: Seen) -> Answer:
    """The metadata server of a machine at Google."""
    flavor = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
    if seen.path == "/":
        return Answer(200, b"", flavor)
    if seen.path.endswith("/token"):
        return Answer(200, {"access_token": "VM", "expires_in": 3600, "token_type": "Bearer"}, flavor)
    if "/service-accounts/" in seen.path:
        return Answer(200, {"email": ACCOUNT, "scopes": [SCOPE], "aliases": ["default"]}, flavor)
    return Answer(404, b"", flavor)


async def test_a_machine_at_google_gets_its_account_s_token(server: ScriptedHttp, tmp_path: Path) -> None:
    server.always = metadata
    host = server.endpoint.removeprefix("http://")
    assert await default_token(tmp_path, GCE_METADATA_HOST=host, GCE_METADATA_IP=host) == f"VM {ACCOUNT}"
    assert all(seen.headers["metadata-flavor"] == "Google" for seen in server.seen)


async def test_the_environment_s_key_file_is_used(server: ScriptedHttp, key: dict[str, str], tmp_path: Path) -> None:
    server.always = grant("T1")
    (tmp_path / "key.json").write_text(json.dumps(key))
    told = await default_token(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"))
    assert told == f"T1 {ACCOUNT}"


async def test_the_environment_s_external_account_is_used(server: ScriptedHttp, tmp_path: Path) -> None:
    server.answers.append(grant("T1"))
    path = tmp_path / "external.json"
    path.write_text(json.dumps(external_account(server, tmp_path)))
    names = {"GOOGLE_APPLICATION_CREDENTIALS": str(path), "GOOGLE_CLOUD_PROJECT": "known, so not asked for"}
    assert (await default_token(tmp_path, **names)).startswith("T1 ")
    server.always = Answer(503)
    assert (await default_token(tmp_path, **names)).startswith("Unavailable gs://bucket: no token")


async def test_gcloud_s_login_is_used(server: ScriptedHttp, key: dict[str, str], tmp_path: Path) -> None:
    server.always = grant("T1")
    (tmp_path / "gcloud").mkdir()
    (tmp_path / "gcloud" / "application_default_credentials.json").write_text(json.dumps(key))
    assert await default_token(tmp_path) == f"T1 {ACCOUNT}"


async def test_without_any_credentials_what_to_give_is_said(tmp_path: Path) -> None:
    told = await default_token(tmp_path, NO_GCE_CHECK="true")
    assert told.startswith("Denied gs://bucket: no credentials were given, and none were found")
    assert "gs.anonymous=true for a public bucket" in told


@pytest.mark.parametrize(("content", "says"), [(None, "does not exist"), ("{}", "holds no credentials")])
async def test_a_wrong_file_of_the_environment_is_named(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    told = await default_token(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(tmp_path / "key.json"))
    assert told.startswith("Invalid gs://bucket: the file that GOOGLE_APPLICATION_CREDENTIALS")
    assert says in told
