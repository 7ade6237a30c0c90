"""A Redis store has a schema number: no other release writes to it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from storage.writer_process import publish_next
from tabellion_server.settings import Settings
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.opening import migrate
from tabellion_server.storage.redis import RedisStore
from tabellion_server.storage.redis_address import parse_redis_url
from valkey_servers import ValkeyServer

Open = Callable[[], Awaitable[RedisStore]]


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(6)


@pytest.fixture
def url(valkey_server: ValkeyServer, prefix: str) -> str:
    return f"{valkey_server.url}?prefix={prefix}"


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Open]:
    stores: list[RedisStore] = []

    async def open_one() -> RedisStore:
        stores.append(await RedisStore.open(parse_redis_url(url)))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
def state(prefix: str) -> str:
    return prefix + "{feed}:state"


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    mark = tmp_path / "high-water.json"
    return Settings(storage_url=url, sqlite_path=None, high_water_file=mark)


@pytest.fixture
def renumber(valkey_server: ValkeyServer, state: str) -> Callable[[int], None]:
    def give(number: int) -> None:
        valkey_server.say("HSET", state, "schema", number)

    return give


async def test_an_empty_store_gets_the_number_and_one_that_had_none_is_the_first(
    opened: Open, valkey_server: ValkeyServer, state: str
) -> None:
    store = await opened()
    assert valkey_server.say("HGET", state, "schema").endswith("\r\n1\r\n")
    head = await publish_next(store)
    assert valkey_server.say("HDEL", state, "schema") == ":1"
    again = await opened()
    assert (await publish_next(again)).revision == head.revision + 1


@pytest.mark.parametrize(
    ("number", "told"),
    [(2, "run the release that wrote it"), (0, "back it up with the release that wrote it")],
)
async def test_what_another_release_wrote_is_refused_in_words(
    opened: Open, renumber: Callable[[int], None], settings: Settings, number: int, told: str
) -> None:
    await publish_next(await opened())
    renumber(number)
    with pytest.raises(StorageError, match=f"has schema {number}; this release reads 1") as caught:
        await opened()
    assert told in caught.value.hint
    with pytest.raises(StorageError, match=f"has schema {number}"):
        await migrate(settings)


async def test_who_has_it_open_while_the_number_changes_writes_nothing_more_and_reads_on(
    opened: Open, renumber: Callable[[int], None]
) -> None:
    store = await opened()
    head = await publish_next(store)
    renumber(2)
    with pytest.raises(StorageError, match="was given another schema"):
        await publish_next(store)
    with pytest.raises(StorageError, match="was given another schema"):
        await store.restoration(head.gun)
    with pytest.raises(StorageError, match="was given another schema"):
        await store.sweep(age_seconds=-1)
    assert await store.head(head.gun) == head
    assert len(await store.changes(None, after=0, limit=9)) == 1
    renumber(1)
    await publish_next(store)


async def test_migrate_has_nothing_to_do_and_a_restored_store_has_the_number(
    opened: Open, valkey_server: ValkeyServer, state: str, settings: Settings
) -> None:
    store = await opened()
    await publish_next(store)
    records = [record async for group in store.dump() for record in group]
    assert "nothing to do" in await migrate(settings)
    other = await RedisStore.open(parse_redis_url(settings.storage_url + "-restored"))
    await other.begin_load()
    await other.load(records)
    await other.end_load()
    await other.close()
    restored = state.replace("{feed}", "-restored{feed}")
    assert valkey_server.say("HGET", restored, "schema").endswith("\r\n1\r\n")
