"""The options of a Google Cloud Storage mount, under all the names that people know them by.

Alluxio's (`fs.gcs.credential.path`), the Hadoop connector's (`google.cloud.auth.service.account.json.keyfile`),
obstore's (`google_service_account_key`) and rclone's (`service_account_file`) mean the same thing here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forebay.errors import Invalid
from forebay.stores.named_options import OptionNames, absolute_path, flag
from forebay.stores.urls import endpoint

_NAMES = OptionNames(
    "Google Cloud Storage",
    prefixes=("spark", "hadoop", "fs", "gs", "gcs", "google", "cloud"),
    names={
        "gs.keyFile": (
            *("credentialpath", "credentialspath", "credentialsfile", "applicationcredentials"),
            *("authserviceaccountjsonkeyfile", "serviceaccount", "serviceaccountpath", "serviceaccountfile"),
        ),
        "gs.key": ("serviceaccountkey", "serviceaccountcredentials"),
        "gs.token": ("accesstoken", "bearertoken"),
        "gs.anonymous": ("anon", "skipsignature", "nosignrequest", "public", "authnullenable"),
        "gs.endpoint": ("endpointurl", "baseurl", "apiendpoint", "storagerooturl"),
        "gs.userProject": ("requesterpaysprojectid", "requesterpaysproject", "billingproject"),
        "gs.tls.verify": ("verify", "sslverify", "verifyssl"),
        "gs.tls.caFile": ("cafile", "cabundle", "tlsca", "sslcafile"),
    },
)
_HMAC = ("accesskey", "accesskeyid", "secretkey", "secretaccesskey")
_CREDENTIALS = ("gs.keyFile", "gs.key", "gs.token", "gs.anonymous")


@dataclass(frozen=True, slots=True)
class GcsOptions:
    """What a mount says about its bucket.  Secrets do not show in the repr."""

    key_file: Path | None = None  # JSON as Google gives it: a service account's key, or an external account's settings
    key: Mapping[str, Any] | None = field(default=None, repr=False)  # what such a file says
    token: str | None = field(default=None, repr=False)  # an OAuth access token; nobody renews it
    anonymous: bool = False  # requests carry no token
    endpoint: str | None = None  # `http://host:port`, canonical; None: Google itself
    user_project: str | None = None  # who pays for requests to a requester-pays bucket
    verify: bool = True  # the server's certificate is checked
    ca_file: Path | None = None  # more roots to trust, PEM


def parse(options: Mapping[str, str]) -> GcsOptions:
    """The options of one mount.

    Raises:
        Invalid: a name that is not known, two names of one thing with different values, or values that
            contradict each other.
    """
    for name in options:
        if "".join(char for char in name.lower() if char.isalnum()).endswith(_HMAC):
            raise Invalid(
                f"option {name}: HMAC keys are for the S3 interface of Google Cloud Storage; mount s3://bucket "
                "with --option s3.endpoint=https://storage.googleapis.com, or give gs.keyFile"
            )
    values = _NAMES.read(options)
    anonymous = flag("gs.anonymous", values.get("gs.anonymous"), default=False)
    given = [name for name in _CREDENTIALS if name in values and (anonymous or name != "gs.anonymous")]
    if len(given) > 1:
        raise Invalid(f"{given[0]} and {given[1]} exclude each other; leave one of them out")
    return GcsOptions(
        key_file=absolute_path("gs.keyFile", values.get("gs.keyFile")),
        key=parse_key(values["gs.key"], "gs.key") if "gs.key" in values else None,
        token=values.get("gs.token"),
        anonymous=anonymous,
        endpoint=endpoint("gs.endpoint", values.get("gs.endpoint"), instead="gs.keyFile"),
        user_project=values.get("gs.userProject"),
        verify=flag("gs.tls.verify", values.get("gs.tls.verify"), default=True),
        ca_file=absolute_path("gs.tls.caFile", values.get("gs.tls.caFile")),
    )


def parse_key(text: str | bytes, place: str) -> Mapping[str, Any]:
    """What a file with credentials says; `place` is where its text stands.

    Raises:
        Invalid: this is not JSON as Google gives it.
    """
    try:
        said = json.loads(text)
    except ValueError:  # its text would quote the key
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("type"), str):
        raise Invalid(
            f"{place} is not the JSON of a Google credential; make a key with "
            "`gcloud iam service-accounts keys create FILE --iam-account=ACCOUNT`"
        )
    return said
