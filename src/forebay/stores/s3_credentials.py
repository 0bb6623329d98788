"""Credentials for S3: the mount's own, or the usual AWS chain, renewed as they expire.

The chain is botocore's: environment, profile files, single sign-on, assumed roles, containers, instance metadata.
It reads files and may ask the network, so it runs in a thread.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import botocore.exceptions
import botocore.session

from forebay.errors import Denied, Invalid
from forebay.stores.s3_options import S3Options

RENEW_AFTER = timedelta(minutes=5)  # botocore renews what expires within 10 to 15 minutes when it is asked
_CHAIN = "environment, ~/.aws, instance metadata"


class Keys(NamedTuple):
    """What signs a request."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None

    def __repr__(self) -> str:
        return f"<Keys {self.access_key_id[:4]}...>"


class CredentialSource:
    """Gives the keys of one store; call `keys` before each request, it is cheap."""

    def __init__(self, options: S3Options, location: str) -> None:
        self._location = location
        self._profile = options.profile
        self.anonymous = options.anonymous
        self._fixed: Keys | None = None
        if options.access_key_id and options.secret_access_key:
            self._fixed = Keys(options.access_key_id, options.secret_access_key, options.session_token)
        self._chain: Any = None  # botocore's credentials, once found
        self._known: tuple[Keys, datetime] | None = None
        self._asking = asyncio.Lock()

    async def keys(self) -> Keys | None:
        """The keys to sign with; None for anonymous access.

        Raises:
            Denied: no credentials anywhere, or they cannot be renewed.
            Invalid: the profile does not exist.
        """
        if self._fixed is not None or self.anonymous:
            return self._fixed
        if self._known is None or self._known[1] <= datetime.now(UTC):
            async with self._asking:
                if self._known is None or self._known[1] <= datetime.now(UTC):
                    keys = await asyncio.to_thread(self._ask_chain)
                    self._known = (keys, datetime.now(UTC) + RENEW_AFTER)
        return self._known[0]

    async def for_obstore(self) -> dict[str, Any]:
        """The keys in the shape that obstore's `credential_provider` gives."""
        keys = await self.keys()
        if keys is None:
            raise Denied(
                f"{self._location}: anonymous access needs no keys"
            )  # obstore does not ask when it does not sign
        expires_at = None if self._fixed is not None or self._known is None else self._known[1]
        return {
            "access_key_id": keys.access_key_id,
            "secret_access_key": keys.secret_access_key,
            "token": keys.session_token,
            "expires_at": expires_at,
        }

    def secrets(self) -> list[str]:
        """What must never show in a message."""
        keys = self._fixed or (self._known[0] if self._known else None)
        return [] if keys is None else [one for one in (keys.secret_access_key, keys.session_token) if one]

    def _ask_chain(self) -> Keys:
        try:
            if self._chain is None:
                self._chain = botocore.session.Session(profile=self._profile).get_credentials()
            if self._chain is None:
                raise Denied(
                    f"{self._location}: no credentials were given, and none were found ({_CHAIN}); "
                    "add --option s3a.accessKeyId=... --option s3a.secretKey=..., "
                    "or --option s3.anonymous=true for a public bucket"
                )
            frozen = self._chain.get_frozen_credentials()
        except botocore.exceptions.ProfileNotFound as error:
            message = (
                f"{self._location}: ~/.aws has no profile {self._profile!r}; `aws configure list-profiles` lists them"
            )
            raise Invalid(message) from error
        except botocore.exceptions.BotoCoreError as error:
            kind = type(error).__name__
            message = f"{self._location}: the AWS credential chain ({_CHAIN}) failed: {kind}; renew them, or give keys"
            raise Denied(message) from None
        return Keys(frozen.access_key, frozen.secret_key, frozen.token)


async def configured_region(profile: str | None) -> str | None:
    """The region that the AWS configuration (environment, profile) names, if any."""

    def ask() -> str | None:
        try:
            found = botocore.session.Session(profile=profile).get_config_variable("region")
        except botocore.exceptions.BotoCoreError:
            return None  # a missing profile is reported where its keys are needed
        return str(found) if found else None

    return await asyncio.to_thread(ask)
