from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from postgres_server import Database
from tabellion_server.storage.interface import Store
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.sqlite import SqliteStore

OpenStore = Callable[[], Awaitable[Store]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


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
