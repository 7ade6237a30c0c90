"""What every store gives and takes as a whole, and what it lets go, whatever engine lies below."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from storage.test_contract import AT, GUN, commit, made, online, signed, whole_set
from storage.test_pending_contract import entry, put, row
from tabellion_server.storage.copying import BYTES, FILES, GUNS, copy_store
from tabellion_server.storage.interface import FileInfo, StorageError, Store, StoreCorruptionError
from tabellion_server.storage.records import FileRecord, Fingerprint, InfoRecord, Record
from tabellion_server.storage.sqlite import SqliteStore

OTHER = "registry.example/other"
GONE = "registry.example/gone"


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Give an empty store of the engine that backups are written in."""
    store = await SqliteStore.open(tmp_path / "elsewhere" / "store.db")
    yield store
    await store.close()


async def fill(store: Store) -> None:
    """Have a row of each kind."""
    await commit(store, whole_set(1), on=None, events=[signed("1.0"), signed("1.1")])
    for version in (2, 3):
        await commit(store, [made("targets", version), made("timestamp", version)], on=version - 1)
    await commit(store, [made("targets/a", 1)], on=3)
    await commit(store, [made("timestamp", 4)], on=4, removed_heads=["targets/a"])
    await store.collect(GUN, [("targets", 1)])
    await commit(store, whole_set(1), on=None, gun=OTHER, dialect="notary")
    await commit(store, whole_set(1), on=None, gun=GONE)
    await put(store, row("d", gun=GONE))
    await store.delete(GONE)
    await put(store, row("a"))
    await put(store, row("b", gun=OTHER))
    await store.close_pending(entry("withdrawn", "b", gun=OTHER))
    for keyid in ("k1", "k0", "k2"):
        await store.add_online_key(GUN, online(keyid))
    await store.accept_restore(skip=5, at=AT)


async def whole(store: Store) -> list[Record]:
    return [record async for group in store.dump() for record in group]


def fingerprint(records: Sequence[Record]) -> str:
    found = Fingerprint()
    for record in records:
        found.add(record)
    return found.hexdigest()


async def everything(store: Store) -> list[object]:
    """Give what the interface itself tells of a filled store."""
    heads = await store.guns()
    events = await store.events(GUN)
    audits = [await store.audit(gun, limit=100) for gun in (GUN, OTHER, GONE)]
    for rows in (events, *audits):  # each engine gives new ones ids of its own
        assert [row.id for row in rows] == sorted({row.id for row in rows}, reverse=True)
    return [
        heads,
        [await store.read(GUN, role) for role in sorted(heads[0].files)],
        await store.read(GUN, "targets", 2),
        await store.read(GUN, "targets", 1),
        await store.changes(None, after=0, limit=100),
        [replace(event, id=0) for event in events],
        await store.pending(GUN),
        [[replace(entry, id=0) for entry in entries] for entries in audits],
        await store.online_keys(GUN, "timestamp"),
        await store.restoration(GUN),
    ]


async def test_a_copy_through_another_store_is_the_same(
    store: Store, elsewhere: SqliteStore
) -> None:
    await fill(store)
    told: list[int] = []
    counts = await copy_store(store, elsewhere, tell=lambda counts: told.append(counts.total()))
    assert (counts[GUNS], counts[FILES]) == (2, 13)
    assert counts[BYTES] == sum(
        len(item.file.data) for item in await whole(store) if isinstance(item, FileRecord)
    )
    assert told
    assert fingerprint(await whole(store)) == fingerprint(await whole(elsewhere))
    assert await everything(store) == await everything(elsewhere)


async def test_without_bytes_it_tells_the_same_of_each_file(store: Store) -> None:
    await fill(store)
    records = [record async for group in store.dump(with_bytes=False) for record in group]
    infos = [record for record in records if isinstance(record, InfoRecord)]
    files = [record for record in await whole(store) if isinstance(record, FileRecord)]
    assert len(infos) == 13
    told = {(item.gun, item.info) for item in infos}
    for gun, file in ((record.gun, record.file) for record in files):
        stands = (file.role, file.version, file.sha256, len(file.data), file.stored_at)
        assert (gun, FileInfo(*stands)) in told
    others = [record for record in records if not isinstance(record, InfoRecord)]
    assert fingerprint([*others, *files]) == fingerprint(await whole(store))


async def test_a_store_filled_from_another_goes_on_where_that_one_was(
    store: Store, elsewhere: SqliteStore
) -> None:
    await fill(elsewhere)
    await copy_store(elsewhere, store, tell=lambda _: None)
    assert await everything(store) == await everything(elsewhere)
    last = (await store.changes(None, limit=1))[0].id
    for each in (store, elsewhere):
        await commit(each, [made("timestamp", 5)], on=5, events=[signed("1.2")])
        await commit(each, whole_set(1), on=None, gun=GONE)
        await each.add_online_key(GUN, online("k3"))
        await put(each, row("c"))
    assert await everything(store) == await everything(elsewhere)
    assert [change.id for change in await store.changes(None, after=last, limit=9)] == [
        last + 6,  # five were passed over
        last + 7,
    ]
    head = await store.head(GONE)
    assert head is not None
    assert head.revision == 2


