"""PostgreSQL behind a real PgBouncer: what is told is so, or the start is refused in words."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from pgbouncer import Mode, PgBouncer
from postgres_proxy import Fault, PostgresProxy
from postgres_server import Database
from storage.conftest import OpenStore
from storage.test_contract import (
    GUN,
    TestDelete,
    TestHistory,
    TestLife,
    TestListing,
    TestOnlineKeys,
    TestRaces,
    TestStoreContract,
    commit,
    made,
    whole_set,
)
from storage.test_dump_contract import (
    elsewhere,
    test_a_copy_through_another_store_is_the_same,
    test_a_store_filled_from_another_goes_on_where_that_one_was,
    test_nobody_writes_to_a_store_that_is_being_filled,
    test_what_is_collected_is_gone_and_its_number_stays_taken,
)
from storage.test_pending_contract import (
    test_a_commit_closes_a_proposal_in_the_same_transaction,
    test_a_proposal_that_another_process_withdrew_meanwhile_is_not_committed,
    test_what_is_past_its_expiry_is_dropped_for_all_guns,
)
from storage.writer_process import publish_next
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.postgres import PostgresStore

__all__ = [  # of the contracts, what is run once more here
    "TestDelete",
    "TestHistory",
    "TestLife",
    "TestListing",
    "TestOnlineKeys",
    "TestRaces",
    "TestStoreContract",
    "elsewhere",
    "test_a_commit_closes_a_proposal_in_the_same_transaction",
    "test_a_copy_through_another_store_is_the_same",
    "test_a_proposal_that_another_process_withdrew_meanwhile_is_not_committed",
    "test_a_store_filled_from_another_goes_on_where_that_one_was",
    "test_nobody_writes_to_a_store_that_is_being_filled",
    "test_what_is_collected_is_gone_and_its_number_stays_taken",
    "test_what_is_past_its_expiry_is_dropped_for_all_guns",
]


@pytest.fixture(scope="module", params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, migrated_database: Database) -> Iterator[PgBouncer]:
    with PgBouncer.running(migrated_database.server.port, request.param) as running:
        yield running


@pytest.fixture
async def open_store(pooler: PgBouncer, database: Database) -> AsyncIterator[OpenStore]:
    """Open one more store through the pooler, for the contract."""
    opened: list[PostgresStore] = []

    async def open_one() -> PostgresStore:
        opened.append(await PostgresStore.open(pooler.place(database)))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> PostgresStore:
    opened = await open_store()
    assert isinstance(opened, PostgresStore)
    return opened


async def test_a_pooler_is_not_given_statements_to_keep(
    pooler: PgBouncer, database: Database
) -> None:
    with pytest.raises(StorageError, match="is behind a connection pooler") as caught:
        await PostgresStore.open(pooler.place(database, prepares=True))
    assert caught.value.hint == "set storage.prepared_statements = false"


async def test_no_two_processes_give_statements_the_same_name() -> None:
    """Behind a pooler that nobody noticed, one would run what the other prepared."""
    code = (
        "from tabellion_server.storage.postgres_link import _Connection as c;"
        "print(c._get_unique_id(None, 'x'), c._get_unique_id(None, 'x'))"
    )
    names: list[bytes] = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        names += (await process.communicate())[0].split()
    assert len(set(names)) == 4


async def test_a_pooler_of_statements_is_refused_at_the_start(database: Database) -> None:
    with (
        PgBouncer.running(database.server.port, "statement") as running,
        pytest.raises(StorageError, match="allows no transactions") as caught,
    ):
        await PostgresStore.open(running.place(database))
    assert "pool_mode" in caught.value.hint


async def test_a_pooler_that_is_full_is_told(database: Database) -> None:
    with PgBouncer.running(database.server.port, "session", clients=1) as running:
        store = await PostgresStore.open(running.place(database))
        with pytest.raises(StorageError, match="isn't reached through its connection") as caught:
            await PostgresStore.open(running.place(database))
        assert "its limits" in caught.value.hint
        await store.close()


@pytest.mark.parametrize("fault", ["lost-answer", "lost-commit", "late-commit"])
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_what_became_of_a_commit_whose_pooler_lost_its_server_is_found_out(
    database: Database, mode: Mode, fault: Fault
) -> None:
    async with PostgresProxy.running(database.server.port) as proxy:
        with PgBouncer.running(proxy.port, mode) as running:
            store = await PostgresStore.open(running.place(database))
            await commit(store, whole_set(1), on=None)
            proxy.fault = fault
            revision = 1
            try:
                revision = (await commit(store, [made("targets", 2)], on=1)).revision
            except StorageError as error:
                assert "isn't known" not in error.message  # noqa: PT017  (either may come)
            assert proxy.fault is None
            assert revision == 1 + (fault != "lost-commit")
            head = await store.head(GUN)
            assert head is not None
            assert head.revision == revision
            version = revision + 1
            assert (
                await commit(store, [made("targets", version)], on=revision)
            ).revision == version
            ids = [change.id for change in await store.changes(None, after=0, limit=9)]
            assert ids == [1]
            await store.close()


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pooler_killed_among_commits_loses_nothing_that_was_told(
    database: Database, mode: Mode
) -> None:
    with PgBouncer.running(database.server.port, mode) as running:
        stores = [await PostgresStore.open(running.place(database)) for _ in range(2)]
        told: list[int] = []
        unknown = 0
        ended = asyncio.Event()

        async def publish(store: PostgresStore) -> None:
            nonlocal unknown
            while not ended.is_set():
                try:
                    told.append((await publish_next(store)).revision)
                except StorageError as error:
                    unknown += "isn't known" in error.message
                    await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(publish(store)) for store in stores]
        for _ in range(4):
            before = len(told)
            async with asyncio.timeout(30):
                while len(told) < before + 7:  # noqa: ASYNC110  (the publishers' turn)
                    await asyncio.sleep(0.003)
            await asyncio.to_thread(running.kill)
            await asyncio.to_thread(running.start)
        ended.set()
        await asyncio.gather(*tasks)
        head = await stores[0].head(GUN)
        assert head is not None
        assert sorted(told) == sorted(set(told))
        assert 0 <= head.revision - len(told) <= unknown
        ids = [change.id for change in await stores[1].changes(None, after=0, limit=10_000)]
        assert ids == list(range(1, head.revision + 1))
        for store in stores:
            await store.close()
