"""Promise 3: a store restored from a backup gives no version out again that it may have signed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.conftest import World
from storage.writer_process import GUN, open_place, publish_next, whole_set
from tabellion_server.storage.high_water import BLOCK, HighWater
from tabellion_server.storage.interface import (
    OnlineKeyRow,
    RestoredStoreError,
    StorageError,
    Store,
    StoredFile,
)
from tabellion_server.storage.sqlite_file import connect
from tabellion_server.storage.sqlite_restoration import missing_changes

AT = datetime(2026, 3, 1, tzinfo=UTC)
SCRIPT = Path(__file__).with_name("writer_process.py")
Open = Callable[[], Awaitable[Store]]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "high-water.json"


@pytest.fixture
async def opened(world: World, mark: Path) -> AsyncIterator[Open]:
    stores: list[Store] = []

    async def open_one() -> Store:
        stores.append(await open_place(world.place, mark))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


async def publish(store: Store, count: int) -> int:
    revision = 0
    for _ in range(count):
        revision = (await publish_next(store)).revision
    return revision


async def fill(open_store: Open, world: World, *, before: int, after: int) -> Any:
    """Publish, take a backup, publish on, end in order; give the backup."""
    store = await open_store()
    await publish(store, before)
    await store.close()
    backup = world.backup()
    store = await open_store()
    await publish(store, after)
    await store.close()
    return backup


async def test_a_restored_store_takes_nothing_and_gives_what_it_has(
    opened: Open, world: World
) -> None:
    backup = await fill(opened, world, before=3, after=1)
    world.restore(backup)
    store = await opened()
    assert await store.missing_changes() == 1
    for _ in range(2):
        with pytest.raises(RestoredStoreError) as caught:
            await publish_next(store)
        assert caught.value.missing == 1
    with pytest.raises(RestoredStoreError):
        await store.delete(GUN)
    head = await store.head(GUN)
    assert head is not None
    assert head.revision == 3
    assert len(await store.changes(None, after=0, limit=100)) == 3
    # A key is no version, and neither it nor an end in order hides what is lost.
    await store.close()
    store = await opened()
    assert await store.missing_changes() == 1


async def test_an_accepted_restore_passes_over_versions_and_change_ids(
    opened: Open, world: World
) -> None:
    backup = await fill(opened, world, before=2, after=5)
    world.restore(backup)
    store, other = await opened(), await opened()
    assert await store.accept_restore(at=AT) == 5
    assert await store.missing_changes() == 0
    for each in (store, other):
        restoration = await each.restoration(GUN)
        assert (restoration.skip, restoration.may_lack) == (5, True)
    # One that was open goes on, too.
    await publish_next(other)
    assert (await store.restoration(GUN)).skip == 0
    ids = [change.id for change in await store.changes(None, after=0, limit=100)]
    assert ids == [1, 2, 8]
    assert await store.accept_restore(at=AT) == 0
    assert (await store.restoration("registry.example/new")).skip == 0


async def test_a_role_that_is_published_again_lacks_nothing_and_the_others_still_may(
    opened: Open, world: World
) -> None:
    backup = await fill(opened, world, before=2, after=5)
    world.restore(backup)
    store = await opened()
    await store.accept_restore(at=AT)
    assert (await store.restoration(GUN)).settled == frozenset()
    head = await store.head(GUN)
    assert head is not None
    later = AT + timedelta(hours=1)
    await store.commit(
        GUN,
        dialect="tuf",
        expected_revision=head.revision,
        added=[StoredFile.of("targets", 9, b"9", stored_at=later)],
        at=later,
    )
    restoration = await store.restoration(GUN)
    assert (restoration.may_lack, restoration.settled) == (True, {"targets"})


async def test_a_restore_after_the_other_is_noticed_and_adds_up(opened: Open, world: World) -> None:
    backup = await fill(opened, world, before=2, after=3)
    for times in (1, 2):
        world.restore(backup)
        store = await opened()
        assert await store.missing_changes() == 3 * times
        await store.accept_restore(at=AT)
        for _ in range(3):
            await publish_next(store)
        await store.close()


async def test_a_lost_mark_can_be_made_up_for(opened: Open, world: World, mark: Path) -> None:
    backup = await fill(opened, world, before=2, after=3)
    world.restore(backup)
    mark.unlink()
    store = await opened()
    assert await store.missing_changes() == 0
    assert await store.accept_restore(skip=1000, at=AT) == 1000
    assert (await store.restoration(GUN)).skip == 1000


@pytest.mark.parametrize("ahead", [-1, 1], ids=["", "by-a-clock-that-is-ahead"])
async def test_what_was_imported_without_a_change_is_passed_over_too(
    opened: Open, world: World, ahead: int
) -> None:
    """An old Notary tells no changes; its keys and files are in the backup all the same."""
    store = await opened()
    key = OnlineKeyRow("ab" * 32, "timestamp", "{}", b"sealed", AT)
    await store.add_online_key(GUN, key)
    await store.commit(
        GUN, dialect="tuf", expected_revision=None, added=whole_set(1), changes=[], at=AT
    )
    await store.close()
    backup = world.backup()
    store = await opened()
    await publish(store, 2)
    await store.close()
    world.restore(backup)
    store = await opened()
    assert await store.accept_restore(at=AT - timedelta(days=ahead)) == 2
    restoration = await store.restoration(GUN)
    assert (restoration.skip, restoration.may_lack) == (2, True)
    assert restoration.settled == frozenset()


async def start(world: World, mark: Path) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, SCRIPT, "publish", world.place, "1000000", mark), stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), 30)).decode() == "ready\n"
    return process


async def kill_after(process: asyncio.subprocess.Process, count: int) -> None:
    assert process.stdout is not None
    for _ in range(count):
        await asyncio.wait_for(process.stdout.readline(), 30)
    process.send_signal(signal.SIGKILL)
    await process.communicate()


async def test_a_killed_server_goes_on_and_passes_over_what_it_may_have_signed(
    opened: Open, world: World, mark: Path
) -> None:
    await kill_after(await start(world, mark), 3)
    store = await opened()
    head = await store.head(GUN)
    assert head is not None
    restoration = await store.restoration(GUN)
    assert 0 < restoration.skip <= BLOCK
    assert not restoration.may_lack
    assert await store.missing_changes() == 0
    await publish_next(store)
    assert (await store.restoration(GUN)).skip == 0


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
@pytest.mark.parametrize("ends", [True, False])
async def test_what_is_not_committed_yet_is_missed_by_nobody(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    """Between the mark, which is written ahead, and the commit it's written for."""
    store = await opened()
    missing: list[int] = []
    cover = HighWater.cover

    def look(water: HighWater, last: int, *, committed: int | None = None) -> None:
        cover(water, last, committed=committed)
        with contextlib.closing(connect(path, read_only=True)) as connection:
            missing.append(missing_changes(connection, water))
        if ends and len(missing) > 1:
            raise StorageError("here it ended")

    monkeypatch.setattr(HighWater, "cover", look)
    await publish(store, BLOCK)
    with pytest.raises(StorageError, match="here it ended") if ends else contextlib.nullcontext():
        await publish(store, 2)
    assert missing == [0, 0]
    monkeypatch.undo()
    await store.close()
    store = await opened()
    assert await store.missing_changes() == 0
    await publish_next(store)


