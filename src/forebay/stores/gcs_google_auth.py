"""Tokens through Google's own library: keys, external accounts, and Application Default Credentials.

Everything here blocks, on files and on the network; `gcs_credentials` runs it in a thread.  Texts of the library are
read for what they mean and not passed on, for they may quote a key.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import google.auth
import requests
from google.auth import aws, exceptions, identity_pool, impersonated_credentials
from google.auth.transport.requests import Request
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from forebay.errors import Denied, FsError, Invalid, Unavailable
from forebay.stores.gcs_options import GcsOptions, parse_key

SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
ANSWER_WITHIN_S = 10.0  # of one request to a token server
_AWS_SUBJECT = "urn:ietf:params:aws:token-type:aws4_request"

# Of RFC 6749 and of Google's own; other words of an answer are not passed on.
_CODE = re.compile(r"\b(?:(?:invalid|unauthorized|unsupported)_[a-z_]{4,24}|access_denied)\b")
# By words in what a token server says, in lower case.
_REFUSALS = {
    "invalid jwt signature": "the key was deleted, or is not of that account; make a new one, and set gs.keyFile to it",
    "account not found": "there is no such account (any more)",
    "invalid grant: account": "there is no such account (any more)",
    "short-lived token": "this machine's clock is wrong by more than Google allows; set it right",
    "expired or revoked": "the login has ended; run `gcloud auth application-default login` again",
    "reauth": "the login has ended; run `gcloud auth application-default login` again",
}
_NOWHERE = (
    "no credentials were given, and none were found (GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, the metadata "
    "server); add --option gs.keyFile=/path/key.json, or --option gs.anonymous=true for a public bucket"
)


def ask(options: GcsOptions, location: str) -> tuple[str, datetime | None, str]:
    """A new token of the mount's credentials, or without any of the Application Default Credentials.

    What they are is looked up anew each time, so a key file that was replaced is followed.

    Returns:
        The token, when it expires, and whose it is.

    Raises:
        Denied: there are no credentials, or Google refuses them.
        Invalid: they cannot be read.
        Unavailable: the token server cannot be reached.
    """
    if options.ca_file is not None and not options.ca_file.is_file():  # requests would call it a failed connection
        raise Invalid(f"{location}: gs.tls.caFile {options.ca_file} cannot be used: there is no such file")
    who, statuses = "this account", [0]
    with requests.Session() as session:
        session.verify = str(options.ca_file) if options.ca_file else options.verify
        session.hooks["response"] = [lambda answer, **_: statuses.append(answer.status_code)]
        request = cast(Request, partial(Request(session), timeout=ANSWER_WITHIN_S))
        try:
            credentials = _given(options) or google.auth.default(scopes=SCOPES, request=request)[0]
            who = _name_of(credentials)
            credentials.refresh(request)
        except FsError as error:
            raise type(error)(f"{location}: {error.message}") from None
        except exceptions.DefaultCredentialsError as error:
            raise _unusable(str(error), location) from None
        except (exceptions.GoogleAuthError, requests.RequestException, ValueError) as error:
            raise _refused(error, location, who, statuses[-1]) from None
    expiry = credentials.expiry  # UTC, without saying so
    return str(credentials.token), expiry.replace(tzinfo=UTC) if expiry else None, _name_of(credentials)


def _given(options: GcsOptions) -> Any | None:  # noqa: ANN401 - the library's kinds of credentials have no common type
    if options.key is not None:
        return _credentials(options.key, "gs.key")
    if options.key_file is None:
        return None
    try:
        text = options.key_file.read_bytes()
    except OSError as error:
        raise Invalid(f"gs.keyFile {options.key_file} cannot be read: {error.strerror}") from error
    place = f"gs.keyFile {options.key_file}"
    return _credentials(parse_key(text, place), place)


def _credentials(key: Mapping[str, Any], place: str) -> Any:  # noqa: ANN401
    makers: dict[str, Callable[[], Any]] = {
        "service_account": lambda: service_account.Credentials.from_service_account_info(key, scopes=SCOPES),
        "authorized_user": lambda: user_credentials.Credentials.from_authorized_user_info(key),
        "external_account": lambda: (
            aws if key.get("subject_token_type") == _AWS_SUBJECT else identity_pool
        ).Credentials.from_info(key, scopes=SCOPES),
        "impersonated_service_account": lambda: (
            impersonated_credentials.Credentials.from_impersonated_service_account_info(key, scopes=SCOPES)
        ),
    }
    make = makers.get(key["type"])
    if make is None:
        raise Invalid(f"{place}: credentials of this type cannot be used; known are {', '.join(makers)}")
    try:
        return make()
    except (exceptions.GoogleAuthError, ValueError, KeyError, TypeError, AttributeError):
        raise Invalid(f"{place}: the {key['type']} in it is damaged or incomplete; make a new one") from None


def _name_of(credentials: Any) -> str:  # noqa: ANN401
    email = getattr(credentials, "service_account_email", None) or getattr(credentials, "account", None)
    return str(email) if email and email != "default" else "the account of these credentials"


def _unusable(text: str, location: str) -> FsError:
    """The error for what keeps Application Default Credentials from being found."""
    if "default credentials were not found" in text:
        return Denied(f"{location}: {_NOWHERE}")
    why = "does not exist" if text.endswith("was not found.") else "holds no credentials that can be used"
    return Invalid(f"{location}: the file that GOOGLE_APPLICATION_CREDENTIALS or gcloud's login names {why}")


def _refused(error: Exception, location: str, who: str, status: int) -> FsError:
    """The error for a token that was not given; `status` is that of the last answer."""
    is_away = isinstance(error, exceptions.TransportError | requests.RequestException)
    if is_away or status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(f"{location}: no token for {who}: Google's token server cannot be reached or fails")
    text = str(error).lower()
    why = next((said for words, said in _REFUSALS.items() if words in text), "check these credentials")
    code = _CODE.search(text)
    return Denied(f"{location}: Google gives no token for {who}: {why}" + (f" ({code[0]})" if code else ""))
