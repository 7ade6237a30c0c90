from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forge import Forge, target
from puller import Puller
from simulator import Simulator
from tabellion.transport.fetcher import HttpFetcher

if TYPE_CHECKING:
    from postgres_server import Database, PostgresServer
    from valkey_servers import ValkeyCluster, ValkeyServer


@pytest.fixture
def forge() -> Forge:
    """Sign one image."""
    made = Forge()
    made.targets.targets["1.2"] = target(b"image")
    made.release()
    return made


@pytest.fixture
async def server(forge: Forge) -> AsyncIterator[Simulator]:
    """Serve it."""
    async with Simulator(forge) as simulator:
        simulator.serve()
        yield simulator


@pytest.fixture
async def puller(server: Simulator, tmp_path: Path) -> AsyncIterator[Puller]:
    """Verify it."""
    async with HttpFetcher(stall_seconds=0.4, total_seconds=1.5) as fetcher:
        yield Puller(server, tmp_path / "home", fetcher)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    from postgres_server import PostgresServer  # noqa: PLC0415  (few tests need it)

    with PostgresServer.running() as running:
        yield running


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer) -> Database:
    return postgres_server.migrated_database()


@pytest.fixture
def database(migrated_database: Database) -> Database:
    """Give a database without rows: making one takes a third of a second, emptying it none."""
    migrated_database.empty()
    return migrated_database


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One for all tests; each has a prefix of its own."""
    from valkey_servers import valkey  # noqa: PLC0415  (few tests need it)

    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    from valkey_servers import ValkeyCluster  # noqa: PLC0415  (few tests need it)

    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster")).start()
    yield cluster
    cluster.kill()
