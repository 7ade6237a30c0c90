from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from postgres_server import Database, PostgresServer
from tabellion_server.storage.interface import Store
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.sqlite import SqliteStore

OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer.running() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer) -> Database:
    return postgres_server.migrated_database()


@pytest.fixture
def database(migrated_database: Database) -> Database:
    """Give a database without rows: making one takes a third of a second, emptying it none."""
    migrated_database.empty()
    return migrated_database


@pytest.fixture(params=["sqlite", "postgres"])
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[OpenStore]:
    """Open one more store over the same data, as another process would."""
    opened: list[Store] = []
    if request.param == "sqlite":
        path = request.getfixturevalue("path")

        async def open_one() -> Store:
            opened.append(await SqliteStore.open(path))
            return opened[-1]

    else:
        database = request.getfixturevalue("database")

        async def open_one() -> Store:
            opened.append(await PostgresStore.open(database.place))
            return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@pytest.fixture
async def sqlite_store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    yield store
    await store.close()
