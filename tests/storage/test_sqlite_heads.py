"""Heads held in memory are never older than the file."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from storage.writer_process import GUN, publish_next
from tabellion_server.storage import sqlite_heads
from tabellion_server.storage.interface import StorageError
from tabellion_server.storage.sqlite import SqliteStore


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


async def test_heads_asked_for_together_are_read_together(sqlite_store: SqliteStore) -> None:
    written = await publish_next(sqlite_store)
    asked = [sqlite_store.head(gun) for gun in (GUN, "none", GUN)]
    assert await asyncio.gather(*asked) == [written, None, written]


async def test_who_goes_away_keeps_nobody_waiting(sqlite_store: SqliteStore) -> None:
    written = await publish_next(sqlite_store)
    gone = asyncio.create_task(sqlite_store.head(GUN))
    await asyncio.sleep(0)
    stays = asyncio.create_task(sqlite_store.head(GUN))
    gone.cancel()
    assert await stays == written


async def test_a_damaged_gun_is_in_nobodys_way(path: Path) -> None:
    store = await SqliteStore.open(path)
    written = await publish_next(store)
    damage = sqlite3.connect(path)
    damage.execute("INSERT INTO heads SELECT 'x/damaged', dialect, revision, 'never' FROM heads")
    damage.commit()
    damage.close()
    asked = [store.head(gun) for gun in (GUN, "x/damaged", GUN)]
    first, damaged, last = await asyncio.gather(*asked, return_exceptions=True)
    assert first == last == written
    assert isinstance(damaged, StorageError)
    await store.close()


async def test_a_closed_store_says_so(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.close()
    with pytest.raises(StorageError):
        await store.head(GUN)


async def test_what_is_held_is_bounded(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_heads, "_MAX_REFS", 1)
    written = await publish_next(sqlite_store)
    first = await sqlite_store.head(GUN)
    assert first == written
    assert await sqlite_store.head(GUN) is not first
