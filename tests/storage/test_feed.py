"""Readers that wait for changes: in order, without gaps, whoever reads the store for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime

import pytest

from tabellion_server.services.feed import Feed
from tabellion_server.services.recent import RecentChanges
from tabellion_server.storage.interface import Change, StorageError, Store, StoredFile
from tabellion_server.storage.sqlite import SqliteStore

OpenStore = Callable[[], Awaitable[Store]]
GUNS = ("a", "b", "c")


async def ignore(_: Sequence[Change]) -> None:
    pass


@contextlib.asynccontextmanager
async def watched(store: Store) -> AsyncIterator[Feed]:
    feed = Feed(store, follow=ignore)
    watch = asyncio.create_task(feed.watch_forever())
    yield feed
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def change(store: Store, gun: str, *, times: int = 1) -> None:
    for _ in range(times):
        head, now = await store.head(gun), datetime.now(UTC)
        version = head.files["timestamp"].version + 1 if head else 1
        await store.commit(
            gun,
            dialect="tuf",
            expected_revision=head.revision if head else None,
            added=[StoredFile.of("timestamp", version, b"%d" % version, stored_at=now)],
            at=now,
        )


async def test_readers_that_stand_at_the_end_share_one_look(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    changes = sqlite_store.changes

    async def counted(*args: object, **more: object) -> list[Change]:
        nonlocal asked
        asked += 1
        return await changes(*args, **more)  # type: ignore[arg-type]

    async def read(feed: Feed, gun: str | None) -> list[int]:
        seen = [0]
        while len(seen) < 1 + 3 * (1 if gun else len(GUNS)):
            found = await feed.read(gun, after=seen[-1], limit=2, wait_seconds=10)
            seen += [one.id for one in found]
        return seen[1:]

    async with watched(sqlite_store) as feed:
        await feed.read(None, after=0, limit=1, wait_seconds=0.3)  # the watch has begun
        monkeypatch.setattr(sqlite_store, "changes", counted)
        readers = [
            asyncio.create_task(read(feed, gun)) for gun in (None, *GUNS) for _ in range(100)
        ]
        for gun in GUNS * 3:
            await change(sqlite_store, gun)
            await asyncio.sleep(0.05)
        seen = await asyncio.gather(*readers)
    for number, gun in enumerate((None, *GUNS)):
        expected = [one.id for one in await changes(gun, after=0, limit=99)]
        assert all(one == expected for one in seen[number * 100 : number * 100 + 100])
    assert asked < 40  # two for each look, however many read


async def test_readers_get_all_in_order_however_far_behind_they_are(open_store: OpenStore) -> None:
    stores = [await open_store() for _ in range(2)]  # two nodes; one of them is read from

    async def read(feed: Feed, gun: str | None, pause: float) -> list[tuple[str, int]]:
        seen: list[Change] = []
        while sum(one.gun == (gun or GUNS[-1]) for one in seen) < 20:
            after = seen[-1].id if seen else 0
            seen += await feed.read(gun, after=after, limit=3, wait_seconds=20)
            await asyncio.sleep(pause)
        while more := await feed.read(gun, after=seen[-1].id, limit=9, wait_seconds=0.5):
            seen += more
        return [(one.gun, one.id) for one in seen]

    async with asyncio.timeout(30), watched(stores[0]) as feed:
        feed._recent = RecentChanges(4)  # who pauses finds what it lacks gone from here
        readers = {
            (gun, pause): asyncio.create_task(read(feed, gun, pause))
            for gun in (None, *GUNS)
            for pause in (0.0, 0.01, 0.1)
        }
        writers = (change(stores[number % 2], gun, times=20) for number, gun in enumerate(GUNS))
        await asyncio.gather(*writers)
        whole = await stores[1].changes(None, after=0, limit=99)
        for (gun, _), reader in readers.items():
            expected = [(one.gun, one.id) for one in whole if gun in {None, one.gun}]
            assert await reader == expected
    assert len(whole) == 60


async def test_who_waits_while_the_store_is_away_is_told_so(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> list[Change]:
        raise StorageError("it's away")

    async with watched(sqlite_store) as feed:
        await feed.read(None, after=0, limit=1, wait_seconds=0.3)
        monkeypatch.setattr(sqlite_store, "changes", fail)
        await asyncio.sleep(1.2)
        with pytest.raises(StorageError, match="away"):
            await feed.read(None, after=0, limit=1, wait_seconds=5)
