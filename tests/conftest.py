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
