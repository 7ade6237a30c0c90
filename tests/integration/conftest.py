from __future__ import annotations

from collections.abc import Iterator

import pytest

import notary_docker
import notary_servers
from notary_docker import DockerWorld
from notary_servers import NotaryServer, RealNotary
from tabellion.cli.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def gun(request: pytest.FixtureRequest) -> str:
    """Give each test a GUN of its own."""
    name = request.node.name.replace("_", "-").replace("[", "-").replace("]", "").lower()
    return f"registry.example/team/{name}"


@pytest.fixture(scope="session")
def real_notary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNotary]:
    with notary_servers.real_notary(tmp_path_factory.mktemp("real-notary")) as running:
        yield running


@pytest.fixture(scope="session")
def our_notary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotaryServer]:
    config = notary_servers.our_config(tmp_path_factory.mktemp("our-notary"))
    with notary_servers.our_notary(config) as running:
        yield running


@pytest.fixture(scope="session")
def docker_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerWorld]:
    with notary_docker.docker_world(tmp_path_factory.mktemp("docker-world")) as running:
        yield running
