from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tabellion_server.storage.interface import Store
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from tabellion_server.storage.sqlite import SqliteStore
from valkey_servers import ValkeyCluster, ValkeyServer, valkey

OpenStore = Callable[[], Awaitable[Store]]


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


@pytest.fixture(params=["sqlite", "valkey", "valkey-cluster"])
async def open_store(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[OpenStore]:
    """Open one more store over the same data, as another process would."""
    opened: list[Store] = []
    prefix = secrets.token_hex(6)

    async def open_one() -> Store:
        if request.param == "sqlite":
            store: Store = await SqliteStore.open(path)
        else:
            fixture = request.param.replace("-", "_").replace("valkey", "valkey_server", 1)
            found = request.getfixturevalue(fixture.replace("server_cluster", "cluster"))
            store = await RedisStore.open(parse_redis_url(f"{found.url}?prefix={prefix}"))
        opened.append(store)
        return store

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