async def test_a_restore_among_crashes_is_noticed_beyond_a_block(
    opened: Open, world: World, mark: Path
) -> None:
    store = await opened()
    await publish(store, 2)
    await store.close()
    backup = world.backup()
    await kill_after(await start(world, mark), 2 * BLOCK)
    world.restore(backup)
    store = await opened()
    assert await store.missing_changes() >= 2 * BLOCK
    with pytest.raises(RestoredStoreError):
        await publish_next(store)


async def test_who_joins_a_running_store_passes_over_nothing(opened: Open) -> None:
    store = await opened()
    await publish(store, 2)
    other = await opened()
    await publish(other, 1)
    assert (await other.restoration(GUN)).skip == 0
    await other.close()
    await publish(store, BLOCK + 3)
    await store.close()
    store = await opened()
    assert (await store.restoration(GUN)).skip == 0
    assert await store.missing_changes() == 0


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"mark": -1, "exact": true}', '{"mark": 1.5, "exact": true}', "[1]", "7" * 2000],
)
async def test_what_is_no_mark_is_refused(opened: Open, mark: Path, text: str) -> None:
    mark.parent.mkdir()
    mark.write_text(text)
    with pytest.raises(StorageError, match="isn't a high-water mark"):
        await opened()


async def test_a_mark_that_cannot_be_written_keeps_anything_from_being_signed(
    opened: Open, mark: Path
) -> None:
    store = await opened()
    mark.mkdir()
    with pytest.raises(StorageError, match="high-water mark"):
        await publish_next(store)
    assert await store.head(GUN) is None
    mark.rmdir()
    await publish_next(store)


async def test_who_ends_while_others_go_on_leaves_no_mark_that_is_too_low(
    opened: Open, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(opened, world, before=3, after=0)
    backup = world.backup()
    store, other = await opened(), await opened()
    has_read, goes_on = threading.Event(), threading.Event()
    settle = HighWater.settle

    def slowly(water: HighWater, last: int) -> None:
        if not has_read.is_set():
            has_read.set()
            goes_on.wait(20)
        settle(water, last)

    monkeypatch.setattr(HighWater, "settle", slowly)
    ending = asyncio.create_task(store.close())
    reading = asyncio.create_task(asyncio.to_thread(has_read.wait, 20))
    await asyncio.wait([ending, reading], return_when=asyncio.FIRST_COMPLETED)
    # The first one knows by now how far the store is, or leaves that to the other.
    await publish_next(other)
    has_read.set()
    await other.close()
    goes_on.set()
    await asyncio.gather(ending, reading)
    world.restore(backup)
    assert await (await opened()).missing_changes() >= 1
