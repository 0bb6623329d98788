"""Reads are signed as botocore signs them."""

from datetime import UTC, datetime, timedelta
from functools import partial
from unittest.mock import patch
from urllib.parse import quote

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from forebay.stores.s3_credentials import Keys
from forebay.stores.s3_signing import EMPTY_SHA256, Signer

WORDS = st.text("abcXYZ019/+=-_", min_size=1, max_size=40)
MOMENTS = st.integers(1_420_070_400, 2_051_222_400).map(partial(datetime.fromtimestamp, tz=UTC))  # 2015 to 2034
HOSTS = st.sampled_from(["127.0.0.1:8333", "bucket.s3.eu-central-1.amazonaws.com", "[::1]:9000"])


def by_botocore(keys: Keys, region: str, host: str, path: str, moment: datetime, *, payer: bool) -> dict[str, str]:
    request = AWSRequest("GET", f"http://{host}{path}", headers={"x-amz-request-payer": "requester"} if payer else {})
    signer = S3SigV4Auth(Credentials(*keys), "s3", region)
    with patch("botocore.auth.get_current_datetime", lambda: moment):
        signer.add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def headers_of(text: str) -> dict[str, str]:
    assert text.endswith("\r\n")
    pairs = [line.split(": ", 1) for line in text.removesuffix("\r\n").split("\r\n")]
    return {name.lower(): value for name, value in pairs}


@given(
    keys=st.builds(Keys, WORDS, WORDS, st.none() | WORDS),
    region=st.sampled_from(["us-east-1", "eu-central-1"]),
    host=HOSTS,
    names=st.lists(st.text(min_size=1).map(lambda name: name.encode("utf-8", "replace").decode()), min_size=1),
    moments=st.lists(MOMENTS, min_size=1, max_size=3),
    payer=st.booleans(),
)
def test_a_read_is_signed_as_botocore_signs_it_whatever_the_key_and_the_day(
    keys: Keys, region: str, host: str, names: list[str], moments: list[datetime], payer: bool
) -> None:
    signer = Signer(keys, region, host, requester_pays=payer)
    for moment in moments:
        for later in (timedelta(0), timedelta(milliseconds=999), timedelta(seconds=1)):
            path = "/" + quote("/".join(names), safe="/~")
            said = headers_of(signer.headers(path, moment + later))
            signed_at = datetime.strptime(said["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            assert timedelta(0) <= moment + later - signed_at < timedelta(seconds=2)
            assert said == by_botocore(keys, region, host, path, signed_at, payer=payer)
            assert said["x-amz-content-sha256"] == EMPTY_SHA256


def test_a_clock_that_is_set_back_is_believed() -> None:
    signer, moment = Signer(Keys("K", "S", None), "us-east-1", "h"), datetime(2026, 3, 1, tzinfo=UTC)
    assert "X-Amz-Date: 20260301T000000Z".lower() in signer.headers("/k", moment).lower()
    assert "X-Amz-Date: 20260228T235950Z".lower() in signer.headers("/k", moment - timedelta(seconds=10)).lower()
