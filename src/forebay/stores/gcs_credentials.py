"""Access tokens for Google Cloud Storage, asked for once for all who wait and renewed before they expire.

*Callers*: the GCS store and obstore's threads, on the loop.  *Locks*: `_asking`, for one question at a time.
*Awaits*: google-auth in a thread, which asks a token server; see `gcs_google_auth`.  *Invariants*: who waits for a
question that fails gets its failure, and does not ask again.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from forebay.errors import FsError, TimedOut
from forebay.stores.gcs_options import GcsOptions

# Google's metadata servers give a new token when the old one has four minutes left; google-auth asks then too.
RENEW_BEFORE = timedelta(seconds=225)
# A token that was refused right after it came would not be better for being asked for again.
YOUNG = timedelta(seconds=10)


class Grant(NamedTuple):
    """What a token server gave."""

    token: str
    expires_at: datetime | None  # None: nobody knows
    who: str  # whose token it is, for messages

    def __repr__(self) -> str:
        return f"<Grant of {self.who}>"


class TokenSource:
    """Gives the tokens of one store; call `token` before each request, it is cheap."""

    def __init__(self, options: GcsOptions, location: str, *, deadline_s: float) -> None:
        self.failure: FsError | None = None  # of the last question, until one succeeds
        self.is_anonymous = options.anonymous
        self.is_fixed = options.token is not None
        self._options = options
        self._location = location
        self._within_s = deadline_s * 2 / 3  # so that its end is told, and not that of the call that needs the token
        self._known = Grant(options.token, None, "the access token of gs.token") if options.token else None
        self._came_at = self._failed_at = datetime.min.replace(tzinfo=UTC)
        self._renew_at = datetime.max.replace(tzinfo=UTC)
        self._asking = asyncio.Lock()

    @property
    def who(self) -> str:
        """Whose rights count, for messages."""
        if self.is_anonymous:
            return "an anonymous caller"
        return self._known.who if self._known else "this account"

    async def token(self) -> str | None:
        """The token to send; None for anonymous access.

        Raises:
            Denied: no credentials anywhere, or Google refuses them.
            Invalid: the credentials cannot be read.
            Unavailable, TimedOut: the token server cannot be reached.
        """
        if self.is_anonymous:
            return None
        return (await self._grant()).token

    async def for_obstore(self) -> dict[str, Any]:
        """The token in the shape that obstore's `credential_provider` gives."""
        grant = await self._grant()
        return {"token": grant.token, "expires_at": grant.expires_at}

    def forget(self) -> bool:
        """Ask for another token next time, since the store refused this one; False if that would not help."""
        if self.is_fixed or self.is_anonymous or datetime.now(UTC) - self._came_at < YOUNG:
            return False
        self._known = None
        return True

    async def _grant(self) -> Grant:
        wanted_at = datetime.now(UTC)
        if self._known is None or wanted_at >= self._renew_at:
            async with self._asking:
                if self.failure is not None and self._failed_at >= wanted_at:
                    raise type(self.failure)(self.failure.message)
                if self._known is None or wanted_at >= self._renew_at:
                    return await self._ask()
        return self._known

    async def _ask(self) -> Grant:
        try:
            async with asyncio.timeout(self._within_s):
                grant = await asyncio.to_thread(_ask_google, self._options, self._location)
        except (FsError, TimeoutError) as failed:
            now = datetime.now(UTC)
            message = f"{self._location}: no token for {self.who}: no answer within {self._within_s:g} s"
            error = failed if isinstance(failed, FsError) else TimedOut(message)
            if error.retryable and self._known and self._known.expires_at and now < self._known.expires_at:
                self._renew_at = now + YOUNG  # the one at hand is good for a little longer
                return self._known
            self.failure, self._failed_at = error, now
            raise error from None
        now = datetime.now(UTC)
        self.failure, self._known, self._came_at = None, grant, now
        if grant.expires_at is not None:
            left = grant.expires_at - now
            self._renew_at = now + max(left - RENEW_BEFORE, left / 2)  # the half of one that lives for minutes only
        return grant


def _ask_google(options: GcsOptions, location: str) -> Grant:
    from forebay.stores import gcs_google_auth  # slow to import, and needed by no anonymous mount

    return Grant(*gcs_google_auth.ask(options, location))
