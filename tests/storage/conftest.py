from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import redis

from postgres_server import Database
from tabellion_server.storage.interface import Store
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.sqlite import SqliteStore
from valkey_servers import ValkeyCluster, ValkeyServer

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


class ValkeyWorld:
    """All keys of a prefix, whose server goes on meanwhile."""

    def __init__(self, server: ValkeyServer) -> None:
        self._prefix = secrets.token_hex(6)
        self._server = server
        self.place = f"{server.url}?prefix={self._prefix}"

    def backup(self) -> dict[bytes, bytes]:
        with redis.Redis(port=self._server.port) as client:
            return {key: client.dump(key) for key in client.scan_iter(f"{self._prefix}*")}

    def restore(self, backup: dict[bytes, bytes]) -> None:
        with redis.Redis(port=self._server.port) as client:
            client.delete(*client.scan_iter(f"{self._prefix}*"))
            for key, value in backup.items():
                client.restore(key, 0, value)


@pytest.fixture(params=["sqlite", "postgres", "valkey"])
def world(request: pytest.FixtureRequest, path: Path) -> World:
    if request.param == "sqlite":
        return SqliteWorld(path)
    if request.param == "valkey":
        return ValkeyWorld(request.getfixturevalue("valkey_server"))
    return PostgresWorld(request.getfixturevalue("database"))


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@pytest.fixture
async def sqlite_store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    yield store
    await store.close()
