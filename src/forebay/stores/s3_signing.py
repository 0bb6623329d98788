"""Signatures of reads: AWS Signature Version 4, in a few microseconds.  Pure.

botocore, which signs all else (`s3_http`), takes a third of what a small object costs.  What is signed is as Amazon's
"Authenticating Requests (AWS Signature Version 4)" says, and no more than it must be: what a proxy may change on the
way (`Accept-Encoding`) is not.
"""

import hmac
from datetime import datetime, timedelta
from hashlib import sha256

from forebay.stores.s3_credentials import Keys

EMPTY_SHA256 = sha256(b"").hexdigest()  # of the body that a GET does not have
PAYER = "x-amz-request-payer"
_ALGORITHM = "AWS4-HMAC-SHA256"
_STAMPED_FOR = timedelta(seconds=1)  # stores accept minutes
_NOT_BEFORE = timedelta(0)


class Signer:
    """Signs GETs by one pair of keys, for one region and host."""

    def __init__(self, keys: Keys, region: str, host: str, *, requester_pays: bool = False) -> None:
        """`host` as the header `Host` says it."""
        self._keys = keys
        self._region = region
        self._host = host
        more = [(PAYER, "requester")] if requester_pays else []
        if keys.session_token:
            more.append(("x-amz-security-token", keys.session_token))
        self._more = more
        self._names = ";".join(["host", "x-amz-content-sha256", "x-amz-date", *(name for name, _ in more)])
        self._stamped: datetime | None = None
        self._day = self._scope = ""
        self._key = hmac.new(b"", digestmod="sha256")  # copied for each request: a third of a new one's cost

    def headers(self, path: str, moment: datetime) -> str:
        """The headers of a GET beside `Host`, a line each.

        Args:
            path: percent-encoded as it goes out, without a query.
            moment: the time now, UTC.
        """
        if self._stamped is None or not _NOT_BEFORE <= moment - self._stamped < _STAMPED_FOR:
            self._stamp(moment)
        request = sha256(f"GET\n{path}\n\n{self._signed_lines}".encode()).hexdigest()
        signature = self._key.copy()
        signature.update((self._before_sum + request).encode())
        return f"{self._sent_lines}{signature.hexdigest()}\r\n"

    def _stamp(self, moment: datetime) -> None:
        """Prepare what is the same for all requests of a second, and the key, which is the same for a day."""
        stamp = f"{moment:%Y%m%dT%H%M%SZ}"
        if (day := stamp[:8]) != self._day:
            key = f"AWS4{self._keys.secret_access_key}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = hmac.new(key, digestmod="sha256")
            self._day, self._scope = day, f"{day}/{self._region}/s3/aws4_request"
        headers = [("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", stamp), *self._more]
        lines = "".join(f"{name}:{value}\n" for name, value in [("host", self._host), *headers])
        self._signed_lines = f"{lines}\n{self._names}\n{EMPTY_SHA256}"
        self._before_sum = f"{_ALGORITHM}\n{stamp}\n{self._scope}\n"
        credential = f"{_ALGORITHM} Credential={self._keys.access_key_id}/{self._scope}"
        authorization = f"Authorization: {credential}, SignedHeaders={self._names}, Signature="
        self._sent_lines = "".join(f"{name}: {value}\r\n" for name, value in headers) + authorization
        self._stamped = moment
