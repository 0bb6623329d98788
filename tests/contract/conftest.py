"""Real servers for the whole session, each started when the first test asks for it."""

from collections.abc import Iterator

import pytest

from forebay.testing.fakegcs import FakeGcs
from forebay.testing.seaweed import SeaweedS3


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    with SeaweedS3(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def fakegcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    with FakeGcs(tmp_path_factory.mktemp("fakegcs")) as server:
        yield server
