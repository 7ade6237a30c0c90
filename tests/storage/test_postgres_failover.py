"""A PostgreSQL and a standby that takes over: what was told is there, what isn't isn't told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodes import Link
from pgbouncer import PgBouncer
from postgres_server import Database, PostgresServer
from storage.test_contract import GUN, commit, made, whole_set
from storage.writer_process import publish_next
from tabellion_server.storage import postgres_link
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.postgres import PostgresStore
from tabellion_server.storage.postgres_link import Place


@contextlib.contextmanager
def two_servers() -> Iterator[tuple[Database, Database]]:
    """Give a database, and the same on a standby whose word each commit waits for."""
    with PostgresServer.running() as primary:
        database = primary.migrated_database()
        with primary.standby() as standby:
            yield database, replace(database, server=standby)


@pytest.fixture(scope="module")
def kept() -> Iterator[tuple[Database, Database]]:
    with two_servers() as found:
        yield found


@pytest.fixture
def pair(kept: tuple[Database, Database]) -> tuple[Database, Database]:
    """Give the two that this module keeps, without rows: nobody takes over there."""
    kept[0].empty()
    return kept


def place_of(*databases: Database) -> Place:
    hosts = ",".join(f"127.0.0.1:{database.server.port}" for database in databases)
    url = f"postgresql://tabellion@{hosts}/{databases[0].name}"
    return Place(url, url)


@pytest.fixture
def spent() -> Iterator[tuple[Database, Database]]:
    with two_servers() as found:
        yield found


async def test_what_was_told_is_there_after_the_standby_took_over(
    spent: tuple[Database, Database], tmp_path: Path
) -> None:
    primary, standby = spent
    # The standby stands first, so that each has to find out which is the primary.
    place = place_of(standby, primary)
    stores = [
        await PostgresStore.open(place, high_water=tmp_path / str(number) / "mark")
        for number in range(2)
    ]
    told: list[int] = []
    failures: list[StorageError] = []
    seen: list[int] = []
    ended = asyncio.Event()

    async def write(store: PostgresStore) -> None:
        while not ended.is_set():
            try:
                told.append((await publish_next(store)).revision)
            except StorageError as error:
                failures.append(error)
                await asyncio.sleep(0.02)

    async def read() -> None:
        while not ended.is_set():
            with contextlib.suppress(StorageError):
                head = await stores[0].head(GUN)
                seen.append(head.revision if head else 0)
            await asyncio.sleep(0.005)

    async def until_more() -> None:
        before = len(told)
        async with asyncio.timeout(40):
            while len(told) < before + 10:  # noqa: ASYNC110  (the publishers' turn)
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(each) for each in (*map(write, stores), read())]
    await until_more()
    await asyncio.to_thread(primary.server.stop, signal.SIGQUIT)
    await asyncio.sleep(0.2)
    with pytest.raises(StorageError) as caught:
        await stores[0].head(GUN)
    assert caught.value.hint
    await asyncio.to_thread(standby.sql, "SELECT pg_promote()")
    await until_more()
    ended.set()
    await asyncio.gather(*tasks)
    assert failures
    assert seen == sorted(seen)
    unknown = sum("isn't known" in failure.message for failure in failures)
    head = await stores[1].head(GUN)
    assert head is not None
    assert len(told) == len(set(told))
    assert max(told) <= head.revision
    assert 0 <= head.revision - len(told) <= unknown
    ids = [change.id for change in await stores[0].changes(None, after=0, limit=10_000)]
    assert ids == list(range(1, head.revision + 1))
    for store in stores:
        assert await store.missing_changes() == 0
        await store.close()


@pytest.mark.parametrize("ending", ["nobody", "pg_cancel_backend", "pg_terminate_backend"])
async def test_what_the_standby_has_not_is_not_told_as_done(
    pair: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Who ends the wait for the standby has it done on the primary alone, and shown there."""
    monkeypatch.setattr(postgres_link, "COMMIT_SECONDS", 2.0)
    monkeypatch.setattr(postgres_link, "DOUBT_SECONDS", 1.0)
    primary, standby = pair
    store = await PostgresStore.open(place_of(primary, standby))
    await commit(store, whole_set(1), on=None)
    await asyncio.to_thread(standby.server.stop)
    writing = asyncio.create_task(commit(store, [made("targets", 2)], on=1))
    if ending != "nobody":
        waiting = f"SELECT {ending}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"  # noqa: S608  (ours)
        async with asyncio.timeout(10):
            while not await asyncio.to_thread(primary.sql, waiting):  # noqa: ASYNC110  (its turn)
                await asyncio.sleep(0.05)
    with pytest.raises(StorageError, match="isn't known whether"):
        await writing
    with pytest.raises(StorageError):
        await store.confirm(GUN)  # whoever finds it there isn't told that it's kept either
    await asyncio.to_thread(standby.server.start)
    await store.confirm(GUN)
    async with asyncio.timeout(20):
        while (head := await store.head(GUN)) is None or head.revision == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await commit(store, [made("targets", 3)], on=2)).revision == 3
    await store.close()


async def test_a_commit_that_the_standby_gets_late_is_told_as_done(
    pair: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "COMMIT_SECONDS", 0.7)
    primary, standby = pair
    store = await PostgresStore.open(place_of(primary, standby))
    await commit(store, whole_set(1), on=None)
    await asyncio.to_thread(standby.server.stop)
    writing = asyncio.create_task(commit(store, [made("targets", 2)], on=1))
    await asyncio.sleep(1.5)
    assert not writing.done()
    await asyncio.to_thread(standby.server.start)
    assert (await writing).revision == 2
    await store.close()


async def test_a_pooler_that_goes_over_to_a_standby_shows_nothing_old(
    pair: tuple[Database, Database],
) -> None:
    primary, standby = pair
    link = Link(primary.server.port)
    await link.start()
    with PgBouncer.running(link.port, "transaction") as pooler:
        place = pooler.place(primary)
        store = await PostgresStore.open(place)
        await commit(store, whole_set(1), on=None)
        assert (await store.read(GUN, "targets")) is not None
        link._target = standby.server.port
        link.cut()
        link.heal()
        async with asyncio.timeout(20):
            words = ""
            while "standby" not in words:
                with pytest.raises(StorageError) as caught:
                    await store.head(GUN)
                words = caught.value.message
        with pytest.raises(StorageError, match="is a standby"):
            await store.read(GUN, "targets")
        await store.close()
    await link.stop()
