from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from postgres_server import Database
from tabellion_server.storage.interface import Store
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.sqlite import SqliteStore
from valkey_servers import ValkeyCluster, ValkeyServer, valkey

OpenStore = Callable[[], Awaitable[Store]]
_PLACES: Final = {
    "sqlite": "path",
    "postgres": "database",
    "valkey": "valkey_server",
    "valkey-cluster": "valkey_cluster",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One for all tests; each has a prefix of its own."""
    with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    cluster = ValkeyCluster(tmp_path_factory.mktemp("cluster")).start()
    yield cluster
    cluster.kill()


@pytest.fixture(params=["sqlite", "postgres", "valkey", "valkey-cluster"])
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[OpenStore]:
    """Open one more store over the same data, as another process would."""
    opened: list[Store] = []
    found = request.getfixturevalue(_PLACES[request.param])
    prefix = secrets.token_hex(6)

    async def open_one() -> Store:
        if isinstance(found, Path):
            store: Store = await SqliteStore.open(found)
        elif isinstance(found, ValkeyServer | ValkeyCluster):
            store = await RedisStore.open(parse_redis_url(f"{found.url}?prefix={prefix}"))
        else:
            store = await PostgresStore.open(found.place)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


class World(Protocol):
    """A store of some engine, its backups, and its high-water mark."""

    @property
    def place(self) -> str:
        """What ``open_place`` takes."""

    def backup(self) -> Any:
        """Take one while nobody has the store open."""

    def restore(self, backup: Any) -> None:
        """Put it in the place of what is there."""


class SqliteWorld:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.place = str(path)

    def backup(self) -> bytes:
        return self._path.read_bytes()

    def restore(self, backup: bytes) -> None:
        self._path.write_bytes(backup)
        for name in ("-wal", "-shm"):
            self._path.with_name(self._path.name + name).unlink(missing_ok=True)


class PostgresWorld:
    def __init__(self, database: Database) -> None:
        self.place = database.url
        self.backup = database.rows
        self.restore = database.replace


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, path: Path) -> World:
    if request.param == "sqlite":
        return SqliteWorld(path)
    return PostgresWorld(request.getfixturevalue("database"))


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@pytest.fixture
async def sqlite_store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    yield store
    await store.close()
