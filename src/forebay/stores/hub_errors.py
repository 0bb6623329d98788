"""What the Hub's answers, and failures on the way to it, mean in Forebay's kinds, with what to do about them.

Messages are made here: those of huggingface_hub quote URLs, and the Hub's redirects are signed.
"""

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from forebay.errors import Denied, FsError, Invalid, NotFound, Throttled, TimedOut, Unavailable

# OSError: HfHubHTTPError is one.  ValueError: an answer that is not JSON.
ERRORS = (OSError, EntryNotFoundError, HFValidationError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError)
_TOKEN = "--option hf.token=..., the variable HF_TOKEN or `hf auth login`"


def translate(error: Exception, location: str, endpoint: str, key: str) -> FsError:
    """The error for what huggingface_hub raised."""
    what = f"{location}: {key!r}" if key else location
    path = key or None
    gone = Unavailable if key else NotFound  # without its repository no file counts as absent: that would be believed
    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError
        return Denied(
            f"{location}: denied: the repository is gated; ask for access on its page, and give a token: {_TOKEN}",
            path=path,
        )
    if isinstance(error, DisabledRepoError):
        return Denied(f"{location}: denied: the Hub has disabled this repository", path=path)
    if isinstance(error, EntryNotFoundError):
        return NotFound(f"{what}: no such file", path=path)
    if isinstance(error, RevisionNotFoundError):
        return gone(f"{location}: the repository has no such revision; check what stands after the @", path=path)
    if isinstance(error, RepositoryNotFoundError) or _is_hidden(error):
        return gone(
            f"{location}: no such repository; check type and name (hf://datasets/..., hf://spaces/..., "
            f"else it is a model). If it is private: {_TOKEN}",
            path=path,
        )
    if isinstance(error, LocalTokenNotFoundError):
        return Denied(f"{location}: no token was found; give one: {_TOKEN}", path=path)
    if isinstance(error, OfflineModeIsEnabled):
        return Unavailable(f"{location}: HF_HUB_OFFLINE is set in the daemon's environment", path=path)
    if isinstance(error, HfHubHTTPError):
        return _refused(error.response.status_code, what, path)
    return _of_connection(error, location, endpoint, path)


def _is_hidden(error: Exception) -> bool:
    """Does the Hub say 401 because it shows the repository to nobody who has not logged in, if there is one?"""
    if not isinstance(error, HfHubHTTPError) or error.response.status_code != 401:
        return False
    return error.response.headers.get("X-Error-Message") != "Invalid credentials in Authorization header"


def _refused(status: int, what: str, path: str | None) -> FsError:
    if status == 401:
        return Denied(f"{what}: denied: the token is wrong or has expired; give another: {_TOKEN}", path=path)
    if status == 403:
        return Denied(f"{what}: denied: the token may not read this; check its scopes on the Hub", path=path)
    if status == 404:
        return NotFound(f"{what}: no such file", path=path)
    if status == 416:
        return Invalid(f"{what}: the range lies outside the file", path=path)
    if status == 429:
        return Throttled(
            f"{what}: the Hub asks for fewer requests (429); a token has a higher limit: {_TOKEN}", path=path
        )
    if status >= 500:
        return Unavailable(f"{what}: the Hub failed ({status})", path=path)
    return Invalid(f"{what}: the Hub refused the request ({status})", path=path)


def _of_connection(error: Exception, location: str, endpoint: str, path: str | None) -> FsError:
    if isinstance(error, httpx2.TimeoutException | TimeoutError):
        return TimedOut(f"{location}: no answer from {endpoint} in time; check network and firewall", path=path)
    if isinstance(error, httpx2.ConnectError):
        return Unavailable(f"{location}: {endpoint} cannot be reached; check network, DNS and hf.endpoint", path=path)
    if isinstance(error, httpx2.HTTPError | OSError):
        return Unavailable(f"{location}: the connection to {endpoint} broke ({type(error).__name__})", path=path)
    if isinstance(error, HFValidationError | httpx2.InvalidURL | UnicodeError):
        return NotFound(f"{location}: no file can have that name", path=path)
    return Invalid(f"{location}: what answers at {endpoint} is not the Hub; check hf.endpoint", path=path)
