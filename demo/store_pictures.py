"""Pictures read from the store itself, one GET each and no cache: what training does without a file system.

The client is obstore, the fastest plain one.  It does not survive a fork, so the loader's processes each make their
own, and the parent, which only lists the names, uses botocore.  Endpoint and keys come from the environment
(`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`), as usual.
"""

import os
from urllib.parse import urlsplit

import botocore.session
import obstore
from obstore.store import S3Store


class StorePictures:
    """`s3://BUCKET` with objects `CLASS/NAME.jpg`; classes and names in sorted order."""

    def __init__(self, url: str) -> None:
        self._bucket = urlsplit(url).netloc
        self._store: tuple[int, S3Store] | None = None  # the process it belongs to
        keys = sorted(self._list_keys())
        self.classes = sorted({key.split("/")[0] for key in keys})
        labels = {name: label for label, name in enumerate(self.classes)}
        self.names = [(key, labels[key.split("/")[0]]) for key in keys]

    def _list_keys(self) -> list[str]:
        client = botocore.session.get_session().create_client("s3", region_name="us-east-1")
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return [found["Key"] for page in pages for found in page["Contents"]]

    def read(self, name: str) -> bytes:
        """The object's bytes."""
        if self._store is None or self._store[0] != os.getpid():
            self._store = os.getpid(), self._connect()
        return bytes(obstore.get(self._store[1], name).bytes())

    def _connect(self) -> S3Store:
        return S3Store(
            self._bucket,
            endpoint=os.environ["AWS_ENDPOINT_URL"],
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
