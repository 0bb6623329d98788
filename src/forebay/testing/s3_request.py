"""One signed S3 request by botocore and urllib: how tests talk to a server independent of Forebay's own clients."""

import urllib.error
import urllib.request
from typing import NamedTuple

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ANSWER_WITHIN_S = 30.0


class S3Account(NamedTuple):
    """Where an S3 server of a test answers, and to whom."""

    endpoint: str
    access_key: str
    secret_key: str


def signed_request(account: S3Account, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """The status and the body of the answer, errors of HTTP included."""
    request = AWSRequest(method=method, url=account.endpoint + path, data=body)
    S3SigV4Auth(Credentials(account.access_key, account.secret_key), "s3", "us-east-1").add_auth(request)
    prepared = request.prepare()
    call = urllib.request.Request(prepared.url, data=body or None, headers=dict(prepared.headers), method=method)
    try:
        with urllib.request.urlopen(call, timeout=ANSWER_WITHIN_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()
