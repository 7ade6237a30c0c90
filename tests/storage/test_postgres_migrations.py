"""A database migrated under nodes that run: what they write is whole, or refused in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from newer_release import MIGRATIONS
from postgres_server import Database, PostgresServer
from storage.test_contract import AT, GUN, commit, made, online, whole_set
from storage.writer_process import publish_next
from tabellion_server.storage import postgres, postgres_link, postgres_schema
from tabellion_server.storage.interface import StorageError, StoreCorruptionError
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.postgres_link import Place
from tabellion_server.storage.postgres_schema import migrate_store


@pytest.fixture
def mine(postgres_server: PostgresServer) -> Iterator[Database]:
    """Give a database that nobody else wants as it was."""
    made = postgres_server.migrated_database()
    yield made
    postgres_server.sql(f"DROP DATABASE {made.name} WITH (FORCE)")


@pytest.fixture
async def older(mine: Database) -> AsyncIterator[PostgresStore]:
    """Open a store by this release."""
    store = await PostgresStore.open(mine.place)
    yield store
    await store.close()


@pytest.fixture
def newer(older: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  (it's first)
    """Have what is opened from here on be of the next release."""
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", MIGRATIONS)
    for module in (postgres, postgres_schema):
        monkeypatch.setattr(module, "VERSION", len(MIGRATIONS))


@pytest.mark.usefixtures("newer")
async def test_an_older_node_writes_nothing_after_a_migration(
    older: PostgresStore, mine: Database
) -> None:
    await commit(older, whole_set(1), on=None)
    assert "has schema 2 now" in await migrate_store(mine.place)
    before = mine.dump()
    for write in (
        lambda: commit(older, [made("targets", 2)], on=1),
        lambda: commit(older, whole_set(1), on=None, gun="another"),
        lambda: older.add_online_key(GUN, online("k")),
        lambda: older.collect(GUN, [("targets", 1)]),
        lambda: older.delete(GUN),
        lambda: older.accept_restore(skip=1, at=AT),
    ):
        with pytest.raises(StorageError, match="schema") as caught:
            await write()
        assert "run the release that" in caught.value.hint
        assert mine.dump() == before
    assert await older.read(GUN, "targets") == made("targets", 1)
    newer = await PostgresStore.open(mine.place)
    assert (await commit(newer, [made("targets", 2)], on=1)).revision == 2
    await newer.close()


@pytest.mark.usefixtures("newer")
async def test_a_migration_lets_those_finish_who_write_and_nobody_begin(
    older: PostgresStore, mine: Database
) -> None:
    told: list[int] = []
    refused: list[StorageError] = []

    async def publish() -> None:
        while not refused:
            try:
                told.append((await publish_next(older)).revision)
            except StorageError as error:
                refused.append(error)

    task = asyncio.create_task(publish())
    async with asyncio.timeout(20):
        while len(told) < 3:  # noqa: ASYNC110  (the publisher's turn)
            await asyncio.sleep(0.005)
    held = asyncio.Event()
    let_go = asyncio.Event()

    async def work(_: object) -> None:
        held.set()
        await let_go.wait()

    writing = asyncio.create_task(older._link.transact(work))
    await held.wait()
    migrating = asyncio.create_task(migrate_store(mine.place))
    await asyncio.sleep(0.3)
    assert not migrating.done()
    let_go.set()
    await writing
    assert "has schema 2 now" in await migrating
    await asyncio.wait_for(task, 20)
    assert "was migrated" in refused[0].message
    head = await older.head(GUN)
    assert head is not None
    assert told == list(range(1, head.revision + 1))
    # All that was told was there when the migration looked at it.
    assert mine.sql("SELECT note FROM tabellion.heads") == [(f"migrated {head.revision}",)]


@pytest.mark.usefixtures("newer")
async def test_of_several_that_migrate_at_once_one_does_it(mine: Database) -> None:
    said = await asyncio.gather(*[migrate_store(mine.place) for _ in range(6)])
    assert sorted("nothing to do" in words for words in said) == [False, *[True] * 5]
    assert mine.sql("SELECT version FROM tabellion.schema_version ORDER BY 1") == [(1,), (2,)]


@pytest.mark.usefixtures("newer")
async def test_a_migration_that_fails_leaves_all_as_it_was(
    older: PostgresStore, mine: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(older, whole_set(1), on=None)
    before = mine.dump()
    broken = (*MIGRATIONS[:-1], (*MIGRATIONS[-1], "SELECT 1 / 0"))
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", broken)
    with pytest.raises(StorageError, match="division by zero"):
        await migrate_store(mine.place)
    assert mine.dump() == before
    assert (await commit(older, [made("targets", 2)], on=1)).revision == 2


@pytest.mark.usefixtures("newer")
async def test_who_waits_for_a_migration_is_told_in_time(
    older: PostgresStore, mine: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = postgres_link._BEGIN
    assert "lock_timeout = 10000" in begin
    monkeypatch.setattr(postgres_link, "_BEGIN", begin.replace("10000", "300"))
    long = (*MIGRATIONS[:-1], (*MIGRATIONS[-1], "SELECT pg_sleep(1.5)"))
    monkeypatch.setattr(postgres_schema, "MIGRATIONS", long)
    migrating = asyncio.create_task(migrate_store(Place(mine.url, mine.url)))
    await asyncio.sleep(0.5)
    with pytest.raises(StorageError, match="stayed locked"):
        await commit(older, whole_set(1), on=None)
    assert "has schema 2 now" in await migrating
    with pytest.raises(StorageError, match="was migrated"):
        await commit(older, whole_set(1), on=None)


async def test_a_table_that_is_gone_is_damage_for_who_migrates_and_who_opens(
    mine: Database,
) -> None:
    mine.sql("DROP TABLE tabellion.metadata CASCADE")
    for look in (migrate_store, PostgresStore.open):
        with pytest.raises(StoreCorruptionError, match=r"lost tables .*: metadata$") as caught:
            await look(mine.place)
        assert "restore a backup" in caught.value.hint
