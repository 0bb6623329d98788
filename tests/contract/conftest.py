"""Real servers for the whole session, each started when the first test asks for it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.config.settings import Settings
from forebay.testing.apache import Apache
from forebay.testing.fakegcs import FakeGcs
from forebay.testing.nginx import Nginx
from forebay.testing.python_http import PythonHttp
from forebay.testing.seaweed import SeaweedS3


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    with SeaweedS3(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def fakegcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    with FakeGcs(tmp_path_factory.mktemp("fakegcs")) as server:
        yield server


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="session")
def nginx_json(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("nginx-json"), index="json") as server:
        yield server


@pytest.fixture(scope="session")
def python_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PythonHttp]:
    with PythonHttp(tmp_path_factory.mktemp("python-http")) as server:
        yield server


@pytest.fixture(scope="session")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apache]:
    with Apache(tmp_path_factory.mktemp("apache")) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, store_deadline_s=20)


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
