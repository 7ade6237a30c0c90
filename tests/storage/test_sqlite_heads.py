"""Heads held in memory are never older than the file."""

from __future__ import annotations

import asyncio
from pathlib import Path

from storage.writer_process import GUN, publish_next
from tabellion_server.storage.sqlite import SqliteStore
from tabellion_server.storage.sqlite_heads import HeldHeads


async def test_a_head_is_held_until_anybody_commits_anything(path: Path) -> None:
    store, other = await SqliteStore.open(path), await SqliteStore.open(path)
    for writer in (store, other, store):
        written = await publish_next(writer)
        for _ in range(3):
            assert await store.head(GUN) == await other.head(GUN) == written
        assert await store.head(GUN) is await store.head(GUN)
    await other.delete(GUN)
    assert await store.head(GUN) is None
    await store.close()
    await other.close()


async def test_a_head_read_before_a_commit_is_not_held_after_it(path: Path) -> None:
    store = await SqliteStore.open(path)
    heads = HeldHeads(path)
    state = heads.state()
    old = await publish_next(store)
    assert heads.state() != state
    assert state is not None
    heads.put(old, state)
    assert heads.get(GUN) is None
    heads.close()
    await store.close()


async def test_readers_beside_a_writer_never_see_a_head_go_back(path: Path) -> None:
    store, other = await SqliteStore.open(path), await SqliteStore.open(path)
    await publish_next(store)
    done = asyncio.Event()

    async def read() -> int:
        last = 0
        while not done.is_set():
            acknowledged = revision
            head = await other.head(GUN)
            assert head is not None
            assert head.revision >= max(last, acknowledged)
            last = head.revision
            await asyncio.sleep(0)
        return last

    revision = 1
    readers = [asyncio.create_task(read()) for _ in range(3)]
    for _ in range(60):
        revision = (await publish_next(store)).revision
    done.set()
    assert max(await asyncio.gather(*readers)) >= 60
    await store.close()
    await other.close()


async def test_where_the_state_cannot_be_told_the_file_is_read(sqlite_store: SqliteStore) -> None:
    written = await publish_next(sqlite_store)
    sqlite_store._heads.close()
    assert sqlite_store._heads.state() is None
    assert await sqlite_store.head(GUN) == written
    assert (await publish_next(sqlite_store)).revision == 2
    assert (await sqlite_store.head(GUN)) is not written


async def test_what_is_held_is_bounded(sqlite_store: SqliteStore) -> None:
    head = await publish_next(sqlite_store)
    heads = sqlite_store._heads
    state = heads.state()
    assert state is not None
    for number in range(30_000):
        heads.put(type(head)(f"g/{number}", "tuf", 1, head.files, head.changed_at), state)
    assert len(heads._heads) < 15_000
