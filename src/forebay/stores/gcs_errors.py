"""What Google Cloud Storage's answers mean in Forebay's kinds, with what to do about them.

Its JSON API and its XML API (which obstore speaks) say the same things in different words.  Messages are made here
from status, code and permission; raw text of servers is not passed on, for it may quote the request.
"""

import json
import re
from typing import NamedTuple

from forebay.errors import Denied, FsError, Invalid, NotFound, StaleVersion, Throttled, Unavailable
from forebay.stores.gcs_credentials import TokenSource
from forebay.stores.wire_errors import Answer

NO_BUCKET, NO_PROJECT = "NoSuchBucket", "UserProjectMissing"  # the XML API's words, for both

_MAY_NOT_PAY = ("UserProjectAccessDenied", "serviceusage.services.use")
_NO_BILLING = ("UserProjectAccountProblem", "accountDisabled", "AccountProblem")
_SCOPES = ("insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT")
_THROTTLED = ("SlowDown", "rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded")
_PERMISSION = re.compile(r"\b(?:storage|serviceusage)(?:\.[A-Za-z]{1,30}){2}\b")
_WORD = re.compile(r"\w{1,64}")
NAME_BYTES_MAX = 1024


class Said(NamedTuple):
    """An answer that is not a success."""

    status: int
    code: str = ""  # the store's own word, "" if there was none
    permission: str = ""  # what was missing, such as `storage.objects.list`


def read_answer(status: int, body: bytes) -> Said:
    """What an error answer of the JSON API says."""
    try:
        error = json.loads(body)["error"]
        message, reason = str(error["message"]), str(error["errors"][0]["reason"])
    except (ValueError, KeyError, TypeError, IndexError):
        message, reason = body.decode("utf-8", "replace"), ""  # the media of an object come with plain text
    permission = _PERMISSION.search(message)
    code = reason if _WORD.fullmatch(reason) else ""
    if status == 404 and "bucket does not exist" in message:
        code = NO_BUCKET
    elif status == 400 and "requester pays" in message:
        code = NO_PROJECT
    elif "ACCESS_TOKEN_SCOPE_INSUFFICIENT" in message:
        code = _SCOPES[1]
    return Said(status, code, permission[0] if permission else "")


def is_passing(said: Said) -> bool:
    """May the same request succeed a little later?"""
    return said.status >= 500 or said.status in (408, 429) or said.code in _THROTTLED


def refused(
    said: Said | Answer, location: str, tokens: TokenSource, key: str | None = None, *, is_read: bool
) -> FsError:
    """The error for an answer of the store to a request with these tokens."""
    what = location if key is None else f"{location}: {key!r}"
    status, code = said.status, said.code
    told = f"{status} {code}".strip()
    if code == NO_BUCKET or (status == 404 and key is None):
        return NotFound(f"{location}: no such bucket; check its name and gs.endpoint", path=key)
    if code == NO_PROJECT:
        message = "whoever reads from this bucket pays for it; add --option gs.userProject=PROJECT, with your project"
        return Invalid(f"{location}: {message}", path=key)
    if status == 400 and key is not None and is_impossible(key):
        return (NotFound if is_read else Invalid)(f"{what}: no object can have that key", path=key)
    if is_passing(Said(status, code)):
        if status == 429 or code in _THROTTLED:
            return Throttled(f"{what}: the store asks for fewer requests ({told})", path=key)
        return Unavailable(f"{what}: the store failed ({told})", path=key)
    if status in (401, 403):
        permission = said.permission if isinstance(said, Said) else ""
        return Denied(f"{what}: denied: {_why_denied(status, code, permission, tokens)} ({told})", path=key)
    if status in (404, 410):
        return NotFound(f"{what}: no such object", path=key)
    if status == 412:
        return StaleVersion(f"{what}: has another version by now", path=key)
    if status == 416:
        return Invalid(f"{what}: the range lies outside the object", path=key)
    return Invalid(f"{what}: the store refused the request ({told})", path=key)


def is_impossible(key: str) -> bool:
    """Can no object of Google's have this name?  Other servers may take it.

    >>> is_impossible("a//b"), is_impossible("new\\nline"), is_impossible("x" * 1025)
    (False, True, True)
    """
    raw = key.encode("utf-8", "surrogateescape")
    is_text = not any("\ud800" <= char <= "\udfff" for char in key)
    return not is_text or len(raw) > NAME_BYTES_MAX or key in (".", "..") or "\n" in key or "\r" in key


def _why_denied(status: int, code: str, permission: str, tokens: TokenSource) -> str:
    who = tokens.who
    if tokens.is_anonymous:
        return "this bucket is not public; give credentials, such as --option gs.keyFile=/path/key.json"
    if status == 401 and tokens.is_fixed:
        return "the access token is wrong or has expired; mount again with a new gs.token, or with gs.keyFile"
    if status == 401:
        return f"Google does not know the token of {who}; check the credentials"
    if code in _MAY_NOT_PAY or permission == _MAY_NOT_PAY[1]:
        return f"{who} may not let the project of gs.userProject pay; grant it Service Usage Consumer there"
    if code in _NO_BILLING:
        return "a project has no working billing account"
    if code in _SCOPES:
        return (
            f"the token of {who} is not meant for this use of Cloud Storage; it needs the scope devstorage.read_write"
        )
    lacks = permission or "the right to do this"
    return f"{who} lacks {lacks}; grant it a role on the bucket, such as Storage Object Viewer"
