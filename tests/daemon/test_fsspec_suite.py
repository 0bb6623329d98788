"""fsspec's own abstract suites, on a real daemon with a writable mount of a bucket of a real S3."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.tests.abstract import (
    AbstractCopyTests,
    AbstractFixtures,
    AbstractGetTests,
    AbstractOpenTests,
    AbstractPipeTests,
    AbstractPutTests,
)

from forebay.client.spec import ForebayFileSystem
from forebay.testing.daemons import forebay_command, temporary_home
from forebay.testing.seaweed import SeaweedS3


@pytest.fixture(scope="module")
def fs_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a daemon that shows a bucket at /data."""
    with temporary_home() as home, SeaweedS3(tmp_path_factory.mktemp("seaweed")) as s3:
        s3.make_bucket("suite")
        keys = {"s3a.accessKeyId": s3.access_key, "s3a.secretKey": s3.secret_key, "s3.endpoint": s3.endpoint}
        place = ["s3://suite/", *(word for pair in keys.items() for word in ("--option", "=".join(pair)))]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
        command = forebay_command("fs", "mount", "/data", *place)
        subprocess.run(command, env=environ | {"FOREBAY_HOME": str(home)}, timeout=60, check=True)
        yield home


class Fixtures(AbstractFixtures):  # type: ignore[misc]
    @pytest.fixture
    def fs(self, fs_home: Path) -> ForebayFileSystem:
        return ForebayFileSystem(str(fs_home))

    @pytest.fixture
    def fs_path(self) -> str:
        return "/data"

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return True


class TestCopy(Fixtures, AbstractCopyTests):  # type: ignore[misc]  # fsspec has no types
    pass


class TestGet(Fixtures, AbstractGetTests):  # type: ignore[misc]  # fsspec has no types
    pass


class TestPut(Fixtures, AbstractPutTests):  # type: ignore[misc]  # fsspec has no types
    pass


class TestOpen(Fixtures, AbstractOpenTests):  # type: ignore[misc]  # fsspec has no types
    pass


class TestPipe(Fixtures, AbstractPipeTests):  # type: ignore[misc]  # fsspec has no types
    pass
