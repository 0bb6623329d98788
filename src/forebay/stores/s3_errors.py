"""What S3's answers mean in Forebay's kinds, with what to do about them.

Messages are made here from the status and the error code; raw text of servers is not passed on, for it may quote the
request.
"""

import xml.etree.ElementTree as ET

from forebay.errors import Corrupt, Denied, FsError, Invalid, NotFound, StaleVersion, Throttled, Unavailable
from forebay.stores.base import OutsideObject
from forebay.stores.wire_errors import Answer, answer_in

WRONG_REGION = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed", "IncorrectEndpoint"}
)

_THROTTLED = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
    }
)
_DENIED = {
    "InvalidAccessKeyId": "the store does not know this key id; check s3a.accessKeyId",
    "SignatureDoesNotMatch": "the secret does not fit the key id; check s3a.secretKey",
    "AuthorizationHeaderMalformed": "the store could not read the signature; check keys and region",
    "ExpiredToken": "the session token has expired; mount again with new credentials",
    "TokenRefreshRequired": "the session token has expired; mount again with new credentials",
    "InvalidToken": "the session token is wrong, or is missing for temporary keys; check s3.sessionToken",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than the store allows; set it right",
    "AllAccessDisabled": "the store has disabled all access to this bucket",
    "AccountProblem": "the store reports a problem with the account of these keys",
}


def read_answer(status: int, body: bytes | bytearray, region: str = "") -> Answer:
    """What an error answer says."""
    code = ""
    try:
        root = ET.fromstring(body)
    except ET.ParseError:
        return Answer(status, "", region)
    for element in root.iter():
        tag, text = element.tag.rpartition("}")[2], (element.text or "").strip()
        if tag == "Code" and not code:
            code = text[:64]
        elif tag == "Region" and not region:
            region = text[:32]
    return Answer(status, code, region)


def is_wrong_region(answer: Answer) -> bool:
    """Does the answer say that the bucket is elsewhere?"""
    if answer.code == "AuthorizationHeaderMalformed":
        return bool(answer.region)
    return answer.code in WRONG_REGION or answer.status in (301, 307, 308)


def is_passing(answer: Answer) -> bool:
    """May the same request succeed a little later?"""
    codes = ("RequestTimeout", "OperationAborted", "ConditionalRequestConflict", "InternalError")
    return answer.status >= 500 or answer.status == 429 or answer.code in _THROTTLED or answer.code in codes


def refused(answer: Answer, location: str, key: str | None = None) -> FsError:
    """The error for an answer of the store."""
    what = location if key is None else f"{location}: {key!r}"
    path = key
    status, code = answer.status, answer.code
    said = f"{status} {code}".strip()
    if is_wrong_region(answer):
        where = (
            f"it is in {answer.region}; add --option s3.region={answer.region}"
            if answer.region
            else ("set --option s3.region=... to the bucket's region, or check s3.endpoint")
        )
        return Invalid(f"{location}: wrong region for this bucket: {where}", path=path)
    if code == "NoSuchBucket":
        return NotFound(f"{location}: no such bucket; check its name and s3.endpoint", path=path)
    if code == "InvalidBucketName":
        return Invalid(f"{location}: the store does not take this bucket name", path=path)
    if code in _DENIED:
        return Denied(f"{what}: denied: {_DENIED[code]} ({said})", path=path)
    if status in (401, 403):
        return Denied(
            f"{what}: denied: these credentials may not do this; check the bucket's policy ({said})", path=path
        )
    if code == "NoSuchUpload":
        return Unavailable(f"{what}: the upload was ended by the store; try again", path=path)
    if status in (404, 410):
        return NotFound(f"{what}: no such object", path=path)
    if status == 409:
        return Unavailable(f"{what}: another change was under way at the same time ({said}); try again", path=path)
    if status == 412 or code == "PreconditionFailed":  # which may come as a 200, of an upload that is completed
        return StaleVersion(f"{what}: has another version by now", path=path)
    if code == "EntityTooSmall":
        return Invalid(f"{what}: a part but the last is smaller than the store takes ({said})", path=path)
    if status == 416:
        return OutsideObject(f"{what}: the range lies outside the object", path=path)
    if status == 429 or code in _THROTTLED:
        return Throttled(f"{what}: the store asks for fewer requests ({said})", path=path)
    if status >= 500:
        return Unavailable(f"{what}: the store failed ({said})", path=path)
    if status < 300:
        return Corrupt(f"{what}: the store answered something else than was asked ({said})", path=path)
    return Invalid(f"{what}: the store refused the request ({said})", path=path)


def names_region(error: Exception) -> bool:
    """Does obstore's failure mean that the bucket is in another region?"""
    text = str(error)
    answer = answer_in(text)
    if answer is None:
        return "Received redirect without LOCATION" in text
    return is_wrong_region(answer) or (answer.status == 400 and not answer.code)  # HEAD has no body that says more
