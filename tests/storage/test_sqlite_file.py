"""The SQLite store's file: private, durable, refused when foreign or damaged."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.writer_process import AT, GUN, event_of, publish_next, whole_set
from tabellion_server.storage.interface import StorageError, StoreCorruptionError, StoredFile
from tabellion_server.storage.sqlite import SqliteStore


def alter(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


async def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "store.sqlite3"
    store = await SqliteStore.open(path)
    await publish_next(store)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == dict.fromkeys(
        ("store.sqlite3", "store.sqlite3-wal", "store.sqlite3-shm"), 0o600
    )
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await store.close()


async def test_a_file_open_to_others_is_closed_to_them(path: Path) -> None:
    path.touch(mode=0o644)
    store = await SqliteStore.open(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


async def test_every_commit_is_on_disk_before_it_is_told(sqlite_store: SqliteStore) -> None:
    connection = sqlite_store._writer._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_many_open_a_new_file_at_once(path: Path) -> None:
    stores = await asyncio.gather(*[SqliteStore.open(path) for _ in range(8)])
    await asyncio.gather(*[publish_next(store) for store in stores])
    head = await stores[0].head(GUN)
    assert head is not None
    assert head.revision == 8
    for store in stores:
        await store.close()


async def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    path.write_bytes(b"something else entirely, long enough to be read as a header" * 20)
    before = path.read_bytes()
    with pytest.raises(StoreCorruptionError, match=r"store\.sqlite3"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_another_programs_database_is_refused_untouched(path: Path) -> None:
    alter(path, "CREATE TABLE theirs (a)")
    before = (path.read_bytes(), path.stat().st_mode)
    with pytest.raises(StorageError, match="another program"):
        await SqliteStore.open(path)
    assert (path.read_bytes(), path.stat().st_mode) == before


async def test_a_newer_schema_is_refused(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    alter(path, "UPDATE schema_version SET version = 99")
    with pytest.raises(StorageError, match="schema 99"):
        await SqliteStore.open(path)


async def test_a_file_of_the_first_schema_is_brought_to_this_one(path: Path) -> None:
    store = await SqliteStore.open(path)
    await publish_next(store)
    await publish_next(store)
    head = await store.head(GUN)
    await store.close()
    for statement in (
        *("DROP INDEX metadata_by_hash", "DROP TABLE changes", "DROP TABLE restorations"),
        *("DROP TABLE pending", "DROP TABLE audit", "DROP TABLE collected"),
        "UPDATE schema_version SET version = 1",
    ):
        alter(path, statement)
    for _ in range(2):
        store = await SqliteStore.open(path)
        assert await store.head(GUN) == head
        told = await store.changes(None, after=0, limit=10)
        assert [(item.gun, item.version, item.category) for item in told] == [
            *((GUN, 1, "update"), (GUN, 2, "update"))
        ]
        file = whole_set(1)[1]
        assert await store.read_hash(GUN, file.role, file.sha256) == file
        assert await store.pending(GUN) == []
        assert await store.audit(GUN, limit=9) == []
        await store.close()


async def test_a_file_of_the_second_schema_is_brought_to_this_one(path: Path) -> None:
    store = await SqliteStore.open(path)
    await publish_next(store)
    head = await store.head(GUN)
    await store.close()
    for statement in (
        *("DROP TABLE pending", "DROP TABLE audit", "DROP TABLE restorations"),
        "DROP TABLE collected",
        "UPDATE schema_version SET version = 2",
    ):
        alter(path, statement)
    for _ in range(2):
        store = await SqliteStore.open(path)
        assert await store.head(GUN) == head
        assert await store.pending(GUN) == []
        assert await store.audit(GUN, limit=9) == []
        await store.close()


async def test_a_file_of_the_third_schema_is_brought_to_this_one(path: Path) -> None:
    store = await SqliteStore.open(path)
    await publish_next(store)
    await publish_next(store)
    await store.close()
    for statement in ("DROP TABLE collected", "UPDATE schema_version SET version = 3"):
        alter(path, statement)
    for version in (1, 2):
        store = await SqliteStore.open(path)
        assert await store.collect(GUN, [("timestamp", 1)]) == (version == 1) * len(
            whole_set(1)[3].data
        )
        await store.close()


@pytest.mark.parametrize("name", ["missing\0name", "x" * 300])
async def test_a_path_that_cannot_be_is_our_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError):
        await SqliteStore.open(tmp_path / name)


async def test_a_folder_in_its_place_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        await SqliteStore.open(tmp_path)


async def test_altered_bytes_are_not_served(path: Path) -> None:
    store = await SqliteStore.open(path)
    await publish_next(store)
    alter(path, "DROP TRIGGER metadata_is_immutable")
    alter(path, "UPDATE metadata SET data = x'00' WHERE role = 'targets'")
    with pytest.raises(StoreCorruptionError, match="targets version 1"):
        await store.read(GUN, "targets")
    assert await store.read(GUN, "root") == whole_set(1)[0]
    await store.close()


async def test_stored_metadata_cannot_be_updated_by_mistake(path: Path) -> None:
    store = await SqliteStore.open(path)
    await publish_next(store)
    with pytest.raises(sqlite3.IntegrityError, match="never changes"):
        alter(path, "UPDATE metadata SET data = x'00'")
    await store.close()


async def test_a_damaged_file_raises_our_error(path: Path) -> None:
    store = await SqliteStore.open(path)
    for _ in range(5):
        await publish_next(store)
    await store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))

    async def use() -> None:
        store = await SqliteStore.open(path)
        try:
            await store.head(GUN)
        finally:
            await store.close()

    with pytest.raises(StorageError):
        await use()


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


EVENT = event_of(2)
NEW = StoredFile.of("root", 2, b"new", stored_at=AT)


BAD: dict[str, dict[str, Any]] = {
    "a revision to come": {"expected_revision": 7},
    "a GUN that is there": {"expected_revision": None},
    "another dialect": {"dialect": "notary"},
    "no time zone": {"at": AT.replace(tzinfo=None)},
    "other bytes": {"added": [NEW, replace(NEW, role="targets", version=1)]},
    "version 0": {"added": [NEW, replace(NEW, role="targets", version=0)]},
    "a version too high": {"added": [NEW, replace(NEW, role="targets", version=2**63)]},
    "another hash": {"added": [NEW, replace(NEW, role="targets", data=b"other")]},
    "a file's time zone": {
        "added": [NEW, replace(NEW, role="a", stored_at=AT.replace(tzinfo=None))]
    },
    "a role not Unicode": {"added": [NEW, replace(NEW, role="\udc80")]},
    "a head not Unicode": {"removed_heads": ["targets", "\udc80"]},
    "an event's time zone": {"events": [EVENT, replace(EVENT, at=AT.replace(tzinfo=None))]},
    "an event's kind": {"events": [EVENT, replace(EVENT, kind="lost")]},
    "an event's length": {"events": [EVENT, replace(EVENT, length=2**63)]},
}


@pytest.mark.parametrize("what", BAD)
async def test_a_refused_commit_leaves_every_row_as_it_was(
    sqlite_store: SqliteStore, path: Path, what: str
) -> None:
    await publish_next(sqlite_store)
    before = rows(path)
    whole: dict[str, Any] = {
        "dialect": "tuf",
        "expected_revision": 1,
        "added": [NEW],
        "removed_heads": ["targets"],
        "events": [EVENT],
        "at": AT,
    }
    with pytest.raises(StorageError):
        await sqlite_store.commit(GUN, **{**whole, **BAD[what]})
    assert rows(path) == before
    await sqlite_store.commit(GUN, **whole)
    assert rows(path) != before


async def test_a_file_that_may_only_be_read_is_served_and_not_written(
    sqlite_store: SqliteStore, path: Path
) -> None:
    head = await publish_next(sqlite_store)
    before = rows(path)
    connection = sqlite_store._writer._connection
    await asyncio.to_thread(connection.execute, "PRAGMA query_only = ON")
    with pytest.raises(StorageError, match="readonly"):
        await publish_next(sqlite_store)
    with pytest.raises(StorageError, match="readonly"):
        await sqlite_store.delete(GUN)
    assert await sqlite_store.head(GUN) == head
    assert rows(path) == before


@pytest.mark.parametrize("table", ["heads", "retired"])
async def test_revisions_end_rather_than_begin_anew(path: Path, table: str) -> None:
    store = await SqliteStore.open(path)
    await publish_next(store)
    if table == "retired":
        await store.delete(GUN)
    alter(path, f"UPDATE {table} SET revision = {2**63 - 1}")  # noqa: S608  (a table's name)
    before = rows(path)
    with pytest.raises(StorageError):
        await publish_next(store)
    assert rows(path) == before
    await store.close()


async def test_a_full_disk_leaves_the_old_state_and_passes(sqlite_store: SqliteStore) -> None:
    before = await publish_next(sqlite_store)

    async def limit_pages(number: int) -> None:
        connection = sqlite_store._writer._connection
        await asyncio.to_thread(connection.execute, f"PRAGMA max_page_count = {number}")

    await limit_pages(1)  # the least it may be is what it is
    huge = StoredFile.of("targets", 2, bytes(1_000_000), stored_at=AT)
    with pytest.raises(StorageError, match="no space left"):
        await sqlite_store.commit(GUN, dialect="tuf", expected_revision=1, added=[huge], at=AT)
    assert await sqlite_store.head(GUN) == before
    assert await sqlite_store.read(GUN, "targets", 2) is None
    await limit_pages(1_000_000)
    assert (await publish_next(sqlite_store)).revision == 2


async def test_a_failing_batch_tells_every_job_and_the_next_one_works(
    sqlite_store: SqliteStore,
) -> None:
    await publish_next(sqlite_store)

    def end_the_transaction(connection: sqlite3.Connection) -> None:
        connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("as SQLite does when the disk fails")

    futures = [sqlite_store._writer.submit(end_the_transaction) for _ in range(3)]
    for future in futures:
        with pytest.raises(StorageError):
            await asyncio.wrap_future(future)
    assert (await publish_next(sqlite_store)).revision == 2


async def test_a_group_that_fails_at_its_end_is_undone_and_the_next_one_works(
    sqlite_store: SqliteStore, path: Path
) -> None:
    await publish_next(sqlite_store)
    before = rows(path)

    def point_to_nothing(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")  # seen at COMMIT only
        connection.execute("UPDATE current SET version = 99")

    with pytest.raises(StorageError):
        await asyncio.wrap_future(sqlite_store._writer.submit(point_to_nothing))
    assert rows(path) == before
    assert (await publish_next(sqlite_store)).revision == 2


async def test_a_store_whose_file_was_replaced_is_not_ready(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.check()
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(StorageError):
        await store.check()
    await store.close()


async def test_nothing_is_acknowledged_in_a_file_that_was_replaced_or_deleted(path: Path) -> None:
    store = await SqliteStore.open(path)
    try:
        await publish_next(store)
        path.rename(path.with_name("aside"))
        for put_there in (lambda: None, path.touch):
            put_there()
            with pytest.raises(StorageError):
                await publish_next(store)
            with pytest.raises(StorageError):
                await store.check()
    finally:
        await store.close()
    assert path.read_bytes() == b""