async def test_only_an_empty_store_is_filled(store: Store, elsewhere: SqliteStore) -> None:
    await fill(elsewhere)
    await commit(store, whole_set(1), on=None)
    before = await whole(store)
    with pytest.raises(StorageError, match="isn't empty"):
        await copy_store(elsewhere, store, tell=lambda _: None)
    assert await whole(store) == before


async def test_a_store_whose_filling_was_cut_off_is_not_opened(
    store: Store, elsewhere: SqliteStore, open_store: Callable[[], Awaitable[Store]]
) -> None:
    await fill(elsewhere)
    await store.begin_load()
    async for group in elsewhere.dump():
        await store.load(group)
        break
    with pytest.raises(StorageError, match="restore"):
        await open_store()


async def test_nobody_writes_to_a_store_that_is_being_filled(
    open_store: Callable[[], Awaitable[Store]], elsewhere: SqliteStore
) -> None:
    store, other = await open_store(), await open_store()
    await fill(elsewhere)
    await store.begin_load()
    for refused in (
        commit(other, whole_set(1), on=None),
        other.delete(GUN),
        other.begin_load(),
    ):
        with pytest.raises(StorageError, match="being restored"):
            await refused
    async for group in elsewhere.dump():
        await store.load(group)
    await store.end_load()
    assert fingerprint(await whole(store)) == fingerprint(await whole(elsewhere))
    await commit(other, whole_set(1), on=None, gun=GONE)


async def test_bytes_that_are_not_what_they_say_are_not_loaded(store: Store) -> None:
    await store.begin_load()
    file = made("targets", 1)
    wrong = FileRecord(GUN, type(file)(file.role, 1, "a" * 64, file.data, AT))
    with pytest.raises(StoreCorruptionError):
        await store.load([wrong])
    assert not any(isinstance(item, FileRecord) for item in await whole(store))


async def test_each_gun_is_dumped_as_it_is_at_one_moment(
    store: Store, elsewhere: SqliteStore
) -> None:
    guns = [f"registry.example/app{number}" for number in range(20)]
    for gun in guns:
        await commit(store, whole_set(1), on=None, gun=gun)
    is_done = False

    async def write() -> None:
        version = 1
        while not is_done:
            for gun in guns:
                added = [made("snapshot", version + 1), made("timestamp", version + 1)]
                await commit(store, added, on=version, gun=gun)
            version += 1

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    await copy_store(store, elsewhere, tell=lambda _: None)
    is_done = True
    await writing
    told = Counter(
        {
            change.gun: change.version
            for change in await elsewhere.changes(None, after=0, limit=9999)
        }
    )
    for head in await elsewhere.guns(limit=100):
        version = head.files["timestamp"].version
        assert head.files["snapshot"].version == version
        assert head.revision == version
        assert told[head.gun] <= version
        assert await elsewhere.read(head.gun, "timestamp") is not None


async def test_what_is_collected_is_gone_and_its_number_stays_taken(
    store: Store, open_store: Callable[[], Awaitable[Store]]
) -> None:
    await commit(store, whole_set(1), on=None)
    await commit(store, [made("targets", 2), made("root", 2)], on=1)
    length = await store.collect(GUN, [("targets", 1)])
    assert length == len(made("targets", 1).data)
    assert await store.read(GUN, "targets", 1) is None
    assert await store.read_hash(GUN, "targets", made("targets", 1).sha256) is None
    assert await (await open_store()).read(GUN, "targets") == made("targets", 2)
    assert await store.collect(GUN, [("targets", 1)]) == 0
    with pytest.raises(StoreCorruptionError, match="other bytes"):
        await commit(store, [made("targets", 1, "other")], on=2)
    await commit(store, [made("targets", 1)], on=2)  # the same bytes may come again
    assert await store.read(GUN, "targets", 1) == made("targets", 1)


@pytest.mark.parametrize("kept", [("root", 1), ("targets", 2), ("targets", 3), ("x", 1)])
async def test_roots_and_the_newest_are_never_collected(
    store: Store, kept: tuple[str, int]
) -> None:
    await commit(store, whole_set(1), on=None)
    await commit(store, [made("targets", 2), made("root", 2)], on=1)
    before = await whole(store)
    with pytest.raises(StorageError):
        await store.collect(GUN, [("targets", 1), kept])
    assert await whole(store) == before


async def test_files_lists_every_version(store: Store) -> None:
    await commit(store, whole_set(1), on=None)
    await commit(store, [made("targets", 2)], on=1)
    found = {(info.role, info.version): info for info in await store.files(GUN)}
    assert len(found) == 5
    info = found["targets", 2]
    file = made("targets", 2)
    assert (info.sha256, info.length, info.stored_at) == (file.sha256, len(file.data), AT)
    assert await store.files("registry.example/none") == []
